package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"
)

// slotsInEveryState makes one payment in each state that a slot can rest in, numbered from 1, and returns how they are shown.
func slotsInEveryState(t *testing.T, l *ledger) map[string]string {
	t.Helper()
	ok := must(t)
	n := uint64(0)
	next := func() slotView { n++; return accept(t, l, n, cents(100+n)) }
	shown := map[string]string{}
	show := func(v slotView, state string) { shown[v.id.String()] = state }
	show(next(), "accepted")
	show(ok(l.leaving(next(), onDefault, nowMicros())), "accepted")
	show(ok(l.sent(next(), onDefault, nowMicros())), "sent")
	show(ok(l.pinned(ok(l.sent(next(), onFallback, nowMicros())))), "pinned")
	show(ok(l.paid(ok(l.sent(next(), onDefault, nowMicros())))), "paid")
	show(ok(l.paidAs(ok(l.sent(next(), onFallback, nowMicros())), onFallback, 7, 12345)), "paid")
	for _, s := range []slotState{slotSettled, slotPurged, slotInvalid, slotRejected, slotElsewhere, slotDuplicate, slotConflict} {
		show(ok(l.become(ok(l.sent(next(), onDefault, nowMicros())), s)), s.String())
	}
	return shown
}

func TestJournalIsReadBesideItsOwner(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	defer l.close()
	shown := slotsInEveryState(t, l)
	before := readAll(t, dir)
	list, err := inspectFolder(dir)
	if err != nil || len(list) != 1 {
		t.Fatalf("%d journals, %v", len(list), err)
	}
	r, err := list[0].report()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]int{}
	for _, state := range shown {
		want[state]++
	}
	for state, n := range want {
		if r.Slots[state] != n {
			t.Errorf("%d slots are %s, want %d", r.Slots[state], state, n)
		}
	}
	unsettledWant := map[string]int{"accepted": 2, "sent": 1, "pinned": 1, "paid": 2, "invalid": 1, "elsewhere": 1}
	for state, n := range unsettledWant {
		if r.Unsettled[state] != n {
			t.Errorf("%d unsettled slots are %s, want %d", r.Unsettled[state], state, n)
		}
	}
	if len(r.Unsettled) != len(unsettledWant) || len(r.Slots) != len(want) {
		t.Errorf("states %v, of them unsettled %v", r.Slots, r.Unsettled)
	}
	if !r.Owned || r.OwnedBy != "test" || r.MadeBy != "test" || r.Format != formatVersion || r.Damaged != 0 {
		t.Errorf("report %+v", r)
	}
	if r.Segments.Mapped != 2 || r.Segments.Retired != 0 || r.Segments.Bytes != 2*segmentBytes {
		t.Errorf("segments %+v", r.Segments)
	}
	if r.OldestAccepted == "" || r.OldestUnsettled != r.OldestAccepted {
		t.Errorf("oldest accepted %s, unsettled %s: the first one is both", r.OldestAccepted, r.OldestUnsettled)
	}
	if got := r.Paid["fallback"]; got.Requests != 1 || got.Cents != 7 {
		t.Errorf("paid at fallback: %+v, want what it has booked", got)
	}
	for _, print := range []func() error{
		func() error { return printJournals(dir, false, io.Discard) },
		func() error { return printPayments(dir, (*seenSlot).unsettled, false, io.Discard) },
		func() error { return verifyJournals(dir, false, io.Discard) },
	} {
		if err := print(); err != nil {
			t.Error(err)
		}
	}
	if readAll(t, dir) != before {
		t.Error("looking has changed a byte")
	}
	crash(l)
	if list, err = inspectFolder(dir); err != nil || list[0].owned {
		t.Errorf("a journal whose owner is gone is owned (%v)", err)
	}
}

func TestUnsettledPaymentsAreListed(t *testing.T) {
	dir := t.TempDir()
	l, _ := openTestLedger(t, dir)
	defer l.close()
	shown := slotsInEveryState(t, l)
	var out strings.Builder
	if err := printPayments(dir, (*seenSlot).unsettled, true, &out); err != nil {
		t.Fatal(err)
	}
	var list []listedPayment
	if err := json.Unmarshal([]byte(out.String()), &list); err != nil {
		t.Fatal(err)
	}
	if len(list) != 8 {
		t.Errorf("%d payments are listed, want 8", len(list))
	}
	for _, u := range list {
		if u.State != shown[u.ID] || u.AcceptedAt == "" || u.Journal != l.active.id.String() {
			t.Errorf("%+v, want state %s", u, shown[u.ID])
		}
		sent := u.State == "sent" || u.State == "pinned" || u.State == "paid" || u.State == "invalid"
		if sent != (u.Processor != "") || sent != (u.RequestedAt != "") || sent && u.Attempts != 1 {
			t.Errorf("%+v: where it was sent", u)
		}
	}
	out.Reset()
	if err := printPayments(dir, (*seenSlot).unsettled, false, &out); err != nil || strings.Count(out.String(), "\n") != 9 || !strings.Contains(out.String(), nthID(4).String()) {
		t.Errorf("%v, printed:\n%s", err, out.String())
	}
}

