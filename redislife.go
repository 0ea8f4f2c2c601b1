package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/gomodule/redigo/redis"
)

// The states of a life, as its key has them. Until every journal has replayed into it, a life may lack payments
// that were made: so nobody claims and nobody is told sums.
const (
	stateReplaying = "replaying"
	stateReady     = "ready"
	stateAny       = "any"
)

// hereLife is how long a process counts as there after it has reported, which it does at every heartbeat.
const hereLife = 3 * time.Second

// pollWindow is how long a service-health poll excludes the next one in the whole cluster: a little over the
// processors' 5 s, because two calls do not travel equally fast.
const pollWindow = 5100 * time.Millisecond

// newLife is what beginLife found.
type newLife struct {
	token lifeToken
	ready bool
	mark  uint64
	// progress says for each journal below which sequence every slot is final in this store.
	progress map[string]uint64
}

// token returns the life in which this process works, or "".
func (s *redisStore) token() lifeToken {
	if known := s.current.Load(); known != nil {
		return known.token
	}
	return ""
}

// ready says whether that life is known to hold everything.
func (s *redisStore) ready() bool {
	known := s.current.Load()
	return known != nil && known.ready
}

// forgetLife ends the life t in this process, if it is still the present one.
func (s *redisStore) forgetLife(t lifeToken) {
	if known := s.current.Load(); known != nil && known.token == t && s.current.CompareAndSwap(known, nil) {
		s.opts.log.Warn("the store's life is over", "life", string(t))
	}
}

// nowReady notes that the life t is ready. It is never taken back: an answer from before that may come behind the one that says so.
func (s *redisStore) nowReady(t lifeToken) {
	if known := s.current.Load(); known != nil && known.token == t && !known.ready {
		s.current.CompareAndSwap(known, &life{token: t, ready: true})
	}
}

// beginLife joins the store's present life, or begins a new one when the server was started anew or wiped, and
// raises the store's purge mark to the caller's.
func (s *redisStore) beginLife(ctx context.Context, mark uint64) (newLife, error) {
	var begun newLife
	err := s.withConn(ctx, s.work, func(conn redis.Conn, run string) error {
		var args scriptArgs
		for _, key := range []string{keyLife, keyMark, keyReports, keyProgress, keyLayout} {
			args.add(key)
		}
		for p := range processorID(processors) {
			args.add(keyPoll + p.String())
		}
		args.keysEnd()
		args.add(run)
		args.add(rand.Text())
		args.add(strconv.FormatUint(mark, 10))
		args.add(strconv.FormatInt(pollWindow.Milliseconds(), 10))
		args.add(storeLayout)
		reply, err := redis.Values(s.scripts.begin.run(ctx, conn, &args))
		if refused, ok := errors.AsType[redis.Error](err); ok && strings.HasPrefix(string(refused), "LAYOUT ") {
			return layoutError{strings.TrimPrefix(string(refused), "LAYOUT ")}
		}
		if err != nil {
			return err
		}
		begun, err = parseNewLife(reply)
		return err
	})
	if err != nil {
		return newLife{}, fmt.Errorf("cannot begin a life of the store: %w", err)
	}
	s.mark.Store(begun.mark)
	s.remember(begun)
	s.cleaner.wake() // An earlier process may have left purged history behind.
	return begun, nil
}

// layoutError says that the store is another version's. Nothing was changed.
type layoutError struct{ found string }

func (e layoutError) Error() string {
	return "Redis has layout " + e.found + " and this galo needs " + storeLayout +
		": stop every instance of the other version and empty that Redis; it is filled again from the journals"
}

// remember makes a life the present one. Within a life ready is never taken back: the reply may be older than
// what report has learnt meanwhile.
func (s *redisStore) remember(begun newLife) {
	for {
		known := s.current.Load()
		ready := begun.ready || known != nil && known.token == begun.token && known.ready
		if s.current.CompareAndSwap(known, &life{token: begun.token, ready: ready}) {
			return
		}
	}
}

func parseNewLife(reply []any) (newLife, error) {
	var state, mark string
	var progress []any
	if _, err := redis.Scan(reply, &state, &mark, &progress); err != nil {
		return newLife{}, err
	}
	token, state, ok := strings.Cut(state, ":")
	if !ok {
		return newLife{}, errors.New("the life has no state")
	}
	begun := newLife{token: lifeToken(token), ready: state == stateReady}
	var err error
	if begun.mark, err = strconv.ParseUint(mark, 10, 64); err != nil {
		return newLife{}, fmt.Errorf("cannot read the purge mark: %w", err)
	}
	told, err := redis.StringMap(progress, nil)
	if err != nil {
		return newLife{}, fmt.Errorf("cannot read the progress: %w", err)
	}
	begun.progress = make(map[string]uint64, len(told))
	for journal, text := range told {
		if low, err := strconv.ParseUint(text, 10, 64); err == nil { // else the whole journal is replayed
			begun.progress[journal] = low
		}
	}
	return begun, nil
}

