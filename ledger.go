package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// ledger is all the journals that this process owns: the one that it appends to, and those that it has taken over from
// processes that are gone, which it only finishes. Every change of a slot's state goes through it.
type ledger struct {
	folder     *folder
	clock      *clock
	log        *slog.Logger
	retention  time.Duration
	maxBytes   int64 // of the files of our journals, as far as settled segments make them up; 0: unbounded
	maxPending int64
	disk       *groupSync // nil unless DURABILITY=disk

	journals atomic.Pointer[[]*journal] // those that we own; replaced whole, under mu
	numbered atomic.Pointer[[]*journal] // all that we ever owned; replaced whole, under mu. A journal's number is its place, for good
	active   *journal
	mu       sync.Mutex
	// activeFrom is the sequence from which this process appends.
	activeFrom uint64
	_          [falseSharing]byte

	// This changes with every payment. What is above does not.
	pending atomic.Int64 // slots that are not final, and reservations; never above maxPending for new ones
	_       [falseSharing - 8]byte
	outrun  atomic.Int64 // slots of payments that another request with their id was quicker with. It orders nothing
}

// appended is how many payments were accepted since the start: each has taken a slot, and nobody else has but those that were outrun.
func (l *ledger) appended() int64 {
	return int64(l.active.next.Load()-l.activeFrom) - l.outrun.Load()
}

// newLedger is a ledger without any journal.
func newLedger(f *folder, c *clock, maxPending int, retention time.Duration, log *slog.Logger) *ledger {
	l := &ledger{folder: f, clock: c, log: log, maxPending: int64(maxPending), retention: retention}
	l.journals.Store(&[]*journal{})
	l.numbered.Store(&[]*journal{})
	return l
}

// openLedger takes every journal in the folder that nobody owns, chooses or makes the one to append to, and returns what has
// to be taken up again.
func openLedger(f *folder, c *clock, maxPending int, retention time.Duration, log *slog.Logger) (*ledger, found, error) {
	if err := f.checkFormats(); err != nil {
		return nil, found{}, err
	}
	l := newLedger(f, c, maxPending, retention, log)
	if f.durable {
		l.disk = newGroupSync(l.syncJournals, log)
	}
	all, err := l.takeOwn()
	if err != nil {
		return nil, found{}, errors.Join(err, l.close())
	}
	if l.active == nil {
		j, err := f.create()
		if err != nil {
			return nil, found{}, err
		}
		f, err := l.recover(j)
		if err != nil {
			return nil, found{}, err
		}
		l.add(j, f, true)
	}
	if err := l.active.prepare(); err != nil {
		// A full disk does not keep what is in the journal from being paid; intake goes on when there is room.
		log.Error("journal cannot grow: payments will be refused", "error", err)
	}
	return l, all, nil
}

// adopt takes over the journals that nobody owns and wanted agrees to, and returns what it found in them.
func (l *ledger) adopt(wanted func(*journalHead) bool) (found, error) {
	var all found
	claimed, failed := l.claimAll(wanted)
	for _, j := range claimed {
		f, err := l.take(j)
		failed = errors.Join(failed, err)
		all.join(f)
	}
	return all, failed
}

// claimAll locks the journals that nobody owns and wanted agrees to. A journal that cannot be taken does not keep the others from
// it; the error tells of all such.
func (l *ledger) claimAll(wanted func(*journalHead) bool) ([]*journal, error) {
	var claimed []*journal
	ids, failed := l.folder.journalIDs()
	for _, id := range ids {
		if l.owns(id) {
			continue
		}
		j, err := l.folder.claim(id)
		if damage := err; errors.Is(damage, errDamaged) {
			if j, err = l.restore(id); !errors.Is(err, errOwned) {
				l.log.Error("journal damaged", "error", damage)
			}
		}
		if j == nil {
			if !errors.Is(err, errOwned) && !errors.Is(err, os.ErrNotExist) {
				failed = errors.Join(failed, err)
			}
			continue
		}
		if !wanted(j.head) {
			failed = errors.Join(failed, j.close())
			continue
		}
		claimed = append(claimed, j)
	}
	return claimed, failed
}

// restore takes a journal whose head is damaged, if there is anything to take.
func (l *ledger) restore(id journalID) (*journal, error) {
	mark, err := l.highestMark()
	if err != nil {
		return nil, err
	}
	return l.folder.restore(id, mark)
}

func (l *ledger) owns(id journalID) bool {
	return slices.ContainsFunc(*l.journals.Load(), func(j *journal) bool { return j.id == id })
}

// journalNames lists the journals that this process answers for.
func (l *ledger) journalNames() []string {
	list := *l.journals.Load()
	names := make([]string, len(list))
	for i, j := range list {
		names[i] = j.id.String()
	}
	return names
}

