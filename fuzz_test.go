package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
)

// FuzzPostPayment sends any body to the handler that clients reach: whatever it is, it is accepted or told what is wrong.
func FuzzPostPayment(f *testing.F) {
	id := nthID(1).String()
	for _, body := range []string{
		`{"correlationId":"` + id + `","amount":19.90}`, `{"amount":1e2,"correlationId":"` + id + `"}`, ``, `{`, `[]`, `null`,
		`{"correlationId":"` + id + `","amount":-1}`, `{"correlationId":"` + id + `","amount":1e999999999}`, "{\"amount\":\x00}",
	} {
		f.Add([]byte(body))
	}
	s, l, d := intakeOnly(f, 1<<17)
	l.maxPending = 1 << 16
	refs := make([]ref, claimBatch)
	f.Fuzz(func(t *testing.T, body []byte) {
		var ctx fasthttp.RequestCtx
		ctx.Request.Header.SetMethod("POST")
		ctx.Request.SetRequestURI("/payments")
		ctx.Request.SetBody(body)
		s.Handler(&ctx)
		switch status := ctx.Response.StatusCode(); status {
		case 202:
			if len(ctx.Response.Body()) != 0 {
				t.Errorf("a 202 with a body: %q", ctx.Response.Body())
			}
		case 400, 409, 422:
			wantProblem(t, &ctx, status)
		default:
			t.Errorf("%q: %d %s", body, status, ctx.Response.Body())
		}
		for d.waiting() > 0 { // what workers would do
			for _, r := range refs[:d.take(context.Background(), 0, refs)] {
				if v, ok := l.read(r); ok {
					l.become(v, slotDuplicate)
				}
			}
		}
		if err := l.active.prepare(); err != nil {
			t.Fatal(err)
		}
	})
}

func wantProblem(t *testing.T, ctx *fasthttp.RequestCtx, status int) {
	t.Helper()
	var p struct {
		Title, Detail string
		Status        int
	}
	if err := json.Unmarshal(ctx.Response.Body(), &p); err != nil || p.Status != status || p.Detail == "" || p.Title == "" {
		t.Errorf("%d without a problem: %s (%v)", status, ctx.Response.Body(), err)
	}
}

type emptySummary struct{}

func (emptySummary) summary(_ context.Context, from, to micros, _ []string) (summary, error) {
	return summary{}, nil
}

// FuzzSummaryQuery asks for any window.
func FuzzSummaryQuery(f *testing.F) {
	for _, query := range []string{
		"", "from=2025-01-01T00:00:00Z", "from=2025-01-01T00:00:00.123456789+02:00&to=2025-01-01T00:00:00-23:59", "to=", "from=%", "from=1&from=2",
		"from=0001-01-01T00:00:00Z&to=9999-12-31T23:59:60.999999999Z", "from=2025-02-30T00:00:00Z",
	} {
		f.Add(query)
	}
	l, _ := openTestLedger(f, f.TempDir())
	f.Cleanup(func() { l.close() })
	s := (&server{ledger: l, store: emptySummary{}, settler: &settler{}, metrics: newMetrics(), lookUps: newLane(4, time.Second), queries: newLane(4, time.Second), log: quietLog()}).routes()
	f.Fuzz(func(t *testing.T, query string) {
		var ctx fasthttp.RequestCtx
		ctx.Request.SetRequestURI("/payments-summary")
		ctx.Request.URI().SetQueryString(query)
		s.Handler(&ctx)
		switch status := ctx.Response.StatusCode(); status {
		case 200:
			if !json.Valid(ctx.Response.Body()) {
				t.Errorf("%q: %s", query, ctx.Response.Body())
			}
		case 400:
			wantProblem(t, &ctx, status)
		default:
			t.Errorf("%q: %d %s", query, status, ctx.Response.Body())
		}
	})
}

