package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"
)

// modelStore is Redis as the store's scripts use it: every call is one atomic step, which looks at the life, then at the purge
// mark, and then does its work. It can be away, wiped, or started anew from any earlier state. Everything is under the world's mu.
type modelStore struct {
	w       *world
	state   *storeState
	history []storeMoment // every state there was, for restarts from an older copy
	run     int           // how often it was started
	lives   int
	ails    ailment
	cut     map[string]bool // instances, by name, that cannot reach it
}

// storeState is what Redis holds. It is replaced whole, never changed.
type storeState struct {
	life      lifeToken // "": the key is missing
	ready     bool
	mark      uint64
	reports   map[string]bool
	progress  map[string]uint64
	claims    map[paymentID]claim
	records   map[paymentID]settlement
	sums      [processors]modelSum // of what is not hidden by the mark
	conflicts map[paymentID]cents
}

type modelSum struct {
	count  int
	amount cents
}

type storeMoment struct {
	at    time.Time
	state *storeState
}

// ailment is what is wrong with the store. A call that fails may have been executed, or may be later.
type ailment uint8

const (
	ailsNothing  ailment = iota
	ailsAway             // refuses connections
	ailsHanging          // takes calls and executes them much later, when nobody waits any more
	ailsLossy            // executes calls and loses one answer in three
	ailsUnsteady         // each of these now and then
	ailments
)

func newModelStore(w *world) *modelStore {
	return &modelStore{w: w, state: emptyState(), cut: make(map[string]bool)}
}

func emptyState() *storeState {
	return &storeState{reports: map[string]bool{}, progress: map[string]uint64{}, claims: map[paymentID]claim{},
		records: map[paymentID]settlement{}, conflicts: map[paymentID]cents{}}
}

func (s *storeState) clone() *storeState {
	c := *s
	c.reports, c.progress, c.claims = maps.Clone(s.reports), maps.Clone(s.progress), maps.Clone(s.claims)
	c.records, c.conflicts = maps.Clone(s.records), maps.Clone(s.conflicts)
	return &c
}

// restart starts the server anew, holding what it held at some earlier moment, no longer ago than so long.
func (m *modelStore) restart(lost time.Duration) {
	at, from := time.Now().Add(-lost), 0
	for from < len(m.history)-1 && m.history[from+1].at.Before(at) {
		from++
	}
	if len(m.history) > 0 {
		m.state = m.history[from+m.w.rng.IntN(len(m.history)-from)].state
	}
	m.begin()
}

// wipe starts the server anew with nothing in it, or empties it while it runs.
func (m *modelStore) wipe(running bool) {
	m.state = emptyState()
	if !running {
		m.begin()
	}
}

func (m *modelStore) begin() {
	m.run++
	m.history = nil
}

// living says that the present life is one in which claims may be made.
func (m *modelStore) living() bool { return m.state.ready && m.state.life.run() == m.runID() }

func (m *modelStore) runID() string { return fmt.Sprint("run", m.run) }

// storeLink is the way of one instance to the store. It keeps what redisStore keeps: the life in hand, and the server that its
// connections lead to.
type storeLink struct {
	in      *modelInstance
	current lifeToken // under the world's mu, as is run
	run     int
}

// What a script refuses with, before the link makes of it what redisStore does.
var (
	errStoreAway = errors.New("the store is away")
	errOtherLife = errors.New("NOLIFE")
	errLifeState = errors.New("LIFESTATE")
)

func (k *storeLink) token() lifeToken {
	k.in.step("before a look at the life")
	k.in.w.mu.Lock()
	defer k.in.w.mu.Unlock()
	return k.current
}

// call carries one script to the store and its answer back. t is the life that it is meant for, or nil. body runs in one step; it
// may run when the caller is long gone, so it must keep its hands off the caller's memory. answered runs when the caller hears of
// it.
func (k *storeLink) call(ctx context.Context, name string, t *lifeToken, body func(s *storeState) error, answered func()) error {
	in, w := k.in, k.in.w
	in.step("before " + name)
	w.mu.Lock()
	store := w.store
	ails := store.ailsFor(in)
	travel := time.Duration(w.rng.IntN(3)) * time.Millisecond
	wait := time.Duration(w.rng.Int64N(int64(2 * time.Second)))
	if in.dead || ails == ailsAway {
		dead := in.dead
		w.mu.Unlock()
		if !dead {
			pause(ctx, min(wait, 100*time.Millisecond))
		}
		return errStoreAway
	}
	if k.run != store.run { // the connections led to a server that is gone
		k.run = store.run
		if k.current.run() != store.runID() {
			k.current = ""
		}
		if w.rng.IntN(2) == 0 {
			w.mu.Unlock()
			return errStoreAway
		}
	}
	if t != nil && (*t == "" || *t != k.current) {
		w.mu.Unlock()
		return errNoLife
	}
	run := store.run
	w.mu.Unlock()
	if ails == ailsHanging {
		time.AfterFunc(travel+wait*3, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			err := store.execute(run, t, body)
			w.note("%s's %s is executed late: %v", in, name, err)
		})
		pause(ctx, 2*time.Second)
		return errStoreAway
	}
	time.Sleep(travel)
	w.mu.Lock()
	err := store.execute(run, t, body)
	w.mu.Unlock()
	in.step("after " + name)
	if ails == ailsLossy {
		pause(ctx, wait)
		err = errStoreAway
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if in.dead {
		return errStoreAway
	}
	w.note("%s %s: %v", in, name, err)
	switch {
	case err == nil:
		answered()
	case errors.Is(err, errOtherLife):
		if k.current == *t {
			k.current = ""
		}
		err = errNoLife
	case errors.Is(err, errLifeState):
		err = errNoLife
	}
	return err
}

