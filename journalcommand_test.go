package main

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// galoCommand runs `galo ARGS...` in this world, and returns what it prints. Settings come in pairs.
func (w *testWorld) galoCommand(t *testing.T, settings []string, args ...string) (string, error) {
	t.Helper()
	var out strings.Builder
	err := w.galoCommandTo(&out, settings, args...)
	return out.String(), err
}

func (w *testWorld) galoCommandTo(out io.Writer, settings []string, args ...string) error {
	env := map[string]string{"DATA_DIR": w.dir, "ADMIN_LISTEN": "", "INSTANCE": "command", "SEND_TIMEOUT": "1s",
		"PROCESSOR_DEFAULT_URL": w.def.server.URL, "PROCESSOR_FALLBACK_URL": w.fall.server.URL}
	maps.Copy(env, w.env)
	for i := 0; i < len(settings); i += 2 {
		env[settings[i]] = settings[i+1]
	}
	return command(context.Background(), args, func(name string) (string, bool) { v, ok := env[name]; return v, ok }, out, io.Discard)
}

// serveAdmin opens the instance's admin listener, and returns the setting that leads to it.
func (g *testGalo) serveAdmin() []string {
	g.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		g.t.Fatal(err)
	}
	g.standing.wait.Go(func() { g.admin.http.Serve(ln) })
	return []string{"ADMIN_LISTEN", ln.Addr().String()}
}

func answering(status int) func(http.ResponseWriter, fakePayment, func()) bool {
	return func(rw http.ResponseWriter, _ fakePayment, _ func()) bool { rw.WriteHeader(status); return true }
}

// unheard answers nothing, and has written nothing.
func unheard(rw http.ResponseWriter, _ fakePayment, _ func()) bool { hijacked(rw); return true }

// TestRejectedPaymentIsQueuedAgain: through a running galo's admin listener, and in place when it is stopped; on the embedded store, and
// on Redis, which is wiped afterwards. It is paid once and counted once.
func TestRejectedPaymentIsQueuedAgain(t *testing.T) {
	id := nthID(1)
	reject := func(t *testing.T, w *testWorld) *testGalo { return w.reject(t, id, "5.00") }
	check := func(t *testing.T, w *testWorld, g *testGalo) {
		t.Helper()
		g.becomes(id, "settled default")
		if got := g.summary(""); got != wantSummary(1, "5.00", 0, "0.00") {
			t.Errorf("summary %s", got)
		}
		eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
		if n := w.def.attempts(id.String()); n != 2 {
			t.Errorf("%d attempts, want the rejected one and the paid one", n)
		}
	}
	requeue := func(t *testing.T, w *testWorld, settings []string) {
		t.Helper()
		if out, err := w.galoCommand(t, settings, "journal", "requeue", id.String()); err != nil || !strings.Contains(out, "queued again") {
			t.Fatalf("%q, %v", out, err)
		}
	}
	for _, embedded := range []bool{true, false} {
		world := func(t *testing.T) (*testWorld, *redisServer) {
			w := newTestWorld(t)
			if embedded {
				return w, nil
			}
			redis := startRedis(t)
			w.env["REDIS_URL"] = redis.url()
			return w, redis
		}
		wipe := func(t *testing.T, w *testWorld, redis *redisServer, g *testGalo) {
			if !embedded {
				do(t, rawConn(t, redis.url()), "FLUSHALL")
				eventually(t, "the summary is full again", func() bool { return g.summary("") == wantSummary(1, "5.00", 0, "0.00") })
				check(t, w, g)
			}
			g.stopAll()
			check(t, w, w.start(t))
		}
		name := map[bool]string{true: "embedded", false: "Redis"}[embedded]
		t.Run("running, "+name, func(t *testing.T) {
			w, redis := world(t)
			g := reject(t, w)
			admin := g.serveAdmin()
			requeue(t, w, admin)
			check(t, w, g)
			if out, err := w.galoCommand(t, admin, "journal", "requeue", id.String()); err == nil || !strings.Contains(err.Error(), "is settled, not rejected") {
				t.Errorf("a second time: %q, %v", out, err)
			}
			wipe(t, w, redis, g)
		})
		t.Run("stopped, "+name, func(t *testing.T) {
			w, redis := world(t)
			reject(t, w).stopAll()
			requeue(t, w, nil)
			g := w.start(t)
			check(t, w, g)
			wipe(t, w, redis, g)
		})
	}
}

