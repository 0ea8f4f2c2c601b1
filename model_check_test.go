package main

import "fmt"

// What has to hold in the model: at every send, at every claim, and when everything has come to rest.

// checkSend looks at an attempt at the moment that it goes out.
func (w *world) checkSend(p *modelProcessor, a *modelAttempt) {
	var slot slotView
	for _, v := range a.by.slotsOf(a.id) {
		switch v.word.state() {
		case slotSent, slotPaid, slotSettled, slotPurged: // a look-up may have been quicker than the send
			if (a.slot == "" || v.word.state() == slotSent) && v.word.processor() == p.id && v.requestedAt == a.requestedAt && v.amount == a.amount {
				slot = v
				a.slot = slotName(a.by.ledger.journal(v.ref), v.ref.seq())
			}
		case slotFree, slotAccepted, slotInvalid, slotRejected, slotElsewhere, slotDuplicate, slotConflict, slotLeaving, slotSetAside, slotStates:
		}
	}
	if a.slot == "" {
		w.fail("%s sends %s to %s, and no slot of its journals says so", a.by, short(a.id), p.id)
		return
	}
	for _, other := range w.procs[1-p.id].attempts[a.id] {
		if !other.clean {
			w.fail("%s sends %s to %s, but an attempt at the other processor may land, or has", a.by, short(a.id), p.id)
		}
	}
	for _, earlier := range p.attempts[a.id] {
		if !earlier.clean && (earlier.requestedAt != a.requestedAt || earlier.slot != a.slot) {
			w.fail("%s sends %s to %s anew, at %d, from %s; an attempt at %d from %s may land, or has", a.by, short(a.id), p.id,
				a.requestedAt, a.slot, earlier.requestedAt, earlier.slot)
		}
	}
	if store := w.store; store.living() {
		claim, claimed := store.state.claims[a.id]
		record, final := store.state.records[a.id]
		switch {
		case claimed && claim.journal == a.by.ledger.journal(slot.ref).id.String() && claim.seq == slot.ref.seq():
		case final && record.state == recordPaid && record.processor == p.id:
		default:
			w.fail("%s sends %s to %s without a claim in life %s", a.by, short(a.id), p.id, store.state.life)
		}
	}
}

func slotName(j *journal, seq uint64) string { return fmt.Sprintf("%s/%d", j.id, seq) }

// checkClaim looks at a claim that is about to be won in a life that is ready: no other slot may have an attempt out under this id.
func (w *world) checkClaim(in *modelInstance, c claim) {
	for _, p := range w.procs {
		for _, a := range p.attempts[c.id] {
			if !a.clean && a.slot != fmt.Sprintf("%s/%d", c.journal, c.seq) {
				w.fail("%s wins the claim on %s for slot %d of %s; an attempt of %s at %s may land, or has", in, short(c.id), c.seq, c.journal, a.slot, p.id)
			}
		}
	}
}

// checkRest looks at everything once nothing moves any more.
func (w *world) checkRest() {
	var sums [processors]modelSum
	state := w.store.state
	for id, post := range w.posted {
		var paid *modelAttempt
		for _, p := range w.procs {
			if a := p.written[id]; a != nil {
				paid = a
				w.checkRecord(p, a)
				if state.records[id].mark == state.mark {
					sums[p.id].count++
					sums[p.id].amount += a.amount
				}
			}
		}
		record, known := state.records[id]
		// Of what was purged a journal does not tell any more whether it was paid or rejected.
		hidden := known && record.mark != state.mark
		rejected := known && record.state == recordRejected || hidden && paid == nil && w.invalid[id]
		switch {
		case paid == nil && !rejected && post.answered:
			w.fail("%s was answered with 202, and is neither paid nor rejected", short(id))
		case paid != nil && rejected:
			w.fail("%s is paid, and shown as rejected", short(id))
		case paid != nil && !post.amounts[paid.amount]:
			w.fail("%s is paid with %d cents, which nobody was told would be", short(id), paid.amount)
		case paid == nil && known && record.state == recordPaid && !rejected:
			w.fail("%s is shown as paid, and no processor has it", short(id))
		}
		for _, amount := range post.fresh {
			if paid != nil && amount != paid.amount && state.conflicts[id] == 0 && state.mark == 0 && w.boot == firstBoot {
				w.fail("%s was accepted with %d cents, paid with %d, and nobody is told of the conflict", short(id), amount, paid.amount)
			}
		}
	}
	for _, in := range w.live {
		for _, j := range *in.ledger.journals.Load() {
			for number := range j.table.Load().end() {
				j.eachIn(number, 0, func(v slotView) {
					if !v.word.state().final() {
						w.fail("%s of %s is %s for good", short(v.id), in, v.word.state())
					}
				})
			}
		}
	}
	if sums != state.sums {
		w.fail("the store's sums are %v, the processors' %v", state.sums, sums)
	}
	for id, c := range state.claims {
		w.fail("the claim on %s by slot %d of %s was never freed", short(id), c.seq, c.journal)
	}
	for _, p := range w.procs {
		for id := range p.written {
			if w.posted[id] == nil {
				w.fail("%s has %s, which nobody posted", p.id, short(id))
			}
		}
	}
}

// checkRecord compares what the store says of a payment with what the processor has. A purge hides a record; it does not remove it.
func (w *world) checkRecord(p *modelProcessor, a *modelAttempt) {
	r, known := w.store.state.records[a.id]
	if !known || r.state != recordPaid || r.processor != p.id || r.amount != a.amount || r.requestedAt != a.requestedAt {
		w.fail("%s has %s, %d cents at %d; the store has %t, %s at %s, %d cents at %d", p.id, short(a.id), a.amount, a.requestedAt,
			known, r.state, r.processor, r.amount, r.requestedAt)
	}
}
