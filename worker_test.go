package main

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestMain makes the first metrics: with them the library starts a goroutine that lives as long as the process, and must not
// belong to a test in virtual time.
func TestMain(m *testing.M) {
	newMetrics()
	os.Exit(m.Run())
}

// oneLife is what a store in its first and only life answers to all that is asked besides claims and settles.
type oneLife struct {
	living atomic.Value // its lifeToken
}

func (o *oneLife) token() lifeToken { return o.living.Load().(lifeToken) }

func (o *oneLife) beginLife(context.Context, uint64) (newLife, error) {
	return newLife{token: o.token(), ready: true}, nil
}

func (o *oneLife) report(context.Context, lifeToken, string, bool, []string) (bool, error) {
	return true, nil
}
func (o *oneLife) beat(context.Context, lifeToken, uint64, bool, []string) error { return nil }
func (o *oneLife) leave(context.Context, lifeToken, []string) error              { return nil }
func (o *oneLife) purge(context.Context, lifeToken, uint64) (uint64, error)      { return 0, nil }
func (o *oneLife) noteConflicts(context.Context, []conflictNote) error           { return nil }
func (o *oneLife) disown(context.Context, []record) error                        { return nil }
func (o *oneLife) unreject(context.Context, lifeToken, uint64, []claim) error    { return nil }
func (o *oneLife) records(context.Context, []paymentID, []foundRecord) error     { return errNoLife }

// bubble is workers, policy and resolver on a real journal, without Redis and network, for virtual time.
type bubble struct {
	*payer
	oneLife
	pays    func(id paymentID) payResult
	lookUps func(id paymentID) lookUpResult
	claims  atomic.Int64
	settled chan settlement
	failing atomic.Int32 // how many settles to come will fail
}

func (b *bubble) claim(_ context.Context, t lifeToken, _ bool, in []claim, out []claimAnswer) error {
	if t != b.token() {
		return errNoLife
	}
	for _, c := range in {
		if !c.out { // a replay that comes at the same instant claims for what is out
			b.claims.Add(1)
		}
	}
	clear(out)
	return nil
}

func (b *bubble) settle(_ context.Context, _ lifeToken, _ uint64, in []settlement, _ []journalProgress) ([]paymentID, error) {
	if b.failing.Add(-1) >= 0 {
		time.Sleep(time.Second)
		return nil, errors.New("the store is away")
	}
	for _, s := range in {
		b.settled <- s
	}
	return nil, nil
}

type bubbleProcessor struct {
	b  *bubble
	at processorID
}

func (p bubbleProcessor) pay(id paymentID, _ cents, _ micros) payResult { return p.b.pays(id) }
func (p bubbleProcessor) lookUp(id paymentID) lookUpResult              { return p.b.lookUps(id) }

// newBubble starts everything; the parts end with ctx.
func newBubble(t *testing.T, ctx context.Context, patience time.Duration) *bubble {
	l, _ := openTestLedger(t, t.TempDir())
	m := newMetrics()
	b := &bubble{settled: make(chan settlement, 1000)}
	b.living.Store(lifeToken("run.1"))
	b.pays = func(paymentID) payResult { return payResult{outcome: outcomePaid} }
	b.lookUps = func(paymentID) lookUpResult { return lookUpResult{kind: lookUpAbsent} }
	clients := [processors]client{bubbleProcessor{b, onDefault}, bubbleProcessor{b, onFallback}}
	watch := newLifeWatch()
	pol := newPolicy(patience, [processors]ppm{50_000, 150_000}, 100, l.clock, quietLog())
	s := newSettler(l, b, watch, time.Millisecond, m, quietLog())
	d := newDispatcher(4, 1<<16, 5*time.Millisecond)
	f := newFeeder(d, 1<<16)
	r := newResolver(l, pol, s, f, clients, m, quietLog())
	e := &elsewhere{ledger: l, feeder: f, resolver: r, store: b, metrics: m, log: quietLog()}
	b.payer = &payer{ledger: l, dispatcher: d, feeder: f, store: b, life: watch, policy: pol, resolver: r, settler: s, elsewhere: e,
		processors: clients, metrics: m, log: quietLog()}
	drain, cancel := context.WithCancel(ctx)
	cancel()
	go s.run(ctx, drain)
	go r.run(ctx)
	go f.run(ctx)
	for n := range 4 {
		go newWorker(n, b.payer).run(ctx)
	}
	s.kick()
	return b
}

