package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"syscall"

	"github.com/gomodule/redigo/redis"
)

// maxStoreBatch bounds one script call: while it runs (about a millisecond) Redis serves nobody else.
const maxStoreBatch = 256

// claim is a slot's wish to pay: it names the payment and its owner. out says that the slot has an attempt out: then the claim
// was its own, and is, whatever an older copy of the store has in its place.
type claim struct {
	id         paymentID
	amount     cents
	acceptedAt micros
	journal    string
	seq        uint64
	out        bool
}

// claimKind is the answer to a claim.
type claimKind uint8

const (
	// claimWon: the payment is the asking slot's, now or since an earlier call.
	claimWon claimKind = iota
	// claimHeld: another slot holds it, and it is not final yet.
	claimHeld
	// claimFinal: it is settled or rejected.
	claimFinal
	// claimUnreadable: what is there is nothing that galo writes. Nobody can say whose the payment is.
	claimUnreadable
)

func (k claimKind) String() string {
	switch k {
	case claimWon:
		return "won"
	case claimHeld:
		return "held"
	case claimFinal:
		return "final"
	case claimUnreadable:
		return "unreadable"
	}
	return "claim kind " + strconv.Itoa(int(k))
}

// claimAnswer is what became of a claim. For claimHeld rec is the other slot's claim, for claimFinal the final
// record; else it is empty.
type claimAnswer struct {
	kind claimKind
	rec  record
	// anew: the claim was won just now. Else the slot had it already, and nobody else had the payment since.
	anew bool
}

// recordState is how far a payment is, as the store knows it.
type recordState uint8

const (
	recordClaimed recordState = iota
	recordPaid
	recordRejected
	recordUnreadable // there is something that galo did not write
)

func (s recordState) String() string {
	switch s {
	case recordClaimed:
		return "claimed"
	case recordPaid:
		return "paid"
	case recordRejected:
		return "rejected"
	case recordUnreadable:
		return "unreadable"
	}
	return "record state " + strconv.Itoa(int(s))
}

// record is what the store knows of a payment. The journal and seq of the owner are known while it is claimed,
// settledAt and mark when it is final, processor and requestedAt when it is paid.
type record struct {
	id                     paymentID
	amount                 cents
	state                  recordState
	acceptedAt             micros
	processor              processorID
	requestedAt, settledAt micros
	journal                string
	seq                    uint64
	mark                   uint64 // the purge mark that it was settled under
}

// final says that the payment is paid or rejected. Of a record that cannot be read nobody knows.
func (r *record) final() bool { return r.state == recordPaid || r.state == recordRejected }

// foundRecord is a record, if there is one. One that is hidden was settled before a purge: clients are told nothing of it, but
// its id is taken.
type foundRecord struct {
	record
	found, hidden bool
}

// settlement is a payment's final state: paid or rejected. One that is hidden was settled before a purge: its record is
// written, so that its id stays taken, and no sum counts it.
type settlement struct {
	record
	hidden bool
}

// journalProgress says that every slot of the journal below low is final in the store.
type journalProgress struct {
	journal string
	low     uint64
}

// claim takes the payments for their slots, in the life t; replaying says which state that life must have.
// out gets one answer for each claim.
func (s *redisStore) claim(ctx context.Context, t lifeToken, replaying bool, in []claim, out []claimAnswer) error {
	state := stateReady
	if replaying {
		state = stateReplaying
	}
	for start := 0; start < len(in); start += maxStoreBatch {
		end := min(start+maxStoreBatch, len(in))
		if err := s.claimBatch(ctx, t, state, in[start:end], out[start:end]); err != nil {
			return fmt.Errorf("cannot claim %d payments: %w", len(in)-start, err)
		}
	}
	return nil
}

func (s *redisStore) claimBatch(ctx context.Context, t lifeToken, state string, in []claim, out []claimAnswer) error {
	args := scriptArgs{text: make([]byte, 0, 256+160*len(in)), ends: make([]int, 0, 8+3*len(in))}
	args.add(keyLife)
	args.add(keyClaims)
	for i := range in {
		args.addRecordKey(in[i].id)
	}
	args.keysEnd()
	args.add(string(t))
	args.add(state)
	for i := range in {
		if in[i].out {
			args.text = append(args.text, '1')
		} else {
			args.text = append(args.text, '0')
		}
	}
	args.end()
	for i := range in {
		args.addField(in[i].id)
	}
	for i := range in {
		args.text = in[i].appendJSON(args.text)
		args.end()
	}
	replies, err := redis.ByteSlices(s.call(ctx, s.work, t, s.scripts.claim, &args))
	if err != nil {
		return err
	}
	if len(replies) != len(in) {
		return fmt.Errorf("%d answers to %d claims", len(replies), len(in))
	}
	for i, reply := range replies {
		out[i] = in[i].answer(reply)
	}
	return nil
}

