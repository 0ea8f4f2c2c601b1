package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowSettles is a store that takes its time for each batch that it settles, and remembers when journals reported that all is settled.
type slowSettles struct {
	*bubble
	took    time.Duration
	away    atomic.Bool
	heard   []time.Time
	batches int
	leaves  int
	did     []string               // "report" of a journal, or "settle" of a batch that is no replay
	onBeat  atomic.Pointer[func()] // called once
}

func (s *slowSettles) beginLife(ctx context.Context, mark uint64) (newLife, error) {
	if s.away.Load() {
		return newLife{}, errors.New("the store is away")
	}
	return s.bubble.beginLife(ctx, mark)
}

func (s *slowSettles) leave(context.Context, lifeToken, []string) error {
	s.leaves++
	return nil
}

func (s *slowSettles) settle(_ context.Context, _ lifeToken, _ uint64, _ []settlement, progress []journalProgress) ([]paymentID, error) {
	time.Sleep(s.took)
	if s.away.Load() {
		return nil, errors.New("the store is away")
	}
	s.batches++
	if progress != nil {
		s.did = append(s.did, "settle")
	}
	return nil, nil
}

func (s *slowSettles) report(_ context.Context, _ lifeToken, journal string, settled bool, _ []string) (bool, error) {
	s.did = append(s.did, "report "+journal)
	if settled {
		s.heard = append(s.heard, time.Now())
	}
	return true, nil
}

func (s *slowSettles) beat(ctx context.Context, t lifeToken, _ uint64, settled bool, _ []string) error {
	if s.away.Load() {
		return errors.New("the store is away")
	}
	if do := s.onBeat.Swap(nil); do != nil {
		(*do)()
	}
	_, err := s.report(ctx, t, "", settled, nil)
	return err
}

// runSettler runs a settler on such a store until it is stopped.
func runSettler(t *testing.T, store *slowSettles) (s *settler, stop func()) {
	l, _ := openTestLedger(t, t.TempDir())
	t.Cleanup(func() { l.close() })
	store.bubble = &bubble{}
	store.living.Store(lifeToken("run.1"))
	s = newSettler(l, store, newLifeWatch(), 0, newMetrics(), quietLog())
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { s.run(ctx, ctx) })
	synctest.Wait() // until it knows the store's life: what is paid before that is replayed
	return s, func() { cancel(); running.Wait() }
}

// pay brings the nth payment to where it is to be settled.
func (s *settler) pay(t *testing.T, n uint64) {
	t.Helper()
	if n%(segmentSlots/2) == 0 {
		if err := s.ledger.active.prepare(); err != nil {
			t.Fatal(err)
		}
	}
	s.add(must(t)(s.ledger.become(accept(t, s.ledger, n, 100), slotPaid)).ref)
}

// TestJournalIsHeardOfUnderLoad: payments come more quickly than one batch follows the other, so that there is always one to settle. The
// journal is heard of all the same, and an order is carried out.
func TestJournalIsHeardOfUnderLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowSettles{took: 3 * time.Millisecond}
		s, stop := runSettler(t, store)
		ordered := make(chan time.Duration, 1)
		for n := range uint64(10_000) {
			s.pay(t, n)
			time.Sleep(time.Millisecond)
			if n == 5_000 {
				go func() {
					since := time.Now()
					if err := s.order(t.Context(), func(context.Context) error { return nil }); err != nil {
						t.Errorf("cannot order: %v", err)
					}
					ordered <- time.Since(since)
				}()
			}
		}
		if took := <-ordered; took > heartbeat {
			t.Errorf("an order waited for %s", took)
		}
		stop()
		last := store.heard[0]
		for _, at := range store.heard {
			if at.Sub(last) > heardLife {
				t.Errorf("not heard of for %s", at.Sub(last))
			}
			last = at
		}
		if silent := time.Since(last); silent > heardLife {
			t.Errorf("not heard of for %s", silent)
		}
	})
}

