package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/fasthttp/router"
	"github.com/valyala/fasthttp"
	"github.com/valyala/fasthttp/pprofhandler"
)

// admin serves operators, on a listener of its own that no load balancer leads to.
type admin struct {
	http  *fasthttp.Server
	ready func() string // why not, or ""
}

func newAdmin(m *metrics, ready func() string, o *operator) *admin {
	a := &admin{ready: ready}
	r := router.New()
	r.GET("/healthz", func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString("ok\n") })
	r.GET("/readyz", a.readyz)
	r.GET("/metrics", func(ctx *fasthttp.RequestCtx) {
		ctx.SetContentType("text/plain; version=0.0.4; charset=utf-8")
		m.write(ctx)
	})
	r.POST("/journal/requeue", o.serveRequeue)
	r.POST("/journal/resolve", o.serveResolve)
	r.RedirectTrailingSlash = false
	r.ANY("/debug/pprof", pprofhandler.PprofHandler)
	r.ANY("/debug/pprof/{profile:*}", func(ctx *fasthttp.RequestCtx) {
		ctx.URI().SetPathBytes(bytes.TrimSuffix(ctx.Path(), []byte("/")))
		pprofhandler.PprofHandler(ctx)
	})
	a.http = &fasthttp.Server{Handler: r.Handler, Name: "galo", CloseOnShutdown: true, NoDefaultServerHeader: true}
	return a
}

// readyz says whether payments can be accepted: that needs room in the journal and in the queue, and neither Redis nor a processor.
func (a *admin) readyz(ctx *fasthttp.RequestCtx) {
	if why := a.ready(); why != "" {
		ctx.SetStatusCode(fasthttp.StatusServiceUnavailable)
		ctx.SetBodyString(why + "\n")
		return
	}
	ctx.SetBodyString("ready\n")
}

// listen opens an address of the configuration. A socket file that a killed process left is replaced; one that is served is not.
func listen(a listenAddress) (net.Listener, error) {
	if a.network == "unix" {
		if conn, err := net.Dial("unix", a.address); err == nil {
			conn.Close()
			return nil, fmt.Errorf("cannot listen on %s: somebody does already", a)
		}
		if err := os.Remove(a.address); err != nil && !os.IsNotExist(err) {
			return nil, fmt.Errorf("cannot listen on %s: %w", a, err)
		}
	}
	ln, err := net.Listen(a.network, a.address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", a, err)
	}
	if a.network == "unix" {
		// The load balancer runs as another user; who may reach the socket is a matter of the folder that it lies in.
		if err := os.Chmod(a.address, 0o666); err != nil {
			ln.Close()
			return nil, fmt.Errorf("cannot open %s to others: %w", a, err)
		}
	}
	return ln, nil
}

// healthcheck asks a running galo whether it is ready: for a container's health check, where there is no other program.
func healthcheck(a listenAddress) error {
	if a.off() {
		return fmt.Errorf("cannot check: ADMIN_LISTEN is off")
	}
	client := &fasthttp.HostClient{Addr: a.address, MaxIdemponentCallAttempts: 1, Dial: func(string) (net.Conn, error) {
		return net.DialTimeout(a.network, a.address, time.Second)
	}}
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	request.SetRequestURI("http://galo/readyz")
	if err := client.DoTimeout(request, response, 2*time.Second); err != nil {
		return fmt.Errorf("cannot ask %s: %w", a, err)
	}
	if response.StatusCode() != fasthttp.StatusOK {
		return fmt.Errorf("not ready: %s", response.Body())
	}
	return nil
}

// readiness says why this process cannot accept payments.
type readiness struct {
	ledger   *ledger
	stopping atomic.Bool
}

func (r *readiness) why() string {
	switch {
	case r.stopping.Load():
		return "stopping"
	case r.ledger.active.next.Load() >= r.ledger.active.limit.Load():
		return "no room in the journal"
	case r.ledger.pending.Load() >= r.ledger.maxPending:
		return "the queue is full"
	}
	return ""
}

// shutdown stops a server from accepting, and waits for the requests that it has begun.
func shutdown(s *fasthttp.Server, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return s.ShutdownWithContext(ctx)
}
