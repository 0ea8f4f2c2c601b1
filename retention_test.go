package main

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestRepeatThatIsClaimedLateIsNotPaidAgain: it was accepted when the first payment was within RETENTION, by an instance that had no
// Redis just then, or that had claimed it in an earlier life of Redis and was refused. When it is claimed the first one's record is gone.
func TestRepeatThatIsClaimedLateIsNotPaidAgain(t *testing.T) {
	for _, name := range []string{"never claimed", "claimed in an earlier life"} {
		t.Run(name, func(t *testing.T) { repeatIsClaimedLate(t, name != "never claimed") })
	}
}

func repeatIsClaimedLate(t *testing.T, attempted bool) {
	w, redis := newSharedWorld(t)
	a := w.start(t, "INSTANCE", "a", "RETENTION", "1h")
	id := nthID(1)
	a.accepted(id, "19.90")
	a.becomes(id, "settled default")
	if err := a.store.forgetBefore(t.Context(), nowMicros()+2*minuteLength); err != nil {
		t.Fatal(err)
	}
	if s := openStore(t, redis.url()); makeReady(t, s) == "" || lookUp(t, s, id).found {
		t.Fatal("the record is still there")
	}
	w.def.behave(answering(http.StatusInternalServerError)) // whoever pays it now pays it at the other one

	b, err := w.build("INSTANCE", "b", "RETENTION", "1h")
	if err != nil {
		t.Fatal(err)
	}
	r, what := b.ledger.accept(&id, 1990)
	b.ledger.clock.base += 30 * minuteLength
	if what != acceptedNew {
		t.Fatalf("acceptance %d", what)
	}
	if v, _ := b.ledger.read(r); attempted {
		ok := must(t)
		ok(b.ledger.refused(ok(b.ledger.left(ok(b.ledger.leaving(v, onDefault, nowMicros()))))))
	}
	b.dispatcher.push(r)
	serve(t, b)
	eventually(t, "the repeat is settled", func() bool { return b.ledger.pending.Load() == 0 })
	if v, _ := b.ledger.read(r); v.word.state() != slotSettled || v.word.processor() != onDefault {
		t.Errorf("the repeat is %s at %s", v.word.state(), v.word.processor())
	}
	if n := w.def.attempts(id.String()) + w.fall.attempts(id.String()); n != 1 {
		t.Errorf("it was sent %d times", n)
	}
	if got, want := a.summary(""), wantSummary(1, "19.90", 0, "0.00"); got != want {
		t.Errorf("summary %s, want %s", got, want)
	}
}

// TestOnlyLateClaimsAreLookedUpFirst: the store is out of reach for a while. What was claimed in time goes out at once, what was not
// when both processors do not know it, once.
func TestOnlyLateClaimsAreLookedUpFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		b := newBubble(t, ctx, time.Hour)
		var asked, sent atomic.Int64
		b.lookUps = func(paymentID) lookUpResult { asked.Add(1); return lookUpResult{kind: lookUpAbsent} }
		b.pays = func(paymentID) payResult { sent.Add(1); return payResult{outcome: outcomePaid} }
		synctest.Wait()
		inTime := b.ledger.retention / slackShare / 2
		for _, c := range []struct {
			away  time.Duration
			asked int64
		}{{inTime - time.Second, 0}, {inTime + time.Second, 2 * processors}} { // at once, and when no earlier attempt can be under way any more
			synctest.Wait()
			held := newLifeWatch()
			b.payer.life = held
			asked.Store(0)
			sent.Store(0)
			b.accept(t, uint64(c.away))
			time.Sleep(c.away)
			if sent.Load() != 0 {
				t.Fatal("it was sent without a store")
			}
			held.begun(b.token())
			<-b.settled
			if asked.Load() != c.asked || sent.Load() != 1 {
				t.Errorf("after %s the processors were asked %d times, and it was sent %d times", c.away, asked.Load(), sent.Load())
			}
		}
		stop()
		synctest.Wait()
		b.policy.(*policy).stop()
	})
}

// TestLatenessErrsOnTheSideOfAsking: a clock that was stepped back over a start says nothing of how long ago that was.
func TestLatenessErrsOnTheSideOfAsking(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := openTestLedger(t, t.TempDir())
		defer l.close()
		v := accept(t, l, 1, 100)
		if l.late(v) {
			t.Error("late at once")
		}
		time.Sleep(time.Second)
		if l.late(v) {
			t.Error("late after a second")
		}
		l.clock.base -= 2 * secondLength
		if !l.late(v) {
			t.Error("accepted in the future, and not late")
		}
		if kept := nowMicros() - l.keptFrom(); kept < micros((l.retention + 2*(l.retention/slackShare/2)).Microseconds()) {
			t.Errorf("records are kept for %d µs only", kept)
		}
	})
}
