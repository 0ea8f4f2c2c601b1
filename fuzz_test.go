package main

import (
	"context"
	"encoding/json"
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

func (emptySummary) summary(_ context.Context, from, to micros) (summary, error) {
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
	s := (&server{store: emptySummary{}, settler: &settler{stall: &stall{clock: newClock()}}, metrics: newMetrics(), queries: newLane(4, time.Second), log: quietLog()}).routes()
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

// FuzzRecover damages a journal's files in any one place: whatever is there is recovered or reported, and nothing crashes.
func FuzzRecover(f *testing.F) {
	f.Add(uint32(0), []byte{1}, false)
	f.Add(uint32(segmentHeader), []byte{0xff, 0xff}, false)
	f.Add(uint32(segmentHeader+3*slotSize+20), []byte{0, 0, 0, 0, 7}, false)
	f.Add(uint32(8), []byte{9}, true)
	f.Fuzz(func(t *testing.T, at uint32, bytes []byte, head bool) {
		dir := t.TempDir()
		l, _ := openTestLedger(t, dir)
		for n := range uint64(8) {
			accept(t, l, n, 100)
		}
		path, size := segmentPath(l.active.dir, 0), int64(segmentHeader+16*slotSize)
		if head {
			path, size = filepath.Join(l.active.dir, headName), headBytes
		}
		if err := l.close(); err != nil {
			t.Fatal(err)
		}
		file, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := file.WriteAt(bytes, int64(at)%size); err != nil {
			t.Fatal(err)
		}
		file.Close()
		folder, err := openFolder(dir, "test", false, quietLog())
		if err != nil {
			t.Fatal(err)
		}
		again, found, err := openLedger(folder, newClock(), 1<<20, time.Hour, quietLog())
		if err != nil {
			return // a newer format
		}
		defer again.close()
		if found.published > 16 || found.unsettled() > found.published {
			t.Errorf("%+v", found)
		}
	})
}