// reject starts an instance whose default processor rejects this payment, and no other after that.
func (w *testWorld) reject(t *testing.T, id paymentID, amount string) *testGalo {
	t.Helper()
	w.def.behave(answering(http.StatusBadRequest))
	g := w.start(t)
	g.accepted(id, amount)
	g.becomes(id, "rejected")
	eventually(t, "it is settled as rejected", func() bool { return g.ledger.pending.Load() == 0 })
	w.def.behave(nil)
	return g
}

// TestPaymentQueuedAgainIsLookedUpFirst: it was queued again before, and paid, and the power went: its slot reads rejected once more.
func TestPaymentQueuedAgainIsLookedUpFirst(t *testing.T) {
	w, id := newTestWorld(t), nthID(1)
	g := w.reject(t, id, "1.00")
	w.fall.books(id)
	attempts := w.def.attempts(id.String())
	if _, err := g.operator.requeue(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	g.becomes(id, "settled fallback")
	if n := w.def.attempts(id.String()) - attempts + w.fall.attempts(id.String()); n != 0 {
		t.Errorf("%d attempts for what is paid", n)
	}
}

// TestRejectedPaymentsAreListed with what an operator has to know before one is queued again: where and when it was sent last. Those that
// a purge has forgotten, or that are not rejected, are not there.
func TestRejectedPaymentsAreListed(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t)
	list := func() (payments []listedPayment, text string) {
		t.Helper()
		out, err := w.galoCommand(t, nil, "journal", "rejected", "-json")
		if err == nil {
			err = json.Unmarshal([]byte(out), &payments)
		}
		text, failed := w.galoCommand(t, nil, "journal", "rejected")
		if err != nil || failed != nil {
			t.Fatal(err, failed)
		}
		return payments, text
	}
	g.accepted(nthID(1), "1.00")
	g.becomes(nthID(1), "settled default")
	w.def.behave(answering(http.StatusBadRequest))
	id := nthID(2)
	g.accepted(id, "5.00")
	eventually(t, "it is rejected and settled", func() bool { return g.ledger.pending.Load() == 0 && g.state(id) == "rejected" })
	v, _ := g.ledger.find(&id, indexHash(&id))
	payments, text := list()
	if len(payments) != 1 || strings.Count(text, "\n") != 2 {
		t.Fatalf("%+v\n%s", payments, text)
	}
	want := listedPayment{ID: id.String(), Amount: "5.00", State: "rejected", Processor: "default", RequestedAt: instantText(v.requestedAt),
		AcceptedAt: instantText(v.acceptedAt), Attempts: 1, AgeSeconds: payments[0].AgeSeconds, Journal: g.ledger.active.id.String(), Sequence: 1}
	if payments[0] != want {
		t.Errorf("%+v, want %+v", payments[0], want)
	}
	for _, part := range []string{want.ID, want.RequestedAt, want.AcceptedAt} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in\n%s", part, text)
		}
	}
	if status, body, _ := g.do("POST", "/purge-payments", ""); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	if payments, text := list(); len(payments) != 0 {
		t.Errorf("after a purge:\n%s", text)
	}
}

// TestRequeueThatIsLateIsStillFed: whoever asked has given up before the settler comes to it.
func TestRequeueThatIsLateIsStillFed(t *testing.T) {
	w := newTestWorld(t)
	w.def.behave(answering(http.StatusBadRequest))
	g := w.start(t)
	id := nthID(1)
	g.accepted(id, "5.00")
	eventually(t, "it is rejected and settled", func() bool { return g.ledger.pending.Load() == 0 && g.state(id) == "rejected" })
	w.def.behave(nil)
	o := *g.operator
	asking, giveUp := context.WithCancel(t.Context())
	givenUp := make(chan struct{})
	o.order = func(ctx context.Context, do func(context.Context) error) error {
		return g.settler.order(ctx, func(ctx context.Context) error {
			giveUp()
			<-givenUp
			return do(ctx)
		})
	}
	did, err := o.requeue(asking, id)
	close(givenUp)
	if err == nil || !strings.Contains(err.Error(), "may still be done") {
		t.Errorf("%q, %v", did, err)
	}
	g.becomes(id, "settled default")
	if n := w.def.attempts(id.String()); n != 2 {
		t.Errorf("%d attempts, want the rejected one and the paid one", n)
	}
}

