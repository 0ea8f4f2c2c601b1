package main

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/gomodule/redigo/redis"
)

// TestInstancesAreCounted: by process, whatever journals each reports, and no longer than it is heard of.
func TestInstancesAreCounted(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		a, token := readyStore(t, url)
		b := openStore(t, url)
		if _, err := b.beginLife(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		conn := rawConn(t, url)
		now := time.Now()
		for n, step := range []struct {
			reporter, other *redisStore
			othersAge       time.Duration // if it is not nothing, what is made of it
			want            int
		}{
			{a, b, 0, 1},
			{b, a, 0, 2},
			{a, b, 0, 2},
			{a, b, hereLife - time.Second, 2},
			{a, b, hereLife + time.Second, 1},
			{b, a, 0, 2},
			{b, a, -hereLife - 10*time.Second, 1}, // the store's clock was set back
		} {
			if step.othersAge != 0 {
				do(t, conn, "ZADD", keyHere, now.Add(-step.othersAge).UnixMilli(), step.other.process)
			}
			for _, journal := range []string{"j1", "j2"} { // one of its own, and one that it has taken over
				if _, err := step.reporter.report(t.Context(), token, journal, true, []string{"j1"}); err != nil {
					t.Fatal(err)
				}
			}
			if got := step.reporter.instances(); got != step.want {
				t.Errorf("step %d: %d instances, want %d", n, got, step.want)
			}
		}
	})
}

// TestInstancesTakeTheirPartOfWhatAProcessorServes: two that share a store, and one that is left.
func TestInstancesTakeTheirPartOfWhatAProcessorServes(t *testing.T) {
	w, _ := newSharedWorld(t)
	a, b := w.startTwo(t, "MAX_IN_FLIGHT", "100")
	share := func(g *testGalo, want int) func() bool {
		return func() bool {
			g.policy.mu.Lock()
			defer g.policy.mu.Unlock()
			return g.policy.share() == want
		}
	}
	eventually(t, "each has half", func() bool { return share(a, 50)() && share(b, 50)() })
	b.stopAll()
	eventually(t, "the one that is left has all", share(a, 100))
}

func TestLifeIsReadyOnceEveryJournalReported(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		a, b := openStore(t, url), openStore(t, url)
		first, err := a.beginLife(t.Context(), 0)
		if err != nil || first.ready || first.mark != 0 || len(first.progress) != 0 {
			t.Fatalf("%+v, %v", first, err)
		}
		second, err := b.beginLife(t.Context(), 0)
		if err != nil || second.token != first.token || second.ready {
			t.Fatalf("%+v after %+v, %v", second, first, err)
		}
		journals := []string{"j1", "j2", "j3"}
		for i, journal := range journals {
			want := i == len(journals)-1
			if ready, err := a.report(t.Context(), first.token, journal, true, journals); err != nil || ready != want || a.ready() != want {
				t.Fatalf("%s: %v, %v", journal, ready, err)
			}
		}
		if b.ready() {
			t.Fatal("the other instance can't know yet")
		}
		if ready, err := b.report(t.Context(), first.token, "j3", true, journals); err != nil || !ready || !b.ready() {
			t.Fatalf("the other instance learns it when it reports: %v, %v", ready, err)
		}
		if again, err := b.beginLife(t.Context(), 0); err != nil || !again.ready || again.token != first.token {
			t.Fatalf("%+v, %v", again, err)
		}
	})
}

// TestStoreOfAnotherVersionIsRefused: its claims would not be seen, nor ours by it. Nothing of it is changed, and emptied it may be used.
func TestStoreOfAnotherVersionIsRefused(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openStore(t, url)
		first, err := s.beginLife(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		conn := rawConn(t, url)
		for layout, says := range map[string]string{"1": "layout 1", storeLayout + "0": "layout " + storeLayout + "0", "": "did not say"} {
			if do(t, conn, "DEL", keyLayout); layout != "" {
				do(t, conn, "SET", keyLayout, layout)
			}
			before := dump(t, conn)
			_, err := openStore(t, url).beginLife(t.Context(), 7)
			if err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), "empty that Redis") {
				t.Errorf("got %v, want that it is %s", err, says)
			}
			if after := dump(t, conn); after != before {
				t.Errorf("changed to %s", after)
			}
		}
		do(t, conn, "SET", keyLayout, storeLayout)
		if again, err := openStore(t, url).beginLife(t.Context(), 0); err != nil || again.token != first.token {
			t.Errorf("%+v, %v", again, err)
		}
		do(t, conn, "FLUSHALL")
		if again, err := openStore(t, url).beginLife(t.Context(), 0); err != nil || again.token == first.token {
			t.Errorf("%+v, %v", again, err)
		}
	})
}

