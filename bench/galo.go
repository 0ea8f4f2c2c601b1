package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A fleet is one galo or several, each a process of its own, sharing a data folder as they do in production.
type fleet struct {
	instances []*instance
	ports     *ports
	say       func(format string, args ...any)

	mu      sync.Mutex
	crashes []string
}

// An instance is one galo, or a server that it needs: it may die and be started again, and stays the same instance.
type instance struct {
	fleet  *fleet
	name   string
	binary string
	args   []string
	env    []string
	addr   string // host:port of LISTEN
	admin  string // host:port of ADMIN_LISTEN
	ready  func(ctx context.Context) bool
	log    *os.File

	mu      sync.Mutex
	process *os.Process
	gone    chan struct{} // closed when the present process is gone
	ended   error         // what it left behind; read after gone
	wanted  bool          // the present process is not meant to be running any more
}

// fleetOptions is what every instance is told.
type fleetOptions struct {
	binary    string
	dir       string // for the journals and the logs
	instances int
	redis     string
	nats      string
	patience  string
	urls      [processors]string
	fees      [processors]fee
	ports     *ports               // shared with others; may be nil
	own       func(i int) []string // settings of one instance, which go over those of all; may be nil
}

const (
	// Generous, since the machine may be busy: how fast a galo starts and stops is no part of the verdict.
	readyWithin = 2 * time.Minute
	stopTimeout = time.Minute // STOP_TIMEOUT, unless the environment has one
	stopWithin  = stopTimeout + 30*time.Second
	// An instance that is stuck may not even say what it is stuck in.
	evidenceWithin = 5 * time.Second
)

// buildGalo compiles the module's main package into dir.
func buildGalo(ctx context.Context, dir string, flags ...string) (string, error) {
	return buildPackage(ctx, dir, "galo", ".", flags...)
}

// buildPackage compiles a main package that the module has, or has in its requirements, into dir.
func buildPackage(ctx context.Context, dir, name, path string, flags ...string) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, name)
	build := exec.CommandContext(ctx, "go", slices.Concat([]string{"build", "-o", binary}, flags, []string{path})...)
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build %s: %w\n%s", name, err, out)
	}
	return binary, nil
}

// startFleet starts all instances and waits until each is ready.
func startFleet(ctx context.Context, o fleetOptions, say func(string, ...any)) (*fleet, error) {
	f := &fleet{say: say, ports: cmp.Or(o.ports, newPorts())}
	for i := range o.instances {
		in, err := f.newInstance(i, o)
		if err == nil {
			f.instances = append(f.instances, in)
			err = in.start()
		}
		if err != nil {
			return nil, errors.Join(err, f.stop())
		}
	}
	for _, in := range f.instances {
		if err := in.awaitReady(ctx); err != nil {
			return nil, errors.Join(err, f.stop())
		}
	}
	return f, nil
}

func (f *fleet) newInstance(i int, o fleetOptions) (*instance, error) {
	name := fmt.Sprintf("galo-%d", i+1)
	addr, err := f.ports.quiet()
	if err != nil {
		return nil, err
	}
	admin, err := f.ports.quiet()
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(o.dir, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("cannot keep log of %s: %w", name, err)
	}
	in := &instance{fleet: f, name: name, binary: o.binary, addr: addr, admin: admin, log: log}
	in.ready = func(ctx context.Context) bool { return ready(ctx, admin) }
	in.env = append([]string{"STOP_TIMEOUT=" + stopTimeout.String()}, inherited()...)
	in.env = append(in.env,
		"INSTANCE="+name, "LISTEN="+addr, "ADMIN_LISTEN="+admin,
		"DATA_DIR="+filepath.Join(o.dir, "data"), "ALLOW_PURGE=true",
		"REDIS_URL="+o.redis, "NATS_URL="+o.nats,
		"PROCESSOR_DEFAULT_URL="+o.urls[onDefault], "PROCESSOR_FALLBACK_URL="+o.urls[onFallback],
		"PROCESSOR_DEFAULT_FEE="+o.fees[onDefault].String(), "PROCESSOR_FALLBACK_FEE="+o.fees[onFallback].String(),
	)
	if o.patience != "" {
		in.env = append(in.env, "PATIENCE="+o.patience)
	}
	if o.own != nil {
		in.env = append(in.env, o.own(i)...)
	}
	return in, nil
}

// inherited is this process's environment: what is not set below reaches galo, so that WORKERS or GOMAXPROCS can
// be given on the command line. exec uses the last of two values of a name.
func inherited() []string { return slices.Clone(os.Environ()) }

// ports are loopback ports outside the range from which the kernel takes the ports of outgoing connections: while a killed galo
// is down, one of the load's own connections could else sit on its port and keep it from coming back. None is given twice, since
// whoever has one may not listen yet.
type ports struct {
	mu    sync.Mutex
	given map[int]bool
}

func newPorts() *ports { return &ports{given: make(map[int]bool)} }

// quiet finds a port that nobody listens on.
func (p *ports) quiet() (addr string, err error) {
	const lowest, highest, tries = 20_000, 30_000, 50
	p.mu.Lock()
	defer p.mu.Unlock()
	last := errors.New("all are given")
	for range tries {
		port := lowest + rand.IntN(highest-lowest)
		if p.given[port] {
			continue
		}
		addr := fmt.Sprintf("127.0.0.1:%d", port)
		l, err := net.Listen("tcp", addr)
		if err == nil {
			p.given[port] = true
			return addr, l.Close()
		}
		last = err
	}
	return "", fmt.Errorf("cannot find a free port: %w", last)
}

func (f *fleet) bases() (urls []string) {
	for _, in := range f.instances {
		urls = append(urls, "http://"+in.addr)
	}
	return urls
}

