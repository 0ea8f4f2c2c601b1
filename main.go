// Command galo is a payment dispatcher: it accepts payments, and pays each of them once, at one of two processors.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/valyala/fasthttp"
)

// version is set by the linker.
var version = "development"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "healthcheck" {
		withoutTrace()
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := command(ctx, os.Args[1:], os.LookupEnv, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "galo:", strings.ReplaceAll(err.Error(), "\n", "; "))
		os.Exit(1)
	}
}

// command is what the command line asks for: to serve, if it says nothing.
func command(ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer) error {
	word := ""
	if len(args) > 0 {
		word = args[0]
	}
	switch word {
	case "":
		return run(ctx, lookup, stderr)
	case "healthcheck":
		c, err := readConfig(lookup)
		if err != nil {
			return err
		}
		return checkRested(ctx, args[1:], os.TempDir(), func() error { return healthcheck(c.adminListen) })
	case "journal":
		return runJournalCommand(ctx, args[1:], lookup, stdout, stderr)
	case "rebuild":
		return runRebuild(ctx, lookup, stdout, stderr)
	case "version":
		fmt.Fprintln(stdout, "galo", version)
		return nil
	case "-h", "--help", "help":
		fmt.Fprint(stdout, usage)
		printSettings(stdout)
		return nil
	}
	return fmt.Errorf("cannot do %q: galo -h says what there is", word)
}

const usage = `galo accepts payments and pays each of them once, at one of two processors.

  galo              serve
  galo healthcheck  ask the galo at ADMIN_LISTEN whether it is ready; exit status 0 if it is
                    (-rest 30s: wait so long first, once it has been)
  galo journal      print the journals in DATA_DIR, whoever owns them (-json: for programs)
       journal unsettled            each payment that is not settled (-json)
       journal rejected             each payment that its processor rejected and that can be queued again (-json)
       journal verify               check every checksum; exit status 1 if anything is damaged (-json)
       journal requeue ID           queue a rejected payment again
       journal resolve ID paid      the processor that it is pinned to has written it: it counts as paid there
       journal resolve ID unpaid    that processor has not written it and never will: it may go to either one
  galo rebuild      fill the Redis at REDIS_URL from the journals that nobody owns, and say how far back they reach;
                    exit status 0 only if all of them were replayed
  galo version      print the version
  galo -h           print this

It takes its settings from the environment:

`

// run builds the parts in the order in which payments flow through them, serves until ctx ends, and stops in order.
func run(ctx context.Context, lookup func(string) (string, bool), logTo io.Writer) error {
	c, err := readConfig(lookup)
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(logTo, &slog.HandlerOptions{Level: c.logLevel})).With("instance", c.instance)
	if err := askForShortSlices(); err != nil {
		log.Debug("the kernel gives turns as usual", "error", err)
	}
	g, err := build(c, log)
	if err != nil {
		return err
	}
	if err := g.listen(c); err != nil {
		return errors.Join(err, g.close())
	}
	g.start(ctx)
	log.Info("serving", "listen", c.listen.String(), "admin", c.adminListen.String(), "version", version, "role", c.role.String(),
		"durability", c.durability.String(), "redis", c.redisURL, "nats", c.natsURL, "pending", g.ledger.pending.Load())

	var failed error
	select {
	case <-ctx.Done():
		log.Info("stopping", "pending", g.ledger.pending.Load())
	case failed = <-g.broken:
		log.Error("stopping", "error", failed)
	}
	err = g.stop(c.stopTimeout)
	log.Info("stopped", "pending", g.ledger.pending.Load())
	return errors.Join(failed, err)
}

// galo is one instance: all its parts, and the goroutines that run them.
type galo struct {
	log        *slog.Logger
	metrics    *metrics
	embedded   func() // stops the embedded store; nil with a Redis of its own
	store      *redisStore
	ledger     *ledger
	found      found // by the ledger, to be taken up again
	bus        *bus
	clients    [processors]*processor
	life       *lifeWatch
	policy     *policy
	settler    *settler
	dispatcher *dispatcher
	feeder     *feeder
	elsewhere  *elsewhere
	resolver   *resolver
	mender     *mender
	payer      *payer
	workers    int
	health     *healthWatch
	ready      *readiness
	server     *fasthttp.Server
	operator   *operator
	admin      *admin
	doors      []net.Listener
	door       *steadfastListener // of these, the one where clients come in
	listeners  []func() error     // serve until their server is shut down
	broken     chan error         // a listener that ended by itself

	// Three groups, stopped one after the other: what brings payments on their way, what settles them, and what both stand on.
	sending, settling, standing group
}