func TestClaimsNeedTheStateTheyWereMadeFor(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openStore(t, url)
		begun, err := s.beginLife(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		one := paidOne(1, onDefault, noon, 1990)
		in, out := []claim{claimFor(one, "j1", 1)}, make([]claimAnswer, 1)
		ctx := t.Context()
		claimAs := func(t lifeToken, replaying bool) error { return s.claim(ctx, t, replaying, in, out) }
		empty := dump(t, rawConn(t, url))
		if err := claimAs(begun.token, false); !errors.Is(err, errNoLife) {
			t.Fatalf("a worker claimed in a life that is not ready: %v", err)
		}
		if err := claimAs("", true); !errors.Is(err, errNoLife) {
			t.Fatalf("claimed without a life: %v", err)
		}
		if err := claimAs(begun.token+"x", true); !errors.Is(err, errNoLife) {
			t.Fatalf("claimed in a foreign life: %v", err)
		}
		if s.token() != begun.token || s.ready() {
			t.Fatal("the life was forgotten or taken for ready")
		}
		if dump(t, rawConn(t, url)) != empty {
			t.Fatal("a refused claim left something behind")
		}
		if err := claimAs(begun.token, true); err != nil {
			t.Fatalf("replay may claim: %v", err)
		}
		if ready, err := s.report(t.Context(), begun.token, "j1", true, []string{"j1"}); err != nil || !ready {
			t.Fatal(err)
		}
		if err := claimAs(begun.token, true); !errors.Is(err, errNoLife) || !s.ready() {
			t.Fatalf("replay claimed in a life that is ready: %v", err)
		}
	})
}

func TestQueriesNeedALifeThatIsReady(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s := openStore(t, url)
		refused := func(when string) {
			t.Helper()
			if err := s.records(t.Context(), []paymentID{testID(1)}, make([]foundRecord, 1)); !errors.Is(err, errNoLife) {
				t.Errorf("records %s: %v", when, err)
			}
			if _, err := s.summary(t.Context(), 0, noon, nil); !errors.Is(err, errNoLife) {
				t.Errorf("summary %s: %v", when, err)
			}
		}
		refused("without a life")
		if _, err := s.beginLife(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		refused("while replaying")
		makeReady(t, s)
		if _, err := s.summary(t.Context(), 0, noon, nil); err != nil {
			t.Fatal(err)
		}
		do(t, rawConn(t, url), "FLUSHALL")
		refused("in a wiped store")
		if s.token() != "" {
			t.Error("the life of a wiped store is still believed in")
		}
	})
}

func TestWipedStoreIsANewLife(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		do(t, rawConn(t, url), "FLUSHALL")
		one := paidOne(1, onDefault, noon, 1990)
		if _, err := s.settle(t.Context(), token, 0, []settlement{one}, nil); !errors.Is(err, errNoLife) || s.token() != "" {
			t.Fatalf("%v, token %q", err, s.token())
		}
		begun, err := s.beginLife(t.Context(), 0)
		if err != nil || begun.token == token || begun.ready {
			t.Fatalf("%+v, %v", begun, err)
		}
	})
}

