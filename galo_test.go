package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fakeProcessor is a processor of the tests: it keeps what it was paid and answers as it is told to.
type fakeProcessor struct {
	server   *httptest.Server
	mu       sync.Mutex
	paid     map[string]fakePayment
	posts    map[string]int // attempts by id
	onHealth func()
	// handle, if it is set, may answer a POST; it is true when it has. write books the payment.
	handle func(w http.ResponseWriter, p fakePayment, write func()) bool
	silent bool // look-ups fail
}

type fakePayment struct {
	ID          string      `json:"correlationId"`
	Amount      json.Number `json:"amount"`
	RequestedAt string      `json:"requestedAt"`
}

func newFakeProcessor(t testing.TB) *fakeProcessor {
	f := &fakeProcessor{paid: make(map[string]fakePayment), posts: make(map[string]int)}
	f.server = httptest.NewServer(f)
	t.Cleanup(f.server.Close)
	return f
}

func (f *fakeProcessor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := strings.TrimPrefix(r.URL.Path, "/payments/")
	switch {
	case r.Method == "POST" && r.URL.Path == "/payments":
		f.post(w, r)
	case r.URL.Path == "/payments/service-health":
		f.mu.Lock()
		heard := f.onHealth
		f.mu.Unlock()
		if heard != nil {
			heard()
		}
		io.WriteString(w, `{"failing":false,"minResponseTime":0}`)
	default:
		f.mu.Lock()
		p, ok := f.paid[id]
		silent := f.silent
		f.mu.Unlock()
		if silent {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		json.NewEncoder(w).Encode(p)
	}
}

func (f *fakeProcessor) post(w http.ResponseWriter, r *http.Request) {
	var p fakePayment
	if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	f.mu.Lock()
	f.posts[p.ID]++
	handle := f.handle
	f.mu.Unlock()
	write := func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.paid[p.ID] = p
	}
	if handle != nil && handle(w, p, write) {
		return
	}
	f.mu.Lock()
	_, taken := f.paid[p.ID]
	f.mu.Unlock()
	if taken {
		w.WriteHeader(http.StatusUnprocessableEntity)
		return
	}
	write()
	io.WriteString(w, `{"message":"payment processed successfully"}`)
}

func (f *fakeProcessor) behave(handle func(w http.ResponseWriter, p fakePayment, write func()) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handle = handle
}

func (f *fakeProcessor) has(id string) (fakePayment, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p, ok := f.paid[id]
	return p, ok
}

func (f *fakeProcessor) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.paid)
}

func (f *fakeProcessor) attempts(id string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.posts[id]
}

// hijacked ends the connection under a request in the middle of nothing.
func hijacked(w http.ResponseWriter) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err == nil {
		conn.Close()
	}
}

// testGalo is one instance, in this process, through its real listeners.
type testGalo struct {
	*galo
	t      testing.TB
	url    string
	cancel context.CancelFunc
	once   sync.Once
}

type testWorld struct {
	def, fall *fakeProcessor
	dir       string
	env       map[string]string
}

func newTestWorld(t testing.TB) *testWorld {
	return &testWorld{def: newFakeProcessor(t), fall: newFakeProcessor(t), dir: t.TempDir(), env: map[string]string{}}
}

// build builds an instance in this world, without starting it; settings come in pairs.
func (w *testWorld) build(settings ...string) (*galo, error) {
	env := map[string]string{
		"LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "", "DATA_DIR": w.dir, "INSTANCE": "one", "PATIENCE": "300ms",
		"PROCESSOR_DEFAULT_URL": w.def.server.URL, "PROCESSOR_FALLBACK_URL": w.fall.server.URL, "ALLOW_PURGE": "true",
		"SEND_TIMEOUT": "1s", "MAX_PENDING": "4096", "STOP_TIMEOUT": "5s",
	}
	for k, v := range w.env {
		env[k] = v
	}
	for i := 0; i < len(settings); i += 2 {
		env[settings[i]] = settings[i+1]
	}
	c, err := readConfig(func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		return nil, err
	}
	return build(c, quietLog())
}

// start starts an instance in this world; settings come in pairs.
func (w *testWorld) start(t testing.TB, settings ...string) *testGalo {
	t.Helper()
	g, err := w.build(settings...)
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, g)
}