// adoptOrphans takes over the journals that were without an owner at the last call already: a restart of their own instance
// has had its chance by then. It remembers what it saw in orphans. What it takes is only finished, never appended to.
func (l *ledger) adoptOrphans(orphans map[journalID]bool) (found, error) {
	seen := make(map[journalID]bool)
	f, err := l.adopt(func(h *journalHead) bool {
		seen[h.id] = true
		return orphans[h.id]
	})
	clear(orphans)
	maps.Copy(orphans, seen)
	return f, err
}

// add makes a journal known that was recovered. Only the active one is appended to; of the others the unused slots are sealed, so that
// they do not keep the last segment.
func (l *ledger) add(j *journal, f found, active bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if active {
		l.active, l.activeFrom = j, j.next.Load()
	} else {
		j.appendable = j.next.Load()
		end := j.limit.Load()
		j.seal(end)
		j.next.Store(end)
	}
	j.head.take(l.folder.instance)
	l.pending.Add(int64(f.unsettled()))
	owned := append(slices.Clone(*l.journals.Load()), j)
	l.journals.Store(&owned)
	if f.published > 0 {
		j.log.Info("journal taken up", "made_by", j.head.madeBy(), "slots", f.published, "unsettled", f.unsettled(), "damaged", f.damaged)
	}
}

func (l *ledger) journal(r ref) *journal { return (*l.numbered.Load())[r.journal()] }

// close gives the journals back. Everybody who used them has stopped.
func (l *ledger) close() error {
	var failed error
	for _, j := range *l.journals.Load() {
		failed = errors.Join(failed, j.close())
	}
	return failed
}

// acceptance is what became of a payment at the door.
type acceptance uint8

const (
	acceptedNew      acceptance = iota // published: it will be paid
	acceptedAgain                      // known here under the same amount
	acceptedConflict                   // known here under another amount
	acceptedFull                       // no room; nothing was written
)

// accept makes a payment's slot, if there is room and the id is not known here. Room is reserved before the slot is
// published, since nothing may fail after that. It takes no lock, allocates nothing and waits for nothing but, with
// DURABILITY=disk, the sync.
func (l *ledger) accept(id *paymentID, amount cents) (ref, acceptance) {
	hash := indexHash(id)
	var v slotView
	if l.findInto(id, hash, &v) {
		return l.repeated(v, amount)
	}
	if l.pending.Add(1) > l.maxPending {
		l.pending.Add(-1)
		return 0, acceptedFull
	}
	r, first, full := l.active.append(id, amount, l.clock.now(), hash)
	if full {
		l.pending.Add(-1)
		return 0, acceptedFull
	}
	if first != r { // another request with this id was quicker by a hair
		l.pending.Add(-1)
		l.outrun.Add(1)
		v, _ = l.read(first)
		return l.repeated(v, amount)
	}
	l.sync(r)
	return r, acceptedNew
}

// repeated judges a payment whose id is known here. What the slot of a loser says about the amount is not what was, or will
// be, paid: only the winner's counts.
func (l *ledger) repeated(v slotView, amount cents) (ref, acceptance) {
	l.sync(v.ref)
	conflicts := v.amount != amount
	switch v.word.state() {
	case slotElsewhere, slotSetAside: // what is, or was, paid is not known here
		return v.ref, acceptedAgain
	case slotConflict: // paid under another amount than this slot's
		conflicts = v.amount == amount
	case slotAccepted, slotLeaving, slotSent, slotPaid, slotSettled, slotPurged, slotInvalid, slotRejected, slotDuplicate, slotFree, slotStates:
	}
	if conflicts {
		return v.ref, acceptedConflict
	}
	return v.ref, acceptedAgain
}

// find looks an id up in what is mapped: everything unsettled, and what was settled lately.
func (l *ledger) find(id *paymentID, hash uint64) (v slotView, known bool) {
	known = l.findInto(id, hash, &v)
	return v, known
}

// findInto is find without a slot to be carried back where there is none, as for nearly every payment that comes in.
func (l *ledger) findInto(id *paymentID, hash uint64, v *slotView) bool {
	for _, j := range *l.journals.Load() {
		if len(j.table.Load().list) == 0 {
			continue // taken over, and all that is in it is settled
		}
		if j.find(id, hash, v) {
			return true
		}
	}
	return false
}

func (l *ledger) read(r ref) (slotView, bool) { return l.journal(r).read(r.seq()) }

// sync waits until what was stored before is on the disk, if that was asked for.
func (l *ledger) sync(r ref) {
	if l.disk != nil {
		l.disk.wait()
	}
}

// outlivedHost says that the slot is from before a power loss, or a restart of the host.
func (l *ledger) outlivedHost(r ref) bool {
	j := l.journal(r)
	side := j.readers.enter()
	defer j.readers.leave(side)
	seg := j.table.Load().at(r.seq() >> segmentSlotsLog2)
	return seg != nil && seg.head.boot != j.boot
}