func TestRestartIsANewLife(t *testing.T) {
	one := paidOne(1, onDefault, noon, 1990)
	for name, kept := range map[string]string{"without persistence": "no", "with the append-only file": "yes"} {
		t.Run(name, func(t *testing.T) {
			// With everysec a kill may lose what waited for the disk, up to two seconds: here nothing may be lost.
			server := startRedis(t, "--appendonly", kept, "--appendfsync", "always")
			s, token := readyStore(t, server.url())
			if _, err := s.settle(t.Context(), token, 0, []settlement{one}, []journalProgress{{"j1", 42}}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.summary(t.Context(), noon, noon, nil); err != nil {
				t.Fatal(err) // The query pool has an idle connection now, too.
			}
			server.kill()
			if _, err := s.settle(t.Context(), token, 0, []settlement{one}, nil); err == nil || errors.Is(err, errNoLife) {
				t.Fatalf("settled in a dead server: %v", err)
			}
			server.start()

			// The append-only file has brought back the key of the old life, which reads ready.
			_, err := s.settle(t.Context(), token, 0, []settlement{paidOne(2, onDefault, noon, 1)}, nil)
			if !errors.Is(err, errNoLife) || s.token() != "" || s.ready() {
				t.Fatalf("settled in the old life: %v, token %q", err, s.token())
			}
			if _, err := s.summary(t.Context(), noon, noon, nil); !errors.Is(err, errNoLife) {
				t.Fatalf("summary in the old life: %v", err)
			}
			begun, err := s.beginLife(t.Context(), 0)
			if err != nil || begun.ready || begun.token == token || begun.token.run() == token.run() {
				t.Fatalf("%+v after %s, %v", begun, token, err)
			}
			want := map[string]uint64{}
			if kept == "yes" {
				want["j1"] = 42
			}
			if !maps.Equal(begun.progress, want) {
				t.Fatalf("progress %v, want %v", begun.progress, want)
			}
			journals := []string{"j1", "j2"}
			for i, journal := range journals {
				if ready, err := s.report(t.Context(), begun.token, journal, true, journals); err != nil || ready != (i == 1) {
					t.Fatalf("%s: %v, %v", journal, ready, err)
				}
			}
			if got := lookUp(t, s, one.id); got.found != (kept == "yes") {
				t.Fatalf("%+v", got)
			}
		})
	}
}

func TestTokenOfADeadServerNeverReachesTheNextOne(t *testing.T) {
	server := startRedis(t, "--appendfsync", "always")
	s, token := readyStore(t, server.url())
	server.kill()
	server.start()
	for s.token() != "" {
		_ = s.pollDone(t.Context(), onDefault, "me") // Any call will do until one has dialled the new server.
	}
	// A slow beginLife whose answer came from the dead server puts the old token back. The new server has the
	// life's key from its append-only file and would accept it.
	s.current.Store(&life{token: token, ready: true})
	one := paidOne(1, onDefault, noon, 1990)
	if err := s.claim(t.Context(), token, false, []claim{claimFor(one, "j1", 1)}, make([]claimAnswer, 1)); !errors.Is(err, errNoLife) {
		t.Fatalf("claimed in a life that is over: %v", err)
	}
	if s.token() != "" {
		t.Fatal("the token was kept")
	}
}

func TestIdleConnectionsOfAnEarlierServerAreNotBorrowed(t *testing.T) {
	server := startRedis(t)
	s, _ := readyStore(t, server.url())
	if _, err := s.summary(t.Context(), noon, noon, nil); err != nil {
		t.Fatal(err)
	}
	server.kill()
	server.start()
	for {
		if _, err := s.beginLife(t.Context(), 0); err == nil {
			break
		}
	}
	makeReady(t, s)
	if _, err := s.summary(t.Context(), noon, noon, nil); err != nil {
		t.Fatalf("the first summary in the new life: %v", err)
	}
}

func TestNobodyPollsTwiceWithinTheWindow(t *testing.T) {
	// The clock of the embedded kind can be moved by hand, and its keys never expire by themselves.
	mini := startMini(t)
	clock := time.Now()
	mini.SetTime(clock)
	s, _ := readyStore(t, mini.url)
	won := func(instance string) bool {
		t.Helper()
		won, err := s.poll(t.Context(), onDefault, instance)
		if err != nil {
			t.Fatal(err)
		}
		return won
	}
	pass := func(d time.Duration) {
		clock = clock.Add(d)
		mini.SetTime(clock)
	}
	if won("a") {
		t.Fatal("polled in a life that has just begun")
	}
	pass(pollWindow - time.Millisecond)
	if won("a") {
		t.Fatal("polled before the first window of a new life was over")
	}
	pass(time.Millisecond)
	if !won("a") || won("a") || won("b") {
		t.Fatal("one and only one should poll")
	}
	if other, err := s.poll(t.Context(), onFallback, "b"); err != nil || !other {
		t.Fatalf("the other processor has its own window: %v, %v", other, err)
	}
	pass(2 * time.Second)
	if err := s.pollDone(t.Context(), onDefault, "b"); err != nil { // Not its poll.
		t.Fatal(err)
	}
	if err := s.pollDone(t.Context(), onDefault, "a"); err != nil {
		t.Fatal(err)
	}
	pass(pollWindow - time.Millisecond)
	if won("b") {
		t.Fatal("the window begins again with the answer")
	}
	pass(time.Millisecond)
	if !won("b") {
		t.Fatal("the window never ends")
	}
}

func TestPollKeysExpireInRedis(t *testing.T) {
	url := startRedis(t).url()
	s, token := readyStore(t, url)
	conn := rawConn(t, url)
	expires := func() {
		t.Helper()
		left, err := redis.Int64(conn.Do("PTTL", keyPoll+"default"))
		if err != nil || left <= 4000 || left > pollWindow.Milliseconds() {
			t.Fatalf("the poll key has %d ms left, %v", left, err)
		}
	}
	expires()
	if won, err := s.poll(t.Context(), onDefault, "a"); err != nil || won {
		t.Fatalf("%v, %v", won, err)
	}
	do(t, conn, "DEL", keyPoll+"default")
	if won, err := s.poll(t.Context(), onDefault, "an instance"); err != nil || !won {
		t.Fatalf("%v, %v", won, err)
	}
	expires()
	do(t, conn, "PEXPIRE", keyPoll+"default", 4000)
	if err := s.pollDone(t.Context(), onDefault, "an instance"); err != nil {
		t.Fatal(err)
	}
	expires()
	do(t, conn, "FLUSHALL")
	if _, err := s.poll(t.Context(), onDefault, "a"); !errors.Is(err, errNoLife) || s.token() == token {
		t.Fatalf("polled without a life: %v", err)
	}
}
