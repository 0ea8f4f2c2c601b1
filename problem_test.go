package main

import (
	stdjson "encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestProblemsSayWhatIsWrong(t *testing.T) {
	f := func(p *problem, want string) {
		t.Helper()
		if got := string(p.appendJSON([]byte("x"))); got != "x"+want {
			t.Errorf("got %s, want x%s", got, want)
		}
	}
	f(badJSON("it is not UTF-8"), `{"title":"Bad Request","status":400,"detail":"the body is not JSON: it is not UTF-8"}`)
	f(badField("from", "is no date"), `{"title":"Bad Request","status":400,"detail":"from is no date"}`)
	f(forbidden("no"), `{"title":"Forbidden","status":403,"detail":"no"}`)
	f(notFound("nobody knows it"), `{"title":"Not Found","status":404,"detail":"nobody knows it"}`)
	f(methodNotAllowed("GET"), `{"title":"Method Not Allowed","status":405,"detail":"this path allows only GET"}`)
	f(conflict("other amount"), `{"title":"Conflict","status":409,"detail":"other amount"}`)
	f(tooLarge(4096), `{"title":"Content Too Large","status":413,"detail":"the body is larger than 4096 bytes"}`)
	f(unprocessable("amount"), `{"title":"Unprocessable Content","status":422,"detail":"amount"}`)
	f(unavailable("full", 1), `{"title":"Service Unavailable","status":503,"detail":"full"}`)
	f(conflict("\"\\\n\x00\x1f\x7f é🙂\u2028\xff"),
		`{"title":"Conflict","status":409,"detail":"\"\\\u000a\u0000\u001f`+"\x7f é🙂\u2028\ufffd"+`"}`)
}

func TestProblemsCarryTheirHeaders(t *testing.T) {
	if p := methodNotAllowed("GET, HEAD"); p.allow != "GET, HEAD" {
		t.Errorf("allow is %q", p.allow)
	}
	if p := unavailable("full", 3); p.retryAfter != 3 {
		t.Errorf("retryAfter is %d", p.retryAfter)
	}
}

func TestProblemIsJSONWhateverItQuotes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		detail := string(rapid.SliceOf(rapid.Byte()).Draw(t, "detail"))
		text := conflict(detail).appendJSON(nil)
		var got struct{ Detail string }
		if err := stdjson.Unmarshal(text, &got); err != nil || !utf8.Valid(text) {
			t.Fatalf("%q is not JSON: %v", text, err)
		}
		// One U+FFFD for every bad byte, which is how ranging over a string counts them.
		if want := string([]rune(detail)); got.Detail != want || strings.ContainsAny(string(text), "\n\r") {
			t.Fatalf("got %q, want %q", got.Detail, want)
		}
	})
}