// ailsFor decides what ails one call.
func (m *modelStore) ailsFor(in *modelInstance) ailment {
	if m.cut[in.name] {
		return ailsAway
	}
	switch m.ails {
	case ailsLossy:
		if m.w.rng.IntN(3) > 0 {
			return ailsNothing
		}
	case ailsUnsteady:
		return ailment(max(0, m.w.rng.IntN(12)-8))
	case ailsNothing, ailsAway, ailsHanging, ailments:
	}
	return m.ails
}

// execute runs a script in one step, on the server that it was sent to.
func (m *modelStore) execute(run int, t *lifeToken, body func(s *storeState) error) error {
	if run != m.run {
		return errStoreAway
	}
	if t != nil && *t != m.state.life {
		return errOtherLife
	}
	next := m.state.clone()
	if err := body(next); err != nil {
		return err
	}
	m.state = next
	m.history = append(m.history, storeMoment{time.Now(), next})
	return nil
}

func (s *storeState) at(mark uint64) error {
	if mark != s.mark {
		return purgedError{s.mark}
	}
	return nil
}

// raise begins new sums: those of lower marks are never read again.
func (s *storeState) raise(mark uint64) {
	if mark > s.mark {
		s.mark, s.sums = mark, [processors]modelSum{}
	}
}

func (k *storeLink) beginLife(ctx context.Context, mark uint64) (newLife, error) {
	var born newLife
	store := k.in.w.store
	err := k.call(ctx, "begin life", nil, func(s *storeState) error {
		if s.life.run() != store.runID() {
			store.lives++
			s.life, s.ready = lifeToken(fmt.Sprintf("%s.%d", store.runID(), store.lives)), false
			s.reports = map[string]bool{}
		}
		s.raise(mark)
		born = newLife{token: s.life, ready: s.ready, mark: s.mark, progress: maps.Clone(s.progress)}
		return nil
	}, func() { k.current = born.token })
	if err != nil {
		return newLife{}, err
	}
	return born, nil
}

// leave is for summaries, which nobody asks for here.
func (k *storeLink) leave(context.Context, lifeToken, []string) error { return nil }

func (k *storeLink) report(ctx context.Context, t lifeToken, journal string, _ bool, all []string) (bool, error) {
	var ready, heard bool
	err := k.call(ctx, "report", &t, func(s *storeState) error {
		s.reports[journal] = true
		missing := 0
		for _, one := range all {
			if !s.reports[one] {
				missing++
			}
		}
		if missing == 0 && !s.ready {
			s.ready = true
			k.in.w.note("life %s is ready", s.life)
		}
		ready = s.ready
		return nil
	}, func() { heard = ready })
	return heard, err
}

// beat tells a process whether the life and the mark are what they were.
func (k *storeLink) beat(ctx context.Context, t lifeToken, mark uint64, _ bool, _ []string) error {
	return k.call(ctx, "beat", &t, func(s *storeState) error {
		if !s.ready {
			return errLifeState
		}
		return s.at(mark)
	}, func() {})
}

func (k *storeLink) claim(ctx context.Context, t lifeToken, replaying bool, in []claim, out []claimAnswer) error {
	answers := make([]claimAnswer, len(in))
	in = append([]claim(nil), in...)
	return k.call(ctx, "claim", &t, func(s *storeState) error {
		if s.ready == replaying {
			return errLifeState
		}
		for i, c := range in {
			answers[i] = s.claim(c)
			if answers[i].kind == claimWon && s.ready {
				k.in.w.checkClaim(k.in, c)
			}
		}
		return nil
	}, func() { copy(out, answers) })
}

// claim gives the claim to who asks first; a slot with an attempt out takes it from whoever has it.
func (s *storeState) claim(c claim) claimAnswer {
	if r, ok := s.records[c.id]; ok {
		return claimAnswer{kind: claimFinal, rec: r.record}
	}
	there, ok := s.claims[c.id]
	if !ok || c.out {
		s.claims[c.id] = c
	}
	if !ok || there.journal == c.journal && there.seq == c.seq {
		return claimAnswer{kind: claimWon, anew: !ok}
	}
	return claimAnswer{kind: claimHeld, rec: record{id: there.id, amount: there.amount, state: recordClaimed, journal: there.journal, seq: there.seq}}
}

