package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// modelInstance is one process of the model, from its start to its death: the parts that galo is made of, on real journals in a
// shared folder, with the network replaced by the model's store and processors.
type modelInstance struct {
	*galo
	w    *world
	name string
	born int // which start of the world's this one was
	link *storeLink
	end  context.CancelFunc
	body sync.Mutex // held while journals are taken over, lengthened or retired: a process dies before or after that, not within

	// Both are under the world's mu.
	dead bool
	fuse int // how many more steps at a seam it lives for; 0: no end in sight
}

// modelPending bounds what may be pending at one instance. Rings of that size keep a schedule cheap.
const modelPending = 64

// start brings up an instance, as build and start of galo do.
func (w *world) start(name string, fuse int) *modelInstance {
	log := slog.New(modelLog{w: w, who: fmt.Sprintf("%s.%d", name, len(w.all))})
	f, err := openFolder(w.dir, name, false, log)
	if err != nil {
		w.t.Fatal(err)
	}
	f.boot = w.boot
	c := newClock()
	l, found, err := openLedger(f, c, modelPending, time.Hour, log)
	if err != nil {
		w.t.Fatal(err)
	}
	in := &modelInstance{w: w, name: name, born: len(w.all), fuse: fuse}
	in.link = &storeLink{in: in}
	clients := [processors]client{processorLink{in, onDefault}, processorLink{in, onFallback}}
	g := &galo{log: log, metrics: w.metrics, ledger: l, found: found, workers: 1, life: newLifeWatch()}
	g.policy = newPolicy(time.Second, [processors]ppm{50_000, 150_000}, 8, c, log)
	g.settler = newSettler(l, in.link, g.life, time.Millisecond, w.metrics, log)
	g.dispatcher = newDispatcher(1, modelPending, time.Millisecond)
	g.feeder = newFeeder(g.dispatcher, modelPending)
	g.resolver = newResolver(l, g.policy, g.settler, g.feeder, clients, w.metrics, log)
	g.resolver.doubtGrace = modelSendTimeout
	g.elsewhere = &elsewhere{ledger: l, feeder: g.feeder, resolver: g.resolver, store: in.link, metrics: w.metrics, log: log}
	g.mender = newMender(l, in.link, g.life, g.resolver, w.metrics, log)
	g.payer = &payer{ledger: l, dispatcher: g.dispatcher, feeder: g.feeder, store: in.link, life: g.life, policy: g.policy, resolver: g.resolver,
		settler: g.settler, elsewhere: g.elsewhere, processors: clients, metrics: w.metrics, log: log}
	g.policy.backlog, g.policy.arrivals, g.policy.reopened = g.dispatcher.waiting, l.appended, g.resolver.retryNow
	g.settler.announce = func(mark uint64) { w.announce(in, mark) }
	in.galo = g

	ctx, end := context.WithCancel(context.Background())
	in.end = end
	g.sending.ctx = ctx
	w.mu.Lock()
	w.all = append(w.all, in)
	w.live[name] = in
	w.mu.Unlock()
	drain, cancel := context.WithCancel(ctx)
	cancel()
	g.sending.run(func(ctx context.Context) { g.settler.run(ctx, drain) })
	g.sending.run(g.feeder.run)
	g.sending.run(g.elsewhere.run)
	g.sending.run(g.resolver.run)
	g.sending.run(g.mender.run)
	g.sending.run(newWorker(0, g.payer).run)
	g.sending.run(func(context.Context) { g.takeUp(found) })
	g.sending.run(in.adopt)
	g.sending.run(in.keep)
	w.note("%s starts, %d slots found unsettled", in, found.unsettled())
	return in
}

// adopt is galo.adoptOrphans, with the moments marked at which a process may not die.
func (in *modelInstance) adopt(ctx context.Context) {
	tick := time.NewTicker(3 * time.Second)
	defer tick.Stop()
	orphans := make(map[journalID]bool)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		in.body.Lock()
		if ctx.Err() != nil {
			in.body.Unlock()
			return
		}
		f, err := in.ledger.adoptOrphans(orphans)
		in.body.Unlock()
		if err != nil {
			in.w.fail("%s cannot take over a journal: %v", in, err)
		}
		in.takeUp(f)
		in.settler.kick()
	}
}

// keep is ledger.keep, with the moments marked at which a process may not die.
func (in *modelInstance) keep(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		tidy := false
		select {
		case <-ctx.Done():
			return
		case <-in.ledger.active.wanted:
		case <-tick.C:
			tidy = true
		}
		in.body.Lock()
		err := ctx.Err()
		if err == nil {
			err = in.ledger.active.prepare()
		}
		if err == nil && tidy {
			err = in.ledger.tidy()
		}
		in.body.Unlock()
		if ctx.Err() == nil && err != nil {
			in.w.fail("%s cannot keep its journal: %v", in, err)
		}
	}
}