// TestRequeueCutOffAfterRedisIsHealed: the process ends when Redis has the claim in place of the record, and the journal still says
// rejected. Nobody else can claim the id meanwhile; the command repeated goes on, and so does it after a start.
func TestRequeueCutOffAfterRedisIsHealed(t *testing.T) {
	for _, startFirst := range []bool{false, true} {
		t.Run(map[bool]string{false: "repeated", true: "after a start"}[startFirst], func(t *testing.T) {
			w := newTestWorld(t)
			redis := startRedis(t)
			w.env["REDIS_URL"] = redis.url()
			w.def.behave(answering(http.StatusBadRequest))
			g := w.start(t)
			id := nthID(1)
			g.accepted(id, "5.00")
			eventually(t, "it is rejected and settled", func() bool { return g.ledger.pending.Load() == 0 && g.state(id) == "rejected" })
			v, _ := g.ledger.find(&id, indexHash(&id))
			journal := g.ledger.active.id
			g.stopAll()
			w.def.behave(nil)

			c, err := readConfig(environment("REDIS_URL", redis.url(), "DATA_DIR", w.dir))
			if err != nil {
				t.Fatal(err)
			}
			cmd := journalCommand{config: c, out: io.Discard, log: quietLog()}
			o, stop, err := cmd.operate(journal)
			if err != nil {
				t.Fatal(err)
			}
			if err := o.settler.takeBack(t.Context(), o.ledger.claimOf(v)); err != nil {
				t.Fatal(err)
			}
			store, token := openStore(t, redis.url()), o.settler.store.token()
			if _, err := store.beginLife(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			var answer [1]claimAnswer
			other := claim{id: id, amount: 500, acceptedAt: 1, journal: "another", seq: 7}
			if err := store.claim(t.Context(), token, false, []claim{other}, answer[:]); err != nil || answer[0].kind != claimHeld {
				t.Errorf("another slot's claim is %s (%v), want held", answer[0].kind, err)
			}
			if err := stop(); err != nil { // the slot was never changed
				t.Fatal(err)
			}

			if startFirst {
				g = w.start(t)
				g.becomes(id, "rejected")
				eventually(t, "the store is ready", func() bool { return g.life.present() != "" })
				if out, err := w.galoCommand(t, g.serveAdmin(), "journal", "requeue", id.String()); err != nil {
					t.Fatalf("%q, %v", out, err)
				}
			} else {
				if out, err := w.galoCommand(t, nil, "journal", "requeue", id.String()); err != nil {
					t.Fatalf("%q, %v", out, err)
				}
				g = w.start(t)
			}
			g.becomes(id, "settled default")
			if got := g.summary(""); got != wantSummary(1, "5.00", 0, "0.00") {
				t.Errorf("summary %s", got)
			}
			if n := w.def.attempts(id.String()); n != 2 {
				t.Errorf("%d attempts, want 2", n)
			}
		})
	}
}

// TestRequeueOutlivesAnOlderRedis: Redis comes back from a copy in which the payment is still rejected, while it waits or after it was
// paid. Neither is it lost, nor paid or counted twice.
func TestRequeueOutlivesAnOlderRedis(t *testing.T) {
	for _, paidBefore := range []bool{false, true} {
		t.Run(map[bool]string{false: "waiting", true: "paid"}[paidBefore], func(t *testing.T) {
			w := newTestWorld(t)
			redis := startRedis(t)
			w.env["REDIS_URL"] = redis.url()
			w.def.behave(answering(http.StatusBadRequest))
			g := w.start(t, "PATIENCE", "1h")
			id, later := nthID(1), nthID(2)
			g.accepted(id, "5.00")
			g.becomes(id, "rejected")
			w.def.behave(nil)
			g.accepted(later, "1.00") // so that what the store has of the journal reaches beyond the rejected slot
			g.becomes(later, "settled default")
			g.accepted(nthID(3), "1.00")
			g.becomes(nthID(3), "settled default")
			old := redis.copied()
			if !paidBefore {
				w.def.behave(answering(http.StatusInternalServerError))
			}
			if out, err := w.galoCommand(t, g.serveAdmin(), "journal", "requeue", id.String()); err != nil {
				t.Fatalf("%q, %v", out, err)
			}
			if paidBefore {
				g.becomes(id, "settled default")
			} else {
				eventually(t, "it is sent again", func() bool { return w.def.attempts(id.String()) > 1 })
			}
			redis.restore(old)
			w.def.behave(nil)
			eventually(t, "all three are counted", func() bool { return g.summary("") == wantSummary(3, "7.00", 0, "0.00") })
			g.becomes(id, "settled default")
			eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
			if w.def.count() != 3 || w.fall.count() != 0 {
				t.Errorf("paid %d at default and %d at fallback", w.def.count(), w.fall.count())
			}
		})
	}
}

// TestRequeuedSlotThatWasDamagedOutlivesAnOlderRedis: the word of the rejected slot was damaged, so it does not know any more that it was
// ever sent. Redis comes back from a copy in which the payment is still rejected.
func TestRequeuedSlotThatWasDamagedOutlivesAnOlderRedis(t *testing.T) {
	w := newTestWorld(t)
	redis := startRedis(t)
	w.env["REDIS_URL"] = redis.url()
	w.def.behave(answering(http.StatusBadRequest))
	dir := w.leave(t, 1, func(v slotView) bool { return v.word.state() == slotRejected })
	inSegment(t, dir, 0, func(s segmentFile) { s.slots[0].word.Store(s.slots[0].word.Load() ^ 1<<40) })
	g := w.start(t)
	eventually(t, "its record decides", func() bool { return g.slotState(0) == slotRejected })
	g.stopAll()
	old := redis.copied()
	if out, err := w.galoCommand(t, nil, "journal", "requeue", nthID(0).String()); err != nil {
		t.Fatalf("%q, %v", out, err)
	}
	redis.restore(old)
	w.def.behave(nil)
	w.paidOnce(t, w.start(t), 1)
}

// TestRejectedSlotComesBackFromARetiredSegment: it is mapped again, keeps its segment until it is final again, and a start finds it.
func TestRejectedSlotComesBackFromARetiredSegment(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	fillSegments(t, l, 1, func(n uint64) bool { return n == 9 })
	id := nthID(9)
	v, _ := l.find(&id, indexHash(&id))
	must(t)(l.become(must(t)(l.sent(v, onDefault, nowMicros())), slotRejected))
	accept(t, l, segmentSlots, 1)
	tidy := func() {
		t.Helper()
		if err := l.tidy(); err != nil {
			t.Fatal(err)
		}
	}
	if tidy(); l.active.table.Load().at(0) != nil {
		t.Fatal("the segment is not retired")
	}
	if err := newSettler(l, nil, newLifeWatch(), 0, newMetrics(), quietLog()).requeue(t.Context(), v.ref); err != nil {
		t.Fatal(err)
	}
	tidy()
	v, known := l.find(&id, indexHash(&id))
	if !known || v.word.state() != slotAccepted || v.amount != 1 {
		t.Fatalf("known %v, %s", known, v.word.state())
	}
	if n := l.pending.Load(); n != 2 {
		t.Errorf("%d are pending, want the requeued one and the new one", n)
	}
	if got, same := l.accept(&id, 1); got != v.ref || same != acceptedAgain {
		t.Errorf("the same id once more: acceptance %d", same)
	}
	crash(l)
	l, f := openTestLedger(t, dir)
	if len(f.accepted) != 2 || f.accepted[0] != v.ref {
		t.Fatalf("a start finds %v", f.accepted)
	}
	v, _ = l.read(v.ref)
	must(t)(l.become(must(t)(l.paid(must(t)(l.sent(v, onDefault, nowMicros())))), slotSettled))
	if tidy(); l.active.table.Load().at(0) != nil {
		t.Error("the segment is not retired when all of it is final again")
	}
	if n := l.pending.Load(); n != 1 {
		t.Errorf("%d are pending, want 1", n)
	}
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
}

// pinned makes one payment whose outcome nobody knows, at the default processor, which was never heard of again.
func (w *testWorld) pinned(t *testing.T, g *testGalo, id paymentID) {
	t.Helper()
	w.def.behave(unheard)
	g.accepted(id, "5.00")
	g.becomes(id, "pinned default")
}

func TestPinnedPaymentIsResolvedByHand(t *testing.T) {
	id := nthID(1)
	for _, c := range []struct {
		name, as, want, summary string
		running                 bool
	}{
		{"unpaid, running", "unpaid", "settled fallback", wantSummary(0, "0.00", 1, "5.00"), true},
		{"unpaid, stopped", "unpaid", "settled fallback", wantSummary(0, "0.00", 1, "5.00"), false},
		{"paid, running", "paid", "settled default", wantSummary(1, "5.00", 0, "0.00"), true},
		{"paid, stopped", "paid", "settled default", wantSummary(1, "5.00", 0, "0.00"), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newTestWorld(t)
			w.env["REDIS_URL"] = startMini(t).url
			g := w.start(t)
			w.pinned(t, g, id)
			v, _ := g.ledger.find(&id, indexHash(&id))
			admin := []string(nil)
			if c.running {
				admin = g.serveAdmin()
			} else {
				g.stopAll()
			}
			w.def.behave(answering(http.StatusInternalServerError)) // back, and refusing: what is not pinned goes on
			out, err := w.galoCommand(t, admin, "journal", "resolve", id.String(), c.as)
			if err != nil {
				t.Fatalf("%q, %v", out, err)
			}
			answered := []string{"default was asked for it just now, which came to: 404"}
			if c.as == "unpaid" {
				answered = append(answered, "the last look-up there came to: 404")
			}
			for _, known := range append(answered, id.String(), "5.00", "pinned", "default", string(v.requestedAt.appendTime(nil))) {
				if !strings.Contains(out, known) {
					t.Errorf("it does not say %q: %s", known, out)
				}
			}
			if !c.running {
				g = w.start(t)
			}
			g.becomes(id, c.want)
			if got := g.summary(""); got != c.summary {
				t.Errorf("summary %s", got)
			}
			if at := string(v.requestedAt.appendTime(nil)); c.as == "paid" && g.summary("?from="+at+"&to="+at) != c.summary {
				t.Error("it does not count under the requestedAt with which it was sent")
			}
			eventually(t, "nothing is pending", func() bool { return g.ledger.pending.Load() == 0 })
			if n := w.fall.attempts(id.String()); n != strings.Count(c.want, "fallback") {
				t.Errorf("%d attempts at the fallback", n)
			}
			if v, _ := g.ledger.find(&id, indexHash(&id)); v.word.pinned() != (c.as == "paid") {
				t.Errorf("the pin is there: %v", v.word.pinned())
			}
		})
	}
}

