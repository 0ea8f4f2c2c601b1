package main

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/valyala/fasthttp"
)

// processorID names one of the two processors.
type processorID uint8

const (
	onDefault processorID = iota
	onFallback
)

// processors is how many there are: arrays are indexed by processorID.
const processors = 2

// other is the one that p is not.
func (p processorID) other() processorID { return onFallback - p }

// String returns the name that keys, logs and metrics use.
func (p processorID) String() string {
	switch p {
	case onDefault:
		return "default"
	case onFallback:
		return "fallback"
	}
	return "processor(" + strconv.Itoa(int(p)) + ")"
}

const (
	// lookUpTimeout is for a call that the processor neither delays nor fails.
	lookUpTimeout = 2 * time.Second

	// lookUpConns is a tenth of the 1,300 requests that a processor takes before it answers 429: look-ups
	// count in these, and come in crowds when a processor turns slow.
	lookUpConns = 128

	// healthConns is one for the call and one for its predecessor, should that hang.
	healthConns = 2

	// bytesPerRequest is room for a prepared head, an id, the largest amount and an instant.
	bytesPerRequest = 512
)

// payResult is what one attempt came to. detail is for logs.
type payResult struct {
	outcome outcome
	detail  string
	took    time.Duration
}

// processor is the HTTP client of one processor. It never sends a payment twice: pay writes one request
// once, and what to do after any outcome is for the caller to decide. All methods may be called at once from
// any goroutine.
type processor struct {
	id          processorID
	sendTimeout time.Duration

	// Payments, look-ups and health calls have connections of their own, so that none waits behind another.
	pays, lookUps, healths *fasthttp.HostClient

	// Everything of a request that is the same each time, up to where its own part begins.
	payHead    []byte // ends in "Content-Length: "
	lookUpHead []byte // ends in ".../payments/"
	getTail    []byte // what follows the path of a look-up
	healthCall []byte // whole

	requests sync.Pool // of *[]byte: whose call took it owns it until the request is written
}

// newProcessor prepares the client; it does not connect. maxConns bounds the payments in flight: beyond it
// pay answers refused. sendTimeout is for a whole attempt: connecting, writing and reading.
func newProcessor(id processorID, baseURL string, maxConns int, sendTimeout time.Duration) (*processor, error) {
	base, err := parseBaseURL(baseURL)
	if err != nil {
		return nil, fmt.Errorf("cannot use %q as the URL of %s: %w", baseURL, id, err)
	}
	if maxConns < 1 || sendTimeout <= 0 {
		return nil, fmt.Errorf("cannot reach %s with %d connections and a time-out of %v", id, maxConns, sendTimeout)
	}
	get := " HTTP/1.1\r\nHost: " + base.host + "\r\nAccept: application/json\r\n\r\n"
	p := &processor{
		id:          id,
		sendTimeout: sendTimeout,
		pays:        base.newClient(maxConns),
		lookUps:     base.newClient(lookUpConns),
		healths:     base.newClient(healthConns),
		payHead: []byte("POST " + base.path + "/payments HTTP/1.1\r\nHost: " + base.host +
			"\r\nContent-Type: application/json\r\nAccept: application/json\r\nContent-Length: "),
		lookUpHead: []byte("GET " + base.path + "/payments/"),
		getTail:    []byte(get),
		healthCall: []byte("GET " + base.path + "/payments/service-health" + get),
	}
	p.requests.New = func() any {
		b := make([]byte, 0, bytesPerRequest)
		return &b
	}
	return p, nil
}

// close lets idle connections go. Calls that are under way end by themselves, within their time-outs.
func (p *processor) close() {
	for _, c := range [...]*fasthttp.HostClient{p.pays, p.lookUps, p.healths} {
		c.CloseIdleConnections()
	}
}

// pay sends the payment once. It returns after sendTimeout at the latest; a payment whose time was up may
// still be written after that.
func (p *processor) pay(id paymentID, amount cents, requestedAt micros) payResult {
	start := time.Now()
	request := p.requests.Get().(*[]byte)
	*request = p.appendPayment((*request)[:0], id, amount, requestedAt)
	response := fasthttp.AcquireResponse()

	var result payResult
	answer, err := exchange(p.pays, *request, response, start, p.sendTimeout)
	switch {
	case err == nil:
		result.outcome, result.detail = judge(answer)
	case err.sent:
		result.outcome, result.detail = outcomeUnknown, err.detail()
	default:
		result.outcome, result.detail = outcomeRefused, err.detail()
	}
	fasthttp.ReleaseResponse(response)
	p.requests.Put(request)
	result.took = time.Since(start)
	return result
}

// appendPayment appends the whole request.
func (p *processor) appendPayment(dst []byte, id paymentID, amount cents, requestedAt micros) []byte {
	const (
		beforeID     = `{"correlationId":"`
		beforeAmount = `","amount":`
		beforeTime   = `,"requestedAt":"`
		end          = `"}`
	)
	// The body is printed in place, after room for its length and the empty line; then its length is known.
	const lengthDigits, blank = 3, "\r\n\r\n"
	dst = append(dst, p.payHead...)
	length := len(dst)
	dst = append(dst, "000"+blank...)
	body := len(dst)
	dst = append(dst, beforeID...)
	dst = id.appendText(dst)
	dst = append(dst, beforeAmount...)
	dst = amount.appendDecimal(dst)
	dst = append(dst, beforeTime...)
	dst = requestedAt.appendTime(dst)
	dst = append(dst, end...)
	// A body has 110 bytes and the amount's own 4 to 13: always three digits.
	n := len(dst) - body
	for i := lengthDigits - 1; i >= 0; i-- {
		dst[length+i] = byte('0' + n%10)
		n /= 10
	}
	return dst
}

// baseURL is what every request to one processor has in common.
type baseURL struct {
	secure bool
	addr   string // host and port to dial
	host   string // as the Host header has it
	name   string // the host alone, which a certificate must name
	path   string // before /payments, without a slash at its end; often empty
}

func parseBaseURL(text string) (baseURL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return baseURL{}, err
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return baseURL{}, fmt.Errorf("the scheme must be http or https")
	}
	// The client would read a comma as a list of addresses.
	if u.Hostname() == "" || strings.Contains(u.Host, ",") {
		return baseURL{}, fmt.Errorf("it must name one host")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return baseURL{}, fmt.Errorf("it must have no user, query or fragment")
	}
	b := baseURL{secure: u.Scheme == "https", path: strings.TrimRight(u.EscapedPath(), "/")}
	port := u.Port()
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[b.secure]
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return baseURL{}, fmt.Errorf("the port must be from 1 to 65535")
	}
	literal := u.Hostname()
	// A zone names an interface of this machine: it is for dialling, and means nothing to the other side.
	b.name, _, _ = strings.Cut(literal, "%")
	b.host = b.name
	b.addr = literal + ":" + port
	if strings.Contains(literal, ":") {
		b.host = "[" + b.name + "]"
		b.addr = "[" + literal + "]:" + port
	}
	if u.Port() != "" {
		b.host += ":" + port
	}
	return b, nil
}