// TestVerifyFindsEveryDamage changes one byte of every part of a slot, of the heads, and of a file's length.
func TestVerifyFindsEveryDamage(t *testing.T) {
	const at = 5 // the slot that is damaged: paid, as the processor's look-up gave it
	type want struct {
		file     string
		sequence bool
	}
	slotByte := func(offset uintptr) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			flipByte(t, filepath.Join(dir, "000000000000"+segmentSuffix), segmentHeader+at*slotSize+int64(offset))
		}
	}
	fileByte := func(name string, offset uintptr) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) { flipByte(t, filepath.Join(dir, name), int64(offset)) }
	}
	var s slot
	var h segmentHead
	first := "000000000000" + segmentSuffix
	inSlot := want{first, true}
	for name, c := range map[string]struct {
		inflict func(t *testing.T, dir string)
		want    want
	}{
		"state word":      {slotByte(unsafe.Offsetof(s.word)), inSlot},
		"check bits":      {slotByte(unsafe.Offsetof(s.word) + 7), inSlot},
		"sequence":        {slotByte(unsafe.Offsetof(s.seq)), inSlot},
		"id":              {slotByte(unsafe.Offsetof(s.id) + 9), inSlot},
		"amount":          {slotByte(unsafe.Offsetof(s.amount)), inSlot},
		"acceptedAt":      {slotByte(unsafe.Offsetof(s.acceptedAt)), inSlot},
		"checksum":        {slotByte(unsafe.Offsetof(s.sum)), inSlot},
		"booked":          {slotByte(unsafe.Offsetof(s.booked)), inSlot},
		"booked checksum": {slotByte(unsafe.Offsetof(s.bookedSum)), inSlot},
		"segment magic":   {fileByte(first, unsafe.Offsetof(h.magic)), want{file: first}},
		"segment journal": {fileByte(first, unsafe.Offsetof(h.journal)), want{file: first}},
		"segment boot":    {fileByte(first, unsafe.Offsetof(h.boot)), want{file: first}},
		"segment version": {fileByte(first, unsafe.Offsetof(h.version)), want{file: first}},
		"journal magic":   {fileByte(headName, 0), want{file: headName}},
		"journal id":      {fileByte(headName, unsafe.Offsetof(journalHead{}.id)), want{file: headName}},
		"cut short": {func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, first), segmentHeader+2*slotSize+17); err != nil {
				t.Fatal(err)
			}
		}, want{file: first}},
		"nearly empty": {func(t *testing.T, dir string) {
			if err := os.Truncate(filepath.Join(dir, first), 5); err != nil {
				t.Fatal(err)
			}
		}, want{file: first}},
		"segment set aside": {func(t *testing.T, dir string) {
			if err := os.Rename(filepath.Join(dir, first), filepath.Join(dir, first+setAsideSuffix)); err != nil {
				t.Fatal(err)
			}
		}, want{file: first + setAsideSuffix}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l, _ := openTestLedger(t, dir)
			slotsInEveryState(t, l)
			path := l.active.dir
			if err := l.close(); err != nil {
				t.Fatal(err)
			}
			if err := verifyJournals(dir, false, io.Discard); err != nil {
				t.Fatalf("before the damage: %v", err)
			}
			c.inflict(t, path)
			before := readAll(t, dir)
			var out strings.Builder
			if err := verifyJournals(dir, true, &out); err == nil {
				t.Error("all is well, it says")
			}
			var list []damage
			if err := json.Unmarshal([]byte(out.String()), &list); err != nil {
				t.Fatal(err)
			}
			if len(list) != 1 {
				t.Fatalf("found %v", list)
			}
			d := list[0]
			if filepath.Base(d.File) != c.want.file || (d.Sequence != nil) != c.want.sequence || d.What == "" {
				t.Errorf("found %s", d)
			}
			if d.Sequence != nil && (*d.Sequence != at || *d.Offset != segmentHeader+at*slotSize) {
				t.Errorf("found %s, want sequence %d", d, at)
			}
			if err := printJournals(dir, false, io.Discard); err != nil {
				t.Error(err)
			}
			if readAll(t, dir) != before {
				t.Error("looking has changed a byte")
			}
		})
	}
}

// flipByte inverts the lowest bit of one byte of a file.
func flipByte(t *testing.T, path string, offset int64) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var b [1]byte
	if _, err := file.ReadAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if _, err := file.WriteAt(b[:], offset); err != nil {
		t.Fatal(err)
	}
}
