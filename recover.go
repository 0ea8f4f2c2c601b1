package main

import (
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// newJournal is a journal that was just locked; nothing of it was read yet.
func newJournal(f *folder, id journalID, head *journalHead, lock *os.File) *journal {
	j := &journal{id: id, name: id.String(), dir: f.dir(id), head: head, lock: lock, boot: f.boot, durable: f.durable, log: f.log.With("journal", id.String()),
		seed: crc32.Checksum(id[:], castagnoli), wanted: make(chan struct{}, 1), appendable: math.MaxUint64}
	j.table.Store(&segmentTable{})
	return j
}

// found is what a scan of a journal has found: what has to be taken up again, and what was lost.
type found struct {
	accepted  []ref // never sent: to be dispatched
	doubtful  []ref // read accepted, but the host went down since: looked up at both processors before anything is sent
	sent      []ref // an attempt whose outcome nobody saw: pinned
	settling  []ref // paid or invalid: to be settled
	elsewhere []ref
	waiting   []waitingSlot // not what was once written, or sent before the host went down: for the mender
	searched  []*journal    // may have lost slots without a trace: for the mender, to look for their claims
	damaged   int           // how many slots were found damaged
	published int
}

func (f *found) join(g found) {
	if cap(f.accepted) == 0 {
		f.accepted = g.accepted // they may be a million
	} else {
		f.accepted = append(f.accepted, g.accepted...)
	}
	f.doubtful = append(f.doubtful, g.doubtful...)
	f.sent = append(f.sent, g.sent...)
	f.settling = append(f.settling, g.settling...)
	f.elsewhere = append(f.elsewhere, g.elsewhere...)
	f.waiting = append(f.waiting, g.waiting...)
	f.searched = append(f.searched, g.searched...)
	f.damaged += g.damaged
	f.published += g.published
}

func (f *found) unsettled() int {
	return len(f.accepted) + len(f.doubtful) + len(f.sent) + len(f.settling) + len(f.elsewhere) + len(f.waiting)
}

// recover maps and scans what is on disk, once, before anybody else knows the journal. Every segment is read to its end, as
// slot 8 may be published while slot 7 never was; new slots will come after the last published one.
func (j *journal) recover() (found, error) {
	var f found
	if j.birth != nil {
		return f, nil
	}
	numbers, err := segmentNumbers(j.dir)
	if err != nil {
		return f, err
	}
	for _, number := range numbers { // before anything is touched
		if err := formatOf[segmentHead](segmentPath(j.dir, number)); err != nil {
			return f, fmt.Errorf("cannot open segment %s: %w", segmentPath(j.dir, number), err)
		}
	}
	j.mendHead()
	removeHalfMade(j.dir)
	var end uint64 // one past the last published slot
	reuse := true  // the segments in use were made since the host came up
	var unsettled []*segment
	for _, number := range numbers {
		seg, err := j.openOrRepair(number)
		if err != nil {
			return f, err
		}
		if seg == nil {
			end = max(end, (number+1)<<segmentSlotsLog2)
			continue
		}
		j.mendPurged(seg)
		if j.believed(seg) {
			j.retired = append(j.retired, retiredSegment{number, micros(seg.head.finalSince.Load()), seg.head.purged.Load() != 0})
			end = max(end, (number+1)<<segmentSlotsLog2)
			if err := seg.unmap(); err != nil {
				return f, fmt.Errorf("cannot unmap %s: %w", seg.path, err)
			}
			continue
		}
		seg.ids = newIDIndex()
		if j.durable {
			seg.soilAll() // the process before may have died before it had synced, or after it could not
		}
		j.addSegment(seg)
		unsettled = append(unsettled, seg)
	}
	if j.durable { // they may have been made when nothing had to be on the disk
		if err := syncDir(j.dir); err != nil {
			return f, fmt.Errorf("cannot sync %s: %w", j.dir, err)
		}
	}
	all := j.scanAll(unsettled)
	accepted := 0
	for _, s := range all {
		accepted += len(s.found.accepted)
	}
	f.accepted = make([]ref, 0, accepted)
	for i, s := range all {
		seg := unsettled[i]
		f.join(s.found)
		if s.last >= 0 {
			end = max(end, seg.first()+uint64(s.last)+1)
			reuse = seg.head.boot == j.boot
		} else if seg.head.boot != j.boot {
			reuse = false
		}
		if err := j.forgetInWords(seg); err != nil {
			return f, err
		}
	}
	limit := max(j.table.Load().end()<<segmentSlotsLog2, roundUpToSegment(end)) // what is retired may lie behind all that is mapped
	for number := end >> segmentSlotsLog2; number < limit>>segmentSlotsLog2; number++ {
		if j.table.Load().at(number) == nil { // it has gone by age, or was set aside
			end = (number + 1) << segmentSlotsLog2
		}
	}
	if len(j.table.Load().list) == 0 {
		limit = roundUpToSegment(end)
		j.table.Store(&segmentTable{first: limit >> segmentSlotsLog2})
	}
	if !reuse { // a segment tells by its boot id whether its slots are doubtful: it takes none of another boot
		end = limit
	}
	j.seal(end)
	if j.searching.Load() || j.hasHoles(end) {
		j.searching.Store(true)
		f.searched = append(f.searched, j)
	}
	j.next.Store(end)
	j.limit.Store(max(limit, end))
	if wanted := j.head.purging.Load(); wanted > j.head.mark.Load() { // half of the history is forgotten, and half of it would be replayed
		if err := j.purge(wanted); err != nil {
			j.log.Error("cannot finish a purge that was begun", "error", err)
		}
	}
	return f, nil
}

func roundUpToSegment(seq uint64) uint64 {
	return (seq + segmentSlots - 1) >> segmentSlotsLog2 << segmentSlotsLog2
}

// seal counts every slot below end that was never published as final: nobody will publish it any more.
func (j *journal) seal(end uint64) {
	for _, seg := range j.table.Load().list {
		if seg == nil {
			continue
		}
		until := min(end, seg.first()+segmentSlots)
		for i := max(seg.holesBelow, seg.first()); i < until; i++ {
			if seg.slots[i-seg.first()].load() == 0 {
				seg.finals.Add(1)
			}
		}
		seg.holesBelow = until
	}
}

// scanned is what a scan of one segment has found, and the position of its last published slot, or -1.
type scanned struct {
	found found
	last  int
}

// scanAll scans segments side by side: while one waits for the disk, or there is another core, the next one is at work. At least two are.
func (j *journal) scanAll(segments []*segment) []scanned {
	all := make([]scanned, len(segments))
	var next atomic.Int64
	var scanning sync.WaitGroup
	for range min(max(2, runtime.GOMAXPROCS(0)), len(segments)) {
		scanning.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(segments); i = int(next.Add(1)) - 1 {
				segments[i].bringIn()
				f := &all[i].found
				all[i].last = j.scan(segments[i], f)
				if len(f.accepted) < cap(f.accepted)/2 {
					f.accepted = slices.Clone(f.accepted) // there may be hundreds of segments in which few wait
				}
			}
		})
	}
	scanning.Wait()
	return all
}

