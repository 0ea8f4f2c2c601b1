package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/valyala/fasthttp"
)

// lookUpKind is what a look-up came to.
type lookUpKind uint8

const (
	// lookUpFound: the processor has the payment, with the amount and the requestedAt that it gives.
	lookUpFound lookUpKind = iota
	// lookUpAbsent: it does not have it now. That proves nothing while an attempt may still be running.
	lookUpAbsent
	// lookUpNoAnswer: nothing was learnt.
	lookUpNoAnswer
)

// String returns the kind as logs name it.
func (k lookUpKind) String() string {
	switch k {
	case lookUpFound:
		return "found"
	case lookUpAbsent:
		return "absent"
	case lookUpNoAnswer:
		return "no answer"
	}
	return "lookUpKind(" + strconv.Itoa(int(k)) + ")"
}

// lookUpResult carries amount and requestedAt only when found; detail is for logs.
type lookUpResult struct {
	kind        lookUpKind
	amount      cents
	requestedAt micros
	detail      string
}

// String says for people what the processor answered.
func (r lookUpResult) String() string {
	switch r.kind {
	case lookUpFound:
		return fmt.Sprintf("it has it, amount %s, requestedAt %s", r.amount.appendDecimal(nil), r.requestedAt.appendTime(nil))
	case lookUpAbsent:
		return "404, it does not have it"
	case lookUpNoAnswer:
		return "no answer (" + r.detail + ")"
	}
	return r.kind.String()
}

// lookUp asks whether the processor has the payment.
func (p *processor) lookUp(id paymentID) lookUpResult {
	request := p.requests.Get().(*[]byte)
	*request = append((*request)[:0], p.lookUpHead...)
	*request = id.appendText(*request)
	*request = append(*request, p.getTail...)
	response := fasthttp.AcquireResponse()
	defer func() {
		fasthttp.ReleaseResponse(response)
		p.requests.Put(request)
	}()

	answer, failure := exchange(p.lookUps, *request, response, time.Now(), lookUpTimeout)
	switch {
	case failure != nil:
		return lookUpResult{kind: lookUpNoAnswer, detail: failure.detail()}
	case answer.status == fasthttp.StatusNotFound:
		return lookUpResult{kind: lookUpAbsent}
	case answer.status != fasthttp.StatusOK:
		return lookUpResult{kind: lookUpNoAnswer, detail: statusDetail(answer.status)}
	}
	return readLookUp(answer.body, id)
}

// readLookUp reads what a processor says of the payment with this id.
func readLookUp(body []byte, id paymentID) lookUpResult {
	none := func(detail string) lookUpResult { return lookUpResult{kind: lookUpNoAnswer, detail: detail} }
	var said struct {
		CorrelationID string          `json:"correlationId"`
		Amount        json.RawMessage `json:"amount"` // as it is written: json.Number would take a string too
		RequestedAt   string          `json:"requestedAt"`
	}
	if err := json.Unmarshal(body, &said); err != nil {
		return none("an answer that is not a payment")
	}
	saidID, ok := parsePaymentID([]byte(said.CorrelationID))
	if !ok || saidID != id {
		return none("an answer about another payment")
	}
	amount, ok := lookedUpCents(said.Amount)
	if !ok {
		return none("an amount that can't be read")
	}
	requestedAt, ok := parseProcessorTime([]byte(said.RequestedAt))
	if !ok {
		return none("a requestedAt that can't be read")
	}
	return lookUpResult{kind: lookUpFound, amount: amount, requestedAt: requestedAt}
}

// lookedUpCents reads a JSON number as cents, exactly or not at all: 19.9, 19.90, 19.900 and 1.99e1 are the
// same, 19.901 is nothing. The caller has checked that it is JSON; whether it is a number shows here.
func lookedUpCents(text []byte) (cents, bool) {
	const maxExponent = 30 // beyond it no number is in range
	mantissa, exponent := text, 0
	if at := bytes.IndexAny(text, "eE"); at >= 0 {
		mantissa = text[:at]
		var err error
		if exponent, err = strconv.Atoi(string(text[at+1:])); err != nil || max(exponent, -exponent) > maxExponent {
			return 0, false
		}
	}
	whole, fraction, _ := bytes.Cut(mantissa, []byte("."))
	fraction = bytes.TrimRight(fraction, "0")
	value, err := strconv.ParseInt(string(whole)+string(fraction), 10, 64)
	if err != nil {
		return 0, false
	}
	// The amount is value / 10^decimals; it becomes value / 10^2.
	decimals := len(fraction) - exponent
	for ; decimals > centPlaces; decimals-- {
		if value%10 != 0 {
			return 0, false
		}
		value /= 10
	}
	for ; decimals < centPlaces; decimals++ {
		if value > int64(maxCents) {
			return 0, false
		}
		value *= 10
	}
	return cents(value), value >= 1 && value <= int64(maxCents)
}

// healthReading is what a processor says of itself. It may be five seconds old when it is said.
type healthReading struct {
	failing     bool
	minResponse time.Duration
}

// errHealthTooSoon is a 429: somebody has asked within the processor's window of five seconds.
var errHealthTooSoon = errors.New("asked too soon")

// maxMinResponse is more than any payment could wait for; a larger figure is nonsense.
const maxMinResponse = time.Hour

// health asks the processor how it is. It may be asked once in five seconds by the whole cluster.
func (p *processor) health(timeout time.Duration) (healthReading, error) {
	response := fasthttp.AcquireResponse()
	defer fasthttp.ReleaseResponse(response)
	answer, failure := exchange(p.healths, p.healthCall, response, time.Now(), timeout)
	switch {
	case failure != nil:
		return healthReading{}, fmt.Errorf("cannot ask %s for its health: %s", p.id, failure.detail())
	case answer.status == fasthttp.StatusTooManyRequests:
		return healthReading{}, errHealthTooSoon
	case answer.status != fasthttp.StatusOK:
		return healthReading{}, fmt.Errorf("cannot ask %s for its health: %s", p.id, statusDetail(answer.status))
	}
	var said struct {
		Failing         *bool  `json:"failing"`
		MinResponseTime *int64 `json:"minResponseTime"`
	}
	if err := json.Unmarshal(answer.body, &said); err != nil {
		return healthReading{}, fmt.Errorf("cannot read the health of %s: %w", p.id, err)
	}
	if said.Failing == nil || said.MinResponseTime == nil ||
		*said.MinResponseTime < 0 || *said.MinResponseTime > maxMinResponse.Milliseconds() {
		return healthReading{}, fmt.Errorf("cannot read the health of %s: a field is missing or out of range", p.id)
	}
	return healthReading{
		failing:     *said.Failing,
		minResponse: time.Duration(*said.MinResponseTime) * time.Millisecond,
	}, nil
}
