package main

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// drawnStorm is a small storm as a recorder leaves it: three seconds, and one in which the rest is paid.
func drawnStorm() *report {
	start := time.UnixMicro(1_000_000_000)
	rep := &report{
		storm: storm{name: "made <up>", stages: []stage{
			{from: 0}, {from: time.Second, delay: [2]time.Duration{100 * time.Millisecond, 0}, failing: [2]bool{true, false}}}},
		lasted: 3 * time.Second, instances: []string{"galo-1", `"two" & more`},
		events: []event{{1500 * time.Millisecond, "<b>galo-1</b> killed"}},
		looks:  []look{{time.Second, checkAgreed}, {2 * time.Second, checkDisagreed}, {2500 * time.Millisecond, checkUnavailable}},
	}
	var shots []shot
	var ends []shotEnd
	for _, at := range []float64{0, 0.5, 1, 2, 2.9} {
		shots = append(shots, shot{at: time.Duration(at * float64(time.Second))})
		ends = append(ends, shotEnd{status: http.StatusAccepted, took: 2 * time.Millisecond})
	}
	ends[3] = shotEnd{status: http.StatusServiceUnavailable, took: time.Millisecond}
	sentAt := func(seconds float64) written {
		return written{requestedAt: start.Add(time.Duration(seconds * float64(time.Second))).UnixMicro()}
	}
	rep.measure(start, shots, ends, [processors][]written{{sentAt(0), sentAt(0.5), sentAt(3.5)}, {sentAt(3.6)}})
	for i := range 12 {
		s := sighting{at: time.Duration(i+1) * sampleEvery, waiting: int64(i), believed: make([][processors]estimate, 2)}
		s.believed[0][onDefault] = estimate{belief(1 + i/4), time.Duration(i) * 100 * time.Millisecond}
		s.believed[1][onFallback] = estimate{beliefSlow, time.Second}
		s.answered[onDefault] = quantiles{P50: 1000, Max: 20_000}
		rep.samples = append(rep.samples, s)
	}
	rep.verdict = verdict{Storm: "made <up>", Seed: 7, Seconds: 3, Sent: 5, Accepted: 4, Refused: 1, Net: 123_456_789,
		Checks: checkCounts{Agreed: 1, Disagreed: 1, Unavailable: 1}}
	rep.verdict.Paid = [processors]paidAt{{Requests: 3}, {Requests: 1}}
	return rep
}

func drawn(t *testing.T, rep *report, form string) string {
	t.Helper()
	var b strings.Builder
	if err := rep.write(&b, form); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// structure is the elements of a picture, each with its class or name, and all its texts.
func structure(t *testing.T, picture string) (elements, texts []string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(picture))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return elements, texts
		}
		if err != nil {
			t.Fatalf("not well-formed: %v", err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			name := token.Name.Local
			for _, a := range token.Attr {
				if a.Name.Local == "class" || a.Name.Local == "id" {
					name += " " + a.Value
				}
			}
			elements = append(elements, name)
		case xml.CharData:
			if text := strings.TrimSpace(string(token)); text != "" {
				texts = append(texts, text)
			}
		}
	}
}

func TestReportIsWellFormedAndHasEveryPanel(t *testing.T) {
	elements, texts := structure(t, drawn(t, drawnStorm(), "picture"))
	for _, id := range []string{"processors", "flow", "waiting", "answers-default", "answers-fallback", "clients", "summaries"} {
		if !slices.Contains(elements, "g "+id) {
			t.Errorf("no panel %s", id)
		}
	}
	count := func(list []string, what string) (n int) {
		for _, one := range list {
			if one == what {
				n++
			}
		}
		return n
	}
	for what, want := range map[string]int{
		"path event": 7, "path l-soft dash": 4, "path shade": 7,
		"path l-bad":   2, // not accepted, and the summary that disagreed
		"path hatched": 2, // the stage that fails, and the view of one that is closed
	} {
		if got := count(elements, what); got != want {
			t.Errorf("%d of %q, want %d", got, what, want)
		}
	}
	for _, text := range []string{
		"Storm made <up>, seed 7: NOT CLEAN", "1,234,567.89", "75.00 %", "100 ms, failing", "galo-1", `"two" & more`,
		"at most 11", "at 3.0 s", "<b>galo-1</b> killed", "■ default 3", "2.5 s: unavailable",
	} {
		if count(texts, text) == 0 {
			t.Errorf("nowhere %q; there is %q", text, texts)
		}
	}
}

func TestReportIsThePageAroundThePicture(t *testing.T) {
	rep := drawnStorm()
	page, picture := drawn(t, rep, "page"), drawn(t, rep, "picture")
	if !strings.HasPrefix(page, "<!DOCTYPE html>") || !strings.Contains(page, picture) {
		t.Error("the page is not around the picture")
	}
	if page != drawn(t, drawnStorm(), "page") {
		t.Error("the same numbers gave another picture")
	}
	if strings.Contains(page, "<up>") || strings.Contains(page, "<b>") || strings.Contains(page, "ZgotmplZ") || strings.Contains(page, "NaN") {
		t.Error("what was recorded is not escaped, or not drawn")
	}
	outside := regexp.MustCompile(`(?i)<script|<link|<img|@import|src=|href=|url\([^#]|https?://`)
	if found := outside.FindString(strings.ReplaceAll(page, `xmlns="http://www.w3.org/2000/svg"`, "")); found != "" {
		t.Errorf("it needs something from outside: %s", found)
	}
}

