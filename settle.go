package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"
)

// settler brings what the journals say into Redis: payments that were paid or rejected, many in one round trip, and
// everything at once when Redis has begun a new life. It is one goroutine, so that a purge finds no settle under way.
type settler struct {
	ledger   *ledger
	store    settleStore
	life     *lifeWatch
	linger   time.Duration
	metrics  *metrics
	announce func(mark uint64) // tells the other instances of a purge
	log      *slog.Logger

	queue  *ring         // what is to be settled; has room for all that may be pending
	kicked chan struct{} // capacity 1: there is something to do
	urgent atomic.Bool   // the next batch does not linger
	marked atomic.Uint64 // the purge mark in force; written by the settler only
	wanted atomic.Uint64 // a mark that somebody asks for, higher than marked
	purges chan purgeRequest
	refs   [settleBatch]ref
	views  []slotView
	batch  []settlement
	known  lifeToken // the life that all our journals have been replayed into
}

type settleStore interface {
	token() lifeToken
	beginLife(ctx context.Context, mark uint64) (newLife, error)
	report(ctx context.Context, t lifeToken, journal string, all []string) (bool, error)
	noteConflicts(ctx context.Context, notes []conflictNote) error
	claim(ctx context.Context, t lifeToken, replaying bool, mark uint64, in []claim, out []claimAnswer) error
	settle(ctx context.Context, t lifeToken, mark uint64, in []settlement, progress []journalProgress) error
	purge(ctx context.Context, t lifeToken, mark uint64) (uint64, error)
}

type purgeRequest struct{ done chan error }

const (
	// settleBatch is how many payments one script settles: more gains little (see BenchmarkSettle) and keeps others waiting.
	settleBatch = 256
	// heartbeat is how often Redis is asked whether its life is still the one we know, when nothing else asks.
	heartbeat = 500 * time.Millisecond
	// reportRetry is how often a journal asks whether all the others have reported.
	reportRetry = 100 * time.Millisecond
	// storeTimeout bounds one step towards Redis.
	storeTimeout = 5 * time.Second
)

func newSettler(l *ledger, store settleStore, lf *lifeWatch, linger time.Duration, m *metrics, log *slog.Logger) *settler {
	s := &settler{ledger: l, store: store, life: lf, linger: linger, metrics: m, announce: func(uint64) {}, log: log,
		queue: newRing(2 * int(l.maxPending)), kicked: make(chan struct{}, 1), purges: make(chan purgeRequest),
		views: make([]slotView, 0, settleBatch), batch: make([]settlement, 0, settleBatch)}
	for _, j := range *l.journals.Load() {
		s.marked.Store(max(s.marked.Load(), j.head.mark.Load()))
	}
	return s
}

// add hands over a slot that is paid or invalid. The queue cannot be full: it is larger than what may be pending.
func (s *settler) add(r ref) {
	for !s.queue.push(r) {
		time.Sleep(time.Millisecond)
	}
	s.kick()
}

// addNow is add for a payment that summaries have lacked for long: it does not linger.
func (s *settler) addNow(r ref) {
	s.urgent.Store(true)
	s.add(r)
}

func (s *settler) kick() {
	select {
	case s.kicked <- struct{}{}:
	default:
	}
}

// mark is the purge mark that claims are made under.
func (s *settler) mark() uint64 { return s.marked.Load() }

// adoptMark asks the settler to follow a higher mark, seen in Redis or heard from another instance.
func (s *settler) adoptMark(mark uint64) {
	for {
		wanted := s.wanted.Load()
		if mark <= wanted || s.wanted.CompareAndSwap(wanted, mark) {
			break
		}
	}
	s.kick()
}