// TestUnpaidWaitsForTheAttemptThatIsOut: while a send of ours may still land, no word of an operator takes the pin off.
func TestUnpaidWaitsForTheAttemptThatIsOut(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t, "SEND_TIMEOUT", "30s", "PATIENCE", "0s")
	id := nthID(1)
	w.pinned(t, g, id)
	out, land := make(chan struct{}, 1), make(chan struct{})
	w.def.behave(func(rw http.ResponseWriter, _ fakePayment, write func()) bool {
		out <- struct{}{}
		<-land
		write()
		io.WriteString(rw, `{"message":"payment processed successfully"}`)
		return true
	})
	<-out
	o := *g.operator
	o.wait = 100 * time.Millisecond
	if did, err := o.resolve(t.Context(), id, verdictUnpaid); err == nil || !strings.Contains(err.Error(), "an attempt is out") {
		t.Errorf("%q, %v", did, err)
	}
	if s := g.state(id); s != "pinned default" {
		t.Errorf("it is %s", s)
	}
	waiting := make(chan error)
	go func() {
		_, err := g.operator.resolve(context.Background(), id, verdictUnpaid)
		waiting <- err
	}()
	close(land)
	if err := <-waiting; err == nil {
		t.Error("resolved as unpaid, though it landed")
	}
	g.becomes(id, "settled default")
	if n := w.fall.attempts(id.String()); n != 0 {
		t.Errorf("%d attempts at the fallback", n)
	}
}

