package main

import (
	"encoding/binary"
	"strconv"
	"time"
)

// This file holds what a payment is made of: an id, an amount and instants, each with its text form.
// Everything here runs once or more per payment and allocates nothing, provided that dst has room.

// paymentID is a UUID of any version, the nil UUID included: a client's id is never judged, only compared.
// Its text form is canonical and in lower case, so that one id has one name whatever case a client wrote.
type paymentID [16]byte

// paymentIDLen is the length of the canonical text form: 32 hex digits and four hyphens.
const paymentIDLen = 36

// String returns the canonical text form.
func (id paymentID) String() string {
	return string(id.appendText(make([]byte, 0, paymentIDLen)))
}

// appendText appends the canonical text form.
func (id paymentID) appendText(dst []byte) []byte {
	le := binary.LittleEndian
	second, third := hexDigits(le.Uint32(id[4:])), hexDigits(le.Uint32(id[8:]))
	dst = append(le.AppendUint64(dst, hexDigits(le.Uint32(id[0:]))), '-')
	dst = append(le.AppendUint32(dst, uint32(second)), '-')
	dst = append(le.AppendUint32(dst, uint32(second>>32)), '-')
	dst = append(le.AppendUint32(dst, uint32(third)), '-')
	dst = le.AppendUint32(dst, uint32(third>>32))
	return le.AppendUint64(dst, hexDigits(le.Uint32(id[12:])))
}

// parsePaymentID reads the canonical form, hex digits in either case. Braces, a urn: prefix and the form
// without hyphens are refused: they would be further names for the same payment.
func parsePaymentID(s []byte) (id paymentID, ok bool) {
	ok = id.parse(s)
	return id, ok
}

// parse is parsePaymentID in place. If it is false, id is as it was.
func (id *paymentID) parse(s []byte) bool {
	if len(s) != paymentIDLen || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return false
	}
	le := binary.LittleEndian
	b0, bad0 := hexBytes(le.Uint64(s[0:]))
	b1, bad1 := hexBytes(uint64(le.Uint32(s[9:])) | uint64(le.Uint32(s[14:]))<<32)
	b2, bad2 := hexBytes(uint64(le.Uint32(s[19:])) | uint64(le.Uint32(s[24:]))<<32)
	b3, bad3 := hexBytes(le.Uint64(s[28:]))
	if bad0|bad1|bad2|bad3 != 0 {
		return false
	}
	le.PutUint64(id[0:], uint64(b0)|uint64(b1)<<32)
	le.PutUint64(id[8:], uint64(b2)|uint64(b3)<<32)
	return true
}

// hexBytes reads eight hex digits at once, the first one in the lowest byte, as are the four bytes that they name. bad is 0 if all
// eight are digits. No step carries from one byte into the next, whatever is in them.
func hexBytes(digits uint64) (bytes uint32, bad uint64) {
	const each = 0x0101010101010101
	letter := digits >> 6 & each                 // 1 where bit 6 says that it can only be a letter
	value := digits&(0x0f*each) + letter*9       // 0 to 24; a letter's own number is 1 to 6
	isTen := (value + 6*each) >> 4 & each        // 1 where the value is 10 or more
	high := (digits | letter<<5) & (0xf0 * each) // with this bit A-F is a-f; a digit has it
	bad = (high ^ (0x30*each + letter*0x30)) | (isTen ^ letter) | value&(0xf0*each)

	pairs := (value<<4 | value>>8) & 0x00ff00ff00ff00ff
	pairs = (pairs | pairs>>8) & 0x0000ffff0000ffff
	return uint32(pairs | pairs>>16), bad
}

// hexDigits is the way back from hexBytes, in lower case.
func hexDigits(bytes uint32) uint64 {
	const each = 0x0101010101010101
	pairs := uint64(bytes)
	pairs = (pairs | pairs<<16) & 0x0000ffff0000ffff
	pairs = (pairs | pairs<<8) & 0x00ff00ff00ff00ff
	value := (pairs>>4 | pairs<<8) & (0x0f * each)
	isTen := (value + 6*each) >> 4 & each
	return value + '0'*each + isTen*('a'-10-'0')
}

