package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A metricsFeed is the metrics of an instance in a container, told again and again by one more container beside it: to start a
// container for each look would take more CPU than the instance does.
type metricsFeed struct {
	latest atomic.Pointer[told]
}

// told is what was said last, and when.
type told struct {
	at      time.Time
	metrics map[string]float64
}

const (
	feedFresh = 4 * sampleEvery // what is older says nothing about now
	feedRetry = 500 * time.Millisecond
)

// feedScript prints what a report needs, an empty line after each time. It ends when the instance does not answer, and when it is asked to.
const feedScript = `trap exit TERM
while wget -q -O /tmp/metrics http://127.0.0.1:9990/metrics; do grep ^galo_processor_ /tmp/metrics; echo; sleep 0.25; done`

// record has the instances watched while a storm runs, if there is to be a report. stop ends that.
func (r *stackRun) record(ctx context.Context, rec *recorder, all []container) (stop func()) {
	if rec == nil {
		return func() {}
	}
	r.recorder = rec
	ctx, cancel := context.WithCancel(ctx)
	var feeds sync.WaitGroup
	instances := instancesOf(all)
	slices.SortFunc(instances, func(a, b container) int { return strings.Compare(a.service, b.service) })
	for _, c := range instances {
		f := &metricsFeed{}
		rec.watched = append(rec.watched, watched{c.service, f.metrics})
		feeds.Go(func() { f.run(ctx, c.id) })
	}
	return func() {
		cancel()
		feeds.Wait()
	}
}

// run reads until the context is done; an instance that was killed is watched again when it is back.
func (f *metricsFeed) run(ctx context.Context, id string) {
	for ctx.Err() == nil {
		cmd := exec.CommandContext(ctx, "docker", "run", "--rm", "--network", "container:"+id, "busybox:1", "sh", "-c", feedScript)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // docker passes it on to the container
		cmd.WaitDelay = stopWithin
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err == nil {
			f.read(bufio.NewScanner(out))
			_ = cmd.Wait() // it says nothing more than that the instance is gone, or that this is over
		}
		sleepUntil(ctx, time.Now().Add(feedRetry))
	}
}

// read takes in one telling after the other.
func (f *metricsFeed) read(lines *bufio.Scanner) {
	var text strings.Builder
	for lines.Scan() {
		if lines.Text() != "" {
			fmt.Fprintln(&text, lines.Text())
			continue
		}
		if m, err := readMetrics(text.String()); err == nil {
			f.latest.Store(&told{time.Now(), m})
		}
		text.Reset()
	}
}

func (f *metricsFeed) metrics(context.Context) (map[string]float64, error) {
	t := f.latest.Load()
	if t == nil || time.Since(t.at) > feedFresh {
		return nil, errors.New("the instance has not told its metrics lately")
	}
	return t.metrics, nil
}
