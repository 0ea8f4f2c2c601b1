package main

import (
	"fmt"
	"math/big"
	"strconv"
)

// cents is money. No float touches it, here as in galo.
type cents int64

const maxWholeDigits = 15 // far above any amount or total of a storm, far below where cents would overflow

// parseCents reads a plain JSON decimal with at most two digits after the point ("19.9", "19.90", "19").
// Galo sends and answers in that form; anything else is a finding.
func parseCents(s string) (cents, error) {
	var value int64
	fraction, point := 0, false
	for i := range len(s) {
		switch c := s[i]; {
		case c >= '0' && c <= '9' && fraction < 2:
			value = value*10 + int64(c-'0')
			if point {
				fraction++
			}
		case c == '.' && !point && i > 0 && i < len(s)-1:
			point = true
		default:
			return 0, fmt.Errorf("cannot read amount %q: a decimal with two digits after the point is needed", s)
		}
	}
	if s == "" || len(s) > maxWholeDigits+3 {
		return 0, fmt.Errorf("cannot read amount %q: 1 to %d digits are needed", s, maxWholeDigits)
	}
	for ; fraction < 2; fraction++ {
		value *= 10
	}
	return cents(value), nil
}

func (c cents) appendDecimal(dst []byte) []byte {
	if c < 0 {
		dst, c = append(dst, '-'), -c
	}
	dst = strconv.AppendInt(dst, int64(c/100), 10)
	return append(dst, '.', byte('0'+c/10%10), byte('0'+c%10))
}

func (c cents) String() string { return string(c.appendDecimal(nil)) }

// A fee is a share in hundredths of a percent: 0.05 is 500.
type fee int64

const wholeFee = 10_000

// parseFee reads a share such as 0.05.
func parseFee(s string) (fee, error) {
	share, ok := new(big.Rat).SetString(s)
	if ok {
		share.Mul(share, big.NewRat(wholeFee, 1))
	}
	if !ok || !share.IsInt() || share.Sign() < 0 || share.Num().Cmp(big.NewInt(wholeFee)) > 0 {
		return 0, fmt.Errorf("cannot read fee %q: a share from 0 to 1 with at most four decimals is needed", s)
	}
	return fee(share.Num().Int64()), nil
}

// appendShare writes the fee as a share of one: 500 is 0.0500.
func (f fee) appendShare(dst []byte) []byte {
	return fmt.Appendf(dst, "%d.%04d", f/wholeFee, f%wholeFee)
}

func (f fee) String() string { return string(f.appendShare(nil)) }

// of is the fee on an amount, in cents, halves up.
func (f fee) of(amount cents) cents {
	return (amount*cents(f) + wholeFee/2) / wholeFee
}