// cents is money. Whatever parsePayment lets in is from 1 to maxCents; a sum of such may be more.
type cents int64

const (
	// centPlaces is how many decimals money has.
	centPlaces = 2
	// maxCents is the largest amount that the contract takes: 9,999,999,999.99.
	maxCents cents = 999_999_999_999
)

// appendDecimal appends the amount with exactly two decimals: 1990 is "19.90". An amount is never negative.
func (c cents) appendDecimal(dst []byte) []byte {
	dst = strconv.AppendInt(dst, int64(c)/100, 10)
	return appendTwoDigits(append(dst, '.'), int(int64(c)%100))
}

// micros is an instant: microseconds since the Unix epoch, in UTC.
type micros int64

// nowMicros returns the wall clock's time. It goes through the time package, so that it stands still in a
// synctest bubble as every other clock does.
func nowMicros() micros { return micros(time.Now().UnixMicro()) }

// appendTime appends the instant as RFC 3339 in UTC with exactly six decimals: 2025-07-15T12:34:56.000000Z.
// The form has four digits for the year. An instant outside of the years 0 to 9999, which no payment has,
// is written with as many as it takes.
func (t micros) appendTime(dst []byte) []byte {
	utc := time.UnixMicro(int64(t)).UTC()
	year, month, day := utc.Date()
	if year < 0 || year > 9999 {
		return utc.AppendFormat(dst, "2006-01-02T15:04:05.000000Z")
	}
	hour, minute, second := utc.Clock()
	fraction := utc.Nanosecond() / int(time.Microsecond)

	dst = appendTwoDigits(dst, year/100)
	dst = appendTwoDigits(dst, year%100)
	dst = appendTwoDigits(append(dst, '-'), int(month))
	dst = appendTwoDigits(append(dst, '-'), day)
	dst = appendTwoDigits(append(dst, 'T'), hour)
	dst = appendTwoDigits(append(dst, ':'), minute)
	dst = appendTwoDigits(append(dst, ':'), second)
	dst = appendTwoDigits(append(dst, '.'), fraction/10_000)
	dst = appendTwoDigits(dst, fraction/100%100)
	dst = appendTwoDigits(dst, fraction%100)
	return append(dst, 'Z')
}

// appendTwoDigits appends n, from 0 to 99, with a leading zero where it needs one.
func appendTwoDigits(dst []byte, n int) []byte {
	return append(dst, byte('0'+n/10), byte('0'+n%10))
}

// parseInstant reads an RFC 3339 date-time of the years 0001 to 9999, with a fraction of any length and
// any offset; t and z may be in lower case. What lies below a microsecond is cut off, or with roundUp
// rounded up: so a window whose `from` is rounded up and whose `to` is not holds exactly the whole
// microseconds that lie in the window as it was asked for.
//
// A leap second (23:59:60 in UTC, with or without a fraction) does not exist in Unix time and is taken for
// the start of the second after it.
func parseInstant(s []byte, roundUp bool) (micros, bool) {
	t, rest, ok := parseLocalTime(s, roundUp)
	if !ok {
		return 0, false
	}
	offset, ok := parseOffset(rest)
	if !ok {
		return 0, false
	}
	return t.at(offset)
}

// parseProcessorTime reads a requestedAt out of a processor's look-up. That is what parseInstant reads, but
// the zone may be missing altogether, and is UTC then. What lies below a microsecond is cut off.
func parseProcessorTime(s []byte) (micros, bool) {
	t, rest, ok := parseLocalTime(s, false)
	if !ok {
		return 0, false
	}
	if len(rest) == 0 {
		return t.at(0)
	}
	offset, ok := parseOffset(rest)
	if !ok {
		return 0, false
	}
	return t.at(offset)
}

