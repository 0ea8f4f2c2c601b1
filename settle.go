package main

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"
)

// settler brings what the journals say into Redis: payments that were paid or rejected, many in one round trip, and
// everything at once when Redis has begun a new life. It is one goroutine, so that a purge finds no settle under way.
type settler struct {
	ledger   *ledger
	store    settleStore
	life     *lifeWatch
	linger   *linger
	metrics  *metrics
	announce func(mark uint64) // tells the other instances of a purge
	log      *slog.Logger

	queue     *ring         // what is to be settled; has room for all that may be pending
	kicked    chan struct{} // capacity 1: there is something to do
	answering atomic.Bool   // Redis did what it was asked to when it was last asked
	lacking   atomic.Bool   // payments that were paid could not be settled, and not all of those have been since
	missed    bool          // it was away before
	awaiting  bool          // said that other journals have yet to report
	hurry     chan struct{} // capacity 1: what is queued does not linger
	lookAgain atomic.Bool   // whether the life is still the one we know, and its mark
	marked    atomic.Uint64 // the purge mark in force; written by the settler only
	wanted    atomic.Uint64 // a mark that somebody asks for, higher than marked
	purges    chan purgeRequest
	orders    chan settlerOrder
	inHand    int // how many of refs wait for another try
	refs      [settleBatch]ref
	views     []slotView
	batch     []settlement
	known     lifeToken // the life that all our journals have been replayed into
	beatDue   bool      // Redis has not been told for a heartbeat that we are there, nor asked whether its life is still the one we know
}

type settleStore interface {
	token() lifeToken
	beginLife(ctx context.Context, mark uint64) (newLife, error)
	report(ctx context.Context, t lifeToken, journal string, settled bool, all []string) (bool, error)
	beat(ctx context.Context, t lifeToken, mark uint64, settled bool, journals []string) error
	leave(ctx context.Context, t lifeToken, journals []string) error
	noteConflicts(ctx context.Context, notes []conflictNote) error
	unreject(ctx context.Context, t lifeToken, mark uint64, in []claim) error
	claim(ctx context.Context, t lifeToken, replaying bool, in []claim, out []claimAnswer) error
	settle(ctx context.Context, t lifeToken, mark uint64, in []settlement, progress []journalProgress) (hidden []paymentID, err error)
	purge(ctx context.Context, t lifeToken, mark uint64) (uint64, error)
}

const (
	// settleLingers is how many lingers of a claim a settle waits, but not above longestSettleLinger. A batch costs Redis as much as seven
	// payments in it (BenchmarkSettle), so fewer and larger ones are cheap, and only summaries wait for them. These are exact for what was
	// requested 1.5 s ago: an answer may take overdueLatest of that before its settle goes at once (addNow), and this must fit into the rest.
	settleLingers       = 5
	longestSettleLinger = 100 * time.Millisecond
	// settlesEnough is how many payments are worth a settle at once.
	settlesEnough = 32
	// settleBatch is how many payments one script settles: more gains little (see BenchmarkSettle) and keeps others waiting.
	settleBatch = 256
	// heartbeat is how often Redis is asked whether its life is still the one we know, when nothing else asks.
	heartbeat = 500 * time.Millisecond
	// reportRetry is how often a journal asks whether all the others have reported.
	reportRetry = 100 * time.Millisecond
	// storeTimeout bounds one step towards Redis.
	storeTimeout = 5 * time.Second
)

// newSettler returns a settler beside workers whose claims linger for so long at most.
func newSettler(l *ledger, store settleStore, lf *lifeWatch, longest time.Duration, m *metrics, log *slog.Logger) *settler {
	s := &settler{ledger: l, store: store, life: lf, linger: newLinger(min(settleLingers*longest, longestSettleLinger), settlesEnough), metrics: m, announce: func(uint64) {}, log: log,
		queue: newRing(2 * int(l.maxPending)), kicked: make(chan struct{}, 1), hurry: make(chan struct{}, 1), purges: make(chan purgeRequest), orders: make(chan settlerOrder),
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

// addNow is add for a payment that summaries have lacked for long: it does not linger, and what lingers goes with it.
func (s *settler) addNow(r ref) {
	s.add(r)
	raise(s.hurry)
}

func (s *settler) kick() { raise(s.kicked) }

// raise leaves word in a channel of capacity 1.
func raise(flag chan<- struct{}) {
	select {
	case flag <- struct{}{}:
	default:
	}
}

// mark is the purge mark that claims are made under.
func (s *settler) mark() uint64 { return s.marked.Load() }

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
			s.beatDue = true
		case req := <-s.purges:
			request = &req
		case o := <-s.orders:
			o.done <- o.do(ctx)
			continue
		case <-s.kicked:
			pauseUnless(ctx, s.linger.now(), s.hurry)
		}
		if request != nil {
			request.done <- s.startPurge(ctx)
			continue
		}
		s.work(ctx)
	}
	for drain.Err() == nil && s.queue.len()+s.inHand > 0 {
		s.work(drain)
	}
	if s.queue.len()+s.inHand == 0 {
		s.leave(drain)
	}
}

