package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// processWorld is galo in processes of its own, which can be killed, with the processors that they pay at, and what the clients
// were told.
type processWorld struct {
	t         *testing.T
	program   string
	def, fall *fakeProcessor
	dir       string // of the journals and sockets; short, since a socket's path must be
	env       map[string]string

	mu       sync.Mutex
	promised map[paymentID][]cents // answered with 202, and under which amounts
	doubtful map[paymentID][]cents // the connection broke before the answer
	invalid  map[paymentID]bool    // no processor will ever take these
	running  []*galoProcess
}

// newProcessWorld is a world of instances on one Redis; with url "", of one instance with its embedded store.
func newProcessWorld(t *testing.T, program, url string) *processWorld {
	t.Helper()
	dir, err := os.MkdirTemp("", "galo")
	if err != nil {
		t.Fatal(err)
	}
	w := &processWorld{t: t, program: program, def: newFakeProcessor(t), fall: newFakeProcessor(t), dir: dir,
		promised: make(map[paymentID][]cents), doubtful: make(map[paymentID][]cents)}
	w.env = map[string]string{"REDIS_URL": url, "DATA_DIR": filepath.Join(dir, "data"), "PATIENCE": "0s", "LINGER": "0s", "SEND_TIMEOUT": "2s",
		"PROCESSOR_DEFAULT_URL": w.def.server.URL, "PROCESSOR_FALLBACK_URL": w.fall.server.URL, "ALLOW_PURGE": "true", "MAX_PENDING": "8192"}
	t.Cleanup(func() {
		for _, p := range w.running {
			p.kill()
		}
		os.RemoveAll(dir)
	})
	return w
}

// galoProcess is one running instance, reached through sockets in the world's folder.
type galoProcess struct {
	w      *processWorld
	name   string
	cmd    *exec.Cmd
	client *http.Client
	log    bytes.Buffer  // what it wrote to stderr; to be read once it has ended
	ended  chan struct{} // closed when it has, and its state is known
}

// start starts an instance; settings come in pairs. It does not wait for it.
func (w *processWorld) start(name string, settings ...string) *galoProcess {
	w.t.Helper()
	socket := filepath.Join(w.dir, name)
	p := &galoProcess{w: w, name: name, cmd: exec.Command(w.program), ended: make(chan struct{})}
	env := map[string]string{"INSTANCE": name, "LISTEN": "unix:" + socket, "ADMIN_LISTEN": "unix:" + socket + ".admin"}
	for k, v := range w.env {
		env[k] = v
	}
	for i := 0; i < len(settings); i += 2 {
		env[settings[i]] = settings[i+1]
	}
	p.cmd.Env = []string{"GOMAXPROCS=2"}
	for k, v := range env {
		p.cmd.Env = append(p.cmd.Env, k+"="+v)
	}
	p.cmd.Stderr = &p.log
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.ended)
	}()
	// The host part of the address chooses the socket.
	p.client = &http.Client{Timeout: patient, Transport: &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		path := socket
		if strings.HasPrefix(addr, "admin") {
			path += ".admin"
		}
		return (&net.Dialer{}).DialContext(ctx, "unix", path)
	}}}
	w.t.Cleanup(p.client.CloseIdleConnections)
	w.t.Cleanup(func() {
		if w.t.Failed() {
			p.kill()
			w.t.Logf("%s %v:\n%s", p.name, settings, &p.log)
		}
	})
	w.running = append(w.running, p)
	return p
}

// kill is kill -9; it returns when the process is gone.
func (p *galoProcess) kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

func (p *galoProcess) alive() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// dies waits until the process has killed itself.
func (p *galoProcess) dies() {
	p.w.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(patient):
		p.w.t.Fatalf("%s never came by the crash point", p.name)
	}
	if status := p.cmd.ProcessState.Sys().(syscall.WaitStatus); !status.Signaled() || status.Signal() != syscall.SIGKILL {
		p.w.t.Fatalf("%s ended with %v", p.name, p.cmd.ProcessState)
	}
}

// get asks for a path, at the host "galo" or "admin". The status is 0 when there was no answer.
func (p *galoProcess) get(host, path string) (int, string) {
	return p.call("GET", host, path, "")
}

