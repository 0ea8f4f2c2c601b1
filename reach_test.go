package main

import (
	"strings"
	"testing"
)

// TestClientsReachOnlyTheContract: the listener that clients come in by knows the contract's four calls, and nothing of the admin side,
// however it is spelt.
func TestClientsReachOnlyTheContract(t *testing.T) {
	s, _, _ := wholeServer(t)
	address := serveHostile(t, s, nil)
	f := func(method, path, want string) {
		t.Helper()
		statuses, _ := exchangeRaw(t, address, method+" "+path+" HTTP/1.1\r\nHost: x\r\n\r\n")
		if got := strings.Join(statuses, " "); got != want {
			t.Errorf("%s %s was answered %s, want %s", method, path, got, want)
		}
	}
	f("GET", "/payments-summary", "200")
	f("GET", "/payments/"+nthID(1).String(), "404")
	f("POST", "/payments", "400")
	f("POST", "/purge-payments", "403")
	for _, path := range []string{"/payments", "/purge-payments"} {
		f("GET", path, "405")
	}
	for _, path := range []string{"/payments-summary", "/payments/" + nthID(1).String()} {
		f("POST", path, "405")
	}
	for _, method := range []string{"GET", "POST", "PUT", "DELETE", "OPTIONS"} {
		for _, path := range []string{
			"/", "/metrics", "/healthz", "/readyz", "/debug/pprof", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/purge", "/PAYMENTS",
			"//metrics", "/%6detrics", "/payments/../metrics", "/payments/%2e%2e/metrics", "/payments-summary/../debug/pprof/", "http://127.0.0.1:9990/metrics",
		} {
			f(method, path, "404")
		}
	}
}