// TestFirstAttemptIsNotResolvedByHand: as long as its answer may come, nobody can know more than that.
func TestFirstAttemptIsNotResolvedByHand(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t, "SEND_TIMEOUT", "30s")
	out, answer := make(chan struct{}, 1), make(chan struct{})
	w.def.behave(func(http.ResponseWriter, fakePayment, func()) bool { out <- struct{}{}; <-answer; return false })
	g.accepted(nthID(1), "5.00")
	<-out
	for _, as := range []verdict{verdictPaid, verdictUnpaid} {
		if did, err := g.operator.resolve(t.Context(), nthID(1), as); err == nil || !strings.Contains(err.Error(), "is sent, not pinned") {
			t.Errorf("%s: %q, %v", as, did, err)
		}
	}
	close(answer)
	g.becomes(nthID(1), "settled default")
}

// TestProcessorsWordCountsMoreThanTheOperators: a payment that its processor has is not unpaid, whoever says so.
func TestProcessorsWordCountsMoreThanTheOperators(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t)
	id := nthID(1)
	w.pinned(t, g, id)
	g.stopAll()
	w.def.mu.Lock()
	w.def.paid[id.String()] = fakePayment{ID: id.String(), Amount: "5.00", RequestedAt: "2026-01-02T03:04:05Z"}
	w.def.mu.Unlock()
	if out, err := w.galoCommand(t, nil, "journal", "resolve", id.String(), "unpaid"); err == nil || !strings.Contains(err.Error(), "default has the payment") {
		t.Errorf("%q, %v", out, err)
	}
	g = w.start(t)
	g.becomes(id, "settled default")
	if n := w.fall.attempts(id.String()); n != 0 {
		t.Errorf("%d attempts at the fallback", n)
	}
}

