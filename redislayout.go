package main

import (
	"encoding/base64"
	"strconv"
)

// How the store's keys are named. Every key carries the hash tag {0}, so that a Redis Cluster keeps them in one
// slot and a script may touch any of them. What summaries read lives under the purge mark, so that raising the mark
// forgets all of it in one step. Records do not: a payment that was purged is hidden, but its id stays taken, since it
// was paid. They carry the mark that they were settled under instead.
const (
	keyPrefix   = "galo{0}:"
	keyLife     = keyPrefix + "life"
	keyMark     = keyPrefix + "mark"
	keyReports  = keyPrefix + "reports"
	keyProgress = keyPrefix + "progress"
	keyPoll     = keyPrefix + "poll:"
	// keyHeard is a hash: of each journal, when (ms of the store's clock) its owner last said that the store has all it holds as paid,
	// or heardLeft.
	keyHeard = keyPrefix + "heard"
	// heardLeft is what keyHeard has of a journal whose owner has stopped and left nothing behind that was, or may be, paid.
	heardLeft = "left"
	// keyHere is the sorted set of the processes that work with this store, each scored by when (ms of the store's clock) it last reported.
	keyHere = keyPrefix + "here"
	// keyLate is the sorted set of the records that no slice leads to (rejected and purged ones, and those settled when
	// their slice had been swept already), scored by the instant they were settled, or requested if they were purged.
	keyLate = keyPrefix + "late"
	// keyClaims is the hash of all claims, of which there are only as many as payments are on their way: so one call of Redis reads
	// those of a batch, another one writes them, and a third one removes them.
	keyClaims = keyPrefix + "claims"
	// keyLayout is the layout that the store has, see storeLayout. It is written when a life begins.
	keyLayout = keyPrefix + "layout"

	// recordBuckets cuts the final records. Redis packs a hash of up to 128 entries into one allocation: that
	// holds up to some 1.5 million payments, which is more than a Redis of 200 MB has room for. Four times as many
	// buckets cost 40 bytes more a payment at 100,000 payments, since every key has its price, too.
	recordBuckets = 1 << 14
)

// storeLayout numbers what is under which key, and how it is written. It has to be raised with every change that another version of galo
// would misread or not see: two instances that do not see each other's claims pay an id twice. An instance that finds another one than its
// own works with that store no more than with none. 1 had the claims in many hashes, and did not say so.
const storeLayout = "2"

// Lengths of time in microseconds, the store's own unit.
const (
	sliceLength  micros = 100_000
	secondLength micros = 1_000_000
	minuteLength        = 60 * secondLength
	hourLength          = 60 * minuteLength
	dayLength           = 24 * hourLength
)

// sliceLetter names the sorted sets of the payments of a slice of time.
const sliceLetter = "z"

// fieldLength is the length of a payment's name inside hashes and sorted sets: 16 bytes as raw URL base64.
const fieldLength = 22

// bucketLevel is one layer of the sums: how long a bucket is, and how many of them share a hash.
type bucketLevel struct {
	letter byte
	unit   micros
	// parent is the time that one hash spans; 0 means that one hash holds all.
	parent micros
}

const bucketLevelCount = 4

// bucketLevels returns the layers from the finest to the coarsest.
func bucketLevels() [bucketLevelCount]bucketLevel {
	return [bucketLevelCount]bucketLevel{
		{'s', secondLength, minuteLength},
		{'m', minuteLength, hourLength},
		{'h', hourLength, dayLength},
		{'d', dayLength, 0},
	}
}

// appendKey appends the name of the hash that holds the bucket number n of this layer.
func (l bucketLevel) appendKey(dst []byte, mark uint64, p processorID, n int64) []byte {
	dst = appendMarked(dst, mark, l.letter)
	dst = strconv.AppendUint(dst, uint64(p), 10)
	if l.parent == 0 {
		return dst
	}
	dst = append(dst, ':')
	return strconv.AppendInt(dst, floorDiv(n, int64(l.parent/l.unit)), 10)
}

// field returns the number under which the bucket number n stands in its hash: the second of the minute, the
// minute of the hour, the hour of the day, or the day itself.
func (l bucketLevel) field(n int64) int64 {
	if l.parent == 0 {
		return n
	}
	per := int64(l.parent / l.unit)
	return n - floorDiv(n, per)*per
}

func appendMarked(dst []byte, mark uint64, letter byte) []byte {
	dst = append(dst, keyPrefix...)
	dst = strconv.AppendUint(dst, mark, 10)
	return append(dst, ':', letter)
}

func appendRecordKey(dst []byte, id paymentID) []byte {
	dst = append(dst, keyPrefix...)
	dst = append(dst, 'r', ':')
	return strconv.AppendUint(dst, uint64(idHash(id)%recordBuckets), 10)
}

func appendSliceKey(dst []byte, mark uint64, p processorID, slice int64) []byte {
	dst = appendMarked(dst, mark, sliceLetter[0])
	dst = strconv.AppendUint(dst, uint64(p), 10)
	dst = append(dst, ':')
	return strconv.AppendInt(dst, slice, 10)
}

// appendSweptKey names the hash that says how far retention has swept: "to" is the first minute that still has
// its slices, "done" the first one whose sweep is not known to be complete.
func appendSweptKey(dst []byte, mark uint64) []byte {
	return append(appendMarked(dst, mark, 's'), "wept"...)
}

func appendField(dst []byte, id paymentID) []byte {
	return base64.RawURLEncoding.AppendEncode(dst, id[:])
}

// parseField reads the payment's id from the beginning of a field or member.
func parseField(text []byte) (paymentID, bool) {
	var id paymentID
	if len(text) < fieldLength {
		return id, false
	}
	n, err := base64.RawURLEncoding.Decode(id[:], text[:fieldLength])
	return id, err == nil && n == len(id)
}

// idHash is the id's CRC-32C. It is taken here and not by hash/crc32, through whose function variable every id would escape to the heap.
func idHash(id paymentID) uint32 {
	sum := ^uint32(0)
	for _, b := range id {
		sum = castagnoli[byte(sum)^b] ^ sum>>8
	}
	return ^sum
}

// floorDiv divides and rounds towards minus infinity, so that instants before 1970 fall into buckets, too.
func floorDiv[T ~int64](a, b T) T {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// ceilDiv divides and rounds towards plus infinity.
func ceilDiv[T ~int64](a, b T) T {
	q := a / b
	if a%b > 0 {
		q++
	}
	return q
}
