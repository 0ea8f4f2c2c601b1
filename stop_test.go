package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// asProcess tells this test binary to be a galo.
const asProcess = "GALO_TEST_AS_PROCESS"

// TestBeingAProcess is galo itself, for the tests that stop it as an operator would.
func TestBeingAProcess(t *testing.T) {
	if os.Getenv(asProcess) == "" {
		t.Skip("other tests run this as a process of its own")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if err := command(ctx, nil, os.LookupEnv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "galo:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// stoppable is one instance in a process of its own, on a unix socket as behind a load balancer.
type stoppable struct {
	t      testing.TB
	env    []string
	socket string
	log    lines
	cmd    *exec.Cmd
	ended  chan error
}

// startStoppable starts an instance of this world; settings are as in the environment.
func (w *testWorld) startStoppable(t testing.TB, name string, settings ...string) *stoppable {
	t.Helper()
	p := &stoppable{t: t, socket: filepath.Join(w.dir, name+".sock")}
	p.env = append(os.Environ(), asProcess+"=true", "LISTEN=unix:"+p.socket, "ADMIN_LISTEN=", "DATA_DIR="+filepath.Join(w.dir, "journals"),
		"INSTANCE="+name, "PATIENCE=1h", "PROCESSOR_DEFAULT_URL="+w.def.server.URL, "PROCESSOR_FALLBACK_URL="+w.fall.server.URL)
	for k, v := range w.env {
		p.env = append(p.env, k+"="+v)
	}
	p.env = append(p.env, settings...)
	t.Cleanup(func() {
		if p.ended != nil {
			p.cmd.Process.Kill() // it has ended, unless the test failed
			<-p.ended
		}
		if t.Failed() {
			t.Logf("%s:\n%s", name, p.log.String())
		}
	})
	p.start()
	return p
}

func (p *stoppable) start() {
	p.t.Helper()
	p.cmd = exec.Command(os.Args[0], "-test.run=^TestBeingAProcess$")
	p.cmd.Env, p.cmd.Stderr = p.env, &p.log
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan error, 1)
	p.ended = ended
	cmd := p.cmd
	go func() {
		ended <- cmd.Wait()
		close(ended)
	}()
	eventually(p.t, "it listens", func() bool {
		conn, err := net.Dial("unix", p.socket)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// stop sends the stop signal and returns how the process ended.
func (p *stoppable) stop() error {
	p.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	return <-p.ended // the test's own time-out bounds it
}

// balancer is a load balancer as far as a stop is concerned: it keeps connections, takes instances in turn, and passes a request on to
// the other one when it got no answer.
type balancer struct {
	clients []*fasthttp.HostClient
	turn    atomic.Uint64
	passed  atomic.Int64
}

func newBalancer(all ...*stoppable) *balancer {
	b := &balancer{}
	for _, p := range all {
		b.clients = append(b.clients, &fasthttp.HostClient{Addr: "galo", MaxIdemponentCallAttempts: 1, ReadTimeout: patient,
			Dial: func(string) (net.Conn, error) { return net.Dial("unix", p.socket) }})
	}
	return b
}

// post sends one payment; 0 means that no instance answered.
func (b *balancer) post(id paymentID) int {
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	first := b.turn.Add(1)
	for try := range uint64(len(b.clients)) {
		request.Reset()
		request.Header.SetMethod("POST")
		request.SetRequestURI("http://galo/payments")
		request.SetBodyString(`{"correlationId":"` + id.String() + `","amount":1}`)
		if b.clients[(first+try)%uint64(len(b.clients))].Do(request, response) == nil {
			return response.StatusCode()
		}
		b.passed.Add(1)
	}
	return 0
}

// load posts new payments from several clients until it is ended, and returns how many there were.
func (b *balancer) load(t testing.TB, clients int) (end func() int) {
	var posted atomic.Uint64
	var wg sync.WaitGroup
	done := make(chan struct{})
	for range clients {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				id := nthID(posted.Add(1))
				if status := b.post(id); status != http.StatusAccepted {
					t.Errorf("%s was answered %d", id, status)
				}
				time.Sleep(2 * time.Millisecond) // so that the load is even, and bounded
			}
		})
	}
	return func() int {
		close(done)
		wg.Wait()
		return int(posted.Load())
	}
}

// inOrder says whether these come one after the other in a text.
func inOrder(text string, parts ...string) bool {
	for _, part := range parts {
		_, after, there := strings.Cut(text, part)
		if !there {
			return false
		}
		text = after
	}
	return true
}

func newStoppableWorld(t *testing.T) *testWorld {
	w, _ := newSharedWorld(t)
	dir, err := os.MkdirTemp("", "galo") // a socket's path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w.dir = dir
	return w
}

// TestRollingRestartAnswersEveryRequest: the stop signal to one and then to the other, under load, with a client that never ends its
// request. Nobody sees it, each stop goes in order and ends well, and every payment is paid once.
func TestRollingRestartAnswersEveryRequest(t *testing.T) {
	w := newStoppableWorld(t)
	a, b := w.startStoppable(t, "a", "ROLE=leader", "STOP_TIMEOUT=12s"), w.startStoppable(t, "b", "ROLE=follower", "STOP_TIMEOUT=12s")
	lb := newBalancer(a, b)
	end := lb.load(t, 4)
	slow, err := net.Dial("unix", a.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	io.WriteString(slow, "POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
	eventually(t, "some are paid", func() bool { return w.def.count() > 20 })
	for _, p := range []*stoppable{a, b} {
		if err := p.stop(); err != nil {
			t.Errorf("stopped with %v", err)
		}
		paid := w.def.count()
		p.start()
		eventually(t, "some more are paid", func() bool { return w.def.count() > paid+20 })
	}
	n := end()
	if lb.passed.Load() == 0 {
		t.Error("no request met a stop")
	}
	eventually(t, "all are paid", func() bool { return w.def.count() == n })
	for i := range uint64(n) {
		if id := nthID(i + 1).String(); w.def.attempts(id) != 1 || w.fall.attempts(id) != 0 {
			t.Errorf("%s was sent %d + %d times", id, w.def.attempts(id), w.fall.attempts(id))
		}
	}
	for _, p := range []*stoppable{a, b} {
		if err := p.stop(); err != nil {
			t.Errorf("stopped with %v", err)
		}
		if !inOrder(p.log.String(), "msg=stopping", "part=accepting", "part=sending", "part=settling", `part="the rest"`, "msg=stopped") {
			t.Error("the stop was not in order")
		}
	}
	if !strings.Contains(a.log.String(), "cut off") || strings.Contains(b.log.String(), "cut off") {
		t.Error("not exactly the slow client was cut off")
	}
}

// TestWhatAStopLeavesIsFinishedByTheOther: attempts that hang outlast the time to stop. They land when nobody listens any more, and the
// other instance finds them.
func TestWhatAStopLeavesIsFinishedByTheOther(t *testing.T) {
	w := newStoppableWorld(t)
	a := w.startStoppable(t, "a", "STOP_TIMEOUT=2s", "SEND_TIMEOUT=60s")
	lb := newBalancer(a)
	const n = 10
	release := make(chan struct{})
	w.def.behave(func(rw http.ResponseWriter, p fakePayment, write func()) bool {
		if w.def.attempts(p.ID) > 1 {
			return false
		}
		<-release
		if _, there := w.def.has(p.ID); !there {
			write()
		}
		return true
	})
	for i := range uint64(n) {
		if status := lb.post(nthID(i)); status != http.StatusAccepted {
			t.Fatalf("answered %d", status)
		}
	}
	eventually(t, "all are on their way", func() bool {
		for i := range uint64(n) {
			if w.def.attempts(nthID(i).String()) == 0 {
				return false
			}
		}
		return true
	})
	var failed *exec.ExitError
	if err := a.stop(); !errors.As(err, &failed) || failed.ExitCode() != 1 {
		t.Errorf("it left something, and ended with %v", err)
	}
	b := w.start(t, "INSTANCE", "b", "DATA_DIR", filepath.Join(w.dir, "journals"))
	close(release)
	for i := range uint64(n) {
		b.becomes(nthID(i), "settled default")
	}
	eventually(t, "nothing is pending", func() bool { return b.ledger.pending.Load() == 0 })
	if got := b.summary(""); got != wantSummary(n, "10.00", 0, "0.00") || w.fall.count() != 0 {
		t.Errorf("summary %s, %d at the fallback", got, w.fall.count())
	}
}

// TestStopRightAfterTheStart: servers that were told to stop before they had begun to serve end all the same.
func TestStopRightAfterTheStart(t *testing.T) {
	w := newTestWorld(t)
	for range 10 {
		g, err := w.build("ADMIN_LISTEN", "127.0.0.1:0", "DATA_DIR", t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		c := config{}
		c.listen = listenAddress{"tcp", "127.0.0.1:0"}
		c.adminListen = c.listen
		if err := g.listen(c); err != nil {
			t.Fatal(err)
		}
		g.start(t.Context())
		if err := g.stop(time.Minute); err != nil {
			t.Fatal(err)
		}
	}
}
