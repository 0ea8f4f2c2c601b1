package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// asProcessors tells this test binary to be both processors.
const asProcessors = "GALO_TEST_AS_PROCESSORS"

// TestBeingTheProcessors is two processors that answer at once, in a process of their own, until its standard input ends. GET /posts
// says how many payments one has been sent; after PUT /failing it refuses them, and after DELETE /failing it takes them again.
func TestBeingTheProcessors(t *testing.T) {
	if os.Getenv(asProcessors) == "" {
		t.Skip("a benchmark runs this as a process of its own")
	}
	for range processors {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var posts atomic.Int64
		var failing atomic.Bool
		server := &fasthttp.Server{NoDefaultDate: true, NoDefaultServerHeader: true, Handler: func(ctx *fasthttp.RequestCtx) {
			ctx.SetContentType("application/json")
			switch {
			case string(ctx.Path()) == "/failing":
				failing.Store(ctx.IsPut())
			case ctx.IsPost() && failing.Load():
				ctx.SetStatusCode(fasthttp.StatusInternalServerError)
			case ctx.IsPost():
				posts.Add(1)
				ctx.SetBodyString(`{"message":"payment processed successfully"}`)
			case string(ctx.Path()) == "/posts":
				fmt.Fprint(ctx, posts.Load())
			case string(ctx.Path()) == "/payments/service-health":
				fmt.Fprintf(ctx, `{"failing":%t,"minResponseTime":0}`, failing.Load())
			default:
				ctx.SetStatusCode(fasthttp.StatusNotFound)
			}
		}}
		go server.Serve(ln)
		fmt.Println("http://" + ln.Addr().String())
	}
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

// quickProcessors starts them, and returns their addresses.
func quickProcessors(tb testing.TB) (urls [processors]string) {
	tb.Helper()
	both := startActor(tb, "TestBeingTheProcessors", asProcessors+"=true", "GOMAXPROCS=1")
	for id := range urls {
		if !both.lines.Scan() {
			tb.Fatal("the processors did not start")
		}
		urls[id] = both.lines.Text()
	}
	return urls
}

// actor is this test binary in a process of its own, in which one test plays a part until its standard input ends.
type actor struct {
	cmd   *exec.Cmd
	stdin io.Closer
	lines *bufio.Scanner // what it says
}

// startActor starts one, which ends with the test at the latest.
func startActor(tb testing.TB, part string, env ...string) *actor {
	tb.Helper()
	a := &actor{cmd: exec.Command(os.Args[0], "-test.run=^"+part+"$")}
	a.cmd.Env = append(os.Environ(), env...)
	a.cmd.Stderr = os.Stderr
	stdin, err := a.cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := a.cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	a.stdin, a.lines = stdin, bufio.NewScanner(out)
	tb.Cleanup(func() {
		a.stdin.Close()
		a.cmd.Wait()
	})
	return a
}

// posts is how many payments the processors were sent.
func posts(b *testing.B, urls [processors]string) (n int) {
	b.Helper()
	for _, url := range urls {
		res, err := http.Get(url + "/posts")
		if err != nil {
			b.Fatal(err)
		}
		one := 0
		if _, err := fmt.Fscan(res.Body, &one); err != nil {
			b.Fatal(err)
		}
		res.Body.Close()
		n += one
	}
	http.DefaultClient.CloseIdleConnections()
	return n
}

// meterReading is what this process has used.
type meterReading struct {
	at     time.Time
	cpu    time.Duration
	allocs uint64
}

func used() meterReading {
	var r syscall.Rusage
	var m runtime.MemStats
	syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	runtime.ReadMemStats(&m)
	return meterReading{time.Now(), time.Duration(r.Utime.Nano() + r.Stime.Nano()), m.Mallocs}
}

// report says what n payments took since then.
func (u meterReading) report(b *testing.B, n int) {
	now := used()
	b.ReportMetric(float64(n)/now.at.Sub(u.at).Seconds(), "payments/s")
	b.ReportMetric(float64(now.cpu-u.cpu)/float64(n), "cpu-ns/payment")
	b.ReportMetric(float64(now.allocs-u.allocs)/float64(n), "allocs/payment")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkProcess is what lies behind intake: payments that were accepted are claimed, sent and settled by one instance on one core,
// beside the same number of payments sent by the same client alone, as many at once. Redis and the processors, which answer at
// once, are processes of their own; cpu-ns counts this one.
func BenchmarkProcess(b *testing.B) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	b.Run("galo", func(b *testing.B) {
		urls, server := quickProcessors(b), startRedis(b)
		w := &testWorld{dir: b.TempDir(), env: map[string]string{"REDIS_URL": server.url(), "PROCESSOR_DEFAULT_URL": urls[onDefault], "PROCESSOR_FALLBACK_URL": urls[onFallback]}}
		g, err := w.buildFor(b)
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		g.start(ctx)
		defer g.stop(5 * time.Second)
		next := uint64(0)
		process := func(n int) {
			for end := next + uint64(n); next < end || g.ledger.pending.Load() > 0; time.Sleep(200 * time.Microsecond) {
				for ; next < end && g.ledger.pending.Load() < processAtOnce; next++ {
					id := nthID(next)
					r, what := g.ledger.accept(&id, 1990)
					if what != acceptedNew {
						break // the next segment is being made
					}
					g.dispatcher.push(r)
				}
			}
		}
		process(2000)
		conn := rawConn(b, server.url())
		do(b, conn, "CONFIG", "RESETSTAT")
		before, u := posts(b, urls), used()
		process(b.N)
		u.report(b, b.N)
		if sent := posts(b, urls) - before; sent != b.N {
			b.Errorf("%d payments were sent %d times", b.N, sent)
		}
		calls, redisTime := commandCalls(b, conn, "evalsha"), commandMicros(b, conn, "evalsha")
		b.ReportMetric(calls/float64(b.N), "scripts/payment")
		b.ReportMetric(1000*redisTime/float64(b.N), "redis-ns/payment")
	})
	for _, atOnce := range []int{8, 64} {
		b.Run(fmt.Sprintf("posts/%d", atOnce), func(b *testing.B) {
			urls := quickProcessors(b)
			p, err := newProcessor(onDefault, urls[onDefault], 2*atOnce, time.Minute)
			if err != nil {
				b.Fatal(err)
			}
			defer p.close()
			post := func(n int) {
				var left atomic.Int64
				left.Store(int64(n))
				var all sync.WaitGroup
				for range atOnce {
					all.Go(func() {
						for i := left.Add(-1); i >= 0; i = left.Add(-1) {
							if res := p.pay(nthID(uint64(i)), 1990, nowMicros()); res.outcome != outcomePaid {
								b.Errorf("%v: %s", res.outcome, res.detail)
							}
						}
					})
				}
				all.Wait()
			}
			post(2000)
			u := used()
			post(b.N)
			u.report(b, b.N)
		})
	}
}

// processAtOnce is how many accepted payments wait: far more than workers take in one go.
const processAtOnce = 4096

// buildFor builds an instance of this world with the settings of the stack.
func (w *testWorld) buildFor(tb testing.TB) (*galo, error) {
	tb.Helper()
	env := map[string]string{"LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "", "DATA_DIR": w.dir, "INSTANCE": "one"}
	for k, v := range w.env {
		env[k] = v
	}
	c, err := readConfig(func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		return nil, err
	}
	return build(c, quietLog())
}

// commandCalls is how often Redis was asked for a command.
func commandCalls(b *testing.B, conn interface {
	Do(command string, args ...any) (any, error)
}, command string) float64 {
	b.Helper()
	info, err := conn.Do("INFO", "commandstats")
	if err != nil {
		b.Fatal(err)
	}
	text := string(info.([]byte))
	_, rest, _ := strings.Cut(text, "cmdstat_"+command+":calls=")
	var n float64
	fmt.Sscanf(rest, "%f", &n)
	return n
}