// start runs the process; it is not ready yet.
func (in *instance) start() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	cmd := exec.Command(in.binary, in.args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = in.env, in.log, in.log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start %s: %w", in.name, err)
	}
	gone := make(chan struct{})
	in.process, in.gone, in.wanted = cmd.Process, gone, false
	go func() { // ends with the process, which stop waits for
		err := cmd.Wait()
		in.mu.Lock()
		in.ended = err
		unwanted := !in.wanted
		in.mu.Unlock()
		if unwanted {
			in.fleet.crashed(in, err)
		}
		close(gone)
	}()
	return nil
}

// crashed notes that an instance is gone though nobody asked it to end, or does not come back.
func (f *fleet) crashed(in *instance, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	text := fmt.Sprintf("%s ended by itself (%v), see %s", in.name, err, in.log.Name())
	f.crashes = append(f.crashes, text)
	f.say("%s", text)
}

// crashReports is what happened to instances that nobody asked to end.
func (f *fleet) crashReports() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.crashes)
}

// awaitReady waits until the instance says that it takes payments, and gives up early when its process ends.
func (in *instance) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	in.mu.Lock()
	gone := in.gone
	in.mu.Unlock()
	tick := time.NewTicker(readyEvery)
	defer tick.Stop()
	for {
		if in.ready(ctx) {
			return nil
		}
		select {
		case <-gone:
			return fmt.Errorf("cannot wait for %s: it ended, its log ends with:\n%s", in.name, in.logEnd())
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for %s: not ready within %v, its log ends with:\n%s", in.name, readyWithin, in.logEnd())
		case <-tick.C:
		}
	}
}

func ready(ctx context.Context, addr string) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/readyz", nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// logEnd is the last of what the instance has logged.
func (in *instance) logEnd() string {
	const atMost = 2000
	info, err := in.log.Stat()
	if err != nil {
		return err.Error()
	}
	tail := make([]byte, min(info.Size(), atMost))
	if _, err := in.log.ReadAt(tail, info.Size()-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return err.Error()
	}
	return string(tail)
}

// keepEvidence writes down, beside the logs, what each instance says about itself now: once it is stopped, nothing
// tells any more what it was waiting for.
func (f *fleet) keepEvidence(ctx context.Context) {
	for _, in := range f.instances {
		for what, path := range map[string]string{"metrics": "/metrics", "goroutines": "/debug/pprof/goroutine?debug=1"} {
			if err := in.save(ctx, path, strings.TrimSuffix(in.log.Name(), ".log")+"."+what); err != nil {
				f.say("%v", err)
			}
		}
	}
}

// save writes one answer of the instance's admin address to a file.
func (in *instance) save(ctx context.Context, path, file string) error {
	ctx, cancel := context.WithTimeout(ctx, evidenceWithin)
	defer cancel()
	text, err := in.ask(ctx, path)
	if err == nil {
		err = os.WriteFile(file, text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot save %s of %s: %w", path, in.name, err)
	}
	return nil
}

// ask reads one answer of the instance's admin address.
func (in *instance) ask(ctx context.Context, path string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+in.admin+path, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	return io.ReadAll(resp.Body)
}

// end sends a signal, waits for the process to be gone, and says how it ended.
func (in *instance) end(sig os.Signal) error {
	in.mu.Lock()
	process, gone := in.process, in.gone
	in.wanted = true
	in.mu.Unlock()
	if process == nil {
		return nil
	}
	if err := process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("cannot signal %s: %w", in.name, err)
	}
	select {
	case <-gone:
	case <-time.After(stopWithin):
		_ = process.Signal(syscall.SIGQUIT) // the runtime writes down what every goroutine waits for, and ends
		select {
		case <-gone:
		case <-time.After(evidenceWithin):
			_ = process.Kill() // it is gone or going: there is nothing else to do about it
			<-gone
		}
		return fmt.Errorf("cannot stop %s: still there %v after %v, its log ends with all its goroutines", in.name, stopWithin, sig)
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if sig != os.Kill && in.ended != nil {
		return fmt.Errorf("cannot stop %s cleanly: %w", in.name, in.ended)
	}
	return nil
}

// stop ends all instances as an operator would.
func (f *fleet) stop() error {
	var all []error
	for _, in := range f.instances {
		all = append(all, in.end(syscall.SIGTERM), in.log.Close())
	}
	return errors.Join(all...)
}

// Kills come when there is something to lose.
const (
	firstKill = 0.1 // of the storm's length
	lastKill  = 0.9
)

// killer kills a random instance with -9 so many times, at random moments of a storm, and starts it again at once. Each kill is told.
func (f *fleet) killer(times int, seed uint64, tell func(at time.Duration, format string, args ...any)) func(ctx context.Context, start time.Time, length time.Duration) int {
	return func(ctx context.Context, start time.Time, length time.Duration) int {
		rng := rand.New(rand.NewPCG(seed, 0x6b696c6c))
		var moments []time.Duration
		for range times {
			moments = append(moments, time.Duration((firstKill+(lastKill-firstKill)*rng.Float64())*float64(length)))
		}
		slices.Sort(moments)
		for n, at := range moments {
			if !sleepUntil(ctx, start.Add(at)) {
				return n
			}
			in := f.instances[rng.IntN(len(f.instances))]
			killed := time.Now()
			err := in.end(os.Kill)
			if err == nil {
				err = in.start()
			}
			if err == nil {
				err = in.awaitReady(ctx)
			}
			if ctx.Err() != nil {
				return n + 1
			}
			if err != nil {
				f.crashed(in, err)
				return n + 1
			}
			tell(at, "%s killed, and ready again after %d ms", in.name, time.Since(killed).Milliseconds())
		}
		return times
	}
}