// build makes every part; nothing runs yet.
func build(c config, log *slog.Logger) (*galo, error) {
	g := &galo{log: log, metrics: newMetrics(), workers: c.workers, broken: make(chan error, 2)}
	url := c.redisURL.reveal()
	if url == "" {
		var err error
		if url, g.embedded, err = startEmbedded(); err != nil {
			return nil, err
		}
	}
	var err error
	if g.store, err = newStore(storeOptions{url: url, log: log}); err != nil {
		return nil, err
	}
	folder, err := openFolder(c.dataDir, c.instance, c.durability == durableDisk, log)
	if err != nil {
		return nil, err
	}
	if g.embedded != nil {
		if err := folder.alone(); err != nil {
			return nil, err
		}
	}
	clock := newClock()
	if g.ledger, g.found, err = openLedger(folder, clock, c.maxPending, c.retention, log); err != nil {
		return nil, fmt.Errorf("DATA_DIR=%q: %w", c.dataDir, err)
	}
	g.ledger.maxBytes = c.journalMax
	if g.bus, err = openBus(c.natsURL.reveal(), c.instance, log); err != nil {
		return nil, err
	}
	var clients [processors]client
	for id := range processorID(processors) {
		// Look-ups and repeated sends of the resolver come on top of what the policy permits.
		if g.clients[id], err = newProcessor(id, c.processorURL[id], c.maxInFlight+resolverConcurrency, c.sendTimeout); err != nil {
			return nil, err
		}
		clients[id] = g.clients[id]
	}
	g.life = newLifeWatch()
	perPayment := newAlarms(log)
	g.policy = newPolicy(c.patience, c.processorFee, c.maxInFlight, clock, perPayment)
	g.settler = newSettler(g.ledger, g.store, g.life, c.linger, g.metrics, log)
	g.dispatcher = newDispatcher(c.workers, c.maxPending, c.linger)
	g.feeder = newFeeder(g.dispatcher, c.maxPending)
	g.resolver = newResolver(g.ledger, g.policy, g.settler, g.feeder, clients, g.metrics, perPayment)
	g.resolver.doubtGrace = c.sendTimeout
	g.elsewhere = &elsewhere{ledger: g.ledger, feeder: g.feeder, resolver: g.resolver, store: g.store, metrics: g.metrics, log: perPayment}
	g.mender = newMender(g.ledger, g.store, g.life, g.resolver, g.metrics, log)
	g.payer = &payer{ledger: g.ledger, dispatcher: g.dispatcher, feeder: g.feeder, store: g.store, life: g.life, policy: g.policy, resolver: g.resolver,
		settler: g.settler, elsewhere: g.elsewhere, processors: clients, metrics: g.metrics, log: perPayment}
	g.policy.backlog, g.policy.arrivals, g.policy.publish = g.dispatcher.waiting, g.ledger.appended, g.bus.publishFinding
	g.policy.peers = g.store.instances
	g.policy.reopened, g.policy.timed = g.resolver.retryNow, g.metrics.processorTimed
	g.health = newHealthWatch(c.role, c.instance, g.store, [processors]healthAsked{g.clients[onDefault], g.clients[onFallback]}, g.bus, g.policy.health, log)

	finder := &finder{ledger: g.ledger, store: g.store, bus: g.bus}
	s := &server{ledger: g.ledger, dispatcher: g.dispatcher, finder: finder, store: g.store, settler: g.settler, metrics: g.metrics,
		allowPurge: c.allowPurge, lookUps: newLane(querySeats, queryTimeout), queries: newLane(querySeats, queryTimeout), log: log}
	g.server = s.routes()
	g.ready = &readiness{ledger: g.ledger}
	g.operator = &operator{ledger: g.ledger, settler: g.settler, resolver: g.resolver, feeder: g.feeder,
		order: g.settler.order, wait: c.sendTimeout + operatorSpare, log: log}
	g.admin = newAdmin(g.metrics, g.ready.why, g.operator)
	g.settler.announce = g.bus.publishPurge
	g.bus.onPurge(g.settler.heardOfPurge)
	g.bus.onFinding(g.policy.heard)
	g.bus.answerWith(finder.answer)
	g.metrics.observe(g.ledger, g.dispatcher, g.feeder, g.policy, g.resolver, g.settler, g.elsewhere, g.bus, g.life)
	return g, nil
}