func (p *galoProcess) call(method, host, path, body string) (int, string) {
	req, err := http.NewRequest(method, "http://"+host+path, strings.NewReader(body))
	if err != nil {
		p.w.t.Error(err)
		return 0, ""
	}
	res, err := p.client.Do(req)
	if err != nil {
		return 0, ""
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, ""
	}
	return res.StatusCode, string(b)
}

// serves waits until the instance can be called. It is false when the process has ended instead.
func (p *galoProcess) serves() bool {
	p.w.t.Helper()
	eventually(p.w.t, p.name+" serves", func() bool {
		status, _ := p.get("admin", "/healthz")
		return status == http.StatusOK || !p.alive()
	})
	return p.alive()
}

// nthAmount is what the payments of these tests cost: a different amount each.
func nthAmount(n uint64) cents { return cents(100*n + 1) }

// post posts a payment once, and remembers what the client may now rely on. A client that finds no one tries again, since it has sent
// nothing.
func (p *galoProcess) post(n uint64, amount cents) int {
	w, id := p.w, nthID(n)
	body := append([]byte(`{"correlationId":"`), id.appendText(nil)...)
	body = append(amount.appendDecimal(append(body, `","amount":`...)), '}')
	for {
		res, err := p.client.Post("http://galo/payments", "application/json", bytes.NewReader(body))
		if err != nil {
			var dial *net.OpError
			if errors.As(err, &dial) && dial.Op == "dial" {
				if p.alive() {
					time.Sleep(time.Millisecond)
					continue
				}
				return 0
			}
			w.remember(w.doubtful, id, amount)
			return 0
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode == http.StatusAccepted {
			w.remember(w.promised, id, amount)
		}
		return res.StatusCode
	}
}

// postAll posts payments one after the other, for as long as there is somebody to post to.
func (p *galoProcess) postAll(from, to uint64) {
	for n := from; n < to && p.alive(); n++ {
		for p.post(n, nthAmount(n)) == http.StatusServiceUnavailable {
			time.Sleep(time.Millisecond) // a segment is being made
		}
	}
}

func (w *processWorld) remember(where map[paymentID][]cents, id paymentID, amount cents) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !slices.Contains(where[id], amount) {
		where[id] = append(where[id], amount)
	}
}

// metric reads a number of an instance; -1 where there is none.
func (p *galoProcess) metric(name string) float64 {
	_, text := p.get("admin", "/metrics")
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			f, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err == nil {
				return f
			}
		}
	}
	return -1
}

// finishes waits until nothing is pending at any of the instances, and every journal in the folder is one of theirs.
func (w *processWorld) finishes(instances ...*galoProcess) {
	w.t.Helper()
	eventually(w.t, "every journal has an owner, and nothing is pending in it", func() bool {
		journals, err := filepath.Glob(filepath.Join(w.dir, "data", "*"+journalSuffix))
		if err != nil {
			w.t.Fatal(err)
		}
		owned := 0.0
		for _, p := range instances {
			owned += p.metric("galo_journals")
		}
		for _, p := range instances { // looked at last: what is in a journal is pending before it counts as owned
			if p.metric("galo_pending") != 0 || p.metric("galo_store_ready") != 1 {
				return false
			}
		}
		return int(owned) == len(journals)
	})
}

// audit is what has to hold in the end, by the books of both processors: every promise is kept once, nothing is at both, and what the
// instances say of each payment, and of all together, is what the processors have. rejected is what no processor took.
func (w *processWorld) audit(rejected map[paymentID]bool, instances ...*galoProcess) {
	w.t.Helper()
	for id, amounts := range w.promised {
		def, atDef := w.def.has(id.String())
		fall, atFall := w.fall.has(id.String())
		if atDef && atFall {
			w.t.Errorf("%s was paid at both", id)
		}
		if paid := atDef || atFall; paid == rejected[id] {
			w.t.Errorf("%s was promised, is paid: %v, and rejected: %v", id, paid, rejected[id])
		}
		if rejected[id] {
			continue
		}
		got := def.Amount
		if atFall {
			got = fall.Amount
		}
		if !slices.ContainsFunc(amounts, func(c cents) bool { return string(c.appendDecimal(nil)) == got.String() }) && !w.foreign(id) {
			w.t.Errorf("%s was accepted with %v and paid with %s", id, amounts, got)
		}
	}
	for _, p := range instances {
		if n := p.metric("galo_journal_damaged_slots_total"); n != 0 {
			w.t.Errorf("%s found %v damaged slots", p.name, n)
		}
		w.auditRecords(p, rejected)
		w.auditSummaries(p)
	}
}