// TestJournalLacksUntilTheBacklogIsSettled: Redis was away for a while. That one batch has got through says nothing of those behind it.
func TestJournalLacksUntilTheBacklogIsSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowSettles{took: heartbeat}
		s, stop := runSettler(t, store)
		store.away.Store(true)
		const batches = 8
		for n := range uint64(batches*settleBatch - 1) {
			s.pay(t, n)
			if n == 0 {
				time.Sleep(2 * heartbeat) // this one fails alone
			}
		}
		time.Sleep(2 * heartbeat)
		store.away.Store(false)
		returned := time.Now()
		time.Sleep(3 * batches * heartbeat)
		stop()
		if store.batches != batches {
			t.Errorf("%d batches, want %d", store.batches, batches)
		}
		at := slices.IndexFunc(store.heard, func(at time.Time) bool { return at.After(returned) })
		if at < 0 {
			t.Fatal("it was never heard of again")
		}
		const allSettled = (batches - 1) * heartbeat // one was under way
		if after := store.heard[at].Sub(returned); after < allSettled {
			t.Errorf("heard of %s after the store was back, when all is settled after %s at the earliest", after, allSettled)
		}
	})
}

// TestStopDoesNotWaitForARedisThatIsAway: it takes leave where that can be heard.
func TestStopDoesNotWaitForARedisThatIsAway(t *testing.T) {
	for _, away := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			store := &slowSettles{took: time.Millisecond}
			_, stop := runSettler(t, store)
			store.away.Store(away)
			time.Sleep(2 * heartbeat)
			stop()
			if left := store.leaves == 1; left == away {
				t.Errorf("the store is away: %t, and it has taken leave %d times", away, store.leaves)
			}
		})
	}
}

// TestOnlyReplayedJournalsAreHeardOf: a journal that is adopted between two looks is not said to be settled.
func TestOnlyReplayedJournalsAreHeardOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := runSettler(t, &slowSettles{})
		stop()
		ours := *s.ledger.journals.Load()
		names, all := s.journalsIn("run.1")
		if !all || !slices.Equal(names, s.ledger.journalNames()) {
			t.Errorf("of our journals %v are replayed: %v, %t", s.ledger.journalNames(), names, all)
		}
		adopted := append(slices.Clone(ours), &journal{})
		s.ledger.journals.Store(&adopted)
		if names, all := s.journalsIn("run.1"); all || names != nil {
			t.Errorf("one was not replayed: %v, %t", names, all)
		}
		s.ledger.journals.Store(&ours)
	})
}

// TestAdoptedJournalIsEnteredBeforeItIsSettled: it is adopted between the look at the life and the batch, and may have missed a purge.
func TestAdoptedJournalIsEnteredBeforeItIsSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowSettles{}
		s, stop := runSettler(t, store)
		f, err := openFolder(s.ledger.folder.path, "other", false, quietLog())
		if err != nil {
			t.Fatal(err)
		}
		other, _, err := openLedger(f, newClock(), 100, time.Hour, quietLog())
		if err != nil {
			t.Fatal(err)
		}
		must(t)(other.become(accept(t, other, 1, 100), slotPaid))
		id := other.active.id
		crash(other)
		adopt := func() {
			found, err := s.ledger.adoptOrphans(map[journalID]bool{id: true})
			if err != nil || len(found.settling) != 1 {
				t.Errorf("adopted %+v, %v", found, err)
			}
			for _, r := range found.settling {
				s.add(r)
			}
		}
		store.onBeat.Store(&adopt)
		time.Sleep(3 * heartbeat)
		stop()
		entered, settled := slices.Index(store.did, "report "+id.String()), slices.Index(store.did, "settle")
		if entered < 0 || settled < entered {
			t.Errorf("the settler did %q", store.did)
		}
	})
}

// TestLifeThatGoesOnIsReadyAgain: workers were told that it is over, by a connection to another server, say, and it is not.
func TestLifeThatGoesOnIsReadyAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := runSettler(t, &slowSettles{})
		defer stop()
		const token = lifeToken("run.1")
		if s.life.present() != token {
			t.Fatal("it never was")
		}
		s.life.lost(token)
		time.Sleep(2 * heartbeat)
		if s.life.present() != token {
			t.Error("nothing is sent any more")
		}
	})
}
