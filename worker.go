package main

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"
)

// payer is what workers and their flights share: everything that a payment meets between its ring and its settling.
type payer struct {
	ledger     *ledger
	dispatcher *dispatcher
	feeder     *feeder
	store      claimStore
	life       *lifeWatch
	policy     gate
	resolver   *resolver
	settler    *settler
	elsewhere  *elsewhere
	processors [processors]client
	metrics    *metrics
	log        *slog.Logger
	flights    flights
}

// claimStore, gate and client are the seams at which workers run without Redis, policy and network.
type claimStore interface {
	token() lifeToken
	claim(ctx context.Context, t lifeToken, replaying bool, in []claim, out []claimAnswer) error
}

type gate interface {
	acquire(ctx context.Context, acceptedAt micros) (permit, bool)
	acquireAt(id processorID) (permit, bool)
	observe(pm permit, o outcome, took time.Duration)
	release(pm permit)
	look()
	expect(id processorID) time.Duration
}

type client interface {
	pay(id paymentID, amount cents, requestedAt micros) payResult
	lookUp(id paymentID) lookUpResult
}

// claimBatch is how many payments a worker claims in one round trip.
const claimBatch = 64

// unreadableRetry is how soon a payment is claimed again in whose place the store has something that galo did not write. A person has to
// remove that.
const unreadableRetry = 2 * time.Second

// worker takes payments from the rings, claims them, and sends each on its way. It works on one batch at a time; a slow
// processor costs it nothing, since what is out is waited for by a goroutine of its own (a flight), and what piles up in the
// ring of a worker that waits at the policy's gate is taken by the others.
type worker struct {
	*payer
	number  int
	taken   [claimBatch]ref
	views   []slotView
	claims  []claim
	answers []claimAnswer
}

func newWorker(number int, p *payer) *worker {
	return &worker{payer: p, number: number, views: make([]slotView, 0, claimBatch),
		claims: make([]claim, 0, claimBatch), answers: make([]claimAnswer, claimBatch)}
}

// run works until ctx ends. What it has in hand then is as it was in the journal: accepted.
func (w *worker) run(ctx context.Context) {
	fly := func(f flight) { w.fly(f.ctx, f.v, f.pm, f.token) }
	for {
		n := w.dispatcher.take(ctx, w.number, w.taken[:])
		if n == 0 {
			return
		}
		token, ok := w.claim(ctx, w.taken[:n])
		if !ok {
			return
		}
		for _, v := range w.views {
			pm, ok := w.policy.acquire(ctx, v.acceptedAt)
			if !ok {
				return
			}
			if v, ok := w.send(v, pm, token); ok {
				w.flights.start(flight{ctx, v, pm, token, fly})
			}
		}
	}
}

// claim leaves in views the payments that are ours to send, and returns the life of Redis in which that holds. It repeats
// until Redis has answered: while that is away nothing is sent.
func (w *worker) claim(ctx context.Context, refs []ref) (lifeToken, bool) {
	for {
		token, ok := w.life.await(ctx)
		if !ok {
			return "", false
		}
		w.read(refs)
		if len(w.views) == 0 {
			return token, true
		}
		err := w.store.claim(ctx, token, false, w.claims, w.answers[:len(w.claims)])
		if err == nil {
			w.sort()
			return token, true
		}
		if !w.settler.recoverFrom(ctx, token, err) {
			return "", false
		}
	}
}

// read fills views and claims with what is to be claimed.
func (w *worker) read(refs []ref) {
	w.views, w.claims = w.views[:0], w.claims[:0]
	for _, r := range refs {
		if v, ok := w.ledger.read(r); ok && v.word.state() == slotAccepted {
			w.views = append(w.views, v)
			w.claims = append(w.claims, w.ledger.claimOf(v))
		}
	}
}

