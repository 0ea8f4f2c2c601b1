package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"
)

// server is what clients call. Intake (POST /payments) waits for nothing but the journal. Queries go through lanes of their
// own with bounded seats, since they wait for Redis: however many wait there, intake does not notice. Those for one payment may wait for other
// instances, too, and summaries do not wait behind them.
type server struct {
	ledger     *ledger
	dispatcher *dispatcher
	finder     *finder
	store      interface {
		summary(ctx context.Context, from, to micros, journals []string) (summary, error)
	}
	settler    *settler
	metrics    *metrics
	allowPurge bool
	lookUps    *lane // GET /payments/{id}
	queries    *lane // all others
	log        *slog.Logger
}

const (
	maxBody = 4 << 10
	// Queries: so many at once in each lane, and so long at most for one, from the wait for its seat to its answer.
	querySeats   = 32
	queryTimeout = 3 * time.Second
	retrySeconds = 1
	// A keep-alive connection that nobody uses is closed after this long; longer than a load balancer keeps its own.
	idleTimeout = 90 * time.Second
	// A request has to arrive within this time, once it has begun; and its answer has to be taken.
	readTimeout  = 10 * time.Second
	writeTimeout = 10 * time.Second
	// Connections at once; whoever comes beyond them is answered 503. An idle one costs about 10 KB (TestThousandsOfIdle…), and all
	// of them less than half of the open files that the stack allows.
	maxConnections = 8192
)

// clientLimits are what steadfastListener.watch holds clients to. fasthttp's own limits are not used: see there.
func clientLimits() connLimits {
	return connLimits{idle: idleTimeout, read: readTimeout, write: writeTimeout}
}

func (s *server) routes() *fasthttp.Server {
	r := router.New()
	r.RedirectTrailingSlash = false
	r.RedirectFixedPath = false
	r.HandleOPTIONS = false
	r.POST("/payments", s.postPayment)
	r.GET("/payments/{id}", s.lookUps.serve(s.getPayment))
	r.GET("/payments-summary", s.queries.serve(s.getSummary))
	r.POST("/purge-payments", s.queries.serve(s.postPurge))
	r.NotFound = func(ctx *fasthttp.RequestCtx) { refuse(ctx, notFound("there is nothing at this path")) }
	r.MethodNotAllowed = func(ctx *fasthttp.RequestCtx) {
		// The router names OPTIONS wherever it names anything, but we do not serve it.
		allow := strings.TrimPrefix(string(ctx.Response.Header.Peek(fasthttp.HeaderAllow)), "OPTIONS, ")
		refuse(ctx, methodNotAllowed(strings.TrimSuffix(allow, ", OPTIONS")))
	}
	r.PanicHandler = s.panicked
	return &fasthttp.Server{
		Handler: s.payments(r), ErrorHandler: s.unreadable, MaxRequestBodySize: maxBody, ConnState: served, LazyRequestTime: true,
		Concurrency: maxConnections, CloseOnShutdown: true, NoDefaultServerHeader: true, NoDefaultContentType: true,
		NoDefaultDate: true, DisablePreParseMultipartForm: true, Logger: quietLogger{s.log},
	}
}

// payments serves what nearly every request is by itself, and leaves the others to the router, which would take a tenth of a
// payment's whole intake for it.
func (s *server) payments(r *router.Router) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		if !ctx.IsPost() || string(ctx.Request.URI().PathOriginal()) != "/payments" {
			r.Handler(ctx)
			return
		}
		defer func() {
			if what := recover(); what != nil {
				s.panicked(ctx, what)
			}
		}()
		s.postPayment(ctx)
	}
}

func (s *server) panicked(ctx *fasthttp.RequestCtx, what any) {
	s.log.Error("handler panicked", "path", string(ctx.Path()), "what", what)
	refuse(ctx, &problem{status: fasthttp.StatusInternalServerError, title: "Internal Server Error", detail: "this is our fault"})
}

// postPayment accepts a payment. Nothing on this path takes a lock, waits for the network or allocates.
func (s *server) postPayment(ctx *fasthttp.RequestCtx) {
	id, amount, bad := parsePayment(ctx.PostBody())
	if bad != nil {
		s.metrics.bad.Add(1)
		refuse(ctx, bad)
		return
	}
	r, what := s.ledger.accept(&id, amount)
	switch what {
	case acceptedNew:
		s.dispatcher.push(r)
		ctx.SetStatusCode(fasthttp.StatusAccepted)
	case acceptedAgain:
		s.metrics.again.Add(1)
		ctx.SetStatusCode(fasthttp.StatusAccepted)
	case acceptedConflict:
		s.metrics.conflicting.Add(1)
		refuse(ctx, conflict("this correlationId was accepted with another amount"))
	case acceptedFull:
		s.metrics.full.Add(1)
		refuse(ctx, unavailable("too many payments wait; nothing was accepted", retrySeconds))
	}
}

func (s *server) getPayment(reqCtx context.Context, ctx *fasthttp.RequestCtx) {
	text, _ := ctx.UserValue("id").(string)
	id, ok := parsePaymentID([]byte(text))
	if !ok {
		refuse(ctx, badField("id", "is not a UUID"))
		return
	}
	p, err := s.finder.find(reqCtx, id)
	switch {
	case errors.Is(err, errUnknownPayment):
		refuse(ctx, notFound("no payment has this id"))
	case err != nil:
		s.away(ctx, "a place that may know this payment does not answer", err)
	default:
		ctx.SetContentType("application/json")
		ctx.SetBody(p.appendJSON(nil))
	}
}

