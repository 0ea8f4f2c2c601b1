package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net"

	"github.com/valyala/fasthttp"
)

// An oddity is an answer that no processor gives: a gateway in front of it gives it instead, or the connection breaks in the
// middle of it.
type oddity struct {
	Kind  oddKind `json:"kind"`  // empty: none
	Share float64 `json:"share"` // percent of the requests
}

type oddKind string

const (
	// These come before anything is written, and to look-ups and health calls as well.
	oddForbidden oddKind = "forbidden" // 403 of a gateway
	oddForeign   oddKind = "foreign"   // 200 with a page for people
	oddGateway   oddKind = "gateway"   // 502 with a page for people
	oddBusy      oddKind = "busy"      // 429
	// These come in the place of the answer to a payment that was written.
	oddTorn  oddKind = "torn"  // the head promises more than comes, then the connection is closed
	oddError oddKind = "error" // 500 with a body
)

// afterWriting says that the payment is written when the odd answer comes.
func (k oddKind) afterWriting() bool { return k == oddTorn || k == oddError }

func (p *processor) setOdd(ctx *fasthttp.RequestCtx) {
	var set oddity
	if !read(ctx, &set) {
		return
	}
	switch set.Kind {
	case "":
		p.odd.Store(nil)
		done(ctx)
		return
	case oddForbidden, oddForeign, oddGateway, oddBusy, oddTorn, oddError:
	default:
		refuse(ctx, fmt.Errorf("cannot answer oddly: the kind %q is unknown", set.Kind))
		return
	}
	if set.Share < 0 || set.Share > 100 {
		refuse(ctx, fmt.Errorf("cannot answer %v%% oddly: from 0 to 100 are needed", set.Share))
		return
	}
	p.odd.Store(&set)
	done(ctx)
}

const pageForPeople = "<html><body><h1>please come back later</h1></body></html>"

// answersOddly decides by lot whether this answer is an odd one, at the one of two places where its kind belongs.
func (p *processor) answersOddly(ctx *fasthttp.RequestCtx, written bool) bool {
	odd := p.odd.Load()
	if odd == nil || odd.Kind.afterWriting() != written || rand.Uint32N(wholeShare) >= uint32(math.Round(odd.Share*wholeShare/100)) {
		return false
	}
	p.counters.odd.Add(1)
	ctx.SetContentType("text/html")
	switch odd.Kind {
	case oddForbidden:
		ctx.SetStatusCode(fasthttp.StatusForbidden)
		ctx.SetBodyString(pageForPeople)
	case oddForeign:
		ctx.SetBodyString(pageForPeople)
	case oddGateway:
		ctx.SetStatusCode(fasthttp.StatusBadGateway)
		ctx.SetBodyString(pageForPeople)
	case oddBusy:
		ctx.SetStatusCode(fasthttp.StatusTooManyRequests)
	case oddError:
		ctx.SetStatusCode(fasthttp.StatusInternalServerError)
		ctx.SetBodyString("cannot commit: connection to the database was lost")
	case oddTorn:
		ctx.Hijack(func(c net.Conn) { // fasthttp closes the connection when the function returns
			_, _ = c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 44\r\n\r\n{\"message\":\"pay"))
		})
		ctx.HijackSetNoResponse(true)
	}
	return true
}