// TestReportOfNothingIsDrawn: a storm in which nothing was accepted, seen by nobody.
func TestReportOfNothingIsDrawn(t *testing.T) {
	rep := &report{storm: storm{stages: []stage{{}}}, lasted: time.Second}
	rep.measure(time.UnixMicro(0), nil, nil, [processors][]written{})
	picture := drawn(t, rep, "picture")
	if structure(t, picture); strings.Contains(picture, "NaN") || strings.Contains(picture, "Inf") {
		t.Error("a number that is none was drawn")
	}
}

func TestPaymentsAreCountedInTheirSeconds(t *testing.T) {
	rep := drawnStorm()
	if want := []float64{2, 1, 1, 0}; !slices.Equal(rep.accepted, want) {
		t.Errorf("accepted %v, want %v", rep.accepted, want)
	}
	if want := []float64{0, 0, 1, 0}; !slices.Equal(rep.refused, want) {
		t.Errorf("refused %v, want %v", rep.refused, want)
	}
	if want := []float64{2, 0, 0, 1}; !slices.Equal(rep.paid[onDefault], want) {
		t.Errorf("paid at default %v, want %v", rep.paid[onDefault], want)
	}
	if q := rep.latency[2]; q.P50 != 1000 || q.P99 != 2000 || rep.latency[3] != (quantiles{}) {
		t.Errorf("latencies %+v", rep.latency)
	}
}

// TestLittleMoreIsNoBucketOfItsOwn: the last payment is sent a moment after the load ends.
func TestLittleMoreIsNoBucketOfItsOwn(t *testing.T) {
	for last, want := range map[time.Duration]int{time.Second: 2, 2050 * time.Millisecond: 2, 2150 * time.Millisecond: 3} {
		rep := &report{lasted: 2 * time.Second}
		rep.measure(time.UnixMicro(0), nil, nil, [processors][]written{{{requestedAt: last.Microseconds()}}})
		if got := len(rep.accepted); got != want {
			t.Errorf("%d buckets with a payment after %v, want %d", got, last, want)
		}
	}
}

func TestEstimatesFollowTheMetrics(t *testing.T) {
	all := estimates(map[string]float64{
		`galo_processor_open{processor="default"}`: 1, `galo_processor_slow{processor="default"}`: 1,
		`galo_processor_expected_seconds{processor="default"}`: 1.5,
		`galo_processor_open{processor="fallback"}`:            0, `galo_processor_slow{processor="fallback"}`: 0,
	})
	if want := [processors]estimate{{beliefSlow, 1500 * time.Millisecond}, {beliefClosed, 0}}; all != want {
		t.Errorf("read %v, want %v", all, want)
	}
	if all := estimates(nil); all != ([processors]estimate{}) {
		t.Errorf("read %v out of nothing", all)
	}
}

// TestAnswerTimesAreThoseSinceTheLastQuestion: as a processor saw them, its delay included.
func TestAnswerTimesAreThoseSinceTheLastQuestion(t *testing.T) {
	_, admin := served(t)
	const delay = 30 * time.Millisecond
	if err := admin.enter(t.Context(), delay, true); err != nil {
		t.Fatal(err)
	}
	d, err := newDoor(admin.base)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.post([]byte(`{"correlationId":"4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3","amount":1,"requestedAt":"2026-01-01T00:00:00Z"}`)); err != nil {
		t.Fatal(err)
	}
	q, err := admin.answerTimes(t.Context())
	if err != nil || q.P50 < delay.Microseconds() || q.Max < q.P50 {
		t.Errorf("%+v, %v", q, err)
	}
	if q, err = admin.answerTimes(t.Context()); err != nil || q != (quantiles{}) {
		t.Errorf("asked again: %+v, %v", q, err)
	}
}

// TestEventsAreSaidAndKept: a report marks what was done to galo.
func TestEventsAreSaidAndKept(t *testing.T) {
	var said strings.Builder
	s := &screen{out: &said}
	s.happened(1500*time.Millisecond, "%s killed", "galo-1")
	if said.String() != "  1.5 s  galo-1 killed\n" || !slices.Equal(s.events, []event{{1500 * time.Millisecond, "galo-1 killed"}}) {
		t.Errorf("said %q, kept %v", said.String(), s.events)
	}
}

// TestStormIsRecorded: a recorder that watches a storm sees payments wait, and answers, and writes its file.
func TestStormIsRecorded(t *testing.T) {
	rec := &recorder{watched: []watched{{"fake", nil}}}
	rec.watched[0].metrics = func(context.Context) (map[string]float64, error) {
		return map[string]float64{`galo_processor_open{processor="default"}`: 1}, nil
	}
	v, _ := stormFake(t, noFault, rec)
	path := filepath.Join(t.TempDir(), "storm.svg")
	if err := writeReport(path, rec, v); err != nil {
		t.Fatal(err)
	}
	picture, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	structure(t, string(picture))
	rep := rec.report
	seen := slices.ContainsFunc(rep.samples, func(s sighting) bool { return s.believed[0][onDefault].belief == beliefOpen })
	if !seen || len(rep.looks) == 0 || int64(rep.paid[onDefault][0]) == 0 {
		t.Errorf("recorded %+v", rep)
	}
}
