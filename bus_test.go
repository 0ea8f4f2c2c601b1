package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// startNATS starts a server in this process; port -1 takes a free one.
func startNATS(t *testing.T, port int) *natsserver.Server {
	t.Helper()
	server, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	server.Start()
	if !server.ReadyForConnections(patient) {
		t.Fatal("the NATS server does not start")
	}
	t.Cleanup(func() { stopNATS(server) })
	return server
}

func stopNATS(server *natsserver.Server) {
	server.Shutdown()
	server.WaitForShutdown()
}

func openTestBus(t *testing.T, url, instance string, log *slog.Logger) *bus {
	t.Helper()
	b, err := openBus(url, instance, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.close)
	return b
}

// openHeardBus returns a bus that is connected and whose subscriptions the server knows.
func openHeardBus(t *testing.T, url, instance string) *bus {
	t.Helper()
	b := openTestBus(t, url, instance, slog.New(slog.DiscardHandler))
	eventually(t, instance+" is connected", b.connected)
	if err := b.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return b
}

// lines is a log that counts.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// next takes what was heard, in time.
func next[T any](t *testing.T, heard <-chan T) T {
	t.Helper()
	select {
	case v := <-heard:
		return v
	case <-time.After(patient):
		t.Fatal("nothing was heard")
		panic("unreachable")
	}
}

func TestInstancesHearEachOtherAndNotThemselves(t *testing.T) {
	server := startNATS(t, -1)
	names := []string{"a", "b"}
	health, findings, purges := map[string]chan healthReport{}, map[string]chan finding{}, map[string]chan uint64{}
	buses := map[string]*bus{}
	for _, name := range names {
		b := openHeardBus(t, server.ClientURL(), name)
		buses[name] = b
		h, f, p := make(chan healthReport, 9), make(chan finding, 9), make(chan uint64, 9)
		health[name], findings[name], purges[name] = h, f, p
		b.onHealth(func(r healthReport) { h <- r })
		b.onFinding(func(r finding) { f <- r })
		b.onPurge(func(mark uint64) { p <- mark })
	}
	for _, pair := range [][2]string{{"a", "b"}, {"b", "a"}} {
		from, to := pair[0], pair[1]
		report := healthReport{from, onFallback, healthReading{true, 1500 * time.Millisecond}, 42}
		buses[from].publishHealth(report)
		if got := next(t, health[to]); got != report {
			t.Errorf("%s heard %+v", to, got)
		}
		found := finding{from, onDefault, true, true, 1234 * time.Microsecond, 43}
		buses[from].publishFinding(found)
		if got := next(t, findings[to]); got != found {
			t.Errorf("%s heard %+v", to, got)
		}
		buses[from].publishPurge(1<<64 - 1)
		if got := next(t, purges[to]); got != 1<<64-1 {
			t.Errorf("%s heard %d", to, got)
		}
	}
	// What would have come back to its sender would have come by now: it has been heard elsewhere.
	for _, name := range names {
		if err := buses[name].conn.Flush(); err != nil {
			t.Fatal(err)
		}
		if len(health[name])+len(findings[name])+len(purges[name]) != 0 {
			t.Errorf("%s heard itself", name)
		}
		if n := buses[name].foreignMessages() + buses[name].droppedMessages(); n != 0 {
			t.Errorf("%s counted %d", name, n)
		}
	}
}