func (b *bubble) accept(t *testing.T, n uint64) slotView {
	v := accept(t, b.ledger, n, 100)
	b.dispatcher.push(v.ref)
	return v
}

func TestPaymentTakesOneLingerToItsProcessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		b := newBubble(t, ctx, time.Second)
		synctest.Wait()
		started := time.Now()
		for n := range uint64(10) {
			b.accept(t, n)
		}
		for range 10 {
			<-b.settled
		}
		if took := time.Since(started); took != 10*time.Millisecond {
			t.Errorf("10 payments took %s: want one linger of a claim and one of a settle", took)
		}
		if n := b.claims.Load(); n != 10 {
			t.Errorf("%d claims", n)
		}
		stop()
		synctest.Wait()
		b.policy.(*policy).stop()
	})
}

// TestPaymentThatTookLongIsSettledAtOnce: a summary may ask for its instant by now, so it does not wait for what lingers already.
func TestPaymentThatTookLongIsSettledAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		b := newBubble(t, ctx, time.Hour)
		slow := nthID(0)
		b.pays = func(id paymentID) payResult {
			if id != slow {
				return payResult{outcome: outcomePaid}
			}
			time.Sleep(overdueLatest + 2*time.Millisecond)
			return payResult{outcome: outcomePaid, took: overdueLatest + 2*time.Millisecond}
		}
		synctest.Wait()
		started := time.Now()
		b.accept(t, 0)
		time.Sleep(overdueLatest)
		b.accept(t, 1) // it is paid after 5 ms, and lingers for 5 more
		<-b.settled
		if took := time.Since(started); took != overdueLatest+7*time.Millisecond {
			t.Errorf("settled after %v: want the moment of the slow answer", took)
		}
		<-b.settled
		stop()
		synctest.Wait()
		b.policy.(*policy).stop()
	})
}

// TestNoPaymentWaitsBehindASlowOne: hundreds hang, and the next one is paid at once.
func TestNoPaymentWaitsBehindASlowOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		b := newBubble(t, ctx, time.Hour)
		slow := nthID(0)
		b.pays = func(id paymentID) payResult {
			if id == slow {
				time.Sleep(time.Minute)
			}
			return payResult{outcome: outcomePaid}
		}
		synctest.Wait()
		b.accept(t, 0)
		time.Sleep(time.Second)
		started := time.Now()
		for n := uint64(1); n < 20; n++ {
			b.accept(t, n)
			<-b.settled
		}
		if took := time.Since(started); took > 19*10*time.Millisecond {
			t.Errorf("19 payments took %s", took)
		}
		time.Sleep(2 * time.Minute)
		stop()
		synctest.Wait()
		b.policy.(*policy).stop()
	})
}

// TestClaimOfAnEarlierLifeIsVoid: a payment that waits at the policy's gate while Redis begins a new life is claimed again
// before it is sent.
func TestClaimOfAnEarlierLifeIsVoid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		b := newBubble(t, ctx, time.Hour)
		pol := b.policy.(*policy)
		refuseOne(pol, onDefault)
		pol.mu.Lock()
		pol.state[onDefault].probesOut = probesAtOnce // nobody probes: the payment waits
		pol.mu.Unlock()
		synctest.Wait()
		b.accept(t, 1)
		time.Sleep(time.Second)
		if n := b.claims.Load(); n != 1 {
			t.Fatalf("%d claims", n)
		}
		b.living.Store(lifeToken("run.2"))
		b.life.lostUnless("run.2")
		b.life.begun("run.2")
		pol.health(onDefault, healthReading{}, time.Now())
		<-b.settled
		if n := b.claims.Load(); n != 2 {
			t.Errorf("%d claims: the second life knows nothing of the first one's", n)
		}
		stop()
		synctest.Wait()
		pol.stop()
	})
}

