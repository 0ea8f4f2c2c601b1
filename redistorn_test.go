package main

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/gomodule/redigo/redis"
)

// TestSettleThatWasTornOffIsCountedOnce: Redis is killed while it writes a settle to its append-only file. When it is started it leaves
// that out, but as a rule keeps the first half in the file, and plays it when it is started once more.
func TestSettleThatWasTornOffIsCountedOnce(t *testing.T) {
	server := startRedis(t)
	s, token := readyStore(t, server.url())
	settle := func(token lifeToken, n int) {
		t.Helper()
		one := paidOne(n, onDefault, noon, 1990)
		if _, err := s.settle(t.Context(), token, 0, []settlement{one}, nil); err != nil {
			t.Fatal(err)
		}
	}
	startAnew := func() lifeToken {
		t.Helper()
		server.start()
		s = openStore(t, server.url())
		return makeReady(t, s)
	}
	settle(token, 1)
	settle(token, 2)
	server.kill()
	tearOff(t, filepath.Join(server.dir, "appendonlydir"))

	token = startAnew()
	if sum, err := s.summary(t.Context(), math.MinInt64, math.MaxInt64, nil); err != nil || sum.totals[onDefault].requests != 1 {
		t.Fatalf("the last settle was not torn off: %+v, %v", sum, err)
	}
	settle(token, 2) // its journal brings it back
	server.kill()
	startAnew()
	if sum, err := s.summary(t.Context(), math.MinInt64, math.MaxInt64, nil); err != nil || sum.totals[onDefault].requests != 2 || sum.totals[onDefault].amount != 3980 {
		t.Errorf("%+v, %v", sum, err)
	}
}

// TestSettleThatWasTornOffDoesNotComeBack: a payment's rejection is torn off, and it is paid then. When Redis is started once more it plays the
// torn half, which must not stand in the place of what was written since: or the payment would be counted once more.
func TestSettleThatWasTornOffDoesNotComeBack(t *testing.T) {
	server := startRedis(t)
	s, token := readyStore(t, server.url())
	startAnew := func() {
		t.Helper()
		server.start()
		s = openStore(t, server.url())
		token = makeReady(t, s)
	}
	paid := paidOne(2, onDefault, noon, 1990)
	settleAll(t, s, token, paidOne(1, onDefault, noon, 10))
	settleAll(t, s, token, rejectedOne(2, noon))
	server.kill()
	tearOff(t, filepath.Join(server.dir, "appendonlydir"))

	startAnew()
	settleAll(t, s, token, paid)
	server.kill()
	startAnew()
	if r := lookUp(t, s, paid.id); r.state != recordPaid {
		t.Errorf("%s", r.state)
	}
	settleAll(t, s, token, paid)
	if sum, err := s.summary(t.Context(), math.MinInt64, math.MaxInt64, nil); err != nil || sum.totals[onDefault].requests != 2 || sum.totals[onDefault].amount != 2000 {
		t.Errorf("%+v, %v", sum, err)
	}
}

// tearOff cuts an append-only file in the middle of the last command of its last transaction.
func tearOff(t *testing.T, dir string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.incr.aof"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%q, %v", files, err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(text, []byte("*1\r\n$4\r\nEXEC\r\n"))
	if at < 0 {
		t.Fatal("there is no transaction in it")
	}
	if err := os.Truncate(files[0], int64(at+len("*1\r\n$4\r\n"))); err != nil {
		t.Fatal(err)
	}
}

// TestSumsAreExactBeyondWhatLuaCounts: to the cent, also where a number of Lua is not.
func TestSumsAreExactBeyondWhatLuaCounts(t *testing.T) {
	eachServer(t, func(t *testing.T, url string) {
		s, token := readyStore(t, url)
		conn := rawConn(t, url)
		day := bucketLevels()[bucketLevelCount-1]
		number := floorDiv(int64(noon), int64(day.unit))
		key, field := day.appendKey(nil, 0, onDefault, number), strconv.FormatInt(day.field(number), 10)
		for i, c := range []struct{ there, want string }{
			{"", "1990"},
			{"999998009", "999999999"},
			{"999998010", "1000000000"},
			{"9007199254740993", "9007199254742983"},
			{"123456789999998010", "123456790000000000"},
			{"899999999999998010", "900000000000000000"},
		} {
			if c.there != "" {
				do(t, conn, "HSET", key, field+"c", c.there)
			}
			if _, err := s.settle(t.Context(), token, 0, []settlement{paidOne(i, onDefault, noon, 1990)}, nil); err != nil {
				t.Fatal(err)
			}
			if got, err := redis.String(conn.Do("HGET", key, field+"c")); err != nil || got != c.want {
				t.Errorf("%q and 1990 are %q, want %q; %v", c.there, got, c.want, err)
			}
		}
		for _, bad := range []string{"999999999999998010", "-1", "1e3", "12.5", "x"} {
			do(t, conn, "HSET", key, field+"c", bad)
			if _, err := s.settle(t.Context(), token, 0, []settlement{paidOne(99, onDefault, noon, 1990)}, nil); err == nil {
				t.Errorf("added to %q", bad)
			}
		}
	})
}