// leave tells Redis that summaries need not wait for our journals, but for those from which something is out. If it does not get to know,
// they wait until our journals are taken over.
func (s *settler) leave(ctx context.Context) {
	token := s.store.token()
	if token == "" || !s.allReplayed(token) || !s.answering.Load() { // a stop does not wait for a Redis that is away
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := s.store.leave(ctx, token, s.ledger.journalsAtRest()); err != nil {
		s.log.Warn("summaries are refused until our journals are taken up again", "error", err)
	}
}

// pause waits, or returns at once when ctx has ended.
func pause(ctx context.Context, d time.Duration) { pauseUnless(ctx, d, nil) }

// pauseUnless is a pause that also ends when there is word in a channel.
func pauseUnless(ctx context.Context, d time.Duration, word <-chan struct{}) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-word:
	}
}

// work settles one batch. If there is more, it is called again at once: in between is time for the heartbeat, however much there is to settle.
func (s *settler) work(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	if err := s.followMark(); err != nil {
		s.log.Error("cannot follow a purge", "error", err)
		return
	}
	if s.lookAgain.Swap(false) {
		s.known = ""
	}
	if err := s.enter(ctx); err != nil {
		s.retry(ctx, err)
		return
	}
	s.inHand += s.queue.popInto(s.refs[s.inHand:])
	if s.inHand > 0 && !s.allReplayed(s.store.token()) { // a journal was adopted since, and may have missed a purge: it is entered first
		s.kick()
		return
	}
	if s.inHand > 0 {
		if err := s.settle(ctx, s.refs[:s.inHand]); err != nil {
			s.retry(ctx, err)
			return
		}
		s.linger.took(s.inHand)
	}
	if s.inHand < settleBatch { // so nothing is left of what had piled up
		s.lacking.Store(false)
	}
	if !s.answering.Swap(true) {
		s.log.Info("store answers")
	}
	s.inHand = 0
	if s.queue.len() > 0 {
		raise(s.hurry)
		s.kick()
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
	case errors.As(err, &purged):
		s.known = "" // Redis missed a purge of ours: entering its life brings the mark
	default:
		s.metrics.storeErrors.Inc()
		s.lacking.Store(s.inHand+s.queue.len() > 0)
		if s.answering.Swap(false) || !s.missed {
			s.log.Warn("store is away: nothing is sent, and summaries are refused", "error", err)
		}
		s.missed = true
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
	hidden, err := s.store.settle(ctx, token, s.mark(), s.batch, s.progress(token))
	if err != nil {
		return err
	}
	for _, v := range s.views {
		final := slotRejected
		if v.word.state() == slotPaid {
			final = slotSettled
			s.metrics.paid(v.word.processor(), now-v.acceptedAt)
		} else {
			s.metrics.rejected.Inc()
		}
		if slices.Contains(hidden, v.id) { // it was settled before, nobody heard of it, and then came a purge
			final = slotPurged
		}
		s.ledger.become(v, final)
	}
	return nil
}

// settlementOf is what Redis is told of a slot; ok is false for one that is not paid or rejected.
func settlementOf(v slotView, now micros) (_ settlement, ok bool) {
	st := settlement{record: record{id: v.id, amount: v.paidAmount, acceptedAt: v.acceptedAt, settledAt: now}}
	switch v.word.state() {
	case slotPaid, slotSettled, slotPurged:
		st.state, st.processor, st.requestedAt = recordPaid, v.word.processor(), v.requestedAt
		st.hidden = v.word.state() == slotPurged
		return st, true
	case slotInvalid, slotRejected:
		st.state = recordRejected
		return st, true
	case slotFree, slotAccepted, slotLeaving, slotSent, slotElsewhere, slotDuplicate, slotConflict, slotSetAside, slotStates:
	}
	return st, false
}

// progress says how far each journal is settled in this life. A journal that was not replayed into it says nothing yet:
// what lies below may be missing in Redis.
func (s *settler) progress(token lifeToken) []journalProgress {
	var list []journalProgress
	for _, j := range *s.ledger.journals.Load() {
		if j.replayedIn == token {
			list = append(list, journalProgress{journal: j.name, low: j.advanceLow()})
		}
	}
	return list
}