// serve starts an instance that was built.
func serve(t testing.TB, g *galo) *testGalo {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.doors = append(g.doors, ln)
	g.listeners = append(g.listeners, func() error { return g.server.Serve(ln) })
	ctx, cancel := context.WithCancel(context.Background())
	g.start(ctx)
	tg := &testGalo{galo: g, t: t, url: "http://" + ln.Addr().String(), cancel: cancel}
	t.Cleanup(tg.stopAll)
	t.Cleanup(tg.explain)
	return tg
}

// stopAll stops the instance in order; a second call does nothing. One that did not end still has its journals, and may pay: nothing that
// the test would do next, to its files or with another instance, would prove anything.
func (g *testGalo) stopAll() {
	g.once.Do(func() {
		// The client may have dialled more connections than it had requests for; a stop would wait for a first one on each.
		http.DefaultClient.CloseIdleConnections()
		err := g.galo.stop(5 * time.Second)
		g.cancel()
		if err != nil {
			g.t.Fatalf("stop: %v", err)
		}
	})
}

func (g *testGalo) do(method, path, body string) (int, string, http.Header) {
	g.t.Helper()
	req, err := http.NewRequest(method, g.url+path, strings.NewReader(body))
	if err != nil {
		g.t.Fatal(err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		g.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		g.t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

func (g *testGalo) post(id paymentID, amount string) int {
	g.t.Helper()
	status, _, _ := g.do("POST", "/payments", fmt.Sprintf(`{"correlationId":%q,"amount":%s}`, id, amount))
	return status
}

func (g *testGalo) accepted(id paymentID, amount string) {
	g.t.Helper()
	if status := g.post(id, amount); status != http.StatusAccepted {
		g.t.Fatalf("%s was answered %d", id, status)
	}
}

// payment reads the record of one payment; "" where there is none.
func (g *testGalo) state(id paymentID) string {
	g.t.Helper()
	status, body, _ := g.do("GET", "/payments/"+id.String(), "")
	var p struct{ State, Processor string }
	json.Unmarshal([]byte(body), &p)
	if status != http.StatusOK {
		return fmt.Sprint(status)
	}
	return strings.TrimSpace(p.State + " " + p.Processor)
}

// explain prints the instance's metrics when the test has failed.
func (g *testGalo) explain() {
	if g.t.Failed() {
		var b bytes.Buffer
		g.metrics.set.WritePrometheus(&b)
		g.t.Log(b.String())
	}
}

func (g *testGalo) becomes(id paymentID, state string) {
	g.t.Helper()
	last := ""
	defer func() {
		if g.t.Failed() {
			g.t.Logf("last state of %s: %s", id, last)
		}
	}()
	eventually(g.t, id.String()+" is "+state, func() bool { last = g.state(id); return last == state })
}

func (g *testGalo) summary(query string) string {
	g.t.Helper()
	body := ""
	eventually(g.t, "a summary", func() bool {
		var status int
		status, body, _ = g.do("GET", "/payments-summary"+query, "")
		return status == http.StatusOK
	})
	return body
}

func wantSummary(defaultCount int, defaultAmount string, fallbackCount int, fallbackAmount string) string {
	return fmt.Sprintf(`{"default":{"totalRequests":%d,"totalAmount":%s},"fallback":{"totalRequests":%d,"totalAmount":%s}}`,
		defaultCount, defaultAmount, fallbackCount, fallbackAmount)
}

func TestPaymentIsPaidAndShown(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t)
	id := nthID(1)
	g.accepted(id, "19.90")
	g.becomes(id, "settled default")
	if p, ok := w.def.has(id.String()); !ok || p.Amount != "19.90" {
		t.Errorf("the processor has %+v", p)
	}
	if got, want := g.summary(""), wantSummary(1, "19.90", 0, "0.00"); got != want {
		t.Errorf("summary %s, want %s", got, want)
	}
	p, _ := w.def.has(id.String())
	at := strings.ReplaceAll(p.RequestedAt, "+", "%2B")
	if got := g.summary("?from=" + at + "&to=" + at); got != wantSummary(1, "19.90", 0, "0.00") {
		t.Errorf("summary of its own microsecond: %s", got)
	}
	// Any offset, and a plus sign that nobody escaped.
	if got := g.summary("?from=2020-01-01T00:00:00+02:00&to=2999-01-01T00:00:00.5-03:00"); got != wantSummary(1, "19.90", 0, "0.00") {
		t.Errorf("summary of a window with offsets: %s", got)
	}
	g.accepted(id, "19.90")
	if status := g.post(id, "20.00"); status != http.StatusConflict {
		t.Errorf("another amount was answered %d", status)
	}
	if n := w.def.attempts(id.String()); n != 1 {
		t.Errorf("%d attempts", n)
	}
}

func TestRestartStillKnowsEveryPayment(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t)
	for n := range uint64(50) {
		g.accepted(nthID(n), "1.01")
	}
	eventually(t, "all are paid", func() bool { return w.def.count() == 50 })
	g.becomes(nthID(49), "settled default")
	g.stopAll()

	g = w.start(t)
	if got, want := g.summary(""), wantSummary(50, "50.50", 0, "0.00"); got != want {
		t.Errorf("summary %s, want %s", got, want)
	}
	for n := range uint64(50) {
		g.accepted(nthID(n), "1.01")
		if s := g.state(nthID(n)); s != "settled default" {
			t.Fatalf("payment %d is %s", n, s)
		}
	}
	if status := g.post(nthID(3), "1.02"); status != http.StatusConflict {
		t.Errorf("another amount was answered %d", status)
	}
}

func TestWaitsForTheCheaperProcessorThenGoesToTheDearer(t *testing.T) {
	w := newTestWorld(t)
	failing := func(rw http.ResponseWriter, p fakePayment, write func()) bool {
		rw.WriteHeader(http.StatusInternalServerError)
		return true
	}
	w.def.behave(failing)
	g := w.start(t)
	for n := range uint64(20) {
		g.accepted(nthID(n), "1.00")
	}
	eventually(t, "all are paid at the fallback", func() bool { return w.fall.count() == 20 })
	w.def.behave(nil)
	g.accepted(nthID(100), "1.00")
	g.becomes(nthID(100), "settled default")
	if got, want := g.summary(""), wantSummary(1, "1.00", 20, "20.00"); got != want {
		t.Errorf("summary %s, want %s", got, want)
	}
}

// TestTimeoutStaysWithItsProcessor: one attempt whose outcome is unknown pins the payment, whatever later attempts say.
func TestTimeoutStaysWithItsProcessor(t *testing.T) {
	w := newTestWorld(t)
	id := nthID(1)
	var mu sync.Mutex
	var requested []string
	answers := []func(rw http.ResponseWriter, write func()){
		func(rw http.ResponseWriter, write func()) { hijacked(rw) },        // unknown: nothing was written
		func(rw http.ResponseWriter, write func()) { rw.WriteHeader(500) }, // refused
		func(rw http.ResponseWriter, write func()) { rw.WriteHeader(400) },
		func(rw http.ResponseWriter, write func()) { rw.WriteHeader(429) },
		func(rw http.ResponseWriter, write func()) { write(); hijacked(rw) }, // lands, and nobody hears of it
	}
	w.def.behave(func(rw http.ResponseWriter, p fakePayment, write func()) bool {
		mu.Lock()
		defer mu.Unlock()
		n := len(requested)
		requested = append(requested, p.RequestedAt)
		if n < len(answers) {
			answers[n](rw, write)
			return true
		}
		return false
	})
	g := w.start(t)
	g.accepted(id, "5.00")
	g.becomes(id, "settled default")
	mu.Lock()
	defer mu.Unlock()
	if len(requested) != len(answers) {
		t.Errorf("%d attempts, want %d", len(requested), len(answers))
	}
	for _, at := range requested {
		if at != requested[0] {
			t.Errorf("requestedAt moved: %v", requested)
		}
	}
	if w.fall.attempts(id.String()) != 0 {
		t.Error("a pinned payment went to the other processor")
	}
}

func TestHangingAnswerIsLookedUp(t *testing.T) {
	w := newTestWorld(t)
	release := make(chan struct{})
	defer close(release)
	w.def.behave(func(rw http.ResponseWriter, p fakePayment, write func()) bool {
		write()
		<-release
		return true
	})
	g := w.start(t, "SEND_TIMEOUT", "30s", "STOP_TIMEOUT", "2s")
	g.accepted(nthID(1), "5.00")
	g.becomes(nthID(1), "settled default")
	if n := w.def.attempts(nthID(1).String()); n != 1 {
		t.Errorf("%d attempts", n)
	}
	release <- struct{}{}
}

func TestTakenIsConfirmedByLookUp(t *testing.T) {
	w := newTestWorld(t)
	id := nthID(1)
	long := "2025-01-02T03:04:05.000006Z"
	w.def.paid[id.String()] = fakePayment{ID: id.String(), Amount: "7.77", RequestedAt: long}
	g := w.start(t)
	g.accepted(id, "5.00")
	g.becomes(id, "settled default")
	if got, want := g.summary("?from="+long+"&to="+long), wantSummary(1, "7.77", 0, "0.00"); got != want {
		t.Errorf("summary %s, want %s: what the processor has booked counts", got, want)
	}
}

func TestTakenButAbsentIsKept(t *testing.T) {
	w := newTestWorld(t)
	id := nthID(1)
	w.def.behave(func(rw http.ResponseWriter, p fakePayment, write func()) bool {
		rw.WriteHeader(http.StatusUnprocessableEntity)
		return true
	})
	g := w.start(t)
	g.accepted(id, "5.00")
	eventually(t, "a second attempt", func() bool { return w.def.attempts(id.String()) >= 2 })
	g.becomes(id, "pinned default")
	if w.fall.attempts(id.String()) != 0 {
		t.Error("went to the other processor")
	}
	w.def.behave(nil)
	g.becomes(id, "settled default")
}

func TestInvalidIsRejectedAndShown(t *testing.T) {
	w := newTestWorld(t)
	id := nthID(1)
	w.def.behave(func(rw http.ResponseWriter, p fakePayment, write func()) bool {
		rw.WriteHeader(http.StatusBadRequest)
		return true
	})
	g := w.start(t)
	g.accepted(id, "5.00")
	g.becomes(id, "rejected")
	eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
	if got := g.summary(""); got != wantSummary(0, "0.00", 0, "0.00") {
		t.Errorf("summary %s", got)
	}
}

func TestPurgeForgetsHistoryAndKeepsWhatWaits(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t, "PATIENCE", "1h")
	g.accepted(nthID(1), "1.00")
	g.becomes(nthID(1), "settled default")
	w.def.behave(func(rw http.ResponseWriter, p fakePayment, write func()) bool {
		rw.WriteHeader(http.StatusInternalServerError)
		return true
	})
	g.accepted(nthID(2), "2.00")
	eventually(t, "an attempt at 2", func() bool { return w.def.attempts(nthID(2).String()) > 0 })
	if status, body, _ := g.do("POST", "/purge-payments", ""); status != http.StatusOK {
		t.Fatalf("purge: %d %s", status, body)
	}
	if got := g.summary(""); got != wantSummary(0, "0.00", 0, "0.00") {
		t.Errorf("summary after the purge %s", got)
	}
	w.def.behave(nil)
	g.becomes(nthID(2), "settled default")
	g.stopAll()
	g = w.start(t)
	if got := g.summary(""); got != wantSummary(1, "2.00", 0, "0.00") {
		t.Errorf("summary after a restart %s", got)
	}
	if s := g.state(nthID(1)); s != "404" {
		t.Errorf("a purged payment is %s", s)
	}
}

