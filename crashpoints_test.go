package main

import "testing"

// crashPoints are the places at which the crash variant can be stopped, along a payment's way.
var crashPoints = []struct {
	name, file, anchor string
	where              editPlace
}{
	// Intake.
	{"a request was read", "server.go", "func (s *server) postPayment(ctx *fasthttp.RequestCtx) {\n", afterAnchor},
	{"room is reserved", "ledger.go", "\tr, first, full := l.active.append(", beforeAnchor},
	{"the fixed part is written", "journal.go", "\ts.word.Store(uint64(accepted)) //", beforeAnchor},
	{"the slot is published", "journal.go", "\tr = makeRef(j.number, seq)\n", beforeAnchor},
	{"the slot is in the index", "server.go", "\t\ts.dispatcher.push(r)\n", beforeAnchor},
	{"the slot is in the ring", "server.go", "\t\ts.dispatcher.push(r)\n", afterAnchor},

	// The worker.
	{"taken from the ring", "worker.go", "\t\ttoken, ok := w.claim(ctx, w.taken[:n])\n", beforeAnchor},
	{"the claim's reply is unread", "worker.go", "\t\terr := w.store.claim(ctx, token, false, w.claims, w.answers[:len(w.claims)])\n", afterAnchor},
	{"claimed", "worker.go", "\t\t\tpm, ok := w.policy.acquire(ctx, v.acceptedAt)\n", beforeAnchor},
	{"leaving is stored", "worker.go", "\tif ok && p.store.token() == token {\n", beforeAnchor},
	{"the life was looked at", "worker.go", "\t\tv, ok = p.ledger.left(v)\n", beforeAnchor},
	{"sent is stored", "worker.go", "\t\tres := p.processors[pm.processor].pay(v.id, v.amount, v.requestedAt)\n", beforeAnchor},
	{"the answer is awaited", "exchange.go", "\treader := c.AcquireReader(conn)\n", beforeAnchor},
	{"the answer is read", "worker.go", "\t\tp.policy.observe(pm, res.outcome, res.took)\n", beforeAnchor},
	{"paid is stored", "worker.go", "\t\t\t\tif res.took > overdueLatest {", beforeAnchor},
	{"a refusal is unstored", "worker.go", "\t\tcase outcomeRefused, outcomeBusy:\n", afterAnchor},
	{"accepted again is stored", "worker.go", "\t\tif pm, ok = p.policy.acquire(ctx, v.acceptedAt); !ok {\n", beforeAnchor},
	{"unknown is unstored", "worker.go", "\t\t\tif v, ok = p.ledger.pinned(v); ok {\n", beforeAnchor},
	{"pinned is stored", "worker.go", "\t\t\t\tp.resolver.pin(v)\n", beforeAnchor},
	{"invalid is unstored", "worker.go", "\t\t\tif v, ok = p.ledger.become(v, slotInvalid); ok {\n", beforeAnchor},
	{"invalid is stored", "worker.go", "\t\t\tif v, ok = p.ledger.become(v, slotInvalid); ok {\n", afterAnchor},

	// The resolver.
	{"a look-up goes out", "resolver.go", "\tres := r.processors[p].lookUp(v.id)\n", beforeAnchor},
	{"a look-up has found it", "resolver.go", "\tif v, ok = r.ledger.paidAs(v, p, res.amount, res.requestedAt); ok {\n", beforeAnchor},
	{"a look-up's paid is stored", "resolver.go", "\tif v, ok = r.ledger.paidAs(v, p, res.amount, res.requestedAt); ok {\n", afterAnchor},
	{"foreign values are half stored", "journal.go", "\t\ts.bookedSum.Store(s.bookedChecksum(booked))\n", beforeAnchor},
	{"foreign values are stored", "journal.go", "\t\ts.bookedSum.Store(s.bookedChecksum(booked))\n", afterAnchor},
	{"a pinned one is about to be sent", "resolver.go", "\tv, ok = r.ledger.sent(v, at, v.requestedAt)\n", beforeAnchor},
	{"sent again is stored", "resolver.go", "\tres := r.processors[at].pay(v.id, v.amount, v.requestedAt)\n", beforeAnchor},
	{"sent again is answered", "resolver.go", "\tres := r.processors[at].pay(v.id, v.amount, v.requestedAt)\n", afterAnchor},

	// The settler.
	{"settled in Redis only", "settle.go", "\tfor _, v := range s.views {\n", beforeAnchor},
	{"half a batch is stored as final", "settle.go", "\t\ts.ledger.become(v, final)\n", afterAnchor},
	{"rejected in Redis only", "settle.go", "\t\t\ts.metrics.rejected.Inc()\n", afterAnchor},

	// Another slot has the claim.
	{"the claim is lost", "worker.go", "\t\t\tif v, ok := w.ledger.become(v, slotElsewhere); ok {\n", beforeAnchor},
	{"elsewhere is stored", "worker.go", "\t\t\tif v, ok := w.ledger.become(v, slotElsewhere); ok {\n", afterAnchor},
	{"a duplicate is unstored", "elsewhere.go", "\t\t\te.ledger.become(v, slotDuplicate)\n", beforeAnchor},
	{"a duplicate is stored", "elsewhere.go", "\t\t\te.ledger.become(v, slotDuplicate)\n", afterAnchor},
	{"a conflict is not noted yet", "elsewhere.go", "\tif err := e.store.noteConflicts(ctx, notes); err != nil {\n", beforeAnchor},
	{"a conflict is noted", "elsewhere.go", "\t\te.ledger.become(v, slotConflict)\n", beforeAnchor},
	{"a conflict is stored", "elsewhere.go", "\t\te.ledger.become(v, slotConflict)\n", afterAnchor},

	// Journals and segments.
	{"a journal has no name yet", "folder.go", "\tif err := os.Rename(making, j.dir); err != nil {\n", beforeAnchor},
	{"a journal has its name", "ledger.go", "\t\tf, err := l.recover(j)\n", beforeAnchor},
	{"a segment is allocated", "segment.go", "\tif err := allocate(file, segmentBytes); err != nil {\n\t\treturn discard(err)\n\t}\n", afterAnchor},
	{"a segment has no name yet", "segment.go", "\t\tif err := os.Rename(made, path); err != nil || !durable {\n", beforeAnchor},
	{"a segment has its name", "segment.go", "\t\tseg.unmap()\n\t\treturn discard(err)\n\t}\n", afterAnchor},
	{"a segment is in the table", "journal.go", "\t\tj.limit.Store((end + 1) << segmentSlotsLog2)\n", beforeAnchor},
	{"a segment is marked as done", "retention.go", "\tseg.head.finalSince.Store(int64(since))\n", afterAnchor},
	{"a segment is about to be unmapped", "retention.go", "\tj.retired = append(j.retired, retiredSegment{number: seg.number, since: since})\n", beforeAnchor},
	{"a segment is removed", "retention.go", "\t\t\tfailed = fmt.Errorf(\"cannot remove a segment: %w\", err)\n\t\t\treturn false\n\t\t}\n", afterAnchor},

	// Recovery, replay and adoption.
	{"a journal is locked", "adoption.go", "\tf, err := j.recover()\n", beforeAnchor},
	{"a leaving one is accepted again", "recover.go", "\t\t\t\tw = w.with(slotAccepted)\n\t\t\t\ts.word.Store(uint64(w))\n", afterAnchor},
	{"a sent one is pinned", "recover.go", "\t\t\t\ts.word.Store(uint64(w.pin()))\n", afterAnchor},
	{"a journal is read", "ledger.go", "\tl.pending.Add(int64(f.unsettled()))\n", beforeAnchor},
	{"everything is taken up", "main.go", "\tfor _, r := range f.settling {", beforeAnchor},
	{"a life is begun", "replay.go", "\ts.life.lostUnless(born.token)\n", afterAnchor},
	{"half a journal is replayed", "replay.go", "\tflush := func() error {\n", afterAnchor},
	{"a journal is replayed", "replay.go", "\t\t\tj.replayedIn, j.replayed = born.token, n\n", beforeAnchor},
	{"a journal has not reported", "replay.go", "\t\tif ready, err = s.store.report(ctx, born.token, j.id.String(), !s.lacking.Load(), texts(ids)); err != nil {\n", beforeAnchor},
	{"a journal has reported", "replay.go", "\t\t\treturn err\n\t\t}\n\t}\n\tif ready {\n", afterAnchor},

	// A purge.
	{"a purge is wanted", "purge.go", "\ts.adoptMark(s.mark() + 1)\n", beforeAnchor},
	{"a retired segment is purged", "retention.go", "\t\t\tseg.head.purged.Store(1)\n", afterAnchor},
	{"half a segment is purged", "retention.go", "\t\t\ts.word.CompareAndSwap(uint64(w), uint64(w.with(slotPurged)))\n", afterAnchor},
	{"a journal is purged", "retention.go", "\tj.head.mark.Store(mark)\n", beforeAnchor},
	{"a journal has the mark", "retention.go", "\tj.head.mark.Store(mark)\n", afterAnchor},
	{"Redis is about to be purged", "purge.go", "\tmark, err := s.store.purge(ctx, s.store.token(), s.mark())\n", beforeAnchor},
	{"Redis is purged", "purge.go", "\tmark, err := s.store.purge(ctx, s.store.token(), s.mark())\n", afterAnchor},
	{"a purge is announced", "purge.go", "\ts.announce(mark)\n", afterAnchor},
}

func crashEdits() []sourceEdit {
	var edits []sourceEdit
	for _, p := range crashPoints {
		edits = append(edits, sourceEdit{p.file, p.anchor, p.where, "\ncrashPoint(\"" + p.name + "\")\n"})
	}
	return edits
}

// TestCrashPointsAreWhereTheySay: every anchor is in its file exactly once.
func TestCrashPointsAreWhereTheySay(t *testing.T) {
	for _, e := range append(crashEdits(), quickEdits()...) {
		if _, err := editedSources([]sourceEdit{e}); err != nil {
			t.Error(err)
		}
	}
}
