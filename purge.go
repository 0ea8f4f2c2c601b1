package main

import "context"

type purgeRequest struct{ done chan error }

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

// startPurge raises the mark: in our journals first, then in Redis. If Redis goes away in between the purge is still on: it is done
// before anything is settled again.
func (s *settler) startPurge(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	s.known = "" // of a purge elsewhere we may not have heard yet, and have to go beyond its mark
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
	s.metrics.purges.Inc()
	s.log.Info("settled history forgotten", "mark", wanted)
	return nil
}

// heardOfPurge is called when another instance says that it has purged. What counts is the mark in Redis: it is looked at again.
func (s *settler) heardOfPurge(uint64) {
	s.lookAgain.Store(true)
	s.kick()
}

// adoptMark asks the settler to follow a higher mark, seen in Redis or in a journal.
func (s *settler) adoptMark(mark uint64) {
	for {
		wanted := s.wanted.Load()
		if mark <= wanted || s.wanted.CompareAndSwap(wanted, mark) {
			break
		}
	}
	s.kick()
}
