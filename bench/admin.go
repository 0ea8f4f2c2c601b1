package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// An adminClient speaks to the admin side of one processor, wherever it runs.
type adminClient struct {
	name  string
	base  string // such as http://127.0.0.1:8001
	token string
	http  *http.Client
	// skip is how many of the first payments count in no summary any more: galo was purged since. It is set while nobody asks.
	skip int
}

// adminTimeout is long because the list of a long storm takes a while on two busy cores.
const adminTimeout = 2 * time.Minute

func newAdminClient(name, base, token string) *adminClient {
	return &adminClient{name: name, base: strings.TrimSuffix(base, "/"), token: token, http: &http.Client{Timeout: adminTimeout}}
}

// call makes one request and hands over the body of a 200; the caller closes it.
func (a *adminClient) call(ctx context.Context, method, path string, body any) (io.ReadCloser, error) {
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("cannot write %T: %w", body, err)
		}
		sent = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, sent)
	if err != nil {
		return nil, fmt.Errorf("cannot ask processor %s: %w", a.name, err)
	}
	req.Header.Set(tokenHeader, a.token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot ask processor %s: %w", a.name, err)
	}
	if resp.StatusCode/100 != 2 {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("cannot ask processor %s: %s %s answered %s", a.name, method, path, resp.Status)
	}
	return resp.Body, nil
}

// tell is a call whose answer says nothing more than that it is done.
func (a *adminClient) tell(ctx context.Context, method, path string, body any) error {
	answer, err := a.call(ctx, method, path, body)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, answer)
	_ = answer.Close()
	return err
}

// ask reads a JSON answer.
func (a *adminClient) ask(ctx context.Context, path string, into any) error {
	answer, err := a.call(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer func() { _ = answer.Close() }()
	if err := json.NewDecoder(answer).Decode(into); err != nil {
		return fmt.Errorf("cannot read %s of processor %s: %w", path, a.name, err)
	}
	_, _ = io.Copy(io.Discard, answer) // so that the connection can be used again
	return nil
}

// enter makes this processor what a stage wants it to be.
func (a *adminClient) enter(ctx context.Context, delay time.Duration, failing bool) error {
	if err := a.tell(ctx, http.MethodPut, "/admin/configurations/delay", map[string]int64{"delay": delay.Milliseconds()}); err != nil {
		return err
	}
	return a.tell(ctx, http.MethodPut, "/admin/configurations/failure", map[string]bool{"failure": failing})
}

func (a *adminClient) lose(ctx context.Context, l losses) error {
	return a.tell(ctx, http.MethodPut, "/admin/configurations/lose", l)
}

func (a *adminClient) oddly(ctx context.Context, o oddity) error {
	return a.tell(ctx, http.MethodPut, "/admin/configurations/odd", o)
}

func (a *adminClient) purge(ctx context.Context) error {
	return a.tell(ctx, http.MethodPost, "/admin/purge-payments", nil)
}

func (a *adminClient) counters(ctx context.Context) (counted, error) {
	var c counted
	return c, a.ask(ctx, "/admin/counters", &c)
}

// answerTimes is how long payments took at the processor since the last such question.
func (a *adminClient) answerTimes(ctx context.Context) (quantiles, error) {
	var q quantiles
	return q, a.ask(ctx, "/admin/answer-times", &q)
}

// window is an interval in microseconds since the epoch, both ends included.
type window struct{ from, to int64 }

// query is the window as both galo and the processors take it.
func (w window) query() string {
	text := func(at int64) string { return url.QueryEscape(time.UnixMicro(at).UTC().Format(zonedMicros)) }
	return "?from=" + text(w.from) + "&to=" + text(w.to)
}

// summary is what the processor has written in a window, and its fee.
func (a *adminClient) summary(ctx context.Context, w window) (total, fee, error) {
	var t adminTotals
	query := w.query()
	if a.skip > 0 { // only this simulation knows the word
		query += "&skip=" + strconv.Itoa(a.skip)
	}
	if err := a.ask(ctx, "/admin/payments-summary"+query, &t); err != nil {
		return total{}, 0, err
	}
	amount, err := parseCents(t.TotalAmount.String())
	if err != nil {
		return total{}, 0, fmt.Errorf("cannot read summary of processor %s: %w", a.name, err)
	}
	f, err := parseFee(t.FeePerTransaction.String())
	if err != nil {
		return total{}, 0, fmt.Errorf("cannot read summary of processor %s: %w", a.name, err)
	}
	return total{t.TotalRequests, amount}, f, nil
}

// payments is everything the processor has written.
func (a *adminClient) payments(ctx context.Context) ([]written, error) {
	answer, err := a.call(ctx, http.MethodGet, "/admin/payments", nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Close() }()
	var all []written
	lines := bufio.NewScanner(answer)
	for lines.Scan() {
		w, err := readLine(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("cannot read payments of processor %s: %w", a.name, err)
		}
		all = append(all, w)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot read payments of processor %s: %w", a.name, err)
	}
	return all, nil
}

func readLine(line string) (written, error) {
	field := strings.Fields(line)
	if len(field) != 3 {
		return written{}, fmt.Errorf("line %q has %d fields, 3 are needed", line, len(field))
	}
	id, err := uuid.Parse(field[0])
	if err != nil {
		return written{}, err
	}
	amount, err := strconv.ParseInt(field[1], 10, 64)
	if err != nil {
		return written{}, err
	}
	at, err := strconv.ParseInt(field[2], 10, 64)
	if err != nil {
		return written{}, err
	}
	return written{id: id, amount: cents(amount), requestedAt: at}, nil
}
