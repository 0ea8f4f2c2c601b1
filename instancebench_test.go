package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"math/bits"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// benchInstance is galo in a process of its own, as it is shipped, with a Redis and processors that nobody runs: it accepts payments, and
// all of them wait.
type benchInstance struct {
	b       *testing.B
	cmd     *exec.Cmd
	socket  string // of clients; with .admin behind it that of the admin side
	admin   *http.Client
	log     bytes.Buffer
	readyIn time.Duration // from exec to the first 200 of /readyz
}

// buildInstance builds galo into the folder.
func buildInstance(b *testing.B, dir string) (program string) {
	b.Helper()
	program = filepath.Join(dir, "galo")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", program, ".").CombinedOutput(); err != nil {
		b.Fatalf("cannot build galo: %v\n%s", err, out)
	}
	return program
}

// startInstance starts one on a folder of journals and waits until it is ready. It ends with kill -9.
func startInstance(b *testing.B, program, dir string, settings ...string) *benchInstance {
	b.Helper()
	const nobody = "127.0.0.1:1" // where every connection is refused at once
	in := &benchInstance{b: b, cmd: exec.Command(program), socket: filepath.Join(dir, "socket")}
	in.admin = &http.Client{Timeout: lastPatience, Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", in.socket+".admin")
	}}}
	in.cmd.Env = append([]string{"INSTANCE=bench", "LISTEN=unix:" + in.socket, "ADMIN_LISTEN=unix:" + in.socket + ".admin", "DATA_DIR=" + filepath.Join(dir, "data"),
		"REDIS_URL=redis://" + nobody, "PROCESSOR_DEFAULT_URL=http://" + nobody, "PROCESSOR_FALLBACK_URL=http://127.0.0.1:2"}, settings...)
	in.cmd.Stderr = &in.log
	began := time.Now()
	if err := in.cmd.Start(); err != nil {
		b.Fatal(err)
	}
	for {
		if _, err := in.get("/readyz"); err == nil {
			in.readyIn = time.Since(began)
			return in
		}
		if time.Since(began) > patient {
			in.kill()
			b.Fatalf("never ready:\n%s", &in.log)
		}
		time.Sleep(100 * time.Microsecond)
	}
}

func (in *benchInstance) kill() {
	_ = in.cmd.Process.Kill() // it is there: nobody else ends it
	_ = in.cmd.Wait()         // "signal: killed" is what is wanted
	in.admin.CloseIdleConnections()
}

// get is an answer of the admin side with 200.
func (in *benchInstance) get(path string) (string, error) {
	res, err := in.admin.Get("http://galo" + path)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	return string(text), err
}

// post posts payments from the first to before the last, over several connections and many at a time on each.
func (in *benchInstance) post(first, last int) {
	const conns = 4
	var posting sync.WaitGroup
	for c := range conns {
		posting.Go(func() {
			from, to := first+(last-first)*c/conns, first+(last-first)*(c+1)/conns
			if err := in.postOver(from, to); err != nil {
				in.b.Error(err)
			}
		})
	}
	posting.Wait()
}