// TestCommandsRefuseWhatIsNotTheirs: one clear line, and nothing is done.
func TestCommandsRefuseWhatIsNotTheirs(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t)
	settled, pinned := nthID(1), nthID(2)
	g.accepted(settled, "1.00")
	g.becomes(settled, "settled default")
	w.pinned(t, g, pinned)
	g.stopAll()
	w.def.behave(nil)
	before := readAll(t, w.dir)
	for _, c := range []struct {
		want string
		args []string
	}{
		{"is settled, not rejected", []string{"requeue", settled.String()}},
		{"is pinned, not rejected", []string{"requeue", pinned.String()}},
		{"is settled, not pinned", []string{"resolve", settled.String(), "paid"}},
		{"is in no journal", []string{"requeue", nthID(9).String()}},
		{"is in no journal", []string{"resolve", nthID(9).String(), "unpaid"}},
		{"is not a payment's id", []string{"requeue", "nonsense"}},
		{`as "maybe"`, []string{"resolve", pinned.String(), "maybe"}},
		{journalUsage, []string{"resolve", pinned.String()}},
		{journalUsage, []string{"mend"}},
	} {
		out, err := w.galoCommand(t, nil, append([]string{"journal"}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %q, %v, want %q", c.args, out, err, c.want)
		}
	}
	if readAll(t, w.dir) != before {
		t.Error("something was changed")
	}
}

// TestOwnerIsNamedWhenAnotherInstanceIsAsked: each instance only works on what it owns.
func TestOwnerIsNamedWhenAnotherInstanceIsAsked(t *testing.T) {
	w := newTestWorld(t)
	w.env["REDIS_URL"] = startMini(t).url
	a := w.start(t, "INSTANCE", "a")
	b := w.start(t, "INSTANCE", "b")
	id := nthID(1)
	w.pinned(t, a, id)
	out, err := w.galoCommand(t, b.serveAdmin(), "journal", "resolve", id.String(), "unpaid")
	if err == nil || !strings.Contains(err.Error(), "instance a owns") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err = w.galoCommand(t, nil, "journal", "resolve", id.String(), "unpaid"); err == nil || !strings.Contains(err.Error(), "owned by instance a") {
		t.Errorf("without an admin listener: %q, %v", out, err)
	}
	if s := a.state(id); s != "pinned default" {
		t.Errorf("it is %s", s)
	}
	w.def.behave(nil)
	a.becomes(id, "settled default")
}

func TestAmbiguousPaymentIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // rejected, and again after it was forgotten
		l, _ := openTestLedger(t, dir)
		must(t)(l.become(accept(t, l, 1, 1), slotRejected))
		defer l.close()
	}
	if _, err := locate(dir, nthID(1)); err == nil || !strings.Contains(err.Error(), "ambiguous") {
		t.Error(err)
	}
}

// TestOperatorsCommandsAreNotForClients: they are on the admin listener only, by POST only.
func TestOperatorsCommandsAreNotForClients(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t)
	admin := "http://" + g.serveAdmin()[1]
	for _, path := range []string{"/journal/requeue?id=" + nthID(1).String(), "/journal/resolve?as=paid&id=" + nthID(1).String()} {
		if status, _, _ := g.do("POST", path, ""); status != http.StatusNotFound {
			t.Errorf("%s is answered %d to clients", path, status)
		}
		for method, want := range map[string]int{"POST": http.StatusNotFound, "GET": http.StatusMethodNotAllowed} {
			req, err := http.NewRequest(method, admin+path, nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
			if res.StatusCode != want || method == "POST" && res.Header.Get("Content-Type") != problemType {
				t.Errorf("%s %s: %d %s", method, path, res.StatusCode, res.Header.Get("Content-Type"))
			}
		}
	}
}
