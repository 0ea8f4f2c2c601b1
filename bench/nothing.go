package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// nothingIdle outlasts the idle connections of nginx, so that it is nginx that closes.
const nothingIdle = 2 * time.Minute

// nothingSocket lets the user of nginx, who is another one, connect.
const nothingSocket = 0o666

// runNothing is that server alone, for a container.
func runNothing(ctx context.Context, args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("bench nothing", flag.ContinueOnError)
	flags.SetOutput(stderr)
	listen := flags.String("listen", ":9999", "address to serve on, or unix:/path.sock")
	if err := flags.Parse(args); err != nil {
		return err
	}
	return serveNothing(ctx, *listen)
}

// serveNothing answers 202 to every payment and does nothing with it, until ctx ends: the least that any instance
// could cost, and so what galo's own answer times are held against.
func serveNothing(ctx context.Context, address string) error {
	listener, err := listenNothing(address)
	if err != nil {
		return fmt.Errorf("cannot listen on %s: %w", address, err)
	}
	server := &fasthttp.Server{
		IdleTimeout:           nothingIdle,
		NoDefaultServerHeader: true,
		NoDefaultContentType:  true,
		Handler: func(ctx *fasthttp.RequestCtx) {
			if !ctx.IsPost() || string(ctx.Path()) != "/payments" {
				ctx.SetStatusCode(fasthttp.StatusNotFound)
				return
			}
			ctx.SetStatusCode(fasthttp.StatusAccepted)
		},
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		if err = server.Shutdown(); err == nil {
			err = <-ended
		}
	}
	if err != nil {
		return fmt.Errorf("cannot serve nothing: %w", err)
	}
	return nil
}

// listenNothing takes a TCP address or unix:/path, as galo's LISTEN does. A socket that a killed process left is replaced.
func listenNothing(address string) (net.Listener, error) {
	path, isPath := strings.CutPrefix(address, "unix:")
	if !isPath {
		return net.Listen("tcp", address)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, nothingSocket); err != nil {
		_ = listener.Close()
		return nil, err
	}
	return listener, nil
}