// foreign says that a processor had the payment before it was ever posted.
func (w *processWorld) foreign(id paymentID) bool {
	p, _ := w.def.has(id.String())
	return p.RequestedAt == longAgo
}

const longAgo = "2025-01-02T03:04:05.000006Z"

// auditRecords reads every payment that a client has posted, by its id.
func (w *processWorld) auditRecords(p *galoProcess, rejected map[paymentID]bool) {
	w.t.Helper()
	for _, ids := range []map[paymentID][]cents{w.promised, w.doubtful} {
		for id := range ids {
			status, body := 0, ""
			eventually(w.t, "the instances hear each other", func() bool {
				status, body = p.get("galo", "/payments/"+id.String())
				return status != http.StatusServiceUnavailable
			})
			var got struct {
				Amount                        json.Number
				State, Processor, RequestedAt string
			}
			json.Unmarshal([]byte(body), &got)
			want, processor := w.bookedAt(id)
			_, promised := w.promised[id]
			switch {
			case processor != "":
				if got.State != "settled" || got.Processor != processor || got.Amount != want.Amount || got.RequestedAt != want.RequestedAt {
					w.t.Errorf("%s says %d %s; %s has %+v", p.name, status, body, processor, want)
				}
			case promised && rejected[id] || !promised && got.State == "rejected":
				if got.State != "rejected" {
					w.t.Errorf("%s says %d %s of one that was rejected", p.name, status, body)
				}
			case status != http.StatusNotFound:
				w.t.Errorf("%s says %d %s of one that nobody has", p.name, status, body)
			}
		}
	}
}

// bookedAt is what a processor has of a payment, and which.
func (w *processWorld) bookedAt(id paymentID) (fakePayment, string) {
	if p, ok := w.def.has(id.String()); ok {
		return p, onDefault.String()
	}
	if p, ok := w.fall.has(id.String()); ok {
		return p, onFallback.String()
	}
	return fakePayment{}, ""
}

// auditSummaries compares windows with the processors' books: everything, and from each of some instants on.
func (w *processWorld) auditSummaries(p *galoProcess) {
	w.t.Helper()
	froms := []string{"0001-01-01T00:00:00Z"}
	for _, f := range []*fakeProcessor{w.def, w.fall} {
		f.mu.Lock()
		for _, one := range f.paid {
			if len(froms) < 5 {
				froms = append(froms, one.RequestedAt)
			}
		}
		f.mu.Unlock()
	}
	for _, from := range froms {
		defCount, defAmount := w.def.bookedSince(from)
		fallCount, fallAmount := w.fall.bookedSince(from)
		want := wantSummary(defCount, string(defAmount.appendDecimal(nil)), fallCount, string(fallAmount.appendDecimal(nil)))
		path := "/payments-summary?from=" + from
		if status, got := p.get("galo", path); status != http.StatusOK || got != want {
			w.t.Errorf("%s says %d %s of %s; the processors have %s", p.name, status, got, path, want)
		}
	}
}

// bookedSince adds up what the processor has from an instant on. All of it is written by galo, in one form, which sorts as text.
func (f *fakeProcessor) bookedSince(from string) (n int, sum cents) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.paid {
		if p.RequestedAt >= from {
			n++
			sum += centsOf(p.Amount)
		}
	}
	return n, sum
}

// centsOf reads the decimal that galo writes: with two digits after the point.
func centsOf(n json.Number) cents {
	c, err := strconv.ParseInt(strings.Replace(n.String(), ".", "", 1), 10, 64)
	if err != nil {
		panic(fmt.Sprintf("not an amount: %q", n))
	}
	return cents(c)
}

// bookOnce writes a payment as a processor does: once, whatever comes after.
func (f *fakeProcessor) bookOnce(p fakePayment) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, taken := f.paid[p.ID]; taken {
		return false
	}
	f.paid[p.ID] = p
	return true
}
