package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/valyala/fasthttp"
)

// A door is galo as clients see it: one address, or several in turn as a load balancer would have it.
type door struct {
	bases []string // such as http://127.0.0.1:9999, one per instance
	posts []*fasthttp.HostClient
	slow  *http.Client  // for summaries and records: few, and read with care
	turn  atomic.Uint64 // whose turn it is; written by every request

	patience time.Duration // how long a payment's answer is waited for

	mu       sync.Mutex
	unserved []error // questions that nobody answered, or only the load balancer: 502, 504, no connection
}

const (
	// No client waits longer for an answer. Galo answers in milliseconds or is gone.
	answerTimeout = 5 * time.Second
	dialTimeout   = 2 * time.Second
	// As many connections as the answers of a second at the highest rate would need if each took a second.
	connections = 1024
	// Records are read by a few at once.
	connectionsKept = 16
)

func newDoor(bases ...string) (*door, error) {
	d := &door{
		slow:     &http.Client{Timeout: answerTimeout, Transport: &http.Transport{MaxIdleConnsPerHost: connectionsKept}},
		patience: answerTimeout,
	}
	for _, base := range bases {
		u, err := url.Parse(base)
		if err != nil || u.Scheme != "http" || u.Host == "" {
			return nil, fmt.Errorf("cannot use target %q: a URL such as http://127.0.0.1:9999 is needed", base)
		}
		addr := u.Host
		if u.Port() == "" {
			addr = net.JoinHostPort(u.Hostname(), "80")
		}
		d.bases = append(d.bases, strings.TrimSuffix(base, "/"))
		d.posts = append(d.posts, &fasthttp.HostClient{
			Addr:                      addr,
			Dial:                      func(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, dialTimeout) },
			MaxConns:                  connections,
			MaxConnWaitTimeout:        answerTimeout,
			MaxIdemponentCallAttempts: 1, // what is repeated is decided, and counted, by the load
			NoDefaultUserAgentHeader:  true,
		})
	}
	return d, nil
}

// post makes one payment and answers its status. An instance that refuses the connection has seen nothing, so the
// next one is asked at once; any other error leaves it open whether galo has accepted.
func (d *door) post(body []byte) (status int, err error) {
	req, resp := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(req)
	defer fasthttp.ReleaseResponse(resp)
	for range d.posts {
		i := d.turn.Add(1) % uint64(len(d.posts))
		req.Reset()
		req.Header.SetMethod(fasthttp.MethodPost)
		req.Header.SetContentType("application/json")
		req.SetRequestURI(d.bases[i] + "/payments")
		req.SetBody(body)
		err = d.posts[i].DoTimeout(req, resp, d.patience)
		if err == nil {
			return resp.StatusCode(), nil
		}
		if !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	return 0, err
}

// errUnavailable means that galo has no answer now (503, or nobody is there): no wrong answer, and worth asking again.
var errUnavailable = errors.New("galo has no answer now")

// get reads one JSON answer, from the next instance that takes the connection.
func (d *door) get(ctx context.Context, path string, into any) (err error) {
	var resp *http.Response
	for range d.bases {
		base := d.bases[d.turn.Add(1)%uint64(len(d.bases))]
		var req *http.Request
		if req, err = http.NewRequestWithContext(ctx, http.MethodGet, base+path, nil); err != nil {
			return fmt.Errorf("cannot ask galo: %w", err)
		}
		if resp, err = d.slow.Do(req); err == nil {
			break
		}
	}
	if err != nil {
		return d.notServed(ctx, fmt.Errorf("cannot ask galo: %w (%w)", errUnavailable, err))
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil: // it died while it answered
		return d.notServed(ctx, fmt.Errorf("cannot ask galo: %w (%w)", errUnavailable, err))
	case resp.StatusCode == http.StatusServiceUnavailable:
		return fmt.Errorf("cannot ask galo: %w (503)", errUnavailable)
	case resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusGatewayTimeout:
		return d.notServed(ctx, fmt.Errorf("cannot ask galo: %w (%s of the load balancer)", errUnavailable, resp.Status))
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("cannot ask galo: %s answered %s: %.200s", path, resp.Status, text)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("cannot read answer of galo: %w", err)
	}
	return nil
}

// notServed notes a question that galo did not answer itself, unless it was the asker that gave up.
func (d *door) notServed(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		d.mu.Lock()
		d.unserved = append(d.unserved, err)
		d.mu.Unlock()
	}
	return err
}

type galoTotals struct {
	TotalRequests int64       `json:"totalRequests"`
	TotalAmount   json.Number `json:"totalAmount"`
}

// summary is what galo says it has paid at each processor.
func (d *door) summary(ctx context.Context, w window) ([processors]total, error) {
	var ours [processors]total
	var answer struct {
		Default  *galoTotals `json:"default"`
		Fallback *galoTotals `json:"fallback"`
	}
	if err := d.get(ctx, "/payments-summary"+w.query(), &answer); err != nil {
		return ours, err
	}
	for p, t := range [processors]*galoTotals{answer.Default, answer.Fallback} {
		if t == nil {
			return ours, fmt.Errorf("cannot read summary of galo: %s is missing", processorNames[p])
		}
		amount, err := parseCents(t.TotalAmount.String())
		if err != nil {
			return ours, fmt.Errorf("cannot read summary of galo: %w", err)
		}
		ours[p] = total{t.TotalRequests, amount}
	}
	return ours, nil
}

// A paymentRecord is what galo says about one payment.
type paymentRecord struct {
	ID          uuid.UUID   `json:"id"`
	Amount      json.Number `json:"amount"`
	State       string      `json:"state"`
	Processor   string      `json:"processor"`
	RequestedAt time.Time   `json:"requestedAt"`
}

func (d *door) record(ctx context.Context, id uuid.UUID) (paymentRecord, error) {
	var r paymentRecord
	return r, d.get(ctx, "/payments/"+id.String(), &r)
}

// purge makes galo forget what it has settled before this storm.
func (d *door) purge(ctx context.Context) error {
	base := d.bases[d.turn.Add(1)%uint64(len(d.bases))]
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/purge-payments", nil)
	if err != nil {
		return fmt.Errorf("cannot purge galo: %w", err)
	}
	resp, err := d.slow.Do(req)
	if err != nil {
		return fmt.Errorf("cannot purge galo: %w", err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("cannot purge galo: answered %s", resp.Status)
	}
	return nil
}

// awaitAnswer waits until galo answers a summary, so that the storm does not count the start as failures.
func (d *door) awaitAnswer(ctx context.Context, atMost time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, atMost, fmt.Errorf("no summary within %v", atMost))
	defer cancel()
	now := time.Now().UnixMicro()
	for {
		_, err := d.summary(ctx, window{now, now})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot begin storm: %w (last: %w)", context.Cause(ctx), err)
		case <-time.After(readyEvery):
		}
	}
}
