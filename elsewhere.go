package main

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// elsewhere keeps the slots that lost the claim on their id to another slot, until that one's payment is final: the same id
// reached two instances, or came again after its slot had left the index. They are never sent from here; the winner's journal answers for the payment.
//
// The claim may come to one of them all the same: an older copy of the store may have it as the owner that it once was. Then
// the slot is accepted again, for nobody else will pay. So it is when nobody has the claim, or a slot that has gone with its segment:
// such a claim is of an older copy, too, and is removed.
type elsewhere struct {
	ledger   *ledger
	feeder   *feeder
	resolver *resolver
	store    interface {
		records(ctx context.Context, ids []paymentID, out []foundRecord) error
		noteConflicts(ctx context.Context, notes []conflictNote) error
		disown(ctx context.Context, found []record) error
	}
	metrics *metrics
	log     *slog.Logger
	mu      sync.Mutex
	list    []ref
}

// elsewhereEvery is how often the winners' records are read. Nobody waits for it.
const elsewhereEvery = 500 * time.Millisecond

func (e *elsewhere) add(refs ...ref) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, refs...)
}

func (e *elsewhere) len() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.list)
}

func (e *elsewhere) run(ctx context.Context) {
	each(ctx, elsewhereEvery, func() { e.look(ctx) })
}

// look reads the records of all that wait and finishes those that are final.
func (e *elsewhere) look(ctx context.Context) {
	e.mu.Lock()
	list := e.list
	e.list = nil
	e.mu.Unlock()
	for len(list) > 0 {
		step := list[:min(settleBatch, len(list))]
		list = list[len(step):]
		e.add(e.lookAt(ctx, step)...)
	}
}

// lookAt returns those that are not final yet.
func (e *elsewhere) lookAt(ctx context.Context, refs []ref) (left []ref) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	views := make([]slotView, 0, len(refs))
	ids := make([]paymentID, 0, len(refs))
	for _, r := range refs {
		if v, ok := e.ledger.read(r); ok && v.word.state() == slotElsewhere {
			views, ids = append(views, v), append(ids, v.id)
		}
	}
	found := make([]foundRecord, len(ids))
	if err := e.store.records(ctx, ids, found); err != nil {
		return refs
	}
	var conflicting []slotView
	var notes []conflictNote
	var ownerless []record
	for i, v := range views {
		switch f := found[i]; {
		case f.found && f.state == recordClaimed && f.journal == e.ledger.journal(v.ref).id.String() && f.seq == v.ref.seq():
			e.again(v)
		case f.found && !f.final():
			left = append(left, v.ref)
			if f.state == recordClaimed && e.ledger.ownerless(f.record) {
				ownerless = append(ownerless, f.record)
			}
		case f.found && f.amount != v.amount:
			conflicting, notes = append(conflicting, v), append(notes, conflictNote{v.id, v.amount})
		case !f.found:
			// The store has lost the claim with an earlier life. The winner has nothing out, or it would have its claim back
			// in this one: so whoever claims first pays, and the other one learns under which amount.
			e.again(v)
		default:
			// Final under the same amount, hidden by a purge or not.
			e.ledger.become(v, slotDuplicate)
		}
	}
	if len(ownerless) > 0 { // whether that worked shows at the next look
		if err := e.store.disown(ctx, ownerless); err == nil {
			e.log.Warn("claims removed of slots that are gone by age: an older copy of the store had them", "claims", len(ownerless))
		}
	}
	if len(notes) == 0 {
		return left
	}
	// The note first: a slot that is final is not looked at again.
	if err := e.store.noteConflicts(ctx, notes); err != nil {
		return append(left, refsOf(conflicting)...)
	}
	for _, v := range conflicting {
		e.metrics.conflicts.Inc()
		e.log.Warn("one id came with two amounts: this one is not paid", "id", v.id.String(), "cents", int64(v.amount))
		e.ledger.become(v, slotConflict)
	}
	return left
}

// again makes a slot an accepted one, since it may be the one to pay. If that took long, the winner may have paid and be forgotten by
// age; or it may have been lost with the power, and its claim, too: then the processors are asked first.
func (e *elsewhere) again(v slotView) {
	v, ok := e.ledger.become(v, slotAccepted)
	switch {
	case !ok:
	case e.ledger.late(v), e.ledger.outlivedHost(v.ref):
		e.resolver.doubt(v.ref)
	default:
		e.feeder.add(v.ref)
	}
}

func refsOf(views []slotView) []ref {
	refs := make([]ref, len(views))
	for i, v := range views {
		refs[i] = v.ref
	}
	return refs
}
