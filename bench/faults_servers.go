package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gomodule/redigo/redis"
)

// newServer makes an instance of something that galo needs; it runs under the same rules as galo: nobody but us may end it.
func (f *fleet) newServer(dir, name, binary, addr string, ready func(context.Context) bool, args ...string) (*instance, error) {
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("cannot keep log of %s: %w", name, err)
	}
	in := &instance{fleet: f, name: name, binary: binary, args: args, env: inherited(), addr: addr, ready: ready, log: log}
	f.instances = append(f.instances, in)
	return in, nil
}

// again starts an instance whose process was ended, and waits until it is ready.
func (in *instance) again(ctx context.Context) error {
	if err := in.start(); err != nil {
		return err
	}
	return in.awaitReady(ctx)
}

// pause stops the process where it stands; resume lets it go on.
func (in *instance) pause() error  { return in.signal(syscall.SIGSTOP) }
func (in *instance) resume() error { return in.signal(syscall.SIGCONT) }

func (in *instance) signal(sig os.Signal) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.process == nil {
		return nil
	}
	if err := in.process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot signal %s: %w", in.name, err)
	}
	return nil
}

func listens(ctx context.Context, addr string) bool {
	c, err := (&net.Dialer{Timeout: dialTimeout}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	_ = c.Close()
	return true
}

// newNATS makes a NATS server of the version that galo itself is tested with.
func newNATS(ctx context.Context, f *fleet, dir string) (*instance, error) {
	binary, err := buildPackage(ctx, dir, "nats-server", "github.com/nats-io/nats-server/v2")
	if err != nil {
		return nil, err
	}
	addr, err := f.ports.quiet()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("cannot use address %s: %w", addr, err)
	}
	return f.newServer(dir, "nats", binary, addr, func(ctx context.Context) bool { return listens(ctx, addr) }, "-a", host, "-p", port)
}

// A redisServer is a Redis with an append-only file, and what may become of both.
type redisServer struct {
	*instance
	data string // its folder
	copy string // an older copy of it, or no folder yet
}

func newRedis(f *fleet, dir string) (*redisServer, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("cannot test faults without Redis: %w (Debian and Ubuntu have it in the package redis-server)", err)
	}
	addr, err := f.ports.quiet()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("cannot use address %s: %w", addr, err)
	}
	r := &redisServer{data: filepath.Join(dir, "redis"), copy: filepath.Join(dir, "redis-copy")}
	if err := os.Mkdir(r.data, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make a folder for Redis: %w", err)
	}
	r.instance, err = f.newServer(dir, "redis", binary, addr, r.answers,
		"--bind", host, "--port", port, "--dir", r.data, "--save", "", "--appendonly", "yes", "--appendfsync", "everysec",
		"--aof-load-truncated", "yes", "--maxmemory-policy", "noeviction", "--daemonize", "no")
	return r, err
}

const redisTimeout = 30 * time.Second // the host may be slow, and nobody measures it

// do runs one command at the server itself, past the wires.
func (r *redisServer) do(ctx context.Context, command string, args ...any) (any, error) {
	c, err := redis.DialContext(ctx, "tcp", r.addr, redis.DialConnectTimeout(dialTimeout),
		redis.DialReadTimeout(redisTimeout), redis.DialWriteTimeout(redisTimeout))
	if err != nil {
		return nil, fmt.Errorf("cannot reach Redis: %w", err)
	}
	defer func() { _ = c.Close() }()
	answer, err := redis.DoContext(c, ctx, command, args...)
	if err != nil {
		return nil, fmt.Errorf("cannot do %s at Redis: %w", command, err)
	}
	return answer, nil
}

// answers is false while it loads its file.
func (r *redisServer) answers(ctx context.Context) bool {
	_, err := r.do(ctx, "PING")
	return err == nil
}

// aofFolder is where Redis 7 keeps its append-only file: a manifest, a base and increments.
const aofFolder = "appendonlydir"

// lastIncrement is the file that is appended to now, and its length.
func (r *redisServer) lastIncrement() (path string, size int64, err error) {
	list, err := filepath.Glob(filepath.Join(r.data, aofFolder, "*.incr.aof"))
	if err != nil || len(list) == 0 {
		return "", 0, fmt.Errorf("cannot find the append-only file of Redis in %s: %w", r.data, errors.Join(err, os.ErrNotExist))
	}
	// They are numbered: the longest name with the highest number is the newest.
	slices.SortFunc(list, func(a, b string) int {
		if d := len(a) - len(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	path = list[len(list)-1]
	info, err := os.Stat(path)
	if err != nil {
		return "", 0, fmt.Errorf("cannot measure the append-only file of Redis: %w", err)
	}
	return path, info.Size(), nil
}

// keepCopy copies the folder of the running server. A copy of a file that is being written ends early somewhere, which Redis
// takes; one that was made over a rewrite may not fit together, and the older copy stays then.
func (r *redisServer) keepCopy(ctx context.Context) error {
	const tries = 20
	made := r.copy + ".new"
	for range tries {
		before, _, err := r.lastIncrement()
		if err != nil {
			return err
		}
		if err := os.RemoveAll(made); err != nil {
			return fmt.Errorf("cannot copy Redis: %w", err)
		}
		copied := os.CopyFS(made, os.DirFS(r.data))
		rewriting, err := r.rewriting(ctx)
		if err != nil {
			return err
		}
		if after, _, err := r.lastIncrement(); copied == nil && err == nil && after == before && !rewriting {
			if err := errors.Join(os.RemoveAll(r.copy), os.Rename(made, r.copy)); err != nil {
				return fmt.Errorf("cannot copy Redis: %w", err)
			}
			return nil
		}
		sleepUntil(ctx, time.Now().Add(drainEvery))
	}
	return fmt.Errorf("cannot copy Redis: it rewrote its file at every one of %d tries", tries)
}

func (r *redisServer) rewriting(ctx context.Context) (bool, error) {
	info, err := redis.String(r.do(ctx, "INFO", "persistence"))
	if err != nil {
		return false, fmt.Errorf("cannot copy Redis: %w", err)
	}
	return !strings.Contains(info, "aof_rewrite_in_progress:0"), nil
}

// goBack replaces the folder of the server, which must not run, by the copy.
func (r *redisServer) goBack() error {
	if err := os.RemoveAll(r.data); err != nil {
		return fmt.Errorf("cannot go back to an older copy of Redis: %w", err)
	}
	if err := os.CopyFS(r.data, os.DirFS(r.copy)); err != nil {
		return fmt.Errorf("cannot go back to an older copy of Redis: %w", err)
	}
	return nil
}

// forget removes everything that the server, which must not run, has kept.
func (r *redisServer) forget() error {
	err := os.RemoveAll(r.data)
	if err == nil {
		err = os.Mkdir(r.data, 0o755)
	}
	if err != nil {
		return fmt.Errorf("cannot wipe Redis: %w", err)
	}
	return nil
}
