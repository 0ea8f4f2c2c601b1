package main

import (
	"context"
	"time"
)

// play is one random schedule: what clients do, and what breaks.
func (w *world) play() {
	events := []struct {
		weight int
		happen func()
	}{
		{30, w.postNew},
		{5, w.postEverywhere},
		{10, w.postAgain},
		{4, w.postOtherAmount},
		{6, w.crash},
		{8, w.lightFuse},
		{14, w.restart},
		{1, w.reboot},
		{12, w.changeMood},
		{4, w.blind},
		{8, w.ail},
		{4, w.restartStore},
		{3, w.wipeStore},
		{4, w.cut},
		{2, w.purge},
	}
	sum := 0
	for _, e := range events {
		sum += e.weight
	}
	for range 20 + w.plan.IntN(50) {
		time.Sleep(w.gap())
		n := w.plan.IntN(sum)
		for _, e := range events {
			if n -= e.weight; n < 0 {
				e.happen()
				break
			}
		}
	}
}

// gap is how long nothing happens: often hardly at all.
func (w *world) gap() time.Duration {
	longest := []time.Duration{1, time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond, 3 * time.Second}
	return time.Duration(w.plan.Int64N(int64(longest[w.plan.IntN(len(longest))])))
}

func (w *world) any() *modelInstance { return w.instance(w.names[w.plan.IntN(len(w.names))]) }

func (w *world) somewhere() *modelProcessor { return w.procs[w.plan.IntN(processors)] }

func (w *world) postNew() {
	if in := w.any(); in != nil {
		w.postAt(in, nthID(uint64(len(w.posted))), 100+cents(w.plan.IntN(1000)))
	}
}

// postEverywhere is a client's retry that reaches another instance in the same moment.
func (w *world) postEverywhere() {
	id, amount := nthID(uint64(len(w.posted))), cents(1990)
	for _, name := range w.names {
		if in := w.instance(name); in != nil {
			w.postAt(in, id, amount)
		}
	}
}

func (w *world) postAgain() {
	in := w.any()
	if in == nil || len(w.posted) == 0 {
		return
	}
	id := nthID(w.plan.Uint64N(uint64(len(w.posted))))
	for amount := range w.posted[id].amounts {
		w.postAt(in, id, amount)
		return
	}
}

func (w *world) postOtherAmount() {
	if in := w.any(); in != nil && len(w.posted) > 0 {
		w.postAt(in, nthID(w.plan.Uint64N(uint64(len(w.posted)))), 5000+cents(w.plan.IntN(3)))
	}
}

func (w *world) postAt(in *modelInstance, id paymentID, amount cents) {
	what, heard := in.post(id, amount)
	w.note("%s is posted at %s with %d cents: %d, heard %t", short(id), in, amount, what, heard)
	p := w.posted[id]
	if p == nil {
		p = &posted{amounts: make(map[cents]bool)}
		w.posted[id] = p
	}
	switch what {
	case acceptedNew:
		p.amounts[amount] = true
		if heard {
			p.answered, p.fresh = true, append(p.fresh, amount)
		}
	case acceptedAgain:
		p.answered = p.answered || heard
	case acceptedConflict, acceptedFull:
	}
}

func (w *world) crash() {
	if in := w.any(); in != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !in.dead {
			in.kill("between two steps")
		}
	}
}

// lightFuse lets an instance die at one of its next steps towards the store or a processor, just before or just after.
func (w *world) lightFuse() {
	if in := w.any(); in != nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		in.fuse = 1 + w.plan.IntN(15)
	}
}

// restart starts who is down, under the same name; now and then to die while it takes up its journal.
func (w *world) restart() {
	name, fuse := w.names[w.plan.IntN(len(w.names))], 0
	if w.plan.IntN(4) == 0 {
		fuse = 1 + w.plan.IntN(6)
	}
	if w.instance(name) == nil {
		w.start(name, fuse)
	}
}

// reboot ends every instance at once, and gives the host another boot id: what reads accepted is in doubt from then on.
func (w *world) reboot() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.boot[1]++
	for _, in := range w.all {
		if !in.dead {
			in.kill("with its host")
		}
	}
}

func (w *world) changeMood() {
	p, mood := w.somewhere(), moods[w.plan.IntN(len(moods))]
	w.mu.Lock()
	defer w.mu.Unlock()
	p.mood = mood
	w.note("%s changes its mood: %v", p.id, mood)
}

func (w *world) blind() {
	p := w.somewhere()
	w.mu.Lock()
	defer w.mu.Unlock()
	p.blind = !p.blind
}

func (w *world) ail() {
	what := ailment(w.plan.IntN(int(ailments)))
	if w.plan.IntN(2) == 0 {
		what = ailsNothing
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store.ails = what
	w.note("the store is %s", what)
}

// restartStore brings the store back with all it had, without its last second, or with what an old copy of its file has.
func (w *world) restartStore() {
	lost := []time.Duration{0, time.Second, time.Hour}[w.plan.IntN(3)]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store.restart(lost)
	w.note("the store starts anew, as of up to %s ago: %s", lost, w.store.state)
}

func (w *world) wipeStore() {
	running := w.plan.IntN(2) == 0
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store.wipe(running)
	w.note("the store is wiped; it runs on: %t", running)
}

func (w *world) cut() {
	name := w.names[w.plan.IntN(len(w.names))]
	w.mu.Lock()
	defer w.mu.Unlock()
	w.store.cut[name] = !w.store.cut[name]
	w.note("the store is out of reach of %s: %t", name, w.store.cut[name])
}

// purge asks one instance to forget settled history. Whether it could be done, before or after that one's death, shows in the end.
func (w *world) purge() {
	in := w.any()
	if in == nil {
		return
	}
	in.sending.run(func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := in.settler.purge(ctx)
		w.note("%s is asked to purge: %v", in, err)
	})
}

// announce tells the others of a purge, as NATS does: or does not.
func (w *world) announce(by *modelInstance, mark uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, in := range w.live {
		if in != by && !by.dead && w.rng.IntN(2) == 0 {
			in.settler.adoptMark(mark)
		}
	}
}
