package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
)

// hostileWords are what breaks a log line, a header, a key or a terminal wherever it gets there as it came.
var hostileWords = []string{
	"\r\ntime=2000-01-01T00:00:00Z level=ERROR msg=forged", "\x1b[31m\x1b]0;title\x07", "\xff\xfe\xc3\x28", "a\x00b", "\"quoted\" back\\slash",
	"\u202egnp.exe", "{}\r\n\r\nHTTP/1.1 202 Accepted\r\n\r\n", "$(id) `id` %s%n ${jndi:x}", "\u2028\u2029\u0085",
}

// forged finds what an attacker has added to a log: every line is one of ours, and holds nothing that acts on a terminal.
func forged(text string) (findings []string) {
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		if !strings.HasPrefix(line, "time=") || strings.HasPrefix(line, "time=2000-") {
			findings = append(findings, fmt.Sprintf("a forged line: %q", line))
		}
		for _, r := range line {
			if !unicode.IsPrint(r) || r == utf8.RuneError {
				findings = append(findings, fmt.Sprintf("%U in a line: %q", r, line))
				break
			}
		}
	}
	return findings
}

// TestForgedLinesAreFound: were they logged as they came, most of these words would be found.
func TestForgedLinesAreFound(t *testing.T) {
	for n, word := range hostileWords {
		harmless := n == 4 || n == 7 // they break nothing that is not parsed again
		if found := forged("time=1 msg=" + word + " x=y\n"); (len(found) == 0) != harmless {
			t.Errorf("%q: %v", word, found)
		}
	}
	if found := forged("time=1 msg=\"a payment\" amount=1\n"); len(found) != 0 {
		t.Errorf("a good line: %v", found)
	}
}

// TestNothingThatOthersSendBreaksALogLine lets clients, processors and other instances say all of it, with everything logged.
func TestNothingThatOthersSendBreaksALogLine(t *testing.T) {
	var log lines
	w := newTestWorld(t)
	w.env["NATS_URL"], w.env["REDIS_URL"] = startNATS(t, -1).ClientURL(), startRedis(t).url()
	g := w.startLogged(t, slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	address := strings.TrimPrefix(g.url, "http://")
	for n, word := range hostileWords {
		// Clients: in the path, the query, a header, the method and the body.
		percent := ""
		for _, b := range []byte(word) {
			percent += fmt.Sprintf("%%%02x", b)
		}
		for _, raw := range []string{
			"GET /" + word + " HTTP/1.1\r\nHost: x\r\n\r\n", "GET /" + percent + " HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET /payments/" + percent + " HTTP/1.1\r\nHost: x\r\n\r\n", "GET /payments-summary?from=" + percent + " HTTP/1.1\r\nHost: x\r\n\r\n",
			"GET / HTTP/1.1\r\nHost: " + word + "\r\n\r\n", word + " / HTTP/1.1\r\nHost: x\r\n\r\n",
			fmt.Sprintf("POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n{\"correlationId\":\"%s\",\"amount\":1}", len(word)+33, word),
		} {
			statuses, _ := exchangeRaw(t, address, raw)
			for _, s := range statuses {
				if s[0] == '2' || s == "500" {
					t.Errorf("%q was answered %s", raw, s)
				}
			}
		}
		// Processors: in the body of a refusal, and wherever else there is room.
		w.def.behave(func(rw http.ResponseWriter, p fakePayment, _ func()) bool {
			answerHostile(rw, 400, "", word)
			return true
		})
		g.accepted(nthID(uint64(n)), "1.00")
		g.becomes(nthID(uint64(n)), "rejected")
		w.def.behave(func(rw http.ResponseWriter, p fakePayment, write func()) bool {
			if w.def.attempts(p.ID) > 1 {
				return false
			}
			answerHostile(rw, []int{401, 500, 302, 200}[n%4], strings.NewReplacer("\r", "", "\n", "").Replace(word), word)
			return true
		})
		g.accepted(nthID(100+uint64(n)), "1.00")
		g.becomes(nthID(100+uint64(n)), "settled default")
		// Other instances.
		for _, subject := range []string{subjectHealth, subjectFinding, subjectPurge, subjectAsk} {
			for _, text := range []string{word, fmt.Sprintf(`{"v":1,"instance":%q,"processor":0,"id":%q}`, word, word)} {
				if err := g.bus.conn.PublishMsg(&nats.Msg{Subject: subject, Reply: "x.y", Data: []byte(text)}); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	g.stopAll()
	if !strings.Contains(log.String(), "payment rejected by its processor") {
		t.Error("nothing of it was logged")
	}
	if found := forged(log.String()); len(found) != 0 {
		t.Errorf("%d findings, such as %v", len(found), found[0])
	}
}

// answerHostile is an answer that net/http would not write.
func answerHostile(rw http.ResponseWriter, status int, inHead, inBody string) {
	conn, _, err := rw.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 %d %s\r\nX: %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", status, inHead, inHead, len(inBody), inBody)
}

// TestProblemQuotesNothingThatBreaksIt: what a problem says of what came in is JSON, and one line.
func TestProblemQuotesNothingThatBreaksIt(t *testing.T) {
	s, _, _ := wholeServer(t)
	address := serveHostile(t, s, nil)
	for _, word := range hostileWords {
		for _, body := range []string{word, `{"correlationId":"` + word + `","amount":1}`, `{"` + word + `":1}`, `{"amount":"` + word + `"}`} {
			conn := dialHostile(t, address)
			fmt.Fprintf(conn, "POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			conn.CloseWrite()
			answer, err := io.ReadAll(conn)
			if err != nil {
				t.Fatal(err)
			}
			head, text, _ := strings.Cut(string(answer), "\r\n\r\n")
			if n := len(statusesOf(answer)); n != 1 || !strings.HasPrefix(text, `{"title":`) {
				t.Errorf("%q: %d answers: %q", body, n, answer)
			}
			for _, r := range head + text {
				if r != '\r' && r != '\n' && r < ' ' || r == utf8.RuneError && !strings.Contains(text, "\ufffd") {
					t.Errorf("%q: %U in the answer %q", body, r, answer)
				}
			}
			if strings.ContainsAny(text, "\r\n") {
				t.Errorf("%q: more than one line: %q", body, text)
			}
		}
	}
}

// startLogged is start with a log that is read.
func (w *testWorld) startLogged(t testing.TB, log *slog.Logger, settings ...string) *testGalo {
	t.Helper()
	env := map[string]string{
		"LISTEN": "127.0.0.1:0", "ADMIN_LISTEN": "", "DATA_DIR": w.dir, "INSTANCE": "one", "PATIENCE": "1h",
		"PROCESSOR_DEFAULT_URL": w.def.server.URL, "PROCESSOR_FALLBACK_URL": w.fall.server.URL, "SEND_TIMEOUT": "1s", "STOP_TIMEOUT": "5s",
	}
	for k, v := range w.env {
		env[k] = v
	}
	for i := 0; i < len(settings); i += 2 {
		env[settings[i]] = settings[i+1]
	}
	c, err := readConfig(func(name string) (string, bool) { v, ok := env[name]; return v, ok })
	if err != nil {
		t.Fatal(err)
	}
	g, err := build(c, log)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.door = newSteadfastListener(ln, log)
	g.listeners = append(g.listeners, func() error { return g.server.Serve(g.door) })
	g.start(t.Context())
	tg := &testGalo{galo: g, t: t, url: "http://" + ln.Addr().String(), cancel: func() {}}
	t.Cleanup(tg.stopAll)
	return tg
}
