package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gomodule/redigo/redis"
)

// errNoLife says that no life of the store is known, or that it is another one or in another state than the
// caller believed: nothing was changed, and the caller must go through beginLife and replay.
var errNoLife = errors.New("the store's life is not known or has changed")

// purgedError says that the store has another purge mark than the caller: nothing was changed.
type purgedError struct{ mark uint64 }

func (e purgedError) Error() string {
	return "the store was purged: its mark is " + strconv.FormatUint(e.mark, 10)
}

// lifeToken names one life of the store: the run id of the Redis server and a random part. Claims hold in one
// life only, since a server that was started anew may have lost some.
type lifeToken string

// run returns the run id of the server that the life belongs to.
func (t lifeToken) run() string {
	run, _, _ := strings.Cut(string(t), ".")
	return run
}

// storeOptions is how the store is reached. Zero values stand for the defaults.
type storeOptions struct {
	url string
	// workConns bounds the connections for claims and settlements (8), queryConns those for summaries and
	// look-ups (8), so that neither waits behind the other.
	workConns, queryConns int
	// connectTimeout bounds dialling (1 s), readTimeout and writeTimeout one call each (2 s).
	connectTimeout, readTimeout, writeTimeout time.Duration
	log                                       *slog.Logger
}

func (o storeOptions) withDefaults() storeOptions {
	o.workConns = orDefault(o.workConns, 8)
	o.queryConns = orDefault(o.queryConns, 8)
	o.connectTimeout = orDefault(o.connectTimeout, time.Second)
	o.readTimeout = orDefault(o.readTimeout, 2*time.Second)
	o.writeTimeout = orDefault(o.writeTimeout, 2*time.Second)
	o.log = orDefault(o.log, slog.Default())
	return o
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

// life is what the store remembers of a life: it is replaced whole, never changed.
type life struct {
	token lifeToken
	ready bool
}

// redisStore is the way to the shared store. All methods may be called at the same time.
//
// Any error but errNoLife and purgedError means that the store is away, and nothing may be assumed about what
// was done: everything here may simply be repeated.
type redisStore struct {
	opts    storeOptions
	scripts *storeScripts
	work    *redis.Pool
	query   *redis.Pool

	// server is the run id that the latest dial found. Written by dials; idle connections of any other run are
	// closed instead of being borrowed.
	server atomic.Pointer[string]
	// current is the life in which this process works, nil when none is known. Written by beginLife and report,
	// and cleared by whoever learns that it is over, by compare-and-swap, so that a new one is never cleared.
	current atomic.Pointer[life]
	// mark and swept are what the store was last heard to have: hints for building keys, checked by every script
	// and every summary.
	mark  atomic.Uint64
	swept atomic.Int64

	// process names this process to the store, and here is how many of them the store last knew of.
	process string
	here    atomic.Int64

	cleaner *historyCleaner

	// gate guards closed; calls counts those under way, so that the pools are closed after the last of them:
	// redigo does not take kindly to a pool closed under a caller whose context ends at the same time.
	gate   sync.Mutex
	closed bool
	calls  sync.WaitGroup
}

// newStore returns a store that dials when it is first called. An error means that the url can't be right.
func newStore(opts storeOptions) (*redisStore, error) {
	opts = opts.withDefaults()
	if err := checkRedisURL(opts.url); err != nil {
		return nil, err
	}
	s := &redisStore{opts: opts, scripts: newStoreScripts(), process: rand.Text()}
	s.swept.Store(neverSwept)
	s.work = s.newPool(opts.workConns)
	s.query = s.newPool(opts.queryConns)
	s.cleaner = newHistoryCleaner(s)
	return s, nil
}

// checkRedisURL lets redigo read the url, up to the point where it would dial.
func checkRedisURL(url string) error {
	errDialled := errors.New("the url could be read")
	dial := func(context.Context, string, string) (net.Conn, error) { return nil, errDialled }
	if _, err := dialRedis(context.Background(), url, redis.DialContextFunc(dial)); !errors.Is(err, errDialled) {
		return fmt.Errorf("cannot read the Redis url: %w", err)
	}
	return nil
}

// dialRedis takes what REDIS_URL may be: a URL, or a socket.
func dialRedis(ctx context.Context, url string, options ...redis.DialOption) (redis.Conn, error) {
	if file, ok := strings.CutPrefix(url, socketScheme); ok {
		return redis.DialContext(ctx, "unix", file, append([]redis.DialOption{redis.DialContextFunc(dialQuiet)}, options...)...)
	}
	return redis.DialURLContext(ctx, url, options...)
}

func dialQuiet(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return quieten(conn), nil
}

// close waits for the calls under way and for the store's own goroutine.
func (s *redisStore) close() error {
	s.gate.Lock()
	s.closed = true
	s.gate.Unlock()
	s.cleaner.close()
	s.calls.Wait()
	return errors.Join(s.work.Close(), s.query.Close())
}

func (s *redisStore) newPool(conns int) *redis.Pool {
	return &redis.Pool{
		DialContext:  s.dial,
		MaxActive:    conns,
		MaxIdle:      conns,
		Wait:         true,
		TestOnBorrow: s.checkIdle,
	}
}

// serverConn is a connection that knows which run of Redis it was dialled to. It can't outlive that run.
type serverConn struct {
	redis.ConnWithContext
	run string
}

// askRun is no command of Redis: a serverConn answers it by itself. redigo's pool hides the connections it
// hands out, so that this is the only way to ask one of them.
const askRun = "GALO.RUN"

func (c serverConn) Do(command string, args ...any) (any, error) {
	if command == askRun {
		return c.run, nil
	}
	return c.ConnWithContext.Do(command, args...)
}

// embeddedRun stands for the run id of a server in this process, which lives as long as the process does.
const embeddedRun = "embedded"

// dial opens a connection, learns which run of the server answers, and loads the scripts. When the run is not
// that of the life in hand, that life is over, and is forgotten before anyone gets the connection.
func (s *redisStore) dial(ctx context.Context) (redis.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.opts.connectTimeout)
	defer cancel()
	dialled, err := dialRedis(ctx, s.opts.url,
		redis.DialConnectTimeout(s.opts.connectTimeout),
		redis.DialTLSHandshakeTimeout(s.opts.connectTimeout),
		redis.DialReadTimeout(s.opts.readTimeout),
		redis.DialWriteTimeout(s.opts.writeTimeout))
	if err != nil {
		return nil, fmt.Errorf("cannot connect to Redis: %w", err)
	}
	conn := serverConn{ConnWithContext: dialled.(redis.ConnWithContext)}
	conn.run, err = readRun(ctx, conn)
	if err == nil {
		err = s.scripts.load(ctx, conn)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot set up a connection to Redis: %w", err), conn.Close())
	}
	s.server.Store(&conn.run)
	if known := s.current.Load(); known != nil && known.token.run() != conn.run {
		s.forgetLife(known.token)
	}
	return conn, nil
}