// postOver posts over one connection, so many at a time that neither side waits for the other. What is refused since a segment is being made
// is posted again.
func (in *benchInstance) postOver(from, to int) error {
	conn, err := net.Dial("unix", in.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	const atOnce = 64
	var again []int
	for next := from; next < to || len(again) > 0; {
		batch := again
		for again = nil; len(batch) < atOnce && next < to; next++ {
			batch = append(batch, next)
		}
		var requests []byte
		for _, n := range batch {
			requests = appendPost(requests, uint64(n))
		}
		if _, err := conn.Write(requests); err != nil {
			return err
		}
		for _, n := range batch {
			res, err := http.ReadResponse(answers, nil)
			if err != nil {
				return err
			}
			io.Copy(io.Discard, res.Body)
			switch res.StatusCode {
			case http.StatusAccepted:
			case http.StatusServiceUnavailable:
				again = append(again, n)
			default:
				return fmt.Errorf("payment %d: %s", n, res.Status)
			}
		}
		if len(again) > 0 {
			time.Sleep(time.Millisecond)
		}
	}
	return nil
}

func appendPost(dst []byte, n uint64) []byte {
	id := nthID(n)
	body := append(id.appendText([]byte(`{"correlationId":"`)), `","amount":19.90}`...)
	return fmt.Appendf(dst, "POST /payments HTTP/1.1\r\nHost: galo\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

// footprint is what an instance takes, in bytes: memory of its own, files mapped into it that are in memory (the journal and the program),
// and the part of the first that Go's heap has in use after a collection.
type footprint struct{ anonymous, mapped, heap float64 }

func (in *benchInstance) footprint() (f footprint) {
	in.b.Helper()
	heap, err := in.get("/debug/pprof/heap?debug=1&gc=1")
	if err != nil {
		in.b.Fatal(err)
	}
	f.heap = numberAfter(in.b, heap, "# HeapAlloc = ")
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", in.cmd.Process.Pid))
	if err != nil {
		in.b.Fatal(err)
	}
	f.anonymous = 1024 * numberAfter(in.b, string(text), "RssAnon:")
	f.mapped = 1024 * (numberAfter(in.b, string(text), "RssFile:") + numberAfter(in.b, string(text), "RssShmem:"))
	return f
}

// pauses is the longest time for which the collector stopped everything, of its last 256, and how often it ran.
func (in *benchInstance) pauses() (longest time.Duration, collections float64) {
	in.b.Helper()
	heap, err := in.get("/debug/pprof/heap?debug=1")
	if err != nil {
		in.b.Fatal(err)
	}
	_, rest, _ := strings.Cut(heap, "# PauseNs = [")
	list, _, found := strings.Cut(rest, "]")
	if !found {
		in.b.Fatal("the heap's profile names no pauses")
	}
	for _, word := range strings.Fields(list) {
		n, err := strconv.ParseInt(word, 10, 64)
		if err != nil {
			in.b.Fatal(err)
		}
		longest = max(longest, time.Duration(n))
	}
	return longest, numberAfter(in.b, heap, "# NumGC = ")
}

// numberAfter is the first number behind a text.
func numberAfter(b *testing.B, text, name string) float64 {
	b.Helper()
	found := regexp.MustCompile(regexp.QuoteMeta(name) + `\s*(\d+)`).FindStringSubmatch(text)
	if found == nil {
		b.Fatalf("nowhere %q", name)
	}
	n, err := strconv.ParseFloat(found[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return n
}

// BenchmarkInstance is the memory of one instance in which nothing, a hundred thousand payments and a million of them wait
// (INSTANCE_PAYMENTS: the most), all with room for as many, the next power of two, as rings have; how long the collector stopped it at
// most, in how many collections, one of them at the end; and how fast the last tenth came in.
func BenchmarkInstance(b *testing.B) {
	program := buildInstance(b, b.TempDir())
	most := sizeFrom(b, "INSTANCE_PAYMENTS", "1000000")
	var empty footprint
	for _, waiting := range []int{0, most / 10, most} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				in := startInstance(b, program, b.TempDir(), "MAX_PENDING="+strconv.Itoa(1<<bits.Len(uint(most))), "GOGC=400")
				in.post(0, waiting-waiting/10)
				b.StartTimer()
				began := time.Now()
				in.post(waiting-waiting/10, waiting)
				took := time.Since(began)
				b.StopTimer()
				f := in.footprint() // which collects, with all that wait
				pause, collections := in.pauses()
				in.kill()
				b.ReportMetric(f.anonymous/(1<<20), "anonymous-MiB")
				b.ReportMetric(f.mapped/(1<<20), "mapped-MiB")
				b.ReportMetric(f.heap/(1<<20), "heap-MiB")
				b.ReportMetric(float64(pause)/float64(time.Microsecond), "longest-pause-µs")
				b.ReportMetric(collections, "collections")
				if waiting == 0 {
					empty = f
				} else {
					b.ReportMetric((f.anonymous-empty.anonymous)/float64(waiting), "anonymous-B/payment")
					b.ReportMetric((f.mapped-empty.mapped)/float64(waiting), "mapped-B/payment")
					b.ReportMetric(math.Round(float64(waiting/10)/took.Seconds()), "payments/s")
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkStart is the time from exec until /readyz says 200: with an empty folder, and with one in which a million payments wait
// (RECOVER_PAYMENTS).
func BenchmarkStart(b *testing.B) {
	program := buildInstance(b, b.TempDir())
	for _, waiting := range []int{0, sizeFrom(b, "RECOVER_PAYMENTS", "1000000")} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			var took time.Duration
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				if waiting > 0 {
					fillJournal(b, filepath.Join(dir, "data"), waiting)
				}
				b.StartTimer()
				in := startInstance(b, program, dir, "MAX_PENDING="+strconv.Itoa(waiting+100_000))
				b.StopTimer()
				took += in.readyIn
				in.kill()
				b.StartTimer()
			}
			b.ReportMetric(float64(took.Milliseconds())/float64(b.N), "ms-to-ready")
		})
	}
}
