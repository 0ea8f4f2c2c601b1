package main

import (
	"testing"
)

func TestEmbeddedStoreServesUntilItIsStopped(t *testing.T) {
	url, stop, err := startEmbedded()
	if err != nil {
		t.Fatal(err)
	}
	s, token := readyStore(t, url)
	if token.run() != embeddedRun {
		t.Errorf("the life is %s", token)
	}
	one := paidOne(1, onDefault, noon, 1990)
	settleAll(t, s, token, one)
	if got := lookUp(t, s, one.id); got.record != one.record {
		t.Errorf("%+v", got)
	}
	stop()
	if _, err := s.settle(t.Context(), token, 0, []settlement{one}, nil); err == nil {
		t.Error("settled in a store that is stopped")
	}
}

func TestTwoEmbeddedStoresKeepApart(t *testing.T) {
	var stores []*redisStore
	for range 2 {
		url, stop, err := startEmbedded()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(stop)
		s, token := readyStore(t, url)
		if len(stores) == 0 {
			settleAll(t, s, token, paidOne(1, onDefault, noon, 1990))
		}
		stores = append(stores, s)
	}
	if got := lookUp(t, stores[1], testID(1)); got.found {
		t.Errorf("found %+v", got)
	}
}

// TestEmbeddedGaloHasItsFolderToItself: two of them would wait for each other's journals for ever, and pay nothing.
func TestEmbeddedGaloHasItsFolderToItself(t *testing.T) {
	w := newTestWorld(t)
	g := w.start(t)
	if second, err := w.build("INSTANCE", "two"); err == nil {
		second.close()
		t.Error("a second one was built")
	}
	g.stopAll()
	w.start(t, "INSTANCE", "two")
}