func readRun(ctx context.Context, conn redis.ConnWithContext) (string, error) {
	info, err := redis.String(conn.DoContext(ctx, "INFO", "server"))
	if reply, ok := errors.AsType[redis.Error](err); ok && strings.HasPrefix(string(reply), "section (server)") {
		return embeddedRun, nil // miniredis knows no such section.
	}
	if err != nil {
		return "", err
	}
	for line := range strings.SplitSeq(info, "\r\n") {
		if run, ok := strings.CutPrefix(line, "run_id:"); ok && run != "" {
			return run, nil
		}
	}
	return "", errors.New("INFO server names no run_id")
}

// checkIdle keeps connections to an earlier run of the server from being borrowed.
func (s *redisStore) checkIdle(conn redis.Conn, _ time.Time) error {
	if server := s.server.Load(); server == nil || conn.(serverConn).run != *server {
		return errors.New("the server was started anew")
	}
	return nil
}

// withConn lends f a connection of the pool and the run of the server at its other end.
func (s *redisStore) withConn(ctx context.Context, pool *redis.Pool, f func(conn redis.Conn, run string) error) error {
	s.gate.Lock()
	if s.closed {
		s.gate.Unlock()
		return errors.New("the store is closed")
	}
	s.calls.Add(1)
	s.gate.Unlock()
	defer s.calls.Done()

	conn, err := pool.GetContext(ctx)
	if err != nil {
		return err
	}
	defer conn.Close() // A connection that failed is discarded by redigo; its error has been returned already.
	run, err := redis.String(conn.Do(askRun))
	if err != nil {
		return err
	}
	return f(conn, run)
}

// reach says whether the server answers.
func (s *redisStore) reach(ctx context.Context) error {
	return s.withConn(ctx, s.work, func(conn redis.Conn, _ string) error {
		_, err := redis.DoContext(conn, ctx, "PING")
		return err
	})
}

// call runs a script in the life t. The connection is taken first and the life looked at after that: so a token
// never reaches a server that was started after the life began, where an old life may have come back from disk.
func (s *redisStore) call(ctx context.Context, pool *redis.Pool, t lifeToken, script storeScript, args *scriptArgs) (any, error) {
	var reply any
	err := s.withConn(ctx, pool, func(conn redis.Conn, run string) error {
		if t == "" || t != s.token() {
			return errNoLife
		}
		if t.run() != run {
			s.forgetLife(t)
			return errNoLife
		}
		var err error
		reply, err = script.run(ctx, conn, args)
		return s.refusal(t, err)
	})
	return reply, err
}

// refusal turns what a script refused into the error that callers know, and remembers what it told.
func (s *redisStore) refusal(t lifeToken, err error) error {
	reply, ok := errors.AsType[redis.Error](err)
	if !ok {
		return err
	}
	code, rest, _ := strings.Cut(string(reply), " ")
	switch code {
	case "NOLIFE":
		s.forgetLife(t)
		return errNoLife
	case "LIFESTATE":
		if rest == stateReady {
			s.nowReady(t)
		}
		return errNoLife
	case "PURGED":
		mark, bad := strconv.ParseUint(rest, 10, 64)
		if bad != nil {
			return fmt.Errorf("cannot read the store's purge mark: %w", bad)
		}
		s.mark.Store(mark)
		return purgedError{mark}
	}
	return err
}
