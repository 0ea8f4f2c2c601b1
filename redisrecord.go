package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// The stored forms are JSON arrays that stay within 64 bytes: one longer value would make Redis unpack the whole
// hash it is in, at several times the memory. So the later instants are offsets from acceptedAt.
//
//	claim     [cents, acceptedAt, "journal", seq]
//	paid      ["d" or "f", cents, acceptedAt, requestedAt-acceptedAt, settledAt-acceptedAt]
//	rejected  ["x", cents, acceptedAt, settledAt-acceptedAt]
//
// The letter of a final record is followed by the purge mark that it was settled under, unless that is 0: "d3". With any
// other mark than the one in force it is hidden.
const (
	paidAtDefault   = "d"
	paidAtFallback  = "f"
	rejectedForGood = "x"
)

func (c *claim) appendJSON(dst []byte) []byte {
	dst = append(dst, '[')
	dst = strconv.AppendInt(dst, int64(c.amount), 10)
	dst = append(dst, ',')
	dst = strconv.AppendInt(dst, int64(c.acceptedAt), 10)
	dst = append(dst, ',')
	dst = appendJournal(dst, c.journal)
	dst = append(dst, ',')
	dst = strconv.AppendUint(dst, c.seq, 10)
	return append(dst, ']')
}

// appendJournal appends a journal's name, which is hex digits as a rule: nothing that JSON would escape.
func appendJournal(dst []byte, name string) []byte {
	for i := range len(name) {
		if c := name[i] | 0x20; (c < 'a' || c > 'z') && (name[i] < '0' || name[i] > '9') {
			quoted, _ := json.Marshal(name) // A string can always be marshalled.
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, name...)
	return append(dst, '"')
}

// appendJSON appends the final record of a payment that is settled under the given purge mark.
func (s *settlement) appendJSON(dst []byte, mark uint64) []byte {
	kind := rejectedForGood
	offsets := []micros{s.settledAt - s.acceptedAt}
	if s.state == recordPaid {
		kind = paidAtDefault
		if s.processor == onFallback {
			kind = paidAtFallback
		}
		offsets = []micros{s.requestedAt - s.acceptedAt, s.settledAt - s.acceptedAt}
	}
	dst = append(dst, '[', '"')
	dst = append(dst, kind...)
	if mark > 0 {
		dst = strconv.AppendUint(dst, mark, 10)
	}
	dst = append(dst, '"', ',')
	dst = strconv.AppendInt(dst, int64(s.amount), 10)
	dst = append(dst, ',')
	dst = strconv.AppendInt(dst, int64(s.acceptedAt), 10)
	for _, offset := range offsets {
		dst = append(dst, ',')
		dst = strconv.AppendInt(dst, int64(offset), 10)
	}
	return append(dst, ']')
}

// parseRecord reads a stored claim or final record.
func parseRecord(id paymentID, text []byte) (record, error) {
	var parts []json.RawMessage
	if err := json.Unmarshal(text, &parts); err != nil {
		return record{}, fmt.Errorf("cannot read the record of %s: %w", id, err)
	}
	rec := record{id: id}
	letter, mark, err := parseKind(parts)
	scan := func(into ...any) {
		if len(parts) != len(into) {
			err = errors.Join(err, fmt.Errorf("%d parts", len(parts)))
		}
		for i := range min(len(parts), len(into)) {
			err = errors.Join(err, json.Unmarshal(parts[i], into[i]))
		}
	}
	switch letter {
	case paidAtDefault, paidAtFallback:
		rec.state, rec.processor = recordPaid, onDefault
		if letter == paidAtFallback {
			rec.processor = onFallback
		}
		scan(new(string), &rec.amount, &rec.acceptedAt, &rec.requestedAt, &rec.settledAt)
		rec.requestedAt += rec.acceptedAt
	case rejectedForGood:
		rec.state = recordRejected
		scan(new(string), &rec.amount, &rec.acceptedAt, &rec.settledAt)
	default:
		rec.state = recordClaimed
		scan(&rec.amount, &rec.acceptedAt, &rec.journal, &rec.seq)
	}
	if rec.state != recordClaimed {
		rec.mark = mark
		rec.settledAt += rec.acceptedAt
	}
	if err != nil {
		return record{}, fmt.Errorf("cannot read the record of %s: %w", id, err)
	}
	return rec, nil
}

// parseKind reads the first part of a final record: its letter, and the purge mark behind it. A claim has neither: its first
// part is a number.
func parseKind(parts []json.RawMessage) (letter string, mark uint64, err error) {
	var kind string
	if len(parts) == 0 || json.Unmarshal(parts[0], &kind) != nil {
		return "", 0, nil
	}
	if len(kind) > 1 {
		mark, err = strconv.ParseUint(kind[1:], 10, 64)
	}
	return kind[:min(1, len(kind))], mark, err
}
