package main

import (
	"context"
	"errors"
	"slices"
)

// finder answers what is known of one payment, through any instance: from the own journals, from Redis, and from the other
// instances, whose newest payments Redis does not have yet.
type finder struct {
	ledger *ledger
	store  interface {
		records(ctx context.Context, ids []paymentID, out []foundRecord) error
		conflictOf(ctx context.Context, id paymentID) (cents, error)
	}
	bus interface {
		ask(ctx context.Context, id paymentID, enough func([]answer) bool) []answer
	}
}

var (
	errUnknownPayment = errors.New("nobody knows this payment")
	errSilent         = errors.New("an instance that may know this payment is silent")
	errUnreadable     = errors.New("what the store has of this payment cannot be read")
)

// payment is what clients are told of one.
type payment struct {
	id          paymentID
	amount      cents
	state       string // accepted, sent, pinned, paid, settled, rejected
	processor   string // where it is or was sent; "" if nowhere yet
	requestedAt micros // 0: not sent yet
	acceptedAt  micros
	settledAt   micros // 0: not settled yet
	conflicting cents  // another amount that came under the same id; 0: none
}

func (p *payment) appendJSON(dst []byte) []byte {
	instant := func(name string, t micros) {
		if t != 0 {
			dst = append(dst, `,"`+name+`":"`...)
			dst = append(t.appendTime(dst), '"')
		}
	}
	dst = append(dst, `{"id":"`...)
	dst = p.id.appendText(dst)
	dst = append(dst, `","amount":`...)
	dst = p.amount.appendDecimal(dst)
	dst = append(dst, `,"state":"`+p.state+`"`...)
	if p.processor != "" {
		dst = append(dst, `,"processor":"`+p.processor+`"`...)
	}
	instant("requestedAt", p.requestedAt)
	instant("acceptedAt", p.acceptedAt)
	instant("settledAt", p.settledAt)
	if p.conflicting != 0 {
		dst = append(dst, `,"conflict":{"amount":`...)
		dst = append(p.conflicting.appendDecimal(dst), '}')
	}
	return append(dst, '}')
}

// find returns what is known. errUnknownPayment means that nobody knows it; every other error that somebody who may know it
// could not be asked.
//
// A payment goes from a journal into Redis, and a journal may come to us meanwhile: so after the others have been asked, we look once more.
// Then it is either with somebody who had it unsettled when he was asked, or where we look.
func (f *finder) find(ctx context.Context, id paymentID) (payment, error) {
	p, what, err := f.look(ctx, id)
	if what == knownWell {
		return p, nil
	}
	var answers []answer
	if !f.covered(nil) { // or nobody is there to answer, and asking would take all the time there is
		answers = f.bus.ask(ctx, id, f.covered)
	}
	for _, a := range answers {
		if a.known {
			return a.payment, nil
		}
	}
	switch {
	case err != nil:
		return payment{}, err
	case !f.covered(answers):
		return payment{}, errSilent // its journal alone knows how it stands
	}
	p, what, err = f.look(ctx, id)
	if err == nil && what == unknown {
		err = errUnknownPayment
	}
	return p, err
}

// knowledge is how much is known of a payment without asking the other instances.
type knowledge uint8

const (
	unknown      knowledge = iota
	knownClaimed           // its journal knows better how it stands
	knownWell
)

// look looks into our own journals, and then into Redis. An error is one of Redis.
func (f *finder) look(ctx context.Context, id paymentID) (payment, knowledge, error) {
	v, here := f.ledger.find(&id, indexHash(&id))
	if here {
		if p, ok := unsettled(v); ok {
			return p, knownWell, nil
		}
	}
	var records [1]foundRecord
	err := f.store.records(ctx, []paymentID{id}, records[:])
	found := &records[0]
	if err == nil && found.state == recordUnreadable {
		err = errUnreadable
	}
	switch {
	case err != nil:
		if p, ok := settledHere(v); here && ok {
			return p, knownWell, nil
		}
		return payment{}, unknown, err
	case !found.found || found.hidden:
		return payment{}, unknown, nil
	case !found.final():
		return paymentOf(found.record), knownClaimed, nil
	}
	p := paymentOf(found.record)
	if p.conflicting, err = f.store.conflictOf(ctx, id); err != nil {
		return payment{}, unknown, err
	}
	return p, knownWell, nil
}

// covered says that the owners of all journals in the folder have answered.
func (f *finder) covered(answers []answer) bool {
	ids, err := f.ledger.folder.journalIDs()
	if err != nil {
		return false
	}
	return !slices.ContainsFunc(ids, func(id journalID) bool {
		return !f.ledger.owns(id) && !slices.ContainsFunc(answers, func(a answer) bool { return slices.Contains(a.journals, id.String()) })
	})
}

// answer tells another instance what is known here.
func (f *finder) answer(id paymentID) answer {
	a := answer{journals: f.ledger.journalNames()}
	if v, here := f.ledger.find(&id, indexHash(&id)); here {
		a.payment, a.known = unsettled(v)
	}
	return a
}

// unsettled is a payment that only its journal knows all about.
func unsettled(v slotView) (payment, bool) {
	p := payment{id: v.id, amount: v.amount, acceptedAt: v.acceptedAt, state: v.word.state().String()}
	switch v.word.state() {
	case slotAccepted, slotLeaving, slotFree: // free: its word was damaged, and the mender has yet to learn what became of it
		p.state = slotAccepted.String()
		return p, true
	case slotSent, slotPaid:
		if v.word.pinned() && v.word.state() == slotSent {
			p.state = "pinned"
		}
		p.amount, p.processor, p.requestedAt = v.paidAmount, v.word.processor().String(), v.requestedAt
		return p, true
	case slotInvalid:
		p.state = slotRejected.String()
		return p, true
	case slotSettled, slotPurged, slotRejected, slotElsewhere, slotDuplicate, slotConflict, slotSetAside, slotStates:
	}
	return payment{}, false
}

// settledHere is what the journal knows of a settled payment, while Redis cannot be asked: all but when it was settled.
func settledHere(v slotView) (payment, bool) {
	p := payment{id: v.id, amount: v.paidAmount, acceptedAt: v.acceptedAt, state: v.word.state().String()}
	switch v.word.state() {
	case slotSettled:
		p.processor, p.requestedAt = v.word.processor().String(), v.requestedAt
		return p, true
	case slotRejected:
		return p, true
	case slotFree, slotAccepted, slotLeaving, slotSent, slotPaid, slotPurged, slotInvalid, slotElsewhere, slotDuplicate, slotConflict, slotSetAside, slotStates:
	}
	return payment{}, false
}

// paymentOf is a record of Redis as clients see it.
func paymentOf(r record) payment {
	p := payment{id: r.id, amount: r.amount, acceptedAt: r.acceptedAt, settledAt: r.settledAt}
	switch r.state {
	case recordClaimed:
		p.state = slotAccepted.String()
	case recordPaid:
		p.state, p.processor, p.requestedAt = slotSettled.String(), r.processor.String(), r.requestedAt
	case recordRejected:
		p.state = slotRejected.String()
	case recordUnreadable:
	}
	return p
}
