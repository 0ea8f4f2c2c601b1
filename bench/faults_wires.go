package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// A wire is a connection line between galo and something that it needs: a proxy in this process that can be cut, or made to
// break what goes over it. One goroutine at a time changes it.
type wire struct {
	name  string
	proxy *toxiproxy.Proxy
}

// wires makes them: toxiproxy wants a server that they all belong to, though nobody ever calls it.
type wires struct {
	server *toxiproxy.ApiServer
	ports  *ports
	mu     sync.Mutex
	all    []*wire
}

func newWires(p *ports) *wires {
	return &wires{ports: p, server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())}
}

// lay makes a wire to an address and connects it.
func (ws *wires) lay(name, to string) (*wire, error) {
	at, err := ws.ports.quiet()
	if err != nil {
		return nil, err
	}
	w := &wire{name: name, proxy: toxiproxy.NewProxy(ws.server, name, at, to)}
	if err := w.mend(); err != nil {
		return nil, err
	}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.all = append(ws.all, w)
	return w, nil
}

// close cuts all of them.
func (ws *wires) close() {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	for _, w := range ws.all {
		w.cut()
	}
}

func (w *wire) addr() string { return w.proxy.Listen }

// cut closes all connections and refuses new ones.
func (w *wire) cut() { w.proxy.Stop() }

// mend makes it a good wire again. What it had while it was bad is cut.
func (w *wire) mend() error {
	w.proxy.Stop()
	w.proxy.Toxics.ResetToxics(context.Background())
	if err := w.proxy.Start(); err != nil {
		return fmt.Errorf("cannot mend the wire of %s: %w", w.name, err)
	}
	return nil
}

// A flaw is what is wrong with a wire, in toxiproxy's words.
type flaw struct {
	Type       string           `json:"type"`
	Stream     string           `json:"stream"`
	Attributes map[string]int64 `json:"attributes"`
}

func (f flaw) String() string { return fmt.Sprintf("%s %s %v", f.Type, f.Stream, f.Attributes) }

// spoil gives every connection from now on a flaw; those that are there are cut. A proxy changes nothing about connections
// that are on their way, since that may wait for whoever has stopped reading.
func (w *wire) spoil(f flaw) error {
	text, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("cannot spoil the wire of %s: %w", w.name, err)
	}
	w.proxy.Stop()
	if _, err = w.proxy.Toxics.AddToxicJson(strings.NewReader(string(text))); err == nil {
		err = w.proxy.Start()
	}
	if err != nil {
		return fmt.Errorf("cannot spoil the wire of %s: %w", w.name, err)
	}
	return nil
}