func TestOtherVersionsAndNonsenseAreIgnoredAndCounted(t *testing.T) {
	server := startNATS(t, -1)
	b := openHeardBus(t, server.ClientURL(), "a")
	heard := make(chan healthReport, 9)
	b.onHealth(func(r healthReport) { heard <- r })
	b.onFinding(func(finding) { t.Error("a finding was heard") })
	b.onPurge(func(uint64) { t.Error("a purge was heard") })
	b.answerWith(func(paymentID) answer { t.Error("a question was heard"); return answer{} })

	stranger, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	strange := []struct{ subject, text string }{
		{subjectHealth, `{"v":2,"processor":0,"failing":true}`},
		{subjectHealth, `{"processor":0,"failing":true}`},
		{subjectHealth, `{"v":1,"processor":2,"failing":true}`},
		{subjectHealth, `{"v":1,"processor":0,"minResponseMicros":-1}`},
		{subjectHealth, `not JSON`},
		{subjectHealth, ``},
		{subjectFinding, `{"v":2}`},
		{subjectFinding, `{"v":1,"processor":-1}`},
		{subjectPurge, `{"v":2,"mark":1}`},
		{subjectPurge, `{"v":1,"mark":"x"}`},
		{subjectAsk, `{"v":2,"id":"4a7b0000-0000-0000-0000-0000000000ff"}`},
		{subjectAsk, `{"v":1,"id":"x"}`},
		{b.inbox + ".1", `{"v":2}`},
		{b.inbox + ".x", `{"v":1}`},
	}
	for _, s := range strange {
		if err := stranger.PublishRequest(s.subject, "reply", []byte(s.text)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all strange messages are counted", func() bool { return b.foreignMessages() == uint64(len(strange)) })
	// What is new in a message of our version is for those who know it.
	if err := stranger.Publish(subjectHealth, []byte(`{"v":1,"instance":"z","processor":1,"failing":true,"mood":"sour"}`)); err != nil {
		t.Fatal(err)
	}
	if got := next(t, heard); got.instance != "z" || !got.reading.failing {
		t.Errorf("heard %+v", got)
	}
}

func TestAskCollectsUntilItIsEnough(t *testing.T) {
	server := startNATS(t, -1)
	asker := openHeardBus(t, server.ClientURL(), "asker")
	asker.answerWith(func(paymentID) answer { t.Error("an instance asked itself"); return answer{} })
	known := payment{id: somePayment.id, amount: 1990, state: "sent", processor: "fallback", requestedAt: 2, acceptedAt: 1}
	openHeardBus(t, server.ClientURL(), "knows").answerWith(func(id paymentID) answer {
		if id != somePayment.id {
			t.Errorf("asked for %v", id)
		}
		return answer{journals: []string{"j1", "j2"}, known: true, payment: known}
	})
	openHeardBus(t, server.ClientURL(), "does not").answerWith(func(paymentID) answer {
		return answer{journals: []string{"j3"}}
	})
	openHeardBus(t, server.ClientURL(), "does not say")

	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	got := map[string]answer{}
	for _, a := range asker.ask(ctx, somePayment.id, func(have []answer) bool { return len(have) == 2 }) {
		got[a.instance] = a
	}
	want := map[string]answer{
		"knows":    {"knows", []string{"j1", "j2"}, true, known},
		"does not": {"does not", []string{"j3"}, false, payment{}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if ctx.Err() != nil {
		t.Error("enough was not enough")
	}

	short, cancel := context.WithTimeout(t.Context(), hasty)
	defer cancel()
	if all := asker.ask(short, somePayment.id, func([]answer) bool { return false }); len(all) != 2 {
		t.Errorf("at the deadline there were %d answers", len(all))
	}
	if n := len(asker.questions); n != 0 {
		t.Errorf("%d questions are left", n)
	}
}

// TestAskManyAtOnce: every answer goes to who asked.
func TestAskManyAtOnce(t *testing.T) {
	server := startNATS(t, -1)
	asker := openHeardBus(t, server.ClientURL(), "asker")
	openHeardBus(t, server.ClientURL(), "knows").answerWith(func(id paymentID) answer {
		return answer{known: true, payment: payment{id: id, amount: 1, state: "accepted"}}
	})
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	var wait sync.WaitGroup
	for i := range byte(100) {
		wait.Go(func() {
			id := paymentID{i}
			got := asker.ask(ctx, id, func([]answer) bool { return true })
			if len(got) != 1 || got[0].payment.id != id {
				t.Errorf("asked for %v, got %+v", id, got)
			}
		})
	}
	wait.Wait()
}

func TestServerGoesAndComesBack(t *testing.T) {
	server := startNATS(t, -1)
	port := server.Addr().(*net.TCPAddr).Port
	var log lines
	a := openTestBus(t, server.ClientURL(), "a", log.logger())
	b := openHeardBus(t, server.ClientURL(), "b")
	eventually(t, "a is connected", a.connected)
	heard := make(chan finding, 9)
	b.onFinding(func(f finding) { heard <- f })

	stopNATS(server)
	eventually(t, "both know that the server is gone", func() bool { return !a.connected() && !b.connected() })
	// This must never arrive: it is news of minutes ago by then.
	a.publishFinding(finding{processor: onDefault, at: 1})
	if got := a.ask(t.Context(), somePayment.id, func([]answer) bool { return true }); got != nil {
		t.Errorf("asked nobody and got %v", got)
	}
	if n := a.droppedMessages(); n != 1 {
		t.Errorf("%d messages were dropped", n)
	}

	startNATS(t, port)
	eventually(t, "both are back", func() bool { return a.connected() && b.connected() })
	if err := b.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	a.publishFinding(finding{processor: onFallback, at: 2})
	if got := next(t, heard); got.at != 2 {
		t.Errorf("heard old news: %+v", got)
	}
	want := []string{"NATS is connected", "NATS is away", "NATS is connected"}
	if got := strings.Split(strings.TrimSpace(log.String()), "\n"); len(got) != len(want) {
		t.Errorf("the log has %d lines, want %d:\n%s", len(got), len(want), log.String())
	} else {
		for i := range want {
			if !strings.Contains(got[i], want[i]) {
				t.Errorf("line %d is %s", i, got[i])
			}
		}
	}
}

func TestServerThatComesLate(t *testing.T) {
	first := startNATS(t, -1)
	port := first.Addr().(*net.TCPAddr).Port
	stopNATS(first)
	var log lines
	b := openTestBus(t, fmt.Sprintf("nats://127.0.0.1:%d", port), "a", log.logger())
	heard := make(chan healthReport, 9)
	b.onHealth(func(r healthReport) { heard <- r })
	if b.connected() || strings.Count(log.String(), "\n") != 1 {
		t.Errorf("the log has %q", log.String())
	}
	server := startNATS(t, port)
	eventually(t, "the bus is connected", b.connected)
	if err := b.conn.Flush(); err != nil {
		t.Fatal(err)
	}
	openHeardBus(t, server.ClientURL(), "b").publishHealth(healthReport{processor: onFallback})
	next(t, heard)
	b.note(linkUp, nil) // said twice is no change
	if strings.Count(log.String(), "\n") != 2 {
		t.Errorf("the log has %q", log.String())
	}
}

// stuckNATS speaks just enough of the protocol to be connected to, and then reads no more.
func stuckNATS(t *testing.T) string {
	t.Helper()
	server := startRawServerOn(t, "127.0.0.1:0", func(_ *rawServer, conn *net.TCPConn) {
		_ = conn.SetReadBuffer(4096)
		_, _ = io.WriteString(conn, `INFO {"server_id":"x","version":"2.10.0","proto":1,"max_payload":1048576,"headers":true}`+"\r\n")
		for r := bufio.NewReader(conn); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			if strings.HasPrefix(line, "PING") {
				_, _ = io.WriteString(conn, "PONG\r\n")
				break
			}
		}
		// It lives until the client has had enough of it.
		raw, err := conn.SyscallConn()
		if err == nil {
			awaitHangUp(raw)
		}
	})
	return strings.Replace(server.url(), "http", "nats", 1)
}

// TestPublisherNeverWaits: the library holds a lock while it writes, and a server that reads no more would
// hold every flight that has something to tell.
func TestPublisherNeverWaits(t *testing.T) {
	b := openTestBus(t, stuckNATS(t), "a", slog.New(slog.DiscardHandler))
	eventually(t, "the bus is connected", b.connected)
	const enough = 200_000 // messages of 100 bytes: more than the socket's buffers hold
	slowest := time.Duration(0)
	for range enough {
		start := time.Now()
		b.publishFinding(finding{processor: onDefault, at: 1 << 50})
		slowest = max(slowest, time.Since(start))
	}
	if slowest > natsTimeout/2 {
		t.Errorf("a publisher waited %v", slowest)
	}
	if b.droppedMessages() == 0 {
		t.Error("nothing was dropped, so this proves nothing")
	}
}

func TestSilentServerDoesNotHoldTheStart(t *testing.T) {
	silent := startRawServerOn(t, "127.0.0.1:0", func(_ *rawServer, conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) })
	start := time.Now()
	b := openTestBus(t, strings.Replace(silent.url(), "http", "nats", 1), "a", slog.New(slog.DiscardHandler))
	b.publishPurge(1)
	if took := time.Since(start); took > 5*natsTimeout {
		t.Errorf("opening took %v", took)
	}
	if b.connected() || b.droppedMessages() != 1 {
		t.Error("a silent server counts as connected")
	}
}

func TestAloneDoesNothing(t *testing.T) {
	b, err := openBus("", "a", nil)
	if err != nil || b != nil {
		t.Fatalf("got %v, %v", b, err)
	}
	b.onHealth(nil)
	b.onFinding(nil)
	b.onPurge(nil)
	b.answerWith(nil)
	b.publishHealth(healthReport{})
	b.publishFinding(finding{})
	b.publishPurge(1)
	if b.ask(t.Context(), somePayment.id, nil) != nil || b.connected() || b.foreignMessages()+b.droppedMessages() != 0 {
		t.Error("an instance that is alone is not alone")
	}
	b.close()
}

func TestBusURLThatCannotBe(t *testing.T) {
	if _, err := openBus("nats://a:b:c", "a", slog.New(slog.DiscardHandler)); err == nil || !strings.HasPrefix(err.Error(), "cannot open the bus: ") {
		t.Errorf("got %v", err)
	}
}
