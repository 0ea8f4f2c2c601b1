package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// faultStorm is an even load on two processors that take a while, so that at any moment there is something on its way. It is
// longer than all faults may take, and ends with them.
func faultStorm(seed uint64, rate float64) storm {
	const length = 15 * time.Minute
	delay := 100 * time.Millisecond
	return storm{
		name: "faults", seed: seed, length: length, scattered: true,
		stages: []stage{{delay: [processors]time.Duration{delay, delay}}},
		rate:   []ratePoint{{0, faultRate * rate}, {length, faultRate * rate}},
		lowest: 1, highest: previewAmount,
	}
}

const (
	faultRate = 200 // payments a second: the faults are judged, not the speed
	// No client gives up before nginx has tried what it may: two instances, 8 s in all.
	faultPatience = 30 * time.Second
	// A calm moment before each fault, so that each strikes a stack that is well.
	faultCalm = 2 * time.Second
	// How long Redis and NATS stay away, and how long an instance does for whose journal there are takers.
	faultAway = 3 * time.Second
	goneFor   = 10 * time.Second
	// How long a container may take to be healthy again.
	healthyWithin = 3 * time.Minute
)

// stackFaults harms the parts of the stack one after the other while a storm runs.
type stackFaults struct {
	run     *stackRun
	project project
	renamed project // with the second instance under another name
	door    *door
	failed  []string
}

// faults plays a storm at the real stack, does every harm to it that an operator may see, and judges what its clients saw.
func (r *stackRun) faults(ctx context.Context, result *stackVerdict) (err error) {
	p := project{name: "galo-bench", root: r.root, files: []string{"docker-compose.yml"}}
	defer r.leaveStack(ctx, p, &err)
	d, err := r.startStack(ctx, p)
	if err != nil {
		return err
	}
	d.patience, d.slow.Timeout = faultPatience, faultPatience
	d.unserved = nil // what was asked before it was up
	r.screen.say("asking for what can be reached through nginx, and for what cannot")
	wrong := reach(ctx, stackHost, faultPatience)
	f := &stackFaults{run: r, project: p, renamed: p, door: d}
	f.renamed.files = append(slices.Clone(p.files), "bench/renamed.compose.yml")

	opts := r.settings.stormOptions(r.screen)
	opts.disturb, opts.untilDisturbed, opts.firstTries, opts.fresh = f.disturb, true, true, true
	begun, err := r.engine.containers(ctx, p.name)
	if err != nil {
		return err
	}
	defer r.record(ctx, opts.recorder, begun)()
	r.screen.say("storm %s, seed %d: %.0f payments a second at %s", r.storm.name, r.storm.seed, r.storm.rate[0].perSecond, stackAddress)
	if result.verdict, err = runStorm(ctx, d, r.storm, r.admins(), opts); err != nil {
		return err
	}
	result.Crashes = append(append(result.Crashes, wrong...), f.failed...)
	result.Crashes = append(result.Crashes, unserved(&result.verdict, d.unserved)...)
	if err := f.awaitNothingLeft(ctx); err != nil {
		result.Crashes = append(result.Crashes, err.Error())
	}
	all, err := r.engine.containers(ctx, p.name)
	if err != nil {
		return err
	}
	if err := r.crashes(ctx, f.renamed, all, &result.verdict); err != nil {
		return err
	}
	if !result.clean() {
		return r.saveLogs(ctx, p)
	}
	return nil
}

// unserved is what clients saw of the faults: every payment is to be accepted at its first try, and every question answered by
// galo itself, even if it says that it cannot know now.
func unserved(v *verdict, questions []error) (all []string) {
	if v.Refused > 0 {
		all = append(all, fmt.Sprintf("%d payments were not accepted at their first try%s", v.Refused, v.notAccepted()))
	}
	if v.Unanswered > 0 {
		all = append(all, fmt.Sprintf("%d payments got no answer at their first try", v.Unanswered))
	}
	if len(questions) > 0 {
		all = append(all, fmt.Sprintf("%d questions were not answered by galo, such as %v", len(questions), sample(questions)))
	}
	return all
}

// disturb does each harm once, in the order of the table.
func (f *stackFaults) disturb(ctx context.Context, start time.Time, length time.Duration) int {
	faults := []struct {
		name string
		do   func(context.Context) error
	}{
		{"an instance killed and started again at once", func(ctx context.Context) error { return f.killAndStart(ctx, "galo1", 0) }},
		{"an instance killed and away until its journal has another owner", func(ctx context.Context) error { return f.killAndStart(ctx, "galo2", goneFor) }},
		{"Redis killed", func(ctx context.Context) error { return f.killAndStart(ctx, "redis", faultAway) }},
		{"NATS killed", func(ctx context.Context) error { return f.killAndStart(ctx, "nats", faultAway) }},
		{"a rolling restart of both instances", f.rollingRestart},
		{"a crowd of clients that ask for nothing, or a byte at a time", f.crowd},
		{"an instance killed and its container made anew under another name", f.makeAnew},
	}
	for n, fault := range faults {
		if !sleepUntil(ctx, time.Now().Add(faultCalm)) {
			return n
		}
		began := time.Now()
		f.run.screen.happened(began.Sub(start), "%s", fault.name)
		err := fault.do(ctx)
		if err == nil {
			err = f.door.awaitAnswer(ctx, healthyWithin)
		}
		if ctx.Err() != nil {
			return n
		}
		if err != nil {
			f.failed = append(f.failed, fmt.Sprintf("%s: %v", fault.name, err))
			return n + 1
		}
		f.run.screen.happened(time.Since(start), "well again after %.1f s", time.Since(began).Seconds())
	}
	if time.Since(start) > length {
		f.failed = append(f.failed, fmt.Sprintf("the storm of %v was over before the last fault", length))
	}
	sleepUntil(ctx, time.Now().Add(faultCalm))
	return len(faults)
}