// answer reads what the claim script returned: nothing for a new claim, else what it found.
func (c *claim) answer(reply []byte) claimAnswer {
	if reply == nil {
		return claimAnswer{kind: claimWon, anew: true}
	}
	rec, err := parseRecord(c.id, reply)
	switch {
	case err != nil:
		return claimAnswer{kind: claimUnreadable}
	case rec.final():
		return claimAnswer{kind: claimFinal, rec: rec}
	case rec.journal == c.journal && rec.seq == c.seq:
		return claimAnswer{kind: claimWon}
	default:
		return claimAnswer{kind: claimHeld, rec: rec}
	}
}

// settle makes the payments final in the life t, and then raises the progress of the journals. A payment that is
// final already is left alone, so that repeating does nothing, except that a paid one replaces a rejected one. It returns
// those that were final before and that a purge has hidden since.
func (s *redisStore) settle(ctx context.Context, t lifeToken, mark uint64, in []settlement, progress []journalProgress) (hidden []paymentID, err error) {
	for start := 0; start < len(in) || start == 0; start += maxStoreBatch {
		end := min(start+maxStoreBatch, len(in))
		now := progress
		if end < len(in) {
			now = nil // Progress is true only once all of the batch is settled.
		}
		more, err := s.settleBatch(ctx, t, mark, in[start:end], now)
		if err != nil {
			return hidden, fmt.Errorf("cannot settle %d payments: %w", len(in)-start, err)
		}
		hidden = append(hidden, more...)
	}
	return hidden, nil
}

func (s *redisStore) settleBatch(ctx context.Context, t lifeToken, mark uint64, in []settlement, progress []journalProgress) (hidden []paymentID, err error) {
	args, err := settleArgs(t, mark, in, progress)
	if err != nil {
		return nil, err
	}
	fields, err := redis.ByteSlices(s.call(ctx, s.work, t, s.scripts.settle, args))
	if err != nil {
		return nil, err
	}
	for _, field := range fields {
		id, ok := parseField(field)
		if !ok {
			return nil, fmt.Errorf("cannot read the field %q", field)
		}
		hidden = append(hidden, id)
	}
	return hidden, nil
}

// settleGroup is what payments share that were requested at one processor in one slice of time.
type settleGroup struct {
	processor processorID
	slice     micros
}

// settleArgs lays out a batch as luaSettle reads it.
func settleArgs(t lifeToken, mark uint64, in []settlement, progress []journalProgress) (*scriptArgs, error) {
	var groups []settleGroup
	numbers := make(map[settleGroup]int, len(in))
	// Paid ones come first: when a batch has both for one payment, paid is what counts.
	ordered := make([]*settlement, 0, len(in))
	for _, state := range [...]recordState{recordPaid, recordRejected} {
		for i := range in {
			if in[i].state == state {
				ordered = append(ordered, &in[i])
			}
		}
	}
	if len(ordered) != len(in) {
		return nil, errors.New("a payment is neither paid nor rejected")
	}
	args := &scriptArgs{text: make([]byte, 0, 256+256*len(in)), ends: make([]int, 0, 24+8*len(in))}
	args.add(keyLife)
	args.add(keyMark)
	args.text = appendSweptKey(args.text, mark)
	args.end()
	args.add(keyLate)
	args.add(keyProgress)
	args.add(keyClaims)
	for _, one := range ordered {
		args.addRecordKey(one.id)
		group := one.group()
		if one.counts() && numbers[group] == 0 {
			groups = append(groups, group)
			numbers[group] = len(groups)
		}
	}
	for _, group := range groups {
		args.addGroupKeys(mark, group)
	}
	args.keysEnd()
	args.addHead(t, stateAny, mark)
	args.addInt(int64(len(progress)))
	args.addInt(int64(len(in)))
	for _, one := range progress {
		args.add(one.journal)
		args.add(strconv.FormatUint(one.low, 10))
	}
	for _, one := range ordered {
		args.addField(one.id)
	}
	for _, one := range ordered {
		number := 0
		if one.counts() {
			number = numbers[one.group()]
		}
		args.addSettlement(one, number, mark)
	}
	for _, group := range groups {
		args.addGroupFields(group)
	}
	return args, nil
}