func (k *storeLink) settle(ctx context.Context, t lifeToken, mark uint64, in []settlement, progress []journalProgress) (hidden []paymentID, err error) {
	in = append([]settlement(nil), in...)
	var hid []paymentID
	err = k.call(ctx, "settle", &t, func(s *storeState) error {
		if err := s.at(mark); err != nil {
			return err
		}
		for _, one := range in {
			if s.settle(one) {
				hid = append(hid, one.id)
			}
		}
		for _, p := range progress {
			k.in.w.note("journal %s has got to %d", p.journal, p.low)
			s.progress[p.journal] = max(s.progress[p.journal], p.low)
		}
		return nil
	}, func() { hidden = hid })
	return hidden, err
}

// settle leaves a final record alone, except that a paid one that counts replaces a rejected one. It is true when the record that
// was there is hidden by a purge.
func (s *storeState) settle(one settlement) (hidden bool) {
	old, there := s.records[one.id]
	if there && (old.state == recordPaid || !one.counts()) {
		return old.mark != s.mark
	}
	one.mark = one.under(s.mark)
	s.records[one.id] = one
	delete(s.claims, one.id)
	if one.counts() {
		s.sums[one.processor].count++
		s.sums[one.processor].amount += one.amount
	}
	return false
}

func (k *storeLink) records(ctx context.Context, ids []paymentID, out []foundRecord) error {
	found := make([]foundRecord, len(ids))
	ids = append([]paymentID(nil), ids...)
	t := k.token()
	return k.call(ctx, "records", &t, func(s *storeState) error {
		if !s.ready {
			return errLifeState
		}
		for i, id := range ids {
			if r, ok := s.records[id]; ok {
				found[i] = foundRecord{r.record, true, r.mark != s.mark}
			} else if c, ok := s.claims[id]; ok {
				found[i] = foundRecord{record: record{id: id, amount: c.amount, acceptedAt: c.acceptedAt, state: recordClaimed, journal: c.journal, seq: c.seq}, found: true}
			}
		}
		return nil
	}, func() { copy(out, found) })
}

// unreject finds nothing to take back: nobody in the model queues a rejected payment again.
func (k *storeLink) unreject(context.Context, lifeToken, uint64, []claim) error { return nil }

func (k *storeLink) eachClaim(ctx context.Context, t lifeToken, visit func(record)) error {
	var found []record
	return k.call(ctx, "claims", &t, func(s *storeState) error {
		if !s.ready {
			return errLifeState
		}
		for id, c := range s.claims {
			found = append(found, record{id: id, amount: c.amount, acceptedAt: c.acceptedAt, state: recordClaimed, journal: c.journal, seq: c.seq})
		}
		return nil
	}, func() {
		for _, one := range found {
			visit(one)
		}
	})
}

func (k *storeLink) disown(ctx context.Context, found []record) error {
	t := k.token()
	return k.call(ctx, "disown", &t, func(s *storeState) error {
		if !s.ready {
			return errLifeState
		}
		for _, one := range found {
			if c, ok := s.claims[one.id]; ok && c.journal == one.journal && c.seq == one.seq {
				delete(s.claims, one.id)
			}
		}
		return nil
	}, func() {})
}

func (k *storeLink) noteConflicts(ctx context.Context, notes []conflictNote) error {
	notes = append([]conflictNote(nil), notes...)
	return k.call(ctx, "note conflicts", nil, func(s *storeState) error {
		for _, n := range notes {
			if _, there := s.conflicts[n.id]; !there {
				s.conflicts[n.id] = n.amount
			}
		}
		return nil
	}, func() {})
}

func (k *storeLink) purge(ctx context.Context, t lifeToken, mark uint64) (uint64, error) {
	var inForce uint64
	err := k.call(ctx, "purge", &t, func(s *storeState) error {
		s.raise(mark)
		inForce = s.mark
		return nil
	}, func() {})
	if err != nil {
		return 0, err
	}
	return inForce, nil
}

func (a ailment) String() string {
	return [...]string{"well", "away", "hanging", "losing answers", "unsteady"}[a]
}

func (s *storeState) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "life %s, ready %t, mark %d, %d reports, progress %v, sums %v\n", s.life, s.ready, s.mark, len(s.reports), s.progress, s.sums)
	for id, c := range s.claims {
		fmt.Fprintf(&b, "  claim %s: journal %s seq %d\n", short(id), c.journal, c.seq)
	}
	for id, r := range s.records {
		fmt.Fprintf(&b, "  record %s: %s at %s, %d cents, requested %d, mark %d\n", short(id), r.state, r.processor, r.amount, r.requestedAt, r.mark)
	}
	return b.String()
}
