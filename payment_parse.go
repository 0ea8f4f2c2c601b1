package main

import (
	stdjson "encoding/json"
	"unicode/utf8"

	"github.com/goccy/go-json"
)

// This file reads the body of POST /payments, on two ways that agree: a plain one for what nearly every
// client sends, which allocates nothing, and a general one for everything else that JSON allows.

// The names of the two fields. JSON names are case-sensitive, and so are these.
const (
	fieldID     = "correlationId"
	fieldAmount = "amount"
)

// maxDepth bounds how deep values may be nested in a body. RFC 8259 leaves the limit to the parser. A
// payment needs a depth of one; the rest is for what others hang onto it under names that we don't know.
const maxDepth = 64

// parsePayment reads the body of POST /payments. Nothing that it returns refers to the body. The problem is
// nil exactly when the payment may be taken: its amount is from 1 to maxCents then.
func parsePayment(body []byte) (id paymentID, amount cents, bad *problem) {
	if amount, ok := parsePlain(body, &id); ok {
		return id, amount, nil
	}
	return parseAnyJSON(body)
}

// parsePlain reads an object of exactly the two fields, in either order and with white space anywhere, whose
// strings have no escapes and whose amount has no exponent, no more than two decimals, and is in range. It
// refuses nothing: a false leaves the body to parseAnyJSON, whatever the reason, and says nothing of id.
func parsePlain(body []byte, id *paymentID) (amount cents, ok bool) {
	var haveID, haveAmount bool
	at, ok := skipByte(body, skipSpace(body, 0), '{')
	for ok {
		at = skipSpace(body, at)
		switch {
		case !haveID && startsWith(body, at, `"`+fieldID+`"`):
			at = skipColon(body, at+len(`"`+fieldID+`"`))
			at, haveID = plainID(body, at, id)
			ok = haveID
		case !haveAmount && startsWith(body, at, `"`+fieldAmount+`"`):
			at = skipColon(body, at+len(`"`+fieldAmount+`"`))
			amount, at, haveAmount = plainAmount(body, at)
			ok = haveAmount
		default:
			ok = false
		}
		if !ok {
			break
		}
		at = skipSpace(body, at)
		if haveID && haveAmount {
			at, ok = skipByte(body, at, '}')
			return amount, ok && skipSpace(body, at) == len(body)
		}
		at, ok = skipByte(body, at, ',')
	}
	return 0, false
}

// plainID reads a quoted id at body[at:], and returns where it ends.
func plainID(body []byte, at int, id *paymentID) (int, bool) {
	end := at + 1 + paymentIDLen
	if end >= len(body) || body[at] != '"' || body[end] != '"' {
		return at, false
	}
	return end + 1, id.parse(body[at+1 : end])
}

// plainAmount reads a number of up to ten digits and two decimals at body[at:], and returns where it ends.
// That it ends there is for the caller to see: only white space, "," or "}" can follow.
func plainAmount(body []byte, at int) (cents, int, bool) {
	const maxWholeDigits = 10 // as many as maxCents has before its decimals
	var amount cents
	start := at
	for at < len(body) && body[at]-'0' <= 9 && at-start < maxWholeDigits {
		amount = amount*10 + cents(body[at]-'0')
		at++
	}
	if at == start || (body[start] == '0' && at-start > 1) {
		return 0, at, false
	}
	amount *= 100
	if at+1 < len(body) && body[at] == '.' && body[at+1]-'0' <= 9 {
		amount += cents(body[at+1]-'0') * 10
		at += 2
		if at < len(body) && body[at]-'0' <= 9 {
			amount += cents(body[at] - '0')
			at++
		}
	}
	return amount, at, amount > 0
}

// skipSpace returns the place of the first byte from at on that is not JSON's white space.
func skipSpace(body []byte, at int) int {
	for at < len(body) && (body[at] == ' ' || body[at] == '\t' || body[at] == '\r' || body[at] == '\n') {
		at++
	}
	return at
}

// skipByte returns the place after want, if want is at body[at].
func skipByte(body []byte, at int, want byte) (int, bool) {
	if at < len(body) && body[at] == want {
		return at + 1, true
	}
	return at, false
}

// skipColon skips a colon and the white space around it. Without a colon it returns the end of the body,
// where no value can be.
func skipColon(body []byte, at int) int {
	at, ok := skipByte(body, skipSpace(body, at), ':')
	if !ok {
		return len(body)
	}
	return skipSpace(body, at)
}

// startsWith says whether body[at:] starts with want.
func startsWith(body []byte, at int, want string) bool {
	return len(body)-at >= len(want) && string(body[at:at+len(want)]) == want
}

// parseAnyJSON reads every body that JSON allows: escapes in names and values, unknown names with nested
// values, exponents, and repeated names, of which the last one counts. It allocates, and is linear in the
// length of the body.
func parseAnyJSON(body []byte) (paymentID, cents, *problem) {
	if p := checkJSON(body); p != nil {
		return paymentID{}, 0, p
	}
	// A map keeps names apart that differ in case; a struct would match them all.
	var fields map[string]json.RawMessage
	if body[skipSpace(body, 0)] != '{' {
		return paymentID{}, 0, badField("the body", "must be a JSON object")
	}
	if err := json.Unmarshal(body, &fields); err != nil {
		return paymentID{}, 0, badJSON("it cannot be decoded")
	}
	id, p := idOf(fields)
	if p != nil {
		return paymentID{}, 0, p
	}
	amount, p := amountOf(fields)
	if p != nil {
		return paymentID{}, 0, p
	}
	return id, amount, nil
}