// listen opens the listeners, before anything runs: an address in use is an error of the start.
func (g *galo) listen(c config) error {
	ln, err := listen(c.listen)
	if err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	g.door = newSteadfastListener(ln, g.log)
	g.doors = append(g.doors, g.door)
	g.listeners = append(g.listeners, func() error { return g.server.Serve(g.door) })
	if c.adminListen.off() {
		return nil
	}
	adminLn, err := listen(c.adminListen)
	if err != nil {
		return errors.Join(fmt.Errorf("ADMIN_LISTEN: %w", err), ln.Close())
	}
	g.doors = append(g.doors, adminLn)
	g.listeners = append(g.listeners, func() error { return g.admin.http.Serve(adminLn) })
	return nil
}

// start sets everything going, the last link of the chain first.
func (g *galo) start(ctx context.Context) {
	g.standing.ctx, g.standing.end = context.WithCancel(context.WithoutCancel(ctx))
	g.settling.ctx, g.settling.end = context.WithCancel(g.standing.ctx)
	g.sending.ctx, g.sending.end = context.WithCancel(g.settling.ctx)

	if g.ledger.disk != nil {
		g.standing.run(g.ledger.disk.run)
	}
	g.standing.run(g.ledger.keep)
	g.settling.run(func(ctx context.Context) { g.settler.run(ctx, g.standing.ctx) })
	g.sending.run(g.feeder.run)
	g.sending.run(g.elsewhere.run)
	g.sending.run(g.resolver.run)
	g.sending.run(g.mender.run)
	for n := range g.workers {
		g.sending.run(newWorker(n, g.payer).run)
	}
	g.sending.run(func(ctx context.Context) {
		if _, ok := g.life.await(ctx); ok { // the key that elects who polls is in the store
			g.health.run(ctx)
		}
	})
	g.sending.run(func(context.Context) {
		g.takeUp(g.found)
		g.found = found{} // it may be of a million payments
	})
	g.sending.run(g.adoptOrphans)
	g.sending.run(g.forget)
	if g.door != nil {
		g.standing.run(func(ctx context.Context) { g.door.watch(ctx, clientLimits()) })
	}
	for _, serve := range g.listeners {
		g.standing.wait.Go(func() {
			if err := serve(); err != nil {
				g.broken <- fmt.Errorf("cannot serve: %w", err)
			}
		})
	}
}

// takeUp brings what a journal held back on its way.
func (g *galo) takeUp(f found) {
	g.metrics.damaged.Add(f.damaged)
	g.mender.add(f)
	g.resolver.doubt(f.doubtful...)
	g.elsewhere.add(f.elsewhere...)
	for _, r := range f.sent {
		if v, ok := g.ledger.read(r); ok {
			g.resolver.pin(v)
		}
	}
	g.feeder.add(f.accepted...)
	for _, r := range f.settling { // the last: this one may wait for the store
		g.settler.add(r)
	}
}

// adoptOrphans takes over the journals of instances that are gone.
func (g *galo) adoptOrphans(ctx context.Context) {
	const every = 2 * time.Second // a journal is taken over at the second look at the earliest
	orphans := make(map[journalID]bool)
	said := ""
	each(ctx, every, func() {
		f, err := g.ledger.adoptOrphans(orphans)
		if text := fmt.Sprint(err); err != nil && text != said { // once: it will be the same at the next look
			said = text
			g.log.Error("cannot take over a journal", "error", err)
		}
		g.sending.run(func(context.Context) { g.takeUp(f) })
		g.settler.kick()
	})
}

// forget drops from Redis the records that need not be kept any more. Every instance may; what one has dropped the others pass over.
func (g *galo) forget(ctx context.Context) {
	each(ctx, time.Minute, func() {
		if err := g.store.forgetBefore(ctx, g.ledger.keptFrom()); err != nil {
			g.log.Debug("cannot drop old records", "error", err)
		}
	})
}
