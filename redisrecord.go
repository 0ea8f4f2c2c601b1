package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
)

// The stored forms are JSON arrays that stay within 64 bytes: one longer value would make Redis unpack the whole
// hash it is in, at several times the memory. So the later instants are offsets from acceptedAt.
//
//	claim     [cents, acceptedAt, "journal", seq]
//	paid      ["d" or "f", cents, acceptedAt, requestedAt-acceptedAt, settledAt-acceptedAt]
//	rejected  ["x", cents, acceptedAt, settledAt-acceptedAt]
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
	journal, _ := json.Marshal(c.journal) // A string can always be marshalled.
	dst = append(dst, journal...)
	dst = append(dst, ',')
	dst = strconv.AppendUint(dst, c.seq, 10)
	return append(dst, ']')
}

func (s *settlement) appendJSON(dst []byte) []byte {
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
	var kind string
	var err error
	scan := func(into ...any) {
		if len(parts) != len(into) {
			err = fmt.Errorf("%d parts", len(parts))
		}
		for i := range min(len(parts), len(into)) {
			err = errors.Join(err, json.Unmarshal(parts[i], into[i]))
		}
	}
	if len(parts) > 0 && slices.Contains([]string{`"d"`, `"f"`}, string(parts[0])) {
		rec.state = recordPaid
		scan(&kind, &rec.amount, &rec.acceptedAt, &rec.requestedAt, &rec.settledAt)
		rec.requestedAt += rec.acceptedAt
		rec.settledAt += rec.acceptedAt
		if kind == paidAtFallback {
			rec.processor = onFallback
		}
	} else if len(parts) > 0 && string(parts[0]) == `"x"` {
		rec.state = recordRejected
		scan(&kind, &rec.amount, &rec.acceptedAt, &rec.settledAt)
		rec.settledAt += rec.acceptedAt
	} else {
		rec.state = recordClaimed
		scan(&rec.amount, &rec.acceptedAt, &rec.journal, &rec.seq)
	}
	if err != nil {
		return record{}, fmt.Errorf("cannot read the record of %s: %w", id, err)
	}
	return rec, nil
}