// sort acts on the answers to the claims: what was won stays in views. A claim that comes late may have been won because the store has
// forgotten the payment: the processors are asked first. One with an attempt that has kept its claim has been through this.
func (w *worker) sort() {
	won := w.views[:0]
	var late []ref
	for i, v := range w.views {
		switch w.answers[i].kind {
		case claimWon:
			if (w.answers[i].anew || v.word.attempts() == 0) && w.ledger.late(v) {
				late = append(late, v.ref)
				continue
			}
			won = append(won, v)
		case claimHeld, claimFinal:
			if v, ok := w.ledger.become(v, slotElsewhere); ok {
				w.elsewhere.add(v.ref)
			}
		case claimUnreadable:
			w.log.Error("store has something in a payment's place that galo did not write: the payment waits until it is gone", "id", v.id.String(),
				"record_key", string(appendRecordKey(nil, v.id)), "claim_key", keyClaims, "field", string(appendField(nil, v.id)))
			time.AfterFunc(unreadableRetry, func() { w.feeder.add(v.ref) })
		}
	}
	// Of several rings, and repeated: those that were accepted first go first.
	slices.SortFunc(won, func(a, b slotView) int { return cmp.Compare(a.acceptedAt, b.acceptedAt) })
	w.views = won
	if len(late) > 0 {
		w.log.Warn("claimed long after they were accepted: both processors are asked before these are sent", "payments", len(late))
		w.resolver.doubt(late...)
	}
}

// send journals an attempt. It is false when the payment must not go out after all; the permit is given back then.
//
// A claim holds in one life of Redis. Whoever prepares a new life makes its token known first and looks at the slots then; we
// store the slot as leaving first and look at the token then. So either this sees the new token, and the claim is void, or the
// other one sees the slot as leaving, and takes the claim over into the new life. The slot reads sent only after that look: a
// crash before it leaves no attempt without a claim.
func (p *payer) send(v slotView, pm permit, token lifeToken) (slotView, bool) {
	v, ok := p.ledger.leaving(v, pm.processor, nowMicros())
	if ok && p.store.token() == token {
		v, ok = p.ledger.left(v)
		if ok {
			return v, true
		}
	}
	p.policy.release(pm)
	if ok {
		if v, ok := p.ledger.become(v, slotAccepted); ok {
			p.feeder.add(v.ref) // to be claimed anew
		}
	}
	return v, false
}

// fly waits for the outcome of an attempt that was journalled as sent, and does what it calls for. A refused payment stays
// here and asks the policy again; every other outcome hands it on.
func (p *payer) fly(ctx context.Context, v slotView, pm permit, token lifeToken) {
	for {
		p.ledger.sync(v.ref) // unsynced, "sent" could read "accepted" after a power loss, and go elsewhere
		watched := p.resolver.watch(v, pm)
		res := p.processors[pm.processor].pay(v.id, v.amount, v.requestedAt)
		p.resolver.unwatch(watched)
		p.policy.observe(pm, res.outcome, res.took)
		p.metrics.attempt(pm.processor, res)

		var ok bool
		switch res.outcome {
		case outcomePaid:
			if v, ok = p.ledger.paid(v); ok {
				if res.took > overdueLatest { // summaries ask for its instant by now
					p.settler.addNow(v.ref)
				} else {
					p.settler.add(v.ref)
				}
			}
			return
		case outcomeInvalid:
			p.log.Error("payment rejected by its processor", "id", v.id.String(), "processor", pm.processor.String(), "detail", res.detail)
			if v, ok = p.ledger.become(v, slotInvalid); ok {
				p.settler.add(v.ref)
			}
			return
		case outcomeUnknown, outcomeTaken:
			if v, ok = p.ledger.pinned(v); ok {
				p.resolver.pin(v)
			}
			return
		case outcomeMisconfigured:
			p.log.Error("processor refuses us", "processor", pm.processor.String(), "detail", res.detail)
			v, ok = p.ledger.refused(v)
		case outcomeRefused, outcomeBusy:
			v, ok = p.ledger.refused(v)
		}
		if !ok {
			return // a look-up was quicker
		}
		if pm, ok = p.policy.acquire(ctx, v.acceptedAt); !ok {
			return
		}
		if v, ok = p.send(v, pm, token); !ok {
			return
		}
	}
}

// claimOf is the claim that a slot makes: it names the slot, so that the same one may claim again after a crash or a lost reply.
func (l *ledger) claimOf(v slotView) claim {
	out := v.word.state() == slotSent || v.word.state() == slotLeaving
	return claim{id: v.id, amount: v.amount, acceptedAt: v.acceptedAt, journal: l.journal(v.ref).name, seq: v.ref.seq(), out: out}
}

// recoverFrom does what an error of the store calls for before the call may be repeated. It is false when ctx ends.
func (s *settler) recoverFrom(ctx context.Context, token lifeToken, err error) bool {
	const storeRetry = 50 * time.Millisecond
	var purged purgedError
	switch {
	case errors.Is(err, errNoLife):
		s.life.lost(token)
		s.kick()
		return ctx.Err() == nil
	case errors.As(err, &purged):
		s.adoptMark(purged.mark)
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(storeRetry):
		return true
	}
}
