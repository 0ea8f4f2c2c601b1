package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

const (
	stackHost        = "127.0.0.1:9999"
	stackAddress     = "http://" + stackHost
	processorNetwork = "payment-processor"
	galoPrefix       = "galo" // of the services that are galo's instances
	stackCompose     = "docker-compose.yml"
)

// stackAdmins is where the simulated processors of bench/processors.compose.yml are on the host.
var stackAdmins = [processors]string{"http://127.0.0.1:8001", "http://127.0.0.1:8002"}

// runStack plays a storm at the compose stack under its limits, and before it the same storm at servers that do nothing.
func runStack(ctx context.Context, s settings, screen *screen) (err error) {
	run, err := newStackRun(ctx, s, screen)
	if err != nil {
		return err
	}
	switch {
	case s.pairs > 0:
		return run.pairs(ctx)
	case s.highest > 0:
		return run.highest(ctx)
	}
	var result stackVerdict
	if s.compare && !s.faults {
		nothing, err := run.nothing(ctx)
		if err != nil {
			return err
		}
		result.Nothing = nothing.Latency
	}
	leave, err := run.startProcessors(ctx)
	defer func() { err = errors.Join(err, leave()) }()
	if err != nil {
		return err
	}
	play := run.galo
	if s.faults {
		play = run.faults
	}
	if err := play(ctx, &result); err != nil {
		return err
	}
	result.print(screen.out)
	if err := errors.Join(writeVerdict(s.json, result), writeReport(s.report, run.recorder, result.verdict)); err != nil {
		return err
	}
	if !result.clean() {
		return errNotClean
	}
	return nil
}

// newSteadyRun is one of the steady storm, for commands of their own.
func newSteadyRun(ctx context.Context, screen *screen, rate float64, length time.Duration, more ...string) (*stackRun, error) {
	s, err := parseSettings(append([]string{"-stack", "-storm", "steady", "-rate", fmt.Sprint(rate), "-duration", length.String()}, more...), io.Discard)
	if err != nil {
		return nil, err
	}
	return newStackRun(ctx, s, screen)
}

// A stackRun is what the parts of one run have in common.
type stackRun struct {
	settings settings
	storm    storm
	root     string
	engine   *engine
	screen   *screen
	recorder *recorder // nil without a report
}

func newStackRun(ctx context.Context, s settings, screen *screen) (*stackRun, error) {
	st, err := newStorm(s.storm, s.seed, s.length(), s.rate)
	if err != nil {
		return nil, err
	}
	if s.faults {
		st = faultStorm(s.seed, s.rate)
	}
	root, err := moduleRoot(ctx)
	if err != nil {
		return nil, err
	}
	e, err := newEngine(ctx)
	if err != nil {
		return nil, err
	}
	return &stackRun{settings: s, storm: st, root: root, engine: e, screen: screen}, nil
}

// A stackVerdict is a verdict, what it cost, and what the same storm is like without galo.
type stackVerdict struct {
	verdict
	Over       float64        `json:"measuredSeconds"` // what the containers' use is counted over
	Containers []containerUse `json:"containers"`
	Nothing    quantiles      `json:"nothingMicros"`
}

func (v *stackVerdict) print(w io.Writer) {
	v.verdict.print(w)
	over := time.Duration(v.Over * float64(time.Second))
	if len(v.Containers) == 0 {
		return
	}
	for _, u := range append(slices.Clone(v.Containers), together(v.Containers)) {
		fmt.Fprintf(w, "%-14s %s\n", "container", u.describe(over))
	}
	if v.Nothing.P99 > 0 {
		fmt.Fprintf(w, "%-14s p50 %s, p99 %s, p99.9 %s, highest %s: the same nginx and storm in front of servers that do nothing\n", "nothing",
			ms(v.Nothing.P50), ms(v.Nothing.P99), ms(v.Nothing.P999), ms(v.Nothing.Max))
		fmt.Fprintf(w, "%-14s galo's p99 is %.2f times that\n", "", float64(v.Latency.P99)/float64(v.Nothing.P99))
	}
}

