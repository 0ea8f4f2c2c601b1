package main

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// mender brings back damaged slots (see damage.go) as far as the store knows of them, and looks there for what was out before a power loss. It has
// no work on an ordinary day. It waits for a life of the store that is ready; until then the payments in its hands are not sent, and hold their room.
type mender struct {
	ledger   *ledger
	store    mendStore
	life     *lifeWatch
	resolver *resolver
	metrics  *metrics
	log      *slog.Logger

	mu     sync.Mutex
	given  mendWork
	kicked chan struct{} // capacity 1

	work mendWork // run's own
}

// mendWork is what a journal's scan could not judge by itself.
type mendWork struct {
	slots    []waitingSlot
	searched []*journal
}

func (w *mendWork) empty() bool { return len(w.slots) == 0 && len(w.searched) == 0 }

type mendStore interface {
	records(ctx context.Context, ids []paymentID, out []foundRecord) error
	eachClaim(ctx context.Context, t lifeToken, visit func(record)) error
}

// mendRetry is how soon the store is asked again after no answer.
const mendRetry = time.Second

func newMender(l *ledger, store mendStore, lf *lifeWatch, r *resolver, m *metrics, log *slog.Logger) *mender {
	return &mender{ledger: l, store: store, life: lf, resolver: r, metrics: m, log: log, kicked: make(chan struct{}, 1)}
}

// add hands over what a journal's scan found. Nobody waits.
func (m *mender) add(f found) {
	if len(f.waiting) == 0 && len(f.searched) == 0 {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.given.slots = append(m.given.slots, f.waiting...)
	m.given.searched = append(m.given.searched, f.searched...)
	select {
	case m.kicked <- struct{}{}:
	default:
	}
}

// run mends until ctx ends. What it did not come to is found again at the next start.
func (m *mender) run(ctx context.Context) {
	var retry <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.kicked:
		case <-retry:
		}
		m.mu.Lock()
		m.work.slots = append(m.work.slots, m.given.slots...)
		m.work.searched = append(m.work.searched, m.given.searched...)
		m.given = mendWork{}
		m.mu.Unlock()
		if !m.work.empty() {
			token, ok := m.life.await(ctx)
			if !ok {
				return
			}
			if err := m.mend(ctx, token); err != nil {
				m.log.Debug("slots wait for the store", "error", err)
			}
		}
		retry = nil
		if !m.work.empty() {
			retry = time.After(mendRetry)
		}
	}
}

// mend deals with all that is in hand, in a life that is ready. After an error it is repeated with what is left.
func (m *mender) mend(ctx context.Context, token lifeToken) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	var done mendCount
	defer func() { done.tell(m.log) }()
	if err := m.mendKnown(ctx, &done); err != nil {
		return err
	}
	claims, err := m.claims(ctx, token)
	if err != nil {
		return err
	}
	for _, d := range m.work.slots {
		m.mendUnknown(d.ref, claims, &done)
	}
	m.work.slots = nil
	for _, j := range m.work.searched {
		if err := m.search(j, claims[j.id.String()], &done); err != nil {
			return err
		}
		j.searching.Store(false)
	}
	m.work = mendWork{}
	return nil
}

// mendCount is what became of slots, for one line in the log.
type mendCount struct{ ended, doubtful, out, setAside int }

func (c *mendCount) tell(log *slog.Logger) {
	if *c != (mendCount{}) {
		log.Warn("slots that were damaged, or out before a power loss, were dealt with", "final_in_store", c.ended, "to_be_looked_up", c.doubtful, "to_be_pinned", c.out, "set_aside", c.setAside)
	}
}