// localTime is a date-time as it was written, before its offset is known.
type localTime struct {
	asUTC micros // what it would be if its offset were zero
	leap  bool   // its second is 60; asUTC is the start of the next one then
}

// at applies an offset in seconds east of UTC. A second 60 is refused unless it is the last of a UTC day.
func (t localTime) at(offset int) (micros, bool) {
	utc := t.asUTC - micros(offset)*1_000_000
	const day = 86_400 * 1_000_000
	if t.leap && utc%day != 0 {
		return 0, false
	}
	return utc, true
}

// parseLocalTime reads the date, the time and the fraction, and returns what follows them.
func parseLocalTime(s []byte, roundUp bool) (t localTime, rest []byte, ok bool) {
	const form = "2006-01-02T15:04:05"
	if len(s) < len(form) || s[4] != '-' || s[7] != '-' || s[10]|0x20 != 't' || s[13] != ':' || s[16] != ':' {
		return localTime{}, nil, false
	}
	century, ok1 := twoDigits(s[0:])
	yearOf, ok2 := twoDigits(s[2:])
	month, ok3 := twoDigits(s[5:])
	day, ok4 := twoDigits(s[8:])
	hour, ok5 := twoDigits(s[11:])
	minute, ok6 := twoDigits(s[14:])
	second, ok7 := twoDigits(s[17:])
	if !(ok1 && ok2 && ok3 && ok4 && ok5 && ok6 && ok7) {
		return localTime{}, nil, false
	}
	year := century*100 + yearOf
	if year < 1 || month < 1 || month > 12 || day < 1 || day > daysIn(year, month) ||
		hour > 23 || minute > 59 || second > 60 {
		return localTime{}, nil, false
	}
	fraction, rest, ok := parseFraction(s[len(form):], roundUp)
	if !ok {
		return localTime{}, nil, false
	}
	if second == 60 {
		t.leap, fraction = true, 0
	}
	// Date carries a second 60 over into the next minute by itself.
	whole := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	t.asUTC = micros(whole.UnixMicro()) + fraction
	return t, rest, true
}

// parseFraction reads "." and its digits, of which there may be none only if there is no "." either. The
// result is from 0 to 1,000,000: the last only by rounding up.
func parseFraction(s []byte, roundUp bool) (fraction micros, rest []byte, ok bool) {
	if len(s) == 0 || s[0] != '.' {
		return 0, s, true
	}
	i, unit, below := 1, micros(100_000), false
	for ; i < len(s) && s[i]-'0' <= 9; i++ {
		digit := micros(s[i] - '0')
		fraction += digit * unit
		below = below || (unit == 0 && digit != 0)
		unit /= 10
	}
	if i == 1 {
		return 0, nil, false
	}
	if below && roundUp {
		fraction++
	}
	return fraction, s[i:], true
}

// parseOffset reads Z or ±hh:mm, which has to be all there is, and returns seconds east of UTC.
func parseOffset(s []byte) (int, bool) {
	if len(s) == 1 {
		return 0, s[0]|0x20 == 'z'
	}
	if len(s) != len("+00:00") || (s[0] != '+' && s[0] != '-') || s[3] != ':' {
		return 0, false
	}
	hours, ok1 := twoDigits(s[1:])
	minutes, ok2 := twoDigits(s[4:])
	if !ok1 || !ok2 || hours > 23 || minutes > 59 {
		return 0, false
	}
	offset := hours*3600 + minutes*60
	if s[0] == '-' {
		offset = -offset
	}
	return offset, true
}

// twoDigits reads the two digits that s starts with. The caller has checked that there are two bytes.
func twoDigits(s []byte) (int, bool) {
	tens, ones := s[0]-'0', s[1]-'0'
	return int(tens)*10 + int(ones), tens <= 9 && ones <= 9
}

// daysIn returns the length of a month in the Gregorian calendar.
func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}