// counts says whether sums have the payment.
func (s *settlement) counts() bool { return s.state == recordPaid && !s.hidden }

// under is the purge mark to write into the record: that of a hidden one may be any but the one in force.
func (s *settlement) under(inForce uint64) uint64 {
	if s.hidden {
		return inForce - 1
	}
	return inForce
}

func (s *settlement) group() settleGroup {
	return settleGroup{s.processor, floorDiv(s.requestedAt, sliceLength)}
}

func (a *scriptArgs) addSettlement(one *settlement, group int, mark uint64) {
	a.text = one.appendJSON(a.text, one.under(mark))
	a.end()
	a.addInt(int64(group))
	a.addInt(int64(one.amount))
	a.addInt(int64(one.requestedAt))
}

func (a *scriptArgs) addGroupKeys(mark uint64, group settleGroup) {
	a.text = appendSliceKey(a.text, mark, group.processor, int64(group.slice))
	a.end()
	for _, level := range bucketLevels() {
		n := int64(floorDiv(group.slice*sliceLength, level.unit))
		a.text = level.appendKey(a.text, mark, group.processor, n)
		a.end()
	}
}

func (a *scriptArgs) addGroupFields(group settleGroup) {
	a.addInt(int64(floorDiv(group.slice*sliceLength, minuteLength)))
	for _, level := range bucketLevels() {
		a.addInt(level.field(int64(floorDiv(group.slice*sliceLength, level.unit))))
	}
}

func (a *scriptArgs) addRecordKey(id paymentID) {
	a.text = appendRecordKey(a.text, id)
	a.end()
}

func (a *scriptArgs) addField(id paymentID) {
	a.text = appendField(a.text, id)
	a.end()
}

// addHead adds what luaLife and luaMark read.
func (a *scriptArgs) addHead(t lifeToken, state string, mark uint64) {
	a.add(string(t))
	a.add(state)
	a.text = strconv.AppendUint(a.text, mark, 10)
	a.end()
}

func (a *scriptArgs) addInt(n int64) {
	a.text = strconv.AppendInt(a.text, n, 10)
	a.end()
}

// records looks payments up: the final record first, else the claim. out gets one answer for each id.
func (s *redisStore) records(ctx context.Context, ids []paymentID, out []foundRecord) error {
	for start := 0; start < len(ids); start += maxStoreBatch {
		end := min(start+maxStoreBatch, len(ids))
		err := s.queried(func() error { return s.recordsBatch(ctx, ids[start:end], out[start:end]) })
		if err != nil {
			return fmt.Errorf("cannot look up %d payments: %w", len(ids), err)
		}
	}
	return nil
}

func (s *redisStore) recordsBatch(ctx context.Context, ids []paymentID, out []foundRecord) error {
	t, mark := s.token(), s.mark.Load()
	var args scriptArgs
	args.add(keyLife)
	args.add(keyMark)
	args.add(keyClaims)
	for _, id := range ids {
		args.addRecordKey(id)
	}
	args.keysEnd()
	args.addHead(t, stateReady, mark)
	for _, id := range ids {
		args.addField(id)
	}
	replies, err := redis.ByteSlices(s.call(ctx, s.query, t, s.scripts.records, &args))
	if err != nil {
		return err
	}
	if len(replies) != len(ids) {
		return fmt.Errorf("%d answers to %d ids", len(replies), len(ids))
	}
	for i, reply := range replies {
		out[i] = foundRecord{found: reply != nil}
		if reply == nil {
			continue
		}
		if out[i].record, err = parseRecord(ids[i], reply); err != nil {
			out[i].record = record{id: ids[i], state: recordUnreadable}
		}
		out[i].hidden = out[i].final() && out[i].mark != mark
	}
	return nil
}

// queryTries is how often a query is made when history is purged or swept under it or its connection breaks.
const queryTries = 4

// queried makes a query until it is answered under the mark that its keys were built with. A broken connection
// is tried again as well: it may have been idle since long before the server at its other end went away.
func (s *redisStore) queried(query func() error) error {
	var err error
	for range queryTries {
		err = query()
		_, purged := errors.AsType[purgedError](err)
		_, swept := errors.AsType[sweptError](err)
		if !purged && !swept && !connBroke(err) {
			return err
		}
	}
	return err
}

// connBroke says whether the other end of a connection went away, unlike a server that can't be reached or does
// not answer in time: that is not waited for twice.
func connBroke(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