// checkJSON says what keeps the body from being JSON. The syntax is judged by the standard library, so that
// what is taken does not depend on how strict the decoder after it is. That a body is UTF-8 neither checks.
func checkJSON(body []byte) *problem {
	if !utf8.Valid(body) {
		return badJSON("it is not UTF-8")
	}
	if tooDeep(body) {
		return badJSON("it is nested too deep to be a payment")
	}
	if !stdjson.Valid(body) {
		return badJSON("its syntax is wrong")
	}
	return nil
}

// tooDeep says whether values are nested deeper than maxDepth, so that nothing that recurses or keeps a
// stack ever sees such a body. On a body that is not JSON its answer may be either, which does no harm.
func tooDeep(body []byte) bool {
	depth, inString := 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			if depth > maxDepth {
				return true
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return false
}

// idOf returns the correlationId of a decoded body.
func idOf(fields map[string]json.RawMessage) (paymentID, *problem) {
	raw, ok := fields[fieldID]
	if !ok {
		return paymentID{}, badField(fieldID, "is missing")
	}
	var text string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &text) != nil {
		return paymentID{}, badField(fieldID, "must be a string")
	}
	id, ok := parsePaymentID([]byte(text))
	if !ok {
		return paymentID{}, badField(fieldID, "must be a UUID such as 4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3")
	}
	return id, nil
}

// amountOf returns the amount of a decoded body.
func amountOf(fields map[string]json.RawMessage) (cents, *problem) {
	raw, ok := fields[fieldAmount]
	if !ok {
		return 0, badField(fieldAmount, "is missing")
	}
	if len(raw) == 0 || (raw[0] != '-' && raw[0]-'0' > 9) {
		return 0, badField(fieldAmount, "must be a number")
	}
	units, fit := parseScaled(raw, centPlaces)
	switch fit {
	case tooManyUnits:
		return 0, beyondMax()
	case partUnits:
		return 0, unprocessable("amount must not have more than two decimals")
	case wholeUnits:
	}
	if units <= 0 {
		return 0, unprocessable("amount must be positive")
	}
	if cents(units) > maxCents {
		return 0, beyondMax()
	}
	return cents(units), nil
}

// beyondMax answers an amount that is larger than maxCents.
func beyondMax() *problem {
	return unprocessable("amount must not be beyond " + string(maxCents.appendDecimal(nil)))
}

// unitFit says how a decimal number relates to the units that it is to be counted in.
type unitFit uint8

const (
	wholeUnits   unitFit = iota // it is a whole number of units
	partUnits                   // it lies between two whole numbers of units
	tooManyUnits                // it is 10^18 units or more
)

// String names the fit for a test's message.
func (f unitFit) String() string {
	switch f {
	case wholeUnits:
		return "whole units"
	case partUnits:
		return "part of a unit"
	case tooManyUnits:
		return "too many units"
	}
	return "unknown fit"
}

// maxUnitDigits is how many decimal digits an int64 holds whatever they are.
const maxUnitDigits = 18

// parseScaled counts a number, in JSON's syntax, in units of 10^-places: 19.9 with two places is 1990. It
// decides by value and not by how the number is written, so that 19.900 and 1990e-2 are 1990 too. A number
// below zero is -1 whole units, whatever its size. Exponents are only ever added, so that 1e999999999
// costs no more than 1e9.
func parseScaled(number []byte, places int64) (int64, unitFit) {
	var (
		value       int64 // the digits so far, from the first to the last that is not zero
		significant int64 // how many digits those are; value is right only up to maxUnitDigits of them
		zeros       int64 // zeros since then
		fraction    int64 // digits after the point, zeros included
		exponent    int64
		afterPoint  bool
	)
	for i, c := range number {
		if c == 'e' || c == 'E' {
			exponent = parseExponent(number[i+1:])
			break
		}
		digit := c - '0'
		if digit > 9 { // A minus sign or the point.
			afterPoint = afterPoint || c == '.'
			continue
		}
		if afterPoint {
			fraction++
		}
		if digit != 0 {
			significant += zeros + 1
			if significant <= maxUnitDigits {
				value = value*powerOfTen(zeros+1) + int64(digit)
			}
			zeros = 0
		} else if significant > 0 {
			zeros++
		}
	}
	if significant == 0 {
		return 0, wholeUnits
	}
	if number[0] == '-' {
		return -1, wholeUnits
	}
	// The last digit that is not zero counts 10^shift units.
	shift := zeros - fraction + exponent + places
	if significant+shift > maxUnitDigits {
		return 0, tooManyUnits
	}
	if shift < 0 {
		return 0, partUnits
	}
	return value * powerOfTen(shift), wholeUnits
}

// parseExponent reads what follows the e of a number. It stops counting where no mantissa that fits in
// memory could make up for it.
func parseExponent(digits []byte) int64 {
	const enough = 1 << 50
	var exponent int64
	for _, c := range digits {
		if digit := c - '0'; digit <= 9 {
			exponent = min(exponent*10+int64(digit), enough)
		}
	}
	if digits[0] == '-' {
		return -exponent
	}
	return exponent
}

// powerOfTen returns 10^n for n from 0 to maxUnitDigits.
func powerOfTen(n int64) int64 {
	power := int64(1)
	for range n {
		power *= 10
	}
	return power
}