func (s *server) getSummary(reqCtx context.Context, ctx *fasthttp.RequestCtx) {
	started := time.Now()
	from, to, bad := window(ctx)
	if bad != nil {
		refuse(ctx, bad)
		return
	}
	sum, err := s.summary(reqCtx, from, to)
	if err != nil {
		if errors.Is(err, errNoLife) {
			s.settler.kick()
		}
		s.away(ctx, "the shared store is away, being rebuilt, or lacks what an instance has paid", err)
		return
	}
	s.metrics.summaries.UpdateDuration(started)
	ctx.SetContentType("application/json")
	ctx.SetBody(sum.appendJSON(nil))
}

var errLacking = errors.New("payments that were paid cannot be settled")

// summary is an error while payments may have been paid that the store does not know of, by this instance or by any other one.
func (s *server) summary(ctx context.Context, from, to micros) (summary, error) {
	if s.settler.lacking.Load() {
		return summary{}, errLacking
	}
	journals, err := s.ledger.folder.journalIDs()
	if err != nil {
		return summary{}, err
	}
	return s.store.summary(ctx, from, to, texts(journals))
}

// window reads the edges, both optional and both inclusive. What is finer than a microsecond is rounded inwards.
func window(ctx *fasthttp.RequestCtx) (from, to micros, bad *problem) {
	if from, bad = edge(ctx, "from", math.MinInt64, true); bad != nil {
		return 0, 0, bad
	}
	if to, bad = edge(ctx, "to", math.MaxInt64, false); bad != nil {
		return 0, 0, bad
	}
	if exact, _ := edge(ctx, "from", math.MinInt64, false); exact > to {
		return 0, 0, badField("from", "is after to")
	}
	return from, to, nil
}

func edge(ctx *fasthttp.RequestCtx, name string, open micros, roundUp bool) (micros, *problem) {
	text := ctx.QueryArgs().Peek(name)
	if len(text) == 0 {
		return open, nil
	}
	// A plus sign that was not escaped arrives as a space; no date has one near its end otherwise.
	if at := bytes.LastIndexByte(text, ' '); at > 0 && at == len(text)-len("+00:00") {
		text = bytes.Clone(text)
		text[at] = '+'
	}
	t, ok := parseInstant(text, roundUp)
	if !ok {
		return 0, badField(name, "is not an RFC 3339 instant")
	}
	return t, nil
}

func (s *server) postPurge(reqCtx context.Context, ctx *fasthttp.RequestCtx) {
	if !s.allowPurge {
		refuse(ctx, forbidden("purging is not allowed here (ALLOW_PURGE)"))
		return
	}
	if err := s.settler.purge(reqCtx); err != nil {
		s.away(ctx, "the shared store is away; the purge may still happen", err)
		return
	}
	ctx.SetContentType("application/json")
	ctx.SetBodyString(`{"message":"settled history is forgotten"}`)
}

func (s *server) away(ctx *fasthttp.RequestCtx, detail string, err error) {
	s.metrics.refusedAsk.Inc()
	s.log.Debug("query not answered", "path", string(ctx.Path()), "error", err)
	refuse(ctx, unavailable(detail, retrySeconds))
}

// unreadable answers what is not a request that a handler could be called for.
func (s *server) unreadable(ctx *fasthttp.RequestCtx, err error) {
	s.metrics.bad.Add(1)
	if errors.Is(err, fasthttp.ErrBodyTooLarge) {
		refuse(ctx, tooLarge(maxBody))
		return
	}
	refuse(ctx, &problem{status: fasthttp.StatusBadRequest, title: "Bad Request", detail: "this is not an HTTP request that we can read"})
}

// refuse answers with a problem.
func refuse(ctx *fasthttp.RequestCtx, p *problem) {
	ctx.SetStatusCode(p.status)
	ctx.SetContentType(problemType)
	if p.allow != "" {
		ctx.Response.Header.Set(fasthttp.HeaderAllow, p.allow)
	}
	if p.retryAfter > 0 {
		ctx.Response.Header.Set(fasthttp.HeaderRetryAfter, strconv.Itoa(p.retryAfter))
	}
	ctx.SetBody(p.appendJSON(nil))
}

// lane bounds how many requests of a kind are served at once, and for how long.
type lane struct {
	seats chan struct{}
	limit time.Duration
}

func newLane(seats int, limit time.Duration) *lane {
	return &lane{seats: make(chan struct{}, seats), limit: limit}
}

func (l *lane) serve(h func(context.Context, *fasthttp.RequestCtx)) fasthttp.RequestHandler {
	return func(ctx *fasthttp.RequestCtx) {
		limited, cancel := context.WithTimeout(context.Background(), l.limit)
		defer cancel()
		select {
		case l.seats <- struct{}{}:
			defer func() { <-l.seats }()
			h(limited, ctx)
		case <-limited.Done():
			refuse(ctx, unavailable("too many queries at once", retrySeconds))
		}
	}
}

// quietLogger takes what fasthttp has to say of single connections: nothing that an operator could act on.
type quietLogger struct{ log *slog.Logger }

func (q quietLogger) Printf(format string, args ...any) {
	q.log.Debug("http", "message", format, "args", args)
}
