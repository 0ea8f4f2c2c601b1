package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// processWorld is galo in processes of its own, which can be killed, with the processors that they pay at, and what the clients
// were told.
type processWorld struct {
	*books
	t       *testing.T
	program string
	dir     string // of the journals and sockets; short, since a socket's path must be
	env     map[string]string
	invalid map[paymentID]bool // no processor will ever take these
	running []*galoProcess
}

// newProcessWorld is a world of instances on one Redis; with url "", of one instance with its embedded store.
func newProcessWorld(t *testing.T, program, url string) *processWorld {
	t.Helper()
	dir, err := os.MkdirTemp("", "galo")
	if err != nil {
		t.Fatal(err)
	}
	w := &processWorld{books: newBooks(newFakeProcessor(t), newFakeProcessor(t)), t: t, program: program, dir: dir}
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

// stop is SIGSTOP: the process holds what it has, and does nothing until goOn.
func (p *galoProcess) stop() { p.signal(syscall.SIGSTOP) }
func (p *galoProcess) goOn() { p.signal(syscall.SIGCONT) }

func (p *galoProcess) signal(s syscall.Signal) {
	if err := p.cmd.Process.Signal(s); err != nil {
		p.w.t.Error(err)
	}
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
			w.doubt(id, amount)
			return 0
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode == http.StatusAccepted {
			w.promise(id, amount)
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

// audit is books.audit for instances in processes, which must not have found any damage either.
func (w *processWorld) audit(rejected map[paymentID]bool, instances ...*galoProcess) {
	w.t.Helper()
	ask := make(map[string]asking)
	for _, p := range instances {
		if n := p.metric("galo_journal_damaged_slots_total"); n != 0 {
			w.t.Errorf("%s found %v damaged slots", p.name, n)
		}
		ask[p.name] = func(path string) (int, string) { return p.get("galo", path) }
	}
	w.books.audit(w.t, rejected, ask)
}