// purge forgets all settled history, here and in Redis; the other instances follow when they see the mark.
func (s *settler) purge(ctx context.Context) error {
	req := purgeRequest{done: make(chan error, 1)}
	select {
	case s.purges <- req:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-req.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run settles until ctx ends; then it settles what is queued, for as long as drain allows.
func (s *settler) run(ctx, drain context.Context) {
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	s.kick() // the first life is entered at once
	for ctx.Err() == nil {
		var request *purgeRequest
		select {
		case <-ctx.Done():
		case <-tick.C:
			s.known = "" // look again whether it is still the same life
		case req := <-s.purges:
			request = &req
		case <-s.kicked:
			if !s.urgent.Swap(false) {
				pause(ctx, s.linger)
			}
		}
		if request != nil {
			request.done <- s.startPurge(ctx)
			continue
		}
		s.work(ctx)
	}
	for drain.Err() == nil && s.queue.len() > 0 {
		s.work(drain)
	}
}

// pause waits, or returns at once when ctx has ended.
func pause(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// work does all there is to do, or as much as Redis lets it.
func (s *settler) work(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := s.followMark(); err != nil {
		s.log.Error("cannot follow a purge", "error", err)
		return
	}
	if err := s.enter(ctx); err != nil {
		s.retry(ctx, err)
		return
	}
	for ctx.Err() == nil {
		n := s.queue.popInto(s.refs[:])
		if n == 0 {
			return
		}
		if err := s.settle(ctx, s.refs[:n]); err != nil {
			for _, r := range s.refs[:n] {
				s.queue.push(r)
			}
			s.retry(ctx, err)
			return
		}
	}
}

// retry prepares for another round after an error of the store.
func (s *settler) retry(ctx context.Context, err error) {
	if ctx.Err() != nil && !errors.Is(err, context.DeadlineExceeded) {
		return
	}
	var purged purgedError
	switch {
	case errors.Is(err, errNoLife):
		s.known = ""
		pause(ctx, reportRetry)
	case errors.As(err, &purged) && purged.mark > s.mark():
		s.adoptMark(purged.mark)
	default:
		s.metrics.storeErrors.Inc()
		s.log.Debug("store is away", "error", err)
		pause(ctx, reportRetry)
	}
	s.kick()
}

// settle writes one batch, and journals it as settled.
func (s *settler) settle(ctx context.Context, refs []ref) error {
	s.views, s.batch = s.views[:0], s.batch[:0]
	now := nowMicros()
	for _, r := range refs {
		v, ok := s.ledger.read(r)
		if !ok {
			continue
		}
		if st, ok := settlementOf(v, now); ok && !v.word.state().final() {
			s.views = append(s.views, v)
			s.batch = append(s.batch, st)
		}
	}
	if len(s.batch) == 0 {
		return nil
	}
	token := s.store.token()
	if err := s.store.settle(ctx, token, s.mark(), s.batch, s.progress(token)); err != nil {
		return err
	}
	for i, v := range s.views {
		if v.word.state() == slotPaid {
			s.ledger.become(v, slotSettled)
			s.metrics.paid(v.word.processor(), now-v.acceptedAt)
		} else {
			s.ledger.become(v, slotRejected)
		}
		s.views[i] = v
	}
	return nil
}

// settlementOf is what Redis is told of a slot; ok is false for one that is not paid or rejected.
func settlementOf(v slotView, now micros) (_ settlement, ok bool) {
	st := settlement{record{id: v.id, amount: v.paidAmount, acceptedAt: v.acceptedAt, settledAt: now}}
	switch v.word.state() {
	case slotPaid, slotSettled:
		st.state, st.processor, st.requestedAt = recordPaid, v.word.processor(), v.requestedAt
		return st, true
	case slotInvalid, slotRejected:
		st.state = recordRejected
		return st, true
	case slotFree, slotAccepted, slotSent, slotPurged, slotElsewhere, slotDuplicate, slotConflict, slotStates:
	}
	return st, false
}

// progress says how far each journal is settled in this life. A journal that was not replayed into it says nothing yet:
// what lies below may be missing in Redis.
func (s *settler) progress(token lifeToken) []journalProgress {
	var list []journalProgress
	for _, j := range *s.ledger.journals.Load() {
		if j.replayedIn == token {
			list = append(list, journalProgress{journal: j.id.String(), low: j.advanceLow()})
		}
	}
	return list
}

// enter makes sure that Redis's life is known, that it holds what our journals hold, and that workers know when it is ready.
func (s *settler) enter(ctx context.Context) error {
	token := s.store.token()
	if token != "" && token == s.known && s.allReplayed(token) {
		return nil
	}
	s.life.lostUnless(token)
	mark, err := s.ledger.highestMark()
	if err != nil {
		return err
	}
	born, err := s.store.beginLife(ctx, max(mark, s.mark()))
	if err != nil {
		return err
	}
	s.life.lostUnless(born.token)
	if born.mark > s.mark() {
		s.adoptMark(born.mark)
		if err := s.followMark(); err != nil {
			return err
		}
	}
	ready := false
	for _, j := range *s.ledger.journals.Load() {
		if j.replayedIn != born.token {
			if err := j.purge(s.mark()); err != nil { // its owner may have been down when a purge came
				return err
			}
			started := time.Now()
			n, err := s.replay(j, born)
			if err != nil {
				return err
			}
			s.log.Info("journal replayed", "journal", j.id.String(), "life", string(born.token), "slots", n, "took", time.Since(started))
			j.replayedIn = born.token
		}
		ids, err := s.ledger.folder.journalIDs()
		if err != nil {
			return err
		}
		if ready, err = s.store.report(ctx, born.token, j.id.String(), texts(ids)); err != nil {
			return err
		}
	}
	if ready {
		if s.life.begun(born.token) {
			s.log.Info("store ready", "life", string(born.token), "mark", s.mark())
		}
		s.known = born.token
		return nil
	}
	// Other journals have yet to report. Settling may go on meanwhile; workers wait.
	time.AfterFunc(reportRetry, s.kick)
	return nil
}

func (s *settler) allReplayed(token lifeToken) bool {
	for _, j := range *s.ledger.journals.Load() {
		if j.replayedIn != token {
			return false
		}
	}
	return true
}

func texts(ids []journalID) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = id.String()
	}
	return list
}

// replay brings into a new life what Redis may lack of a journal: everything final from the store's own progress on, and
// the claims of what is out. What was accepted only has no claim any more: it will claim again.
func (s *settler) replay(j *journal, born newLife) (n int, err error) {
	low := born.progress[j.id.String()]
	now := nowMicros()
	var settled []settlement
	var out []claim
	var notes []conflictNote
	collect := func(v slotView) {
		if st, ok := settlementOf(v, now); ok {
			settled = append(settled, st)
		} else if v.word.state() == slotSent {
			out = append(out, s.ledger.claimOf(v))
		} else if v.word.state() == slotConflict {
			notes = append(notes, conflictNote{v.id, v.amount})
		}
	}
	flush := func() error {
		n += len(settled) + len(out)
		for len(settled) > 0 {
			step := settled[:min(settleBatch, len(settled))]
			settled = settled[len(step):]
			if err := s.step(func(ctx context.Context) error {
				return s.store.settle(ctx, born.token, s.mark(), step, nil)
			}); err != nil {
				return err
			}
		}
		answers := make([]claimAnswer, settleBatch)
		for len(out) > 0 {
			step := out[:min(settleBatch, len(out))]
			out = out[len(step):]
			if err := s.step(func(ctx context.Context) error {
				return s.store.claim(ctx, born.token, !born.ready, s.mark(), step, answers[:len(step)])
			}); err != nil {
				return err
			}
			s.check(step, answers)
		}
		if len(notes) > 0 {
			if err := s.step(func(ctx context.Context) error { return s.store.noteConflicts(ctx, notes) }); err != nil {
				return err
			}
		}
		settled, out, notes = nil, nil, nil
		return nil
	}
	// The mapped segments first: one that is retired in the meantime is then found among the retired.
	table := j.table.Load()
	for number := max(table.first, low>>segmentSlotsLog2); number < table.end(); number++ {
		j.eachIn(number, low, collect)
		if err := flush(); err != nil {
			return n, err
		}
	}
	oldest := now - micros(s.ledger.retention.Microseconds())
	var failed error
	err = j.eachRetired(low, oldest, func(v slotView) {
		if collect(v); len(settled) >= settleBatch && failed == nil {
			failed = flush()
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return n, err
	}
	return n, flush()
}

// step runs one call to the store under a time limit of its own: a replay as a whole may take long.
func (s *settler) step(call func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	return call(ctx)
}

// check looks for the one thing that must never be: a payment of ours that is out while another slot holds its claim.
func (s *settler) check(claims []claim, answers []claimAnswer) {
	for i, c := range claims {
		if answers[i].kind == claimHeld {
			s.log.Error("two slots have an attempt out for one id", "id", c.id.String(), "journal", c.journal, "other", answers[i].rec.journal)
		}
	}
}

// followMark forgets in our journals what a purge elsewhere has forgotten.
func (s *settler) followMark() error {
	wanted := s.wanted.Load()
	if wanted <= s.mark() {
		return nil
	}
	if err := s.ledger.purge(wanted); err != nil {
		return err
	}
	s.marked.Store(wanted)
	return nil
}

// startPurge raises the mark: in our journals first, then in Redis. If Redis is away the purge is still on: it is done
// before anything is settled again.
func (s *settler) startPurge(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := s.enter(ctx); err != nil {
		return err
	}
	s.adoptMark(s.mark() + 1)
	if err := s.followMark(); err != nil {
		return err
	}
	mark, err := s.store.purge(ctx, s.store.token(), s.mark())
	if err != nil {
		return err
	}
	s.adoptMark(mark)
	s.announce(mark)
	return s.followMark()
}
