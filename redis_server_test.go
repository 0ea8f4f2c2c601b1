package main

import (
	"bufio"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/gomodule/redigo/redis"
)

// redisServer is a real redis-server on a loopback port of its own, with the settings of the stack.
type redisServer struct {
	tb   testing.TB
	port string
	dir  string
	args []string
	cmd  *exec.Cmd
}

// startRedis starts a server that ends with the test. Without redis-server the test is skipped, except where CI=true.
func startRedis(tb testing.TB, args ...string) *redisServer {
	tb.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		const how = "redis-server is not installed; get it with: apt-get install redis-server"
		if os.Getenv("CI") == "true" {
			tb.Fatal(how)
		}
		tb.Skip(how)
	}
	s := &redisServer{tb: tb, port: quietPort(tb), dir: tb.TempDir(), args: args}
	tb.Cleanup(s.kill)
	s.start()
	return s
}

// quietPort is a free port below those that the kernel gives to connections and listeners by itself (from 32768 on), so that it is
// still free when a server starts on it, or starts again.
func quietPort(tb testing.TB) string {
	tb.Helper()
	for range 100 {
		port := strconv.Itoa(10_000 + rand.IntN(20_000))
		if listener, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			listener.Close()
			return port
		}
	}
	tb.Fatal("no port is free")
	return ""
}

func (s *redisServer) url() string { return "redis://127.0.0.1:" + s.port }

// start runs the server, on its old port and folder, and returns once it serves.
func (s *redisServer) start() {
	s.tb.Helper()
	args := []string{
		"--bind", "127.0.0.1", "--port", s.port, "--dir", s.dir, "--daemonize", "no", "--save", "",
		"--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction",
	}
	s.cmd = exec.Command("redis-server", append(args, s.args...)...)
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		s.tb.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.tb.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	var said strings.Builder
	for lines.Scan() {
		said.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "Ready to accept connections") {
			go io.Copy(io.Discard, out) // Ends with the process, for which kill waits.
			return
		}
	}
	s.tb.Fatalf("redis-server did not start:\n%s", said.String())
}

// kill is kill -9, and waits until the server is gone.
func (s *redisServer) kill() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	_ = s.cmd.Process.Kill() // It may have ended by itself.
	_ = s.cmd.Wait()         // "signal: killed" is what is wanted.
	s.cmd = nil
}

// copied makes a copy of what is on the disk, for restore.
func (s *redisServer) copied() string {
	s.tb.Helper()
	to := s.tb.TempDir()
	if err := os.CopyFS(to, os.DirFS(s.dir)); err != nil {
		s.tb.Fatal(err)
	}
	return to
}

// restore kills the server and starts it on a copy.
func (s *redisServer) restore(from string) {
	s.tb.Helper()
	s.kill()
	if err := os.RemoveAll(filepath.Join(s.dir, "appendonlydir")); err != nil {
		s.tb.Fatal(err)
	}
	if err := os.CopyFS(s.dir, os.DirFS(from)); err != nil {
		s.tb.Fatal(err)
	}
	s.start()
}

// eachServer runs a test on the embedded kind of server and on a real one.
func eachServer(t *testing.T, test func(t *testing.T, url string)) {
	t.Run("miniredis", func(t *testing.T) { test(t, startMini(t).url) })
	t.Run("redis-server", func(t *testing.T) { test(t, startRedis(t).url()) })
}

type miniServer struct {
	*miniredis.Miniredis
	url string
}

func startMini(tb testing.TB) miniServer {
	server := miniredis.RunT(tb)
	return miniServer{server, "redis://" + server.Addr()}
}

// openStore returns a store without a life.
func openStore(tb testing.TB, url string) *redisStore {
	tb.Helper()
	s, err := newStore(storeOptions{url: url, log: slog.New(slog.DiscardHandler)})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// readyStore returns a store in a life that is ready, with one journal, "j1".
func readyStore(tb testing.TB, url string) (*redisStore, lifeToken) {
	tb.Helper()
	s := openStore(tb, url)
	return s, makeReady(tb, s)
}

func makeReady(tb testing.TB, s *redisStore) lifeToken {
	tb.Helper()
	begun, err := s.beginLife(tb.Context(), 0)
	if err != nil {
		tb.Fatal(err)
	}
	if ready, err := s.report(tb.Context(), begun.token, "j1", true, []string{"j1"}); err != nil || !ready {
		tb.Fatalf("report: ready %v, %v", ready, err)
	}
	return begun.token
}

// rawConn is a connection beside the store, to look and to interfere.
func rawConn(tb testing.TB, url string) redis.Conn {
	tb.Helper()
	conn, err := redis.DialURL(url)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { conn.Close() })
	return conn
}

func do(tb testing.TB, conn redis.Conn, command string, args ...any) any {
	tb.Helper()
	reply, err := conn.Do(command, args...)
	if err != nil {
		tb.Fatalf("%s %v: %v", command, args, err)
	}
	return reply
}