// report says that the journal has replayed into the life t, and, if settled, that the store has all that it holds as paid: see
// checkHeard. The life is ready once all of the given journals have replayed; the answer says whether it is.
func (s *redisStore) report(ctx context.Context, t lifeToken, journal string, settled bool, all []string) (bool, error) {
	var args scriptArgs
	args.add(keyLife)
	args.add(keyReports)
	args.add(keyHeard)
	args.add(keyHere)
	args.keysEnd()
	args.add(string(t))
	args.add(stateAny)
	args.add(yesNo(settled))
	args.add(journal)
	args.add(s.process)
	args.add(strconv.FormatInt(hereLife.Milliseconds(), 10))
	for _, one := range all {
		args.add(one)
	}
	var state string
	var here int64
	reply, err := redis.Values(s.call(ctx, s.work, t, s.scripts.report, &args))
	if err == nil {
		_, err = redis.Scan(reply, &state, &here)
	}
	if err != nil {
		return false, fmt.Errorf("cannot report journal %s: %w", journal, err)
	}
	s.here.Store(here)
	if state == stateReady {
		s.nowReady(t)
	}
	return state == stateReady, nil
}

// beat is report in a life that is ready, for all journals of this process that have reported in it, and in one round trip: at every
// heartbeat, it says that the life and the mark are what they were, and that this process is there.
func (s *redisStore) beat(ctx context.Context, t lifeToken, mark uint64, settled bool, journals []string) error {
	var args scriptArgs
	for _, key := range []string{keyLife, keyMark, keyHeard, keyHere} {
		args.add(key)
	}
	args.keysEnd()
	args.addHead(t, stateReady, mark)
	args.add(yesNo(settled))
	args.add(s.process)
	args.add(strconv.FormatInt(hereLife.Milliseconds(), 10))
	for _, one := range journals {
		args.add(one)
	}
	here, err := redis.Int64(s.call(ctx, s.work, t, s.scripts.beat, &args))
	if err != nil {
		return fmt.Errorf("cannot tell the store that we are there: %w", err)
	}
	s.here.Store(here)
	s.mark.Store(mark)
	s.cleaner.wake() // a purge may have been heard of by another way, or could not be cleaned up after
	return nil
}

// yesNo is a yes or no as scripts read it.
func yesNo(yes bool) string {
	if yes {
		return "1"
	}
	return "0"
}

// instances is how many processes work with this store, this one included, as far as is known: by the last report. An instance that is gone
// counts for another hereLife.
func (s *redisStore) instances() int { return max(1, int(s.here.Load())) }

// leave says that the store has all that was paid from these journals, and that nothing will be paid from them until they report again.
func (s *redisStore) leave(ctx context.Context, t lifeToken, journals []string) error {
	var args scriptArgs
	args.add(keyLife)
	args.add(keyHeard)
	args.keysEnd()
	args.add(string(t))
	args.add(stateAny)
	for _, one := range journals {
		args.add(one)
	}
	if _, err := s.call(ctx, s.work, t, s.scripts.leave, &args); err != nil {
		return fmt.Errorf("cannot take leave of the store: %w", err)
	}
	return nil
}

// poll asks for the right to poll a processor's service-health now. One instance gets it per pollWindow, and
// nobody in the first one of a new life, since the key that tells of the last poll may be lost.
func (s *redisStore) poll(ctx context.Context, p processorID, instance string) (bool, error) {
	won, err := s.pollCall(ctx, s.scripts.poll, p, instance)
	if err != nil {
		return false, fmt.Errorf("cannot ask for the poll of %s: %w", p, err)
	}
	return won, nil
}

// pollDone begins the window again, now that the processor has answered: it may have counted the call later
// than it was sent.
func (s *redisStore) pollDone(ctx context.Context, p processorID, instance string) error {
	if _, err := s.pollCall(ctx, s.scripts.pollDone, p, instance); err != nil {
		return fmt.Errorf("cannot end the poll of %s: %w", p, err)
	}
	return nil
}

func (s *redisStore) pollCall(ctx context.Context, script storeScript, p processorID, instance string) (bool, error) {
	t := s.token()
	var args scriptArgs
	args.add(keyLife)
	args.add(keyPoll + p.String())
	args.keysEnd()
	args.add(string(t))
	args.add(stateAny)
	args.add(strconv.FormatInt(pollWindow.Milliseconds(), 10))
	args.add(instance)
	return redis.Bool(s.call(ctx, s.work, t, script, &args))
}
