package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

func faultSettingsOf(t *testing.T, args ...string) faultSettings {
	t.Helper()
	s, err := parseFaultSettings(args, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func planText(s faultSettings) string {
	var b strings.Builder
	for n, p := range s.planRounds() {
		for _, f := range p.faults {
			fmt.Fprintln(&b, n, f.at, f)
		}
		fmt.Fprintln(&b, n, p.purge, p.copy)
	}
	return b.String()
}

func TestOneSeedMakesTheSameFaults(t *testing.T) {
	s := faultSettingsOf(t, "-seed", "7", "-hours", "1")
	if a, b := planText(s), planText(s); a != b {
		t.Errorf("two plans of one seed differ:\n%s\n%s", a, b)
	}
	other := faultSettingsOf(t, "-seed", "8", "-hours", "1")
	if planText(s) == planText(other) {
		t.Error("two seeds make the same faults")
	}
}

func TestLoadOfOneSeedDiffersInIDsOnly(t *testing.T) {
	plan := func() (l roundLoad, run []posted) {
		l = planLoad(&run, rand.New(rand.NewPCG(3, loadSalt)), 20*time.Second, 100)
		return l, run
	}
	a, runA := plan()
	b, runB := plan()
	if len(a.shots) < 1000 || len(a.shots) != len(b.shots) {
		t.Fatalf("%d and %d shots", len(a.shots), len(b.shots))
	}
	for i := range a.shots {
		if a.postings[i] != b.postings[i] || a.shots[i].at != b.shots[i].at || a.shots[i].amount != b.shots[i].amount {
			t.Fatalf("shot %d differs: %+v %+v, %+v %+v", i, a.postings[i], a.shots[i], b.postings[i], b.shots[i])
		}
		if a.shots[i].id != runA[a.postings[i].of].id || i > 0 && a.shots[i].at < a.shots[i-1].at {
			t.Fatalf("shot %d is out of order, or of another payment", i)
		}
	}
	if runA[0].id == runB[0].id {
		t.Error("a second run would meet the payments of the first")
	}
}

func TestFaultsOnOneThingNeverOverlap(t *testing.T) {
	for seed := range uint64(50) {
		s := faultSettingsOf(t, "-seed", fmt.Sprint(seed+1), "-for", "15m")
		_, length := s.rounds()
		for _, p := range s.planRounds() {
			until := make(map[thing]time.Duration)
			for _, f := range p.faults {
				for _, on := range f.things {
					if f.at < until[on] {
						t.Fatalf("seed %d: %v begins at %v, before the last one on it is over", seed+1, f, f.at)
					}
					until[on] = f.at + f.hold
				}
				if f.at+f.hold > length {
					t.Fatalf("seed %d: %v ends after its round", seed+1, f)
				}
			}
		}
	}
}

func TestEveryKindOfFaultComesInThreeMinutes(t *testing.T) {
	for seed := range uint64(5) {
		seen := make(map[string]bool)
		for _, p := range faultSettingsOf(t, "-seed", fmt.Sprint(seed+1), "-for", "3m").planRounds() {
			for _, f := range p.faults {
				seen[f.kind] = true
			}
			seen[purgeKind] = seen[purgeKind] || p.purge.on
		}
		for _, name := range kindNames() {
			if !seen[name] {
				t.Errorf("seed %d has no fault of the kind %s in three minutes", seed+1, name)
			}
		}
	}
}

func TestKindsAreRestricted(t *testing.T) {
	for _, p := range faultSettingsOf(t, "-seed", "3", "-only", "kill,redis-wipe").planRounds() {
		for _, f := range p.faults {
			if f.kind != "kill" && f.kind != "redis-wipe" {
				t.Errorf("%v was not asked for", f)
			}
		}
		if p.purge.on || p.purge.mid > 0 {
			t.Error("a purge was not asked for")
		}
	}
	if _, err := parseFaultSettings([]string{"-only", "kill,flood"}, io.Discard); err == nil {
		t.Error("an unknown kind is taken")
	}
}

func TestNoPortIsGivenTwice(t *testing.T) {
	p, seen := newPorts(), make(map[string]bool)
	for range 500 {
		addr, err := p.quiet()
		if err != nil {
			t.Fatal(err)
		}
		if seen[addr] {
			t.Fatalf("%s is given twice", addr)
		}
		seen[addr] = true
	}
}

// TestAnswersAreBooked: what counts for a payment are all answers to all of its postings.
func TestAnswersAreBooked(t *testing.T) {
	const ok, busy, conflict = http.StatusAccepted, http.StatusServiceUnavailable, http.StatusConflict
	f := func(postings []posting, ends []shotEnd, want posted, strange int) {
		t.Helper()
		run := []posted{{amount: 5}}
		bad := roundLoad{postings: postings}.book(run, ends)
		sum := 0
		for _, n := range bad {
			sum += n
		}
		want.amount = 5
		if run[0] != want || sum != strange {
			t.Errorf("%+v with %v: %+v and %d strange answers, want %+v and %d", postings, ends, run[0], sum, want, strange)
		}
	}
	one, two, other := []posting{{}}, []posting{{}, {}}, []posting{{}, {other: true}}
	f(one, []shotEnd{{status: ok}}, posted{accepted: true}, 0)
	f(one, []shotEnd{{status: busy}}, posted{}, 0)
	f(one, []shotEnd{{doubtful: true}}, posted{doubtful: true}, 0)
	f(one, []shotEnd{{status: conflict}}, posted{}, 1)
	f(one, []shotEnd{{status: 500}}, posted{}, 1)
	f(two, []shotEnd{{status: ok}, {status: busy}}, posted{accepted: true}, 0)
	f(two, []shotEnd{{status: busy}, {status: ok, doubtful: true}}, posted{accepted: true, doubtful: true}, 0)
	f(other, []shotEnd{{status: ok}, {status: conflict}}, posted{accepted: true, other: true}, 0)
	f(other, []shotEnd{{status: busy}, {status: ok}}, posted{other: true}, 0)
	f(other, []shotEnd{{status: ok}, {}}, posted{accepted: true}, 0) // it was never sent
}

// TestHealthIsJudgedByTheGap: a processor in a process that was held up is not believed beyond that.
func TestHealthIsJudgedByTheGap(t *testing.T) {
	f := func(c counted, stalled time.Duration, clean bool) {
		t.Helper()
		v := newFaultVerdict(faultSettings{})
		v.health(onDefault, c, stalled)
		if v.clean() != clean {
			t.Errorf("%+v, held up by %v: clean is %v", c, stalled, v.clean())
		}
	}
	f(counted{}, 0, true)
	f(counted{Closest: 5_100_000}, 0, true)
	f(counted{TooSoon: 1, Closest: 4_900_000}, 10*time.Millisecond, false)
	f(counted{TooSoon: 1, Closest: 4_900_000}, 50*time.Millisecond, true)
	f(counted{TooSoon: 1, Closest: 1_000_000}, 200*time.Millisecond, false)
	v := newFaultVerdict(faultSettings{untimed: true})
	if v.health(onDefault, counted{TooSoon: 1, Closest: 1_000_000}, 0); !v.clean() {
		t.Error("a clock that is not to be trusted is trusted")
	}
}

func TestWindowsAreNarrowed(t *testing.T) {
	list := func(at ...int64) (l []written) {
		for _, a := range at {
			l = append(l, written{id: uuid.New(), amount: 1, requestedAt: a})
		}
		return l
	}
	paid := [processors][]written{inOrder(list(9, 3, 5, 5, 1)), inOrder(list(4))}
	for from := int64(0); from < 11; from++ {
		for to := from; to < 11; to++ {
			part := narrowed(paid, window{from, to})
			for p := range paid {
				if got, want := sumOf(part[p]), within(paid[p], from, to); got != want {
					t.Errorf("from %d to %d at %s: %v, want %v", from, to, processorNames[p], got, want)
				}
			}
		}
	}
}

// TestOddAnswersOfAProcessor: those before writing write nothing, the others write.
func TestOddAnswersOfAProcessor(t *testing.T) {
	p, url, err := startProcessor("default", 500, defaultToken)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	admin := newAdminClient("default", url, defaultToken)
	f := func(kind oddKind, status int, whole, writes bool) {
		t.Helper()
		if err := admin.oddly(t.Context(), oddity{kind, 100}); err != nil {
			t.Fatal(err)
		}
		before := len(p.ledger.all())
		body := fmt.Sprintf(`{"correlationId":%q,"amount":1.00,"requestedAt":"2026-01-01T00:00:00Z"}`, uuid.New())
		resp, err := http.Post(url+"/payments", "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != status || (err == nil) != whole || (len(p.ledger.all()) > before) != writes {
			t.Errorf("%s: status %d, read %v, %d written", kind, resp.StatusCode, err, len(p.ledger.all())-before)
		}
	}
	f(oddForbidden, 403, true, false)
	f(oddForeign, 200, true, false)
	f(oddGateway, 502, true, false)
	f(oddBusy, 429, true, false)
	f(oddError, 500, true, true)
	f(oddTorn, 200, false, true)
	f("", 200, true, true)
	if err := admin.oddly(t.Context(), oddity{"upside down", 100}); err == nil {
		t.Error("an unknown kind is taken")
	}
}

// TestWireIsCutAndMended: through a wire that is whole one reaches the other side, through one that is cut or spoilt nobody.
func TestWireIsCutAndMended(t *testing.T) {
	p, url, err := startProcessor("default", 500, defaultToken)
	if err != nil {
		t.Fatal(err)
	}
	defer p.close()
	laid := newWires(newPorts())
	defer laid.close()
	w, err := laid.lay("wire", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	reaches := func() bool {
		client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Get("http://" + w.addr() + "/payments/" + uuid.NewString())
		if err != nil {
			return false
		}
		_, err = io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		return err == nil && resp.StatusCode == http.StatusNotFound
	}
	mend := func() {
		t.Helper()
		if err := w.mend(); err != nil {
			t.Fatal(err)
		}
		if !reaches() {
			t.Fatal("nobody is reached through a mended wire")
		}
	}
	mend()
	w.cut()
	if reaches() {
		t.Error("somebody is reached through a wire that is cut")
	}
	mend()
	rng := rand.New(rand.NewPCG(1, 1))
	for _, bad := range []flaw{*answerFlaws[1](rng), {"limit_data", "downstream", map[string]int64{"bytes": 10}}, {"limit_data", "upstream", map[string]int64{"bytes": 10}}} {
		if err := w.spoil(bad); err != nil {
			t.Fatal(err)
		}
		if reaches() {
			t.Errorf("somebody is reached through a wire with the flaw %v", bad)
		}
		mend()
	}
}

// TestGaloIsBuiltWithASteppedClock: the places that are replaced are there, and another overlay goes in as well.
func TestGaloIsBuiltWithASteppedClock(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles galo")
	}
	dir := t.TempDir()
	if _, err := buildStepped(context.Background(), dir, ""); err != nil {
		t.Fatal(err)
	}
	root, err := moduleRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	broken, overlay := filepath.Join(dir, "broken.go"), filepath.Join(dir, "other.json")
	for path, text := range map[string]string{
		broken:  "package main\n\nthis is no Go\n",
		overlay: fmt.Sprintf(`{"Replace":{%q:%q}}`, filepath.Join(root, "ring.go"), broken),
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := buildStepped(context.Background(), dir, overlay); err == nil || !strings.Contains(err.Error(), "broken.go") {
		t.Errorf("the other overlay was not used: %v", err)
	}
}