// nothing is how the storm's clients fare at servers that answer 202 and do nothing, behind the same nginx.
func (r *stackRun) nothing(ctx context.Context) (_ side, err error) {
	p := nothingProject(r.root)
	defer func() { err = errors.Join(err, p.down(ctx)) }()
	r.screen.say("building and starting the stack that does nothing")
	if err := p.up(ctx); err != nil {
		return side{}, err
	}
	d, err := newDoor(stackAddress)
	if err != nil {
		return side{}, err
	}
	if err := awaitAccepted(ctx, d); err != nil {
		return side{}, err
	}
	_, m, err := r.meter(ctx, p)
	if err != nil {
		return side{}, err
	}
	l := newLoad(d, r.storm.shots())
	r.screen.say("storm %s, seed %d, %v at it: %d payments", r.storm.name, r.storm.seed, r.storm.length, len(l.shots))
	stop := m.start(ctx, r.readEvery()) // what that costs, galo's clients have to bear, too
	l.run(ctx, time.Now().Add(beginAfter))
	stop()
	if ctx.Err() != nil {
		return side{}, fmt.Errorf("cannot finish storm: %w", context.Cause(ctx))
	}
	if lost := l.refused.Load() + l.unanswered.Load(); lost > 0 {
		r.screen.say("%d of these were not answered with 202", lost)
	}
	uses, _ := m.used(ctx)
	return side{l.accepted.Load(), l.latency.quantiles(), uses}, nil
}

// awaitAccepted waits until the stack accepts payments.
func awaitAccepted(ctx context.Context, d *door) error {
	ctx, cancel := context.WithTimeout(ctx, upWithin)
	defer cancel()
	body := []byte(`{"correlationId":"` + freshID().String() + `","amount":1}`)
	for {
		status, err := d.post(body)
		if err == nil && status == http.StatusAccepted {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("status %d", status)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot begin storm: nothing was accepted within %v: %w", upWithin, err)
		case <-time.After(readyEvery):
		}
	}
}

// startProcessors makes sure that the simulated processors and their network are there. What was there before stays
// when leave is called.
func (r *stackRun) startProcessors(ctx context.Context) (leave func() error, err error) {
	leave = func() error { return nil }
	p := project{name: "galo-processors", root: r.root, files: []string{"bench/processors.compose.yml"}}
	owner, there, err := r.engine.networkOwner(ctx, processorNetwork)
	if err != nil {
		return leave, err
	}
	if there && owner != p.name {
		p.env = append(p.env, "PROCESSOR_NETWORK_EXISTS=true")
	}
	before, err := r.engine.containers(ctx, p.name)
	if err != nil {
		return leave, err
	}
	if len(before) == 0 {
		leave = func() error { return p.down(ctx) }
	}
	r.screen.say("building and starting the processors")
	if err := p.compose(ctx, "up", "--detach", "--build"); err != nil {
		return leave, err
	}
	ctx, cancel := context.WithTimeout(ctx, upWithin)
	defer cancel()
	for _, a := range r.admins() {
		for {
			_, err := a.counters(ctx)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return leave, fmt.Errorf("cannot begin storm: %w", err)
			case <-time.After(readyEvery):
			}
		}
	}
	return leave, nil
}

func (r *stackRun) admins() (all [processors]*adminClient) {
	for i, base := range stackAdmins {
		all[i] = newAdminClient(processorNames[i], base, r.settings.token)
	}
	return all
}

// galo plays the storm at the real stack and fills in all that is known about it.
func (r *stackRun) galo(ctx context.Context, result *stackVerdict) (err error) {
	p := stackProject(r.root, r.settings)
	defer r.leaveStack(ctx, p, &err)
	d, err := r.startStack(ctx, p)
	if err != nil {
		return err
	}
	all, m, err := r.meter(ctx, p)
	if err != nil {
		return err
	}
	opts := r.settings.stormOptions(r.screen)
	var harm *killing
	if r.settings.kills > 0 {
		harm = &killing{run: r, times: r.settings.kills, victims: instancesOf(all)}
		opts.disturb = harm.disturb
	}
	stop, leave := m.start(ctx, r.readEvery()), r.record(ctx, opts.recorder, all)
	defer leave()
	defer stop()
	r.screen.say("storm %s, seed %d, %v: %d payments at %s", r.storm.name, r.storm.seed, r.storm.length, len(r.storm.shots()), stackAddress)
	var used []containerUse
	var over time.Duration
	opts.drained = func() {
		leave()
		stop()
		used, over = m.used(ctx)
	}
	result.verdict, err = runStorm(ctx, d, r.storm, r.admins(), opts)
	if err != nil {
		return err
	}
	result.Containers, result.Over = used, over.Seconds()
	if result.Outage != nil {
		result.Outage.meter(m)
	}
	if harm != nil {
		result.Crashes = append(result.Crashes, harm.failed...)
	}
	if err := r.crashes(ctx, p, all, &result.verdict); err != nil {
		return err
	}
	if !result.clean() {
		return r.saveLogs(ctx, p)
	}
	return nil
}

// readEvery is how often the containers are read while the storm runs.
func (r *stackRun) readEvery() time.Duration {
	if r.settings.kills > 0 || r.storm.outage != (stretch{}) {
		return readOften
	}
	return readSeldom
}