func TestPurgeIsOffByDefault(t *testing.T) {
	g := newTestWorld(t).start(t, "ALLOW_PURGE", "false")
	if status, _, _ := g.do("POST", "/purge-payments", ""); status != http.StatusForbidden {
		t.Errorf("answered %d", status)
	}
}

func TestBadInputGetsItsAnswer(t *testing.T) {
	g := newTestWorld(t).start(t)
	id := nthID(1).String()
	big := `{"correlationId":"` + id + `","amount":1,"x":"` + strings.Repeat("y", 5000) + `"}`
	pay := func(amount string) string { return `{"correlationId":"` + id + `","amount":` + amount + `}` }
	for _, c := range []struct {
		method, path, body string
		want               int
	}{
		{"POST", "/payments", ``, 400},
		{"POST", "/payments", `nonsense`, 400},
		{"POST", "/payments", `[]`, 400},
		{"POST", "/payments", `{}`, 400},
		{"POST", "/payments", `{"correlationId":"` + id + `"}`, 400},
		{"POST", "/payments", `{"amount":1}`, 400},
		{"POST", "/payments", `{"correlationId":"x","amount":1}`, 400},
		{"POST", "/payments", `{"correlationId":7,"amount":1}`, 400},
		{"POST", "/payments", pay(`"1"`), 400},
		{"POST", "/payments", pay(`null`), 400},
		{"POST", "/payments", pay(`1}`), 400},
		{"POST", "/payments", pay(`0`), 422},
		{"POST", "/payments", pay(`-1`), 422},
		{"POST", "/payments", pay(`1.001`), 422},
		{"POST", "/payments", pay(`10000000000`), 422},
		{"POST", "/payments", pay(`1e400`), 422},
		{"POST", "/payments", big, 413},
		{"GET", "/payments-summary?from=yesterday", ``, 400},
		{"GET", "/payments-summary?to=2025-13-01T00:00:00Z", ``, 400},
		{"GET", "/payments-summary?from=2025-01-02T00:00:00Z&to=2025-01-01T00:00:00Z", ``, 400},
		{"GET", "/payments/nonsense", ``, 400},
		{"GET", "/payments/" + nthID(99).String(), ``, 404},
		{"GET", "/", ``, 404},
		{"GET", "/payment", ``, 404},
		{"POST", "/payments/", ``, 404},
		{"GET", "/payments", ``, 405},
		{"DELETE", "/payments-summary", ``, 405},
		{"PUT", "/payments/" + id, ``, 405},
		{"OPTIONS", "/payments", ``, 405},
	} {
		status, body, header := g.do(c.method, c.path, c.body)
		for c.want == 404 && status == 503 { // the store is not ready yet: it might know
			status, body, header = g.do(c.method, c.path, c.body)
		}
		name := fmt.Sprintf("%s %s %.60s", c.method, c.path, c.body)
		if status != c.want {
			t.Errorf("%s: %d, want %d: %s", name, status, c.want, body)
			continue
		}
		var p struct {
			Title, Detail string
			Status        int
		}
		if err := json.Unmarshal([]byte(body), &p); err != nil || p.Status != c.want || p.Detail == "" || header.Get("Content-Type") != problemType {
			t.Errorf("%s: not a problem answer: %s %s", name, header.Get("Content-Type"), body)
		}
		if (c.want == 405) != (header.Get("Allow") != "") {
			t.Errorf("%s: Allow is %q", name, header.Get("Allow"))
		}
	}
	if n := g.ledger.appended(); n != 0 {
		t.Errorf("%d payments were accepted", n)
	}
	for n, body := range []string{
		`{"amount":19.90,"correlationId":"` + nthID(50).String() + `"}`,
		" {\n\"correlationId\" :\t\"" + strings.ToUpper(nthID(51).String()) + "\", \"amount\" : 1.99e1 , \"more\":[{}]} ",
		`{"correlationId":"` + nthID(52).String() + `","amount":1,"amount":1990e-2}`,
	} {
		if status, answer, _ := g.do("POST", "/payments", body); status != http.StatusAccepted || answer != "" {
			t.Errorf("good body %d: %d %s", n, status, answer)
		}
	}
}

// TestAlmostHTTP sends what is hardly HTTP: every connection is answered or closed, and the server lives on.
func TestAlmostHTTP(t *testing.T) {
	g := newTestWorld(t).start(t)
	for _, raw := range []string{
		"\r\n\r\n", "GET\r\n\r\n", "POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
		"POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n",
		"POST /payments HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"\x00\x01\x02\x03\r\n\r\n", "POST /payments HTTP/9.9\r\nHost: x\r\n\r\n",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(conn, raw)
		conn.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(conn)
		if err != nil && !bytes.Contains(b, []byte("HTTP/1.1")) {
			t.Logf("%q: closed with %v", raw, err)
		}
		if len(b) > 0 && !bytes.HasPrefix(b, []byte("HTTP/1.1 4")) {
			t.Errorf("%q: %.60q", raw, b)
		}
		conn.Close()
	}
	g.accepted(nthID(1), "1")
}
