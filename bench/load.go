package main

import (
	"context"
	"errors"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// A load sends a storm's payments at the moments that were fixed beforehand, whatever galo does meanwhile, and
// measures each from the moment it was meant to be sent: what a slow answer delays is counted as slow, too.
type load struct {
	door  *door
	shots []shot
	ends  []shotEnd // by shot; each is written by the shot's own goroutine and read after run has returned
	// due says at a shot's moment whether it is to be sent at all; nil sends every one.
	due func(i int) bool

	latency  *times // every payment that got an answer
	firstTry *times // those of them that needed no second try: what galo did, without the shadow of its deaths
	late     *times // how late the bench itself sent: the part of latency that is not galo's

	// once says that the first try is the last one: the answer that the first one gets is what is judged.
	once bool
	// odd, if it is set, hears of every payment whose last answer was not 202; many goroutines may call it.
	odd func(due time.Time, status int, err error)

	attempted, accepted, refused, unanswered, retried atomic.Int64
	statuses                                          [1000]atomic.Int64 // last answers, by status
}

// shotEnd is how a payment ended for its client.
type shotEnd struct {
	status   int           // of the last answer; 0: none
	took     time.Duration // from the moment it was due to that answer
	late     time.Duration // of that, until the bench sent it
	doubtful bool          // some try may have reached galo without an answer: it may be paid, whatever was answered later
}

// A client tries a few times when it gets no answer, with the same id, and then gives up. The waits outlast a restart.
var retryAfter = [...]time.Duration{50 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond, time.Second, 2 * time.Second}

func newLoad(d *door, shots []shot) *load {
	return &load{
		door: d, shots: shots, ends: make([]shotEnd, len(shots)),
		latency: newTimes(), firstTry: newTimes(), late: newTimes(),
	}
}

// run sends everything and returns when the last client has its answer or has given up.
func (l *load) run(ctx context.Context, start time.Time) {
	var clients sync.WaitGroup
	defer clients.Wait()
	runtime.LockOSThread() // short sleeps block a thread: always the same one
	defer runtime.UnlockOSThread()
	for i := range l.shots {
		due := start.Add(l.shots[i].at)
		if !sleepUntil(ctx, due) {
			return
		}
		if l.due != nil && !l.due(i) {
			continue
		}
		l.attempted.Add(1)
		clients.Go(func() { l.send(ctx, i, due) })
	}
}

// coarse is how much of a wait is left to shortSleep, which can't be cut short.
const coarse = 3 * time.Millisecond

// sleepUntil says no when the context is done first.
func sleepUntil(ctx context.Context, due time.Time) bool {
	if wait := time.Until(due) - coarse; wait > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	for wait := time.Until(due); wait > 0 && ctx.Err() == nil; wait = time.Until(due) {
		shortSleep(wait)
	}
	return ctx.Err() == nil
}

func (l *load) send(ctx context.Context, i int, due time.Time) {
	shot, end := &l.shots[i], &l.ends[i]
	end.late = time.Since(due)
	l.late.add(end.late)
	body := make([]byte, 0, 96)
	body = append(body, `{"correlationId":"`...)
	body = append(body, shot.id.String()...)
	body = append(body, `","amount":`...)
	body = shot.amount.appendDecimal(body)
	body = append(body, '}')

	for try := 0; ; try++ {
		status, err := l.door.post(body)
		if err == nil {
			end.status, end.took = status, time.Since(due)
			end.doubtful = end.doubtful || status == http.StatusBadGateway || status == http.StatusGatewayTimeout
			l.answered(status, end.took, try == 0)
			if status != http.StatusAccepted && l.odd != nil {
				l.odd(due, status, nil)
			}
			return
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			end.doubtful = true
		}
		if l.once || try == len(retryAfter) || ctx.Err() != nil {
			l.unanswered.Add(1)
			l.latency.add(time.Since(due)) // at least so long
			if l.odd != nil {
				l.odd(due, 0, err)
			}
			return
		}
		l.retried.Add(1)
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter[try]):
		}
	}
}

func (l *load) answered(status int, took time.Duration, first bool) {
	l.latency.add(took)
	if first {
		l.firstTry.add(took)
	}
	if status == http.StatusAccepted {
		l.accepted.Add(1)
	} else {
		l.refused.Add(1)
	}
	if status > 0 && status < len(l.statuses) {
		l.statuses[status].Add(1)
	}
}

// times is a histogram that many goroutines write to.
type times struct {
	mu sync.Mutex
	h  *hdrhistogram.Histogram // microseconds
}

const (
	longestTime    = 2 * time.Minute // far beyond all tries of one client
	timePrecision  = 3               // significant digits
	microsPerMilli = 1000
)

func newTimes() *times {
	return &times{h: hdrhistogram.New(1, longestTime.Microseconds(), timePrecision)}
}

func (t *times) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.h.RecordValue(min(max(d, time.Microsecond), longestTime).Microseconds()) // in range by the clamp
}

// quantiles are in microseconds.
type quantiles struct {
	P50  int64 `json:"p50"`
	P99  int64 `json:"p99"`
	P999 int64 `json:"p999"`
	Max  int64 `json:"max"`
}

func (t *times) quantiles() quantiles {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.read()
}

// sinceLast is about what was added since it was asked last.
func (t *times) sinceLast() quantiles {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.read()
	t.h.Reset()
	return q
}

// read is for whoever has mu.
func (t *times) read() quantiles {
	return quantiles{
		P50: t.h.ValueAtQuantile(50), P99: t.h.ValueAtQuantile(99),
		P999: t.h.ValueAtQuantile(99.9), Max: t.h.Max(),
	}
}
