package main

import (
	"context"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestNginxForwardsOnlyWhatIsListed: everything else ends at nginx, whatever an instance may serve one day.
func TestNginxForwardsOnlyWhatIsListed(t *testing.T) {
	conf, err := os.ReadFile("../nginx.conf")
	if err != nil {
		t.Fatal(err)
	}
	var forwarded []string
	for _, m := range regexp.MustCompile(`location ([^{]*?)\s*\{[^}]*proxy_pass`).FindAllStringSubmatch(string(conf), -1) {
		forwarded = append(forwarded, m[1])
	}
	if want := []string{"= /payments", "^~ /payments/", "= /payments-summary", "= /purge-payments"}; !slices.Equal(forwarded, want) {
		t.Errorf("nginx forwards %q, want %q", forwarded, want)
	}
	if n := strings.Count(string(conf), "proxy_pass "); n != len(forwarded) {
		t.Errorf("%d times something is forwarded, %d of them from a location", n, len(forwarded))
	}
}

// TestWhatAnswersTooMuchIsFound: a server that answers everything with its metrics is not taken for a closed door.
func TestWhatAnswersTooMuchIsFound(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"metrics everywhere": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("galo_pending 0\n")) },
		"no problem":         func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) },
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{Handler: answer}
		go func() { _ = server.Serve(l) }() // ends with Close
		all := len(whatIsReachable())
		if wrong := reach(context.Background(), l.Addr().String(), 50*time.Millisecond); len(wrong) < all/2 {
			t.Errorf("%s: only %d of %d requests are wrong", name, len(wrong), all)
		}
		_ = server.Close()
	}
}