// container finds the container that a service has now.
func (f *stackFaults) container(ctx context.Context, service string) (container, error) {
	all, err := f.run.engine.containers(ctx, f.project.name)
	if err != nil {
		return container{}, err
	}
	for _, c := range all {
		if c.service == service {
			return c, nil
		}
	}
	return container{}, fmt.Errorf("cannot find container of %s", service)
}

func (f *stackFaults) kill(ctx context.Context, service string) (container, error) {
	c, err := f.container(ctx, service)
	if err != nil {
		return c, err
	}
	if err := errors.Join(f.run.stillTheFirst(ctx, c), f.run.engine.kill(ctx, c)); err != nil {
		return c, err
	}
	return c, f.run.engine.awaitEnd(ctx, c)
}

// killAndStart kills a service with -9 and starts it again after a while: what was killed through Docker counts as stopped by
// hand, and its restart policy leaves it alone.
func (f *stackFaults) killAndStart(ctx context.Context, service string, away time.Duration) error {
	c, err := f.kill(ctx, service)
	if err != nil {
		return err
	}
	sleepUntil(ctx, time.Now().Add(away))
	if err := f.run.engine.start(ctx, c); err != nil {
		return err
	}
	return f.awaitHealthy(ctx, service)
}

// rollingRestart is what an operator does: one after the other, each of them well before the next. Each has to end by itself, with
// everything in order: not killed when its grace was over, and nothing left undone.
func (f *stackFaults) rollingRestart(ctx context.Context) error {
	for _, service := range []string{"galo1", "galo2"} {
		began := time.Now()
		c, err := f.container(ctx, service)
		if err != nil {
			return err
		}
		if err := errors.Join(f.run.stillTheFirst(ctx, c), f.project.compose(ctx, "stop", service)); err != nil {
			return err
		}
		state, err := f.run.engine.state(ctx, c)
		if err != nil {
			return err
		}
		if state.State.ExitCode != 0 {
			return fmt.Errorf("%s did not stop cleanly, exit status %d", service, state.State.ExitCode)
		}
		f.run.screen.say("         %s stopped cleanly within %.1f s", service, time.Since(began).Seconds())
		if err := f.run.engine.start(ctx, c); err != nil {
			return err
		}
		if err := f.awaitHealthy(ctx, service); err != nil {
			return err
		}
	}
	return nil
}

// crowd holds connections while the payments go on, until nginx has had enough of them.
func (f *stackFaults) crowd(ctx context.Context) error {
	left, err := crowd(ctx, stackHost)
	if err == nil && left > 0 {
		err = fmt.Errorf("%d of %d connections without a request are kept", left, idleCrowd+slowCrowd)
	}
	return err
}

// makeAnew leaves a journal whose maker never comes back.
func (f *stackFaults) makeAnew(ctx context.Context) error {
	if _, err := f.kill(ctx, "galo2"); err != nil {
		return err
	}
	if err := f.renamed.compose(ctx, "up", "--detach", "--no-deps", "--no-build", "--force-recreate", "galo2"); err != nil {
		return err
	}
	return f.awaitHealthy(ctx, "galo2")
}

// awaitHealthy waits until a service's container says that it is well.
func (f *stackFaults) awaitHealthy(ctx context.Context, service string) error {
	ctx, cancel := context.WithTimeoutCause(ctx, healthyWithin, fmt.Errorf("%s is not healthy within %v", service, healthyWithin))
	defer cancel()
	for {
		c, err := f.container(ctx, service)
		if err != nil {
			return err
		}
		state, err := f.run.engine.state(ctx, c)
		if err != nil {
			return err
		}
		if state.State.Running && state.State.Health.Status == "healthy" {
			return nil
		}
		if !sleepUntil(ctx, time.Now().Add(200*time.Millisecond)) {
			return context.Cause(ctx)
		}
	}
}

// awaitNothingLeft waits until every journal in the volume has an owner, and no owner has anything that is not settled. A
// payment that nobody works on would be found by the verdict; this finds also what is paid and only its journal does not know.
func (f *stackFaults) awaitNothingLeft(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, healthyWithin)
	defer cancel()
	for {
		left, err := f.left(ctx)
		if err == nil && left == "" {
			return nil
		}
		if !sleepUntil(ctx, time.Now().Add(time.Second)) {
			return fmt.Errorf("cannot see the end of every payment in the journals: %s", errors.Join(err, errors.New(left)))
		}
	}
}

// left says what is not finished, or "".
func (f *stackFaults) left(ctx context.Context) (string, error) {
	listed, err := f.run.busybox(ctx, []string{"--volume", f.project.name + "_journals:/data:ro"}, "ls", "/data")
	if err != nil {
		return "", err
	}
	journals := 0
	for name := range strings.FieldsSeq(listed) {
		if strings.HasSuffix(name, ".journal") {
			journals++
		}
	}
	owned, pending := 0.0, make(map[string]float64)
	for _, service := range []string{"galo1", "galo2"} {
		c, err := f.container(ctx, service)
		if err != nil {
			return "", err
		}
		m, err := f.run.metrics(ctx, c)
		if err != nil {
			return "", err
		}
		owned += m["galo_journals"]
		if n := m["galo_pending"]; n > 0 {
			pending[service] = n
		}
	}
	f.run.screen.say("journals: %d in the volume, %.0f owned, unsettled in them: %v", journals, owned, slices.Sorted(maps.Values(pending)))
	if float64(journals) != owned || len(pending) > 0 {
		return fmt.Sprintf("%d journals of which %.0f are owned, unsettled payments: %v", journals, owned, pending), nil
	}
	return "", nil
}
