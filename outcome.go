package main

import (
	"encoding/json"
	"strconv"
)

// outcome is what one attempt to pay came to. What decides between them is one question: may the processor
// have written the payment, now or later? Only where that is known is an outcome anything but unknown.
type outcome uint8

const (
	// outcomePaid: the processor wrote the payment and said so.
	outcomePaid outcome = iota
	// outcomeTaken: it says that it has this id already, perhaps with another requestedAt. A look-up decides.
	outcomeTaken
	// outcomeRefused: nothing was written, and nothing will be by this attempt.
	outcomeRefused
	// outcomeBusy: as refused, since its queue of requests is full.
	outcomeBusy
	// outcomeMisconfigured: as refused, and an operator is needed.
	outcomeMisconfigured
	// outcomeInvalid: nothing was written, and it would say the same of every other attempt.
	outcomeInvalid
	// outcomeUnknown: it may be written, or be written later. The payment is pinned from here on.
	outcomeUnknown
)

// String returns the outcome as logs and metrics name it.
func (o outcome) String() string {
	switch o {
	case outcomePaid:
		return "paid"
	case outcomeTaken:
		return "taken"
	case outcomeRefused:
		return "refused"
	case outcomeBusy:
		return "busy"
	case outcomeMisconfigured:
		return "misconfigured"
	case outcomeInvalid:
		return "invalid"
	case outcomeUnknown:
		return "unknown"
	}
	return "outcome(" + strconv.Itoa(int(o)) + ")"
}

// wholeAnswer is an HTTP answer that came to its end. What broke off is never judged by its status: it is
// unknown, whatever its first line said.
type wholeAnswer struct {
	status int
	body   []byte
	// framed says that the head announced where the body ends. Without it the body ends where the
	// connection does, and a server that died looks like one that had finished.
	framed bool
}

// judge is the table of outcomes for what came back whole. The detail is for logs.
func judge(a wholeAnswer) (outcome, string) {
	switch {
	case a.status >= 200 && a.status <= 299:
		return judgeSuccess(a)
	case a.status == 400:
		return outcomeInvalid, "400: will never be taken"
	case a.status == 422:
		return outcomeTaken, "422: has this id"
	case a.status == 429:
		return outcomeBusy, "429: too many requests"
	case a.status >= 401 && a.status <= 499:
		return outcomeMisconfigured, statusDetail(a.status)
	case a.status == 500:
		return judgeFailing(a)
	}
	// Other 5xx are mostly what a proxy says that has lost sight of the processor. 3xx and everything that
	// HTTP does not know are not a processor's answers at all.
	return outcomeUnknown, statusDetail(a.status)
}

// judgeSuccess wants JSON as a proof that a processor spoke, and not a proxy's page that greets with 200.
// A bare number is no proof: it is the one JSON text that remains valid when its end is torn off.
func judgeSuccess(a wholeAnswer) (outcome, string) {
	if len(a.body) == 0 {
		return outcomeUnknown, "2xx without a body"
	}
	if !json.Valid(a.body) {
		return outcomeUnknown, "2xx with a body that is not JSON"
	}
	if isBareNumber(a.body) {
		return outcomeUnknown, "2xx with a bare number"
	}
	return outcomePaid, ""
}

// judgeFailing tells the processor's own "failing", which is said before anything is written and has no
// body, from an error around the write, which has one.
func judgeFailing(a wholeAnswer) (outcome, string) {
	if len(a.body) > 0 {
		return outcomeUnknown, "500 with a body"
	}
	if !a.framed {
		return outcomeUnknown, "500 whose body may have been cut off"
	}
	return outcomeRefused, "500: failing"
}

// isBareNumber is for valid JSON.
func isBareNumber(text []byte) bool {
	for _, c := range text {
		switch c {
		case ' ', '\t', '\r', '\n':
			continue
		}
		return c == '-' || (c >= '0' && c <= '9')
	}
	return false
}

func statusDetail(status int) string { return "status " + strconv.Itoa(status) }