// post is what the server's handler does with a payment. It is false when the instance died before it could answer.
func (in *modelInstance) post(id paymentID, amount cents) (acceptance, bool) {
	r, what := in.ledger.accept(&id, amount)
	if what == acceptedNew {
		in.dispatcher.push(r)
	}
	in.w.mu.Lock()
	defer in.w.mu.Unlock()
	return what, !in.dead
}

// step is a moment between two steps of an instance at a seam. Here it may die.
func (in *modelInstance) step(where string) {
	in.w.mu.Lock()
	defer in.w.mu.Unlock()
	if in.dead || in.fuse == 0 {
		return
	}
	if in.fuse--; in.fuse == 0 {
		in.kill(where)
	}
}

// kill ends an instance as kill -9 does. The caller holds the world's mu, so that nothing reaches the store or a processor
// meanwhile.
//
// Goroutines cannot be killed, so they are cut off: what they ask of store and processors from now on has no effect and
// brings no answer, and the journals' mappings are replaced in place, at the same addresses, by private ones. From that system
// call on the files hold exactly what they held at this instant (as the pages of a killed process do), whatever the dead still
// write; so the locks can be given up. Requests of the dead that have already gone out go on by themselves.
func (in *modelInstance) kill(where string) {
	if !in.body.TryLock() { // whoever holds it may be waiting for time to pass
		in.fuse = 1
		return
	}
	defer in.body.Unlock()
	in.dead = true
	in.end()
	for _, j := range *in.ledger.journals.Load() {
		if err := freeze(j); err != nil {
			in.w.t.Errorf("cannot end %s: %v", in, err)
		}
	}
	if in.w.live[in.name] == in {
		delete(in.w.live, in.name)
	}
	in.w.note("%s dies: %s", in, where)
}

// freeze cuts a journal off from its files and gives its lock up. What its head says of purges is taken in the reverse of the order
// in which one writes it (purging, the slots, the mark), so that the files show a moment that was.
func freeze(j *journal) error {
	private := func(fd uintptr, at unsafe.Pointer, length uintptr) error {
		_, err := unix.MmapPtr(int(fd), 0, at, length, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_FIXED)
		return err
	}
	mark := j.head.mark.Load()
	for _, seg := range j.table.Load().list {
		if seg == nil {
			continue
		}
		if err := private(seg.file.Fd(), unsafe.Pointer(&seg.data[0]), uintptr(len(seg.data))); err != nil {
			return err
		}
	}
	purging := j.head.purging.Load()
	if err := private(j.lock.Fd(), unsafe.Pointer(j.head), headBytes); err != nil {
		return err
	}
	for at, n := range map[uintptr]uint64{unsafe.Offsetof(j.head.mark): mark, unsafe.Offsetof(j.head.purging): purging} {
		if _, err := j.lock.WriteAt(binary.NativeEndian.AppendUint64(nil, n), int64(at)); err != nil {
			return err
		}
	}
	return errors.Join(unix.Flock(int(j.lock.Fd()), unix.LOCK_UN), unix.Flock(int(j.folderLock.Fd()), unix.LOCK_UN))
}

// bury waits for an instance's goroutines and lets go of its memory.
func (in *modelInstance) bury() {
	in.policy.stop()
	in.end()
	in.sending.wait.Wait()
	in.payer.flights.wait()
	if err := in.ledger.close(); err != nil {
		in.w.t.Errorf("cannot close %s: %v", in, err)
	}
}

// idle says that an instance has nothing to do any more.
func (in *modelInstance) idle() bool {
	return in.ledger.pending.Load() == 0 && in.elsewhere.len() == 0 && in.feeder.len() == 0 && in.settler.queue.len() == 0
}

func (in *modelInstance) String() string { return fmt.Sprintf("%s.%d", in.name, in.born) }

// slotsOf lists an id's slots in the journals of this instance.
func (in *modelInstance) slotsOf(id paymentID) []slotView {
	var views []slotView
	for _, j := range *in.ledger.journals.Load() {
		var v slotView
		if j.find(&id, indexHash(&id), &v) {
			views = append(views, v)
		}
	}
	return views
}

// modelLog keeps what an instance says for the trace of a failing schedule, and fails the schedule where it says that something
// has happened that must never be.
type modelLog struct {
	w   *world
	who string
}

func (modelLog) Enabled(context.Context, slog.Level) bool { return true }
func (l modelLog) WithAttrs([]slog.Attr) slog.Handler     { return l }
func (l modelLog) WithGroup(string) slog.Handler          { return l }

func (l modelLog) Handle(_ context.Context, r slog.Record) error {
	l.w.note("%s says %s", l.who, said{r})
	if r.Message == "slot damaged, set aside" {
		l.w.fail("%s says %s", l.who, said{r})
	}
	return nil
}

// said prints a log record when the trace is printed, not before.
type said struct{ slog.Record }

func (s said) String() string {
	text := s.Message
	s.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	return text
}