// FuzzRecover damages a journal's files at any two places, and may cut a segment short: every slot that is whole is found as it was,
// every other one waits for the mender or was lost with the file's end, and nothing crashes.
func FuzzRecover(f *testing.F) {
	f.Add(uint32(0), []byte{1}, false, uint32(0), []byte{}, uint32(0))
	f.Add(uint32(segmentHeader), []byte{0xff, 0xff}, false, uint32(8), []byte{9}, uint32(0))
	f.Add(uint32(segmentHeader+3*slotSize+20), []byte{0, 0, 0, 0, 7}, false, uint32(0), []byte{}, uint32(0))
	f.Add(uint32(8), []byte{9}, true, uint32(12), []byte{0xff}, uint32(segmentHeader+3*slotSize+20))
	f.Add(uint32(88), []byte{1, 2, 3}, true, uint32(segmentHeader+slotSize), make([]byte, slotSize), uint32(0))
	f.Add(uint32(130), []byte{'2'}, true, uint32(segmentHeader+slotSize), []byte("AAAAAAA\""), uint32(0)) // passes for a word
	f.Fuzz(func(t *testing.T, at uint32, bytes []byte, head bool, again uint32, more []byte, cut uint32) {
		dir := t.TempDir()
		l, _ := openTestLedger(t, dir)
		var were []slotView
		for n := range uint64(8) {
			v := accept(t, l, n, 100)
			if n%2 == 1 {
				v = must(t)(l.sent(v, onFallback, v.acceptedAt+5))
			}
			if n%4 == 3 {
				v = must(t)(l.become(v, slotSettled))
			}
			were = append(were, v)
		}
		journal := l.active.dir
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		segment := segmentPath(journal, 0)
		before, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		const used = segmentHeader + 16*slotSize
		overwrite(t, segment, again%used, more)
		if head {
			overwrite(t, filepath.Join(journal, headName), at%headBytes, bytes)
		} else {
			overwrite(t, segment, at%used, bytes)
		}
		if cut %= used; cut != 0 {
			if err := os.Truncate(segment, int64(cut)); err != nil {
				t.Fatal(err)
			}
		}
		after, err := os.ReadFile(segment)
		if err != nil {
			t.Fatal(err)
		}
		recovered(t, dir, were, before, after)
	})
}

func overwrite(t *testing.T, path string, at uint32, bytes []byte) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(bytes, int64(at)); err != nil {
		t.Fatal(err)
	}
}

const wordBytes = 8 // a slot begins with its word

// recovered opens the folder, takes what has to be adopted, and accounts for every slot that was there before.
func recovered(t *testing.T, dir string, were []slotView, before, after []byte) {
	folder, err := openFolder(dir, "test", false, quietLog())
	if err != nil {
		t.Fatal(err)
	}
	l, found, err := openLedger(folder, newClock(), 1<<20, time.Hour, quietLog())
	if errors.Is(err, errNewerFormat) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	orphans := make(map[journalID]bool)
	for range 2 {
		f, err := l.adoptOrphans(orphans)
		if err != nil {
			t.Fatal(err)
		}
		found.join(f)
	}
	if found.published > 17 || found.unsettled() > found.published || int(l.pending.Load()) != found.unsettled() {
		t.Errorf("%d pending, found %+v", l.pending.Load(), found)
	}
	waiting := make(map[uint64]bool)
	for _, d := range found.waiting {
		waiting[d.ref.seq()] = true
	}
	for i, was := range were {
		from, to := segmentHeader+i*slotSize, segmentHeader+(i+1)*slotSize
		whole := to <= len(after) && string(before[from:to]) == string(after[from:to])
		state := was.word.state()
		v, known := l.find(&was.id, indexHash(&was.id))
		switch {
		case whole && (!known || v.word.state() != state || v.amount != was.amount || v.requestedAt != was.requestedAt):
			t.Errorf("slot %d was %s and whole: found %v, %s, %d at %d", i, state, known, v.word.state(), v.amount, v.requestedAt)
		case whole && waiting[uint64(i)] && state != slotSent: // where the header is damaged, so is the word that the host has not gone down since
			t.Errorf("slot %d is whole and waits for the mender", i)
		case whole || waiting[uint64(i)] || known && v.word.state() == state: // what is damaged in it means nothing there
		case to <= len(after) && string(before[from+wordBytes:to]) == string(after[from+wordBytes:to]) && word(binary.LittleEndian.Uint64(after[from:])).valid():
			// One garbled word in 64 passes its six check bits, and means what it says.
		case to <= len(after) && binary.LittleEndian.Uint64(after[from:]) != 0:
			t.Errorf("slot %d is damaged, and nobody looks after it", i)
		default: // its word is gone: it reads as never published
		}
	}
}