// TestOverdueAnswerIsLookedUpWhileItHangs: found there, it is settled without its answer, and its permit is free.
func TestOverdueAnswerIsLookedUpWhileItHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		b := newBubble(t, ctx, time.Hour)
		var written atomic.Bool
		b.pays = func(paymentID) payResult {
			time.AfterFunc(2*time.Second, func() { written.Store(true) })
			time.Sleep(8 * time.Second)
			return payResult{outcome: outcomeUnknown}
		}
		b.lookUps = func(id paymentID) lookUpResult {
			if !written.Load() {
				return lookUpResult{kind: lookUpAbsent}
			}
			at, _ := b.ledger.find(&id, indexHash(&id))
			return lookUpResult{kind: lookUpFound, amount: 100, requestedAt: at.requestedAt}
		}
		synctest.Wait()
		v := b.accept(t, 1)
		started := time.Now()
		s := <-b.settled
		if took := time.Since(started); took < 2*time.Second || took > 2*time.Second+overdueAfter+200*time.Millisecond {
			t.Errorf("settled after %s", took)
		}
		if s.processor != onDefault || s.amount != 100 {
			t.Errorf("%+v", s)
		}
		if n := b.policy.(*policy).figures(onDefault).inFlight; n != 0 {
			t.Errorf("%d in flight", n)
		}
		time.Sleep(20 * time.Second)
		stop()
		synctest.Wait()
		b.policy.(*policy).stop()
		if now, _ := b.ledger.read(v.ref); now.word.state() != slotSettled {
			t.Errorf("the late answer made it %s", now.word.state())
		}
	})
}

// TestPinnedPaymentsGoTogetherWhenTheirProcessorIsBack: while it refuses they wait longer and longer; when it answers again
// all of them are sent in the same moment, and none of them anywhere else.
func TestPinnedPaymentsGoTogetherWhenTheirProcessorIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		b := newBubble(t, ctx, time.Hour)
		pol := b.policy.(*policy)
		pol.reopened = b.resolver.retryNow
		var up atomic.Bool
		b.pays = func(paymentID) payResult {
			if up.Load() {
				return payResult{outcome: outcomePaid}
			}
			return payResult{outcome: outcomeRefused}
		}
		const n = 50
		ok := must(t)
		for i := range uint64(n) {
			b.resolver.pin(ok(b.ledger.pinned(ok(b.ledger.sent(accept(t, b.ledger, i, 100), onDefault, nowMicros())))))
		}
		time.Sleep(time.Minute) // refused again and again: seconds lie between two tries of each now
		b.accept(t, n)          // this one will be the probe
		up.Store(true)
		first := <-b.settled
		started := time.Now()
		for range n {
			if s := <-b.settled; s.processor != onDefault {
				t.Errorf("one went to %s", s.processor)
			}
		}
		if took := time.Since(started); took > 100*time.Millisecond {
			t.Errorf("from the first (%s) to the last it took %s", first.id, took)
		}
		stop()
		synctest.Wait()
		pol.stop()
	})
}

// TestFailedSettleLosesNothing: a batch is in hand while Redis is away, and the queue fills up behind it.
func TestFailedSettleLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		b := newBubble(t, ctx, time.Hour)
		synctest.Wait()
		b.settler.queue = newRing(8)
		b.failing.Store(3)
		const n = 40
		for i := range uint64(n) {
			b.accept(t, i)
		}
		for range n {
			<-b.settled
		}
		synctest.Wait()
		if left := b.ledger.pending.Load(); left != 0 {
			t.Errorf("%d still pending", left)
		}
		stop()
		synctest.Wait()
		b.policy.(*policy).stop()
	})
}