// scan reads a segment to its end, fills its index, and returns the position of the last published slot, or -1.
func (j *journal) scan(seg *segment, f *found) (last int) {
	last = -1
	var report damageReport
	defer j.tell(seg, &report)
	var losers []uint32
	for i := range seg.slots {
		s := &seg.slots[i]
		w := s.load()
		if !s.intact(w, seg.first()+uint64(i), j.seed) {
			if j.scanDamaged(seg, i, f, &report) {
				last = i
			}
			continue
		}
		last = i
		f.published++
		// Of two racing requests both may read accepted: died before one was taken back. Either may have the claim, so both ask for it.
		if w.state().loser() {
			losers = append(losers, uint32(i))
		} else {
			seg.ids.insert(seg.slots, uint32(i), indexHash(&s.id))
		}
		r := makeRef(j.number, seg.first()+uint64(i))
		switch w.state() {
		case slotAccepted, slotLeaving:
			if w.state() == slotLeaving { // died before it went out
				w = w.with(slotAccepted)
				s.word.Store(uint64(w))
			}
			if seg.head.boot != j.boot {
				j.doubts.add(r.seq())
				f.doubtful = append(f.doubtful, r)
			} else {
				if f.accepted == nil {
					f.accepted = make([]ref, 0, segmentSlots-i) // payments wait together: if one does, most behind it do
				}
				f.accepted = append(f.accepted, r)
			}
		case slotSent:
			if !w.pinned() { // died before the answer: its outcome is unknown for ever
				s.word.Store(uint64(w.pin()))
			}
			if seg.head.boot != j.boot { // it may have been refused since, and sent to the other processor
				f.waiting = append(f.waiting, waitingSlot{ref: r, known: true})
			} else {
				f.sent = append(f.sent, r)
			}
		case slotPaid, slotInvalid:
			f.settling = append(f.settling, r)
		case slotElsewhere:
			f.elsewhere = append(f.elsewhere, r)
		case slotSettled, slotPurged, slotRejected, slotDuplicate, slotConflict, slotSetAside:
			seg.finals.Add(1)
		case slotFree, slotStates:
		}
	}
	seg.indexLosers(losers)
	return last
}

// indexLosers indexes slots that lost their id to another one, once all others are: the one that won it may come behind, and it is the one to
// tell by what was accepted.
func (s *segment) indexLosers(positions []uint32) {
	for _, at := range positions {
		s.ids.insert(s.slots, at, indexHash(&s.slots[at].id))
	}
}