// mendKnown deals with the slots of which only the word was damaged, or is doubted, and leaves the others in hand. One that is in doubt keeps its
// word until the processors have answered, so that a start in between finds it in doubt again.
func (m *mender) mendKnown(ctx context.Context, done *mendCount) error {
	views := make([]slotView, 0, len(m.work.slots))
	ids := make([]paymentID, 0, len(m.work.slots))
	for _, d := range m.work.slots {
		if v, ok := m.ledger.read(d.ref); ok && d.known && (v.word.state() == slotFree || v.word.state() == slotSent) {
			views, ids = append(views, v), append(ids, v.id)
		}
	}
	records := make([]foundRecord, len(ids))
	if err := m.store.records(ctx, ids, records); err != nil {
		return err
	}
	for i, v := range views {
		switch rec := records[i]; {
		case rec.found && rec.final():
			m.end(v, rec)
			done.ended++
		case v.word.state() == slotSent, v.word.wasOut() && m.plausible(v.acceptedAt, v.word):
			m.resolver.cross(v.ref)
			done.out++
		default:
			if v, ok := m.ledger.replace(v, damagedWord, 0); ok {
				m.resolver.doubt(v.ref)
				done.doubtful++
			}
		}
	}
	m.work.slots = slices.DeleteFunc(m.work.slots, func(d waitingSlot) bool { return d.known })
	return nil
}

// claims reads the claims of the journals in hand, if there is anything left to look for: by journal and sequence.
func (m *mender) claims(ctx context.Context, token lifeToken) (map[string]map[uint64]record, error) {
	claims := make(map[string]map[uint64]record)
	for _, j := range m.work.searched {
		claims[j.id.String()] = make(map[uint64]record)
	}
	for _, d := range m.work.slots {
		claims[m.ledger.journal(d.ref).id.String()] = make(map[uint64]record)
	}
	if len(claims) == 0 {
		return claims, nil
	}
	return claims, m.store.eachClaim(ctx, token, func(rec record) {
		if of, wanted := claims[rec.journal]; wanted {
			of[rec.seq] = rec
		}
	})
}

// mendUnknown deals with a slot whose fixed part was damaged.
func (m *mender) mendUnknown(r ref, claims map[string]map[uint64]record, done *mendCount) {
	v, ok := m.ledger.read(r)
	if !ok || v.word.state() != slotFree {
		return
	}
	j := m.ledger.journal(r)
	rec, claimed := claims[j.id.String()][r.seq()]
	switch {
	case !claimed:
		if _, ok := m.ledger.replace(v, wordSetAside, 0); ok {
			m.metrics.setAside.Inc()
			m.log.Error("damaged slot set aside: no claim names it", "journal", j.id.String(), "sequence", r.seq())
			done.setAside++
		}
	case v.word.wasOut() && m.plausible(rec.acceptedAt, v.word) && j.rebuild(r.seq(), rec, v.word):
		m.resolver.cross(r)
		done.out++
	case j.rebuild(r.seq(), rec, damagedWord):
		m.resolver.doubt(r)
		done.doubtful++
	}
}

// clockDoubt is by how much the host's clock may have been set back between a payment's acceptance and its attempt, or since.
const clockDoubt = micros(time.Hour / time.Microsecond)

// plausible says that an attempt can have been made when the word says so. Six check bits pass one random word in 64, and its instant
// would be the one at which the payment is booked.
func (m *mender) plausible(acceptedAt micros, w word) bool {
	requestedAt := acceptedAt + micros(w.offset())
	return requestedAt >= acceptedAt-clockDoubt && requestedAt <= m.ledger.clock.now()+clockDoubt
}

// search brings back from their claims the payments whose slots are empty, though they once were not.
func (m *mender) search(j *journal, claims map[uint64]record, done *mendCount) error {
	for seq, rec := range claims {
		lost, missing := j.lost(seq)
		if !lost {
			continue
		}
		if missing {
			if err := j.replaceMissing(seq >> segmentSlotsLog2); err != nil {
				return err
			}
		}
		if !j.rebuild(seq, rec, damagedWord) {
			continue
		}
		m.ledger.pending.Add(1)
		m.log.Error("lost slot brought back from its claim", "journal", j.id.String(), "sequence", seq, "id", rec.id.String())
		m.resolver.doubt(makeRef(j.number, seq))
		done.doubtful++
	}
	return nil
}

// end makes a slot what its final record says.
func (m *mender) end(v slotView, rec foundRecord) {
	state := slotSettled
	if rec.state == recordRejected {
		state = slotRejected
	}
	if rec.hidden {
		state = slotPurged
	}
	w, booked := word(0).with(state), uint64(0)
	if rec.state == recordPaid {
		w, booked = w.foreignAt(rec.processor, rec.amount, v.acceptedAt, rec.requestedAt)
	}
	m.ledger.replace(v, w, booked)
}
