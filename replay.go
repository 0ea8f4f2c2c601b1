package main

import (
	"context"
	"errors"
	"slices"
	"time"
)

// enter makes sure that Redis's life is known, that it holds what our journals hold, and that workers know when it is ready.
func (s *settler) enter(ctx context.Context) error {
	token := s.store.token()
	if journals, all := s.journalsIn(token); token != "" && token == s.known && all && s.life.present() == token {
		return s.stay(ctx, token, journals)
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
			j.replayedIn, j.replayed = born.token, n
		}
		ids, err := s.ledger.folder.journalIDs()
		if err != nil {
			return err
		}
		if ready, err = s.store.report(ctx, born.token, j.id.String(), !s.lacking.Load(), texts(ids)); err != nil {
			return err
		}
	}
	if ready {
		s.awaiting = false
		if s.life.begun(born.token) {
			s.log.Info("store ready", "life", string(born.token), "mark", s.mark())
		}
		s.known, s.beatDue = born.token, false
		return nil
	}
	// Other journals have yet to report. Settling may go on meanwhile; workers wait.
	if !s.awaiting {
		s.awaiting = true
		s.log.Warn("waiting for the owners of other journals in the folder to report: nothing is sent until then", "life", string(born.token))
	}
	time.AfterFunc(reportRetry, s.kick)
	return nil
}

// stay is enter for a life that our journals are in, and in which all others have reported.
func (s *settler) stay(ctx context.Context, token lifeToken, journals []string) error {
	if !s.beatDue {
		return nil
	}
	err := s.store.beat(ctx, token, s.mark(), !s.lacking.Load(), journals)
	s.beatDue = err != nil
	return err
}

// journalsIn names our journals, and says whether all of them have been replayed into a life: a journal may be adopted at any moment, and of
// one that was not replayed nothing may be said yet.
func (s *settler) journalsIn(token lifeToken) (names []string, all bool) {
	for _, j := range *s.ledger.journals.Load() {
		if j.replayedIn != token {
			return nil, false
		}
		names = append(names, j.name)
	}
	return names, true
}

func (s *settler) allReplayed(token lifeToken) bool {
	_, all := s.journalsIn(token)
	return all
}

func texts(ids []journalID) []string {
	list := make([]string, len(ids))
	for i, id := range ids {
		list[i] = id.String()
	}
	return list
}

// replay brings into a new life what Redis may lack of a journal: everything final from the store's own progress on, and
// the claims of what is out, or may be. What was certainly accepted only has no claim any more: it will claim again.
func (s *settler) replay(j *journal, born newLife) (n int, err error) {
	low := min(born.progress[j.id.String()], j.requeuedFrom())
	now := nowMicros()
	var settled []settlement
	var out, requeued []claim
	var notes []conflictNote
	collect := func(v slotView) {
		if j.maybeRequeued(v) {
			requeued = append(requeued, s.ledger.claimOf(v))
		}
		if st, ok := settlementOf(v, now); ok {
			settled = append(settled, st)
		}
		switch v.word.state() {
		case slotSent, slotLeaving:
			out = append(out, s.ledger.claimOf(v))
		case slotAccepted:
			if j.doubts.has(v.ref.seq()) {
				out = append(out, s.ledger.claimOf(v))
			}
		case slotConflict:
			notes = append(notes, conflictNote{v.id, v.amount})
		case slotFree: // damaged, waits for the mender: may have been paid, or be out. It takes no claim from anybody
			out = append(out, s.ledger.claimOf(v))
		case slotPaid, slotSettled, slotPurged, slotInvalid, slotRejected, slotElsewhere, slotDuplicate, slotSetAside, slotStates:
		}
	}
	flush := func() error {
		n += len(settled) + len(out)
		for batch := range slices.Chunk(settled, settleBatch) {
			if err := s.step(func(ctx context.Context) error {
				_, err := s.store.settle(ctx, born.token, s.mark(), batch, nil)
				return err
			}); err != nil {
				return err
			}
		}
		answers := make([]claimAnswer, settleBatch)
		for batch := range slices.Chunk(out, settleBatch) {
			if err := s.step(func(ctx context.Context) error {
				return s.store.claim(ctx, born.token, !born.ready, batch, answers[:len(batch)])
			}); err != nil {
				return err
			}
			s.check(batch, answers)
		}
		for batch := range slices.Chunk(requeued, settleBatch) { // this life may come from a copy in which they are still rejected
			if err := s.step(func(ctx context.Context) error { return s.store.unreject(ctx, born.token, s.mark(), batch) }); err != nil {
				return err
			}
		}
		if len(notes) > 0 {
			if err := s.step(func(ctx context.Context) error { return s.store.noteConflicts(ctx, notes) }); err != nil {
				return err
			}
		}
		settled, out, requeued, notes = nil, nil, nil, nil
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
	var failed error
	damaged, err := j.eachRetired(low, func(v slotView) {
		if collect(v); len(settled) >= settleBatch && failed == nil {
			failed = flush()
		}
	})
	s.metrics.damaged.Add(damaged)
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

// check says what a journal has found in the place of the claims of what it has out. An older copy of the store may have another
// slot there; in the same life it must never be.
func (s *settler) check(claims []claim, answers []claimAnswer) {
	for i, c := range claims {
		if c.out && answers[i].kind == claimHeld {
			s.log.Warn("claim taken from another slot: its payment is out through this one", "id", c.id.String(), "journal", c.journal, "other", answers[i].rec.journal)
		}
	}
}