// meter begins to count what the containers of a project use.
func (r *stackRun) meter(ctx context.Context, p project) ([]container, *meter, error) {
	all, err := r.engine.containers(ctx, p.name)
	if err != nil {
		return nil, nil, err
	}
	m, err := newMeter(ctx, r.engine, all)
	return all, m, err
}

// startStack starts the real stack and waits until it answers.
func (r *stackRun) startStack(ctx context.Context, p project) (*door, error) {
	r.screen.say("building and starting the stack")
	if err := p.up(ctx); err != nil {
		return nil, err
	}
	d, err := newDoor(stackAddress)
	if err != nil {
		return nil, err
	}
	return d, d.awaitAnswer(ctx, upWithin)
}

// leaveStack removes the stack unless it is to be kept.
func (r *stackRun) leaveStack(ctx context.Context, p project, err *error) {
	if r.settings.keep {
		r.screen.say("the stack is kept: docker compose -p %s down -v removes it", p.name)
		return
	}
	*err = errors.Join(*err, p.down(ctx))
}

// instancesOf picks galo's own containers.
func instancesOf(all []container) []container {
	return slices.DeleteFunc(slices.Clone(all), func(c container) bool { return !strings.HasPrefix(c.service, galoPrefix) })
}

// crashes finds containers that ended though nobody asked them to, and instances that do not stop as they should.
func (r *stackRun) crashes(ctx context.Context, p project, all []container, v *verdict) error {
	for _, c := range all {
		state, err := r.engine.state(ctx, c)
		if err != nil {
			return err
		}
		if state.RestartCount > 0 || state.State.OOMKilled || !state.State.Running {
			v.Crashes = append(v.Crashes, fmt.Sprintf("%s: restarted %d times, killed for memory %t, running %t",
				c.service, state.RestartCount, state.State.OOMKilled, state.State.Running))
		}
	}
	if err := p.compose(ctx, "stop"); err != nil {
		return err
	}
	for _, c := range instancesOf(all) {
		state, err := r.engine.state(ctx, c)
		if err != nil {
			return err
		}
		if state.State.ExitCode != 0 {
			v.Crashes = append(v.Crashes, fmt.Sprintf("%s: did not stop cleanly, exit status %d", c.service, state.State.ExitCode))
		}
	}
	return nil
}

// stillTheFirst is an error if a container has ended by itself since it was started. To start it through Docker would forget that.
func (r *stackRun) stillTheFirst(ctx context.Context, c container) error {
	state, err := r.engine.state(ctx, c)
	if err == nil && state.RestartCount > 0 {
		err = fmt.Errorf("%s ended by itself, and was restarted %d times", c.service, state.RestartCount)
	}
	return err
}

// saveLogs keeps what the containers have said, since they are removed.
func (r *stackRun) saveLogs(ctx context.Context, p project) error {
	f, err := os.CreateTemp("", "galo-stack-*.log")
	if err != nil {
		return fmt.Errorf("cannot keep logs: %w", err)
	}
	args := []string{"compose", "--project-name", p.name, "logs", "--no-color", "--timestamps"}
	cmd := exec.CommandContext(ctx, "docker", args...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := errors.Join(cmd.Run(), f.Close()); err != nil {
		return fmt.Errorf("cannot keep logs: %w", err)
	}
	r.screen.say("the containers' logs are in %s", f.Name())
	return nil
}

// killing kills instances with -9 while a storm runs.
type killing struct {
	run     *stackRun
	times   int
	victims []container
	failed  []string // kills that did not go as they should; read after the storm
}

// disturb kills a random instance so many times, at random moments of a storm, and starts it again at once: what was
// killed through Docker counts as stopped by hand, and its restart policy leaves it alone.
func (k *killing) disturb(ctx context.Context, start time.Time, length time.Duration) int {
	rng := rand.New(rand.NewPCG(k.run.settings.seed, 0x6b696c6c))
	var moments []time.Duration
	for range k.times {
		moments = append(moments, time.Duration((firstKill+(lastKill-firstKill)*rng.Float64())*float64(length)))
	}
	slices.Sort(moments)
	for n, at := range moments {
		if !sleepUntil(ctx, start.Add(at)) {
			return n
		}
		c := k.victims[rng.IntN(len(k.victims))]
		killed := time.Now()
		err := k.run.stillTheFirst(ctx, c)
		if err == nil {
			err = k.run.engine.kill(ctx, c)
		}
		if err == nil {
			err = k.run.engine.awaitEnd(ctx, c)
		}
		if err == nil {
			err = k.run.engine.start(ctx, c)
		}
		if err != nil {
			k.failed = append(k.failed, fmt.Sprintf("%s: %v", c.service, err))
			return n + 1
		}
		k.run.screen.happened(at, "%s killed, and started again after %d ms", c.service, time.Since(killed).Milliseconds())
	}
	return k.times
}
