package main

import (
	"encoding/json"
	"hash/crc32"
	"testing"

	"pgregory.net/rapid"
)

// TestBucketsAreChosenByCRC32C: a store that is there already has its payments where they belong.
func TestBucketsAreChosenByCRC32C(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := paymentID(rapid.SliceOfN(rapid.Byte(), len(paymentID{}), len(paymentID{})).Draw(t, "id"))
		if got, want := idHash(id), crc32.Checksum(id[:], crc32.MakeTable(crc32.Castagnoli)); got != want {
			t.Fatalf("idHash(%v) = %08x, want %08x", id, got, want)
		}
	})
}

// TestClaimNamesAnyJournal: one that is not named as galo names them, too.
func TestClaimNamesAnyJournal(t *testing.T) {
	for _, name := range []string{"", "j1", "0123456789abcdef", "ABCXYZ", `a"b`, `a\b`, "a b", "a\nb", "<&>", "é", "\u2028", "a\xffb", "[", "`", "@", "{", "_"} {
		want, _ := json.Marshal(name)
		if got := string(appendJournal([]byte("x"), name)); got != "x"+string(want) {
			t.Errorf("%q: got %s, want x%s", name, got, want)
		}
	}
}

func TestWhatRedisIsToldOfAPaymentAllocatesNothing(t *testing.T) {
	one := paidOne(1, onDefault, noon, 1990)
	c := claimFor(one, "0123456789abcdef", 7)
	args := scriptArgs{text: make([]byte, 0, 1<<10), ends: make([]int, 0, 64)}
	if got := testing.AllocsPerRun(1000, func() {
		args.text, args.ends = args.text[:0], args.ends[:0]
		args.addRecordKey(c.id)
		args.addField(c.id)
		args.text = c.appendJSON(args.text)
		args.addSettlement(&one, 1, 0)
	}); got != 0 {
		t.Errorf("%v allocations per payment", got)
	}
}