// replace puts a new word in place of the one in v, frees the room of a slot that became final, and returns the slot as it is now.
// It is false if somebody else was quicker.
func (l *ledger) replace(v slotView, new word, booked uint64) (slotView, bool) {
	if !l.journal(v.ref).transition(v.ref.seq(), v.word, new, booked) {
		return v, false
	}
	if new.state().final() && !v.word.state().final() { // the way back is ledger.reopened's
		l.pending.Add(-1)
	}
	v.word = new
	return v, true
}

// leaving: an attempt is about to go out, at this processor, under this requestedAt. A crash now leaves a payment that was never
// sent.
func (l *ledger) leaving(v slotView, p processorID, requestedAt micros) (slotView, bool) {
	w := v.word.with(slotLeaving).attempted().at(p, v.acceptedAt, requestedAt)
	v, ok := l.replace(v, w, 0)
	v.requestedAt = v.acceptedAt + micros(w.offset())
	return v, ok
}

// left: the attempt that was leaving goes out now. From here on its outcome is unknown until there is one.
func (l *ledger) left(v slotView) (slotView, bool) { return l.replace(v, v.word.with(slotSent), 0) }

// sent: an attempt goes out, at this processor, under this requestedAt. A pinned slot keeps both.
func (l *ledger) sent(v slotView, p processorID, requestedAt micros) (slotView, bool) {
	w := v.word.with(slotSent).attempted()
	if !w.pinned() {
		w = w.at(p, v.acceptedAt, requestedAt)
	}
	v, ok := l.replace(v, w, 0)
	v.requestedAt = v.acceptedAt + micros(w.offset())
	return v, ok
}

// refused: the attempt has written nothing. It is journalled at once, or one crash in an outage would pin thousands to the
// processor that fails. A pinned slot stays what it is.
func (l *ledger) refused(v slotView) (slotView, bool) {
	if v.word.pinned() {
		return v, true
	}
	return l.replace(v, v.word.with(slotAccepted), 0)
}

// pinned: the attempt's outcome is unknown.
func (l *ledger) pinned(v slotView) (slotView, bool) { return l.replace(v, v.word.pin(), 0) }

// paid: the processor has it, as sent.
func (l *ledger) paid(v slotView) (slotView, bool) {
	return l.replace(v, v.word.with(slotPaid), 0)
}

// paidAs: the processor has it, under the amount and requestedAt that its look-up gave.
func (l *ledger) paidAs(v slotView, p processorID, amount cents, requestedAt micros) (slotView, bool) {
	w := v.word.with(slotPaid)
	if amount == v.amount && requestedAt == v.requestedAt && p == w.processor() {
		return l.replace(v, w, 0)
	}
	w, booked := w.foreignAt(p, amount, v.acceptedAt, requestedAt)
	v, ok := l.replace(v, w, booked)
	v.paidAmount, v.requestedAt = amount, requestedAt
	return v, ok
}

// cleared: both processors were asked and do not know it. It counts as an attempt, and is in doubt no more.
func (l *ledger) cleared(v slotView) (slotView, bool) {
	l.journal(v.ref).doubts.remove(v.ref.seq())
	return l.replace(v, v.word.with(slotAccepted).attempted(), 0)
}

// become moves a slot on to another state, everything else as it is.
func (l *ledger) become(v slotView, s slotState) (slotView, bool) {
	return l.replace(v, v.word.with(s), 0)
}

// keep makes segments ahead of intake, retires and removes old ones, until ctx ends.
func (l *ledger) keep(ctx context.Context) {
	const (
		housekeeping = time.Second // a segment that intake wants is made at once
		fullRetry    = 250 * time.Millisecond
	)
	tick := time.NewTicker(housekeeping)
	defer tick.Stop()
	full := false
	l.active.rest = l.active.restBetweenPages
	for {
		err := l.active.prepare()
		if (err != nil) != full {
			full = err != nil
			if full {
				l.log.Error("journal cannot grow: payments will be refused", "error", err)
			} else {
				l.log.Info("journal grows again")
			}
		}
		var retry <-chan time.Time
		if full {
			retry = time.After(fullRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-retry:
		case <-l.active.wanted:
		case <-tick.C:
			if err := l.tidy(); err != nil {
				l.log.Error("journal cannot be tidied", "error", err)
			}
		}
	}
}

// highestMark is the highest purge mark of any journal in the folder, whoever owns it.
func (l *ledger) highestMark() (uint64, error) {
	ids, err := l.folder.journalIDs()
	if err != nil {
		return 0, err
	}
	var highest uint64
	for _, id := range ids {
		mark, err := l.folder.markOf(id)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("cannot read a journal's purge mark: %w", err)
		}
		highest = max(highest, mark)
	}
	return highest, nil
}

// purge forgets what is settled in every journal of this process.
func (l *ledger) purge(mark uint64) error {
	for _, j := range *l.journals.Load() {
		if err := j.purge(mark); err != nil {
			return err
		}
	}
	return nil
}

func (l *ledger) syncJournals() error {
	for _, j := range *l.journals.Load() {
		if err := j.sync(); err != nil {
			return err
		}
	}
	return nil
}
