package main

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-json"
	"pgregory.net/rapid"
)

// plainBodies returns what the plain way has to take, so that nothing is allocated for it.
func plainBodies() [][]byte {
	return [][]byte{
		[]byte(`{"correlationId":"` + someID + `","amount":19.90}`),
		[]byte(`{"amount":19.90,"correlationId":"` + someID + `"}`),
		[]byte(`{"correlationId": "` + strings.ToUpper(someID) + `", "amount": 19.9}`),
		[]byte("\r\n\t {\n\t\"amount\" : 1990 ,\r\n \"correlationId\"\t:\n\"" + someID + "\"\n}\n"),
		[]byte(`{"correlationId":"` + someID + `","amount":0.01}`),
		[]byte(`{"correlationId":"` + someID + `","amount":9999999999.99}`),
	}
}

func TestPlainBodiesGoThePlainWay(t *testing.T) {
	for _, body := range plainBodies() {
		var id paymentID
		amount, ok := parsePlain(body, &id)
		if !ok || id.String() != someID || amount == 0 {
			t.Errorf("parsePlain(%s) = %v, %d, %v", body, id, amount, ok)
		}
	}
}

// withAmount and withID put one value, as JSON, into an otherwise good body.
func withAmount(amount string) string {
	return `{"correlationId":"` + someID + `","amount":` + amount + `}`
}

func withID(id string) string { return `{"correlationId":` + id + `,"amount":19.90}` }

func TestAmountIsDecidedByValue(t *testing.T) {
	f := func(amount string, want cents) {
		t.Helper()
		for _, body := range []string{
			withAmount(amount), withAmount(amount + " "),
			`{"amount":` + amount + `,"correlationId":"` + someID + `"}`,
			`{"amount":` + amount + `,"correlationId":"` + someID + `","x":[]}`,
		} {
			id, got, p := parsePayment([]byte(body))
			if p != nil || got != want || id.String() != someID {
				t.Errorf("%s: got %v, %d, %v, want %d", body, id, got, p, want)
			}
		}
	}
	f("19.90", 1990)
	f("19.9", 1990)
	f("19.900", 1990)
	f("19.9"+strings.Repeat("0", 300), 1990)
	f("19", 1900)
	f("1.99e1", 1990)
	f("1.99E+1", 1990)
	f("199000e-4", 1990)
	f("0.199e2", 1990)
	f("0.01", 1)
	f("1e-2", 1)
	f("0.00000001e6", 1)
	f("10", 1000)
	f("1e1", 1000)
	f("1e9", 100_000_000_000)
	f("1e0000000000000000000000000000000000000001", 1000)
	f("1e-00000000000000000000000000000000000000", 100)
	f("100.10", 10010)
	f("9999999999.99", maxCents)
	f("9999999999.990", maxCents)
	f("0.999999999999e10", maxCents)
	f("0."+strings.Repeat("0", 500)+"1e500", 10)
	f("1"+strings.Repeat("0", 500)+"e-500", 100)
}

func TestAmountBeyondTheRulesIs422(t *testing.T) {
	f := func(detail string, amounts ...string) {
		t.Helper()
		for _, amount := range amounts {
			id, got, p := parsePayment([]byte(withAmount(amount)))
			if p == nil || p.status != 422 || !strings.Contains(p.detail, detail) || got != 0 || id != (paymentID{}) {
				t.Errorf("%s: got %v, %d, %+v, want 422 and %q", amount, id, got, p, detail)
			}
		}
	}
	huge := strings.Repeat("9", 1000)
	f("positive", "0", "0.00", "-0", "-0.0", "0e5", "0e999999999", "0e-999999999", "0e"+huge, "0e-"+huge,
		"-1", "-0.01", "-19.90", "-1e400", "-1e-400", "-0.001", "-"+huge)
	f("two decimals", "19.901", "0.001", "0.009", "1e-3", "1e-400", "1e-999999999", "1e-"+huge,
		"0."+strings.Repeat("0", 1000)+"1", "1.0000000000000000000000000000000001", "9999999999.991", "9999999999.999")
	f("beyond 9999999999.99", "10000000000", "10000000000.00", "1e10", "99999999999", "1e400", "1e999999999",
		"1e"+huge, "1e+"+huge, huge, huge+".001", "0.1e400", "9223372036854775808", "18446744073709551617", "1e17", "1e18")
}

func TestBodyThatIsNotJSONIs400(t *testing.T) {
	good := withAmount("19.90")
	for _, body := range []string{
		"", " ", "\x00", "null x", "{", "}", "{}}", good + "x", good + good, good + "\x00", "\ufeff" + good,
		good[:len(good)-1], good[1:], strings.Replace(good, ",", ",,", 1), strings.Replace(good, ",", "", 1),
		strings.Replace(good, ",", ";", 1), strings.Replace(good, "}", ",}", 1), strings.Replace(good, "{", "{,", 1),
		strings.Replace(good, ":", "", 1), strings.Replace(good, ":", "::", 1), strings.ReplaceAll(good, `"`, `'`),
		strings.Replace(good, " ", "", 1) + "//", "{\v" + good[1:], "{\u00a0" + good[1:],
		withAmount(""), withAmount("019.90"), withAmount("00"), withAmount("-019"), withAmount("+1"), withAmount(".5"),
		withAmount("1."), withAmount("1.e1"), withAmount("1e"), withAmount("1e+"), withAmount("1.9.0"), withAmount("--1"),
		withAmount("-"), withAmount("NaN"), withAmount("Infinity"), withAmount("0x10"), withAmount("1_000"),
		withAmount("1,5"), withAmount("1 2"), withAmount("nul"), withAmount("True"), withAmount("[1"), withAmount("1]"),
		withID(`"` + someID), withID(someID), withID("\"\n" + someID + "\""), withID(`"\x34"`), withID(`"\u12"`),
		withID("\"\xff\""), withID("\"\xc0\x80\""), withID("\"\xed\xa0\x80\""),
		`{"x":"` + "\x01" + `",` + good[1:], `{"x":01,` + good[1:], `{"` + "\xff" + `":1,` + good[1:],
		strings.Repeat("[", 4096), strings.Repeat(`{"a":`, 800), strings.Repeat("[", 100) + strings.Repeat("]", 100),
		`{"x":` + strings.Repeat("[", 64) + strings.Repeat("]", 64) + "," + good[1:],
	} {
		id, amount, p := parsePayment([]byte(body))
		if p == nil || p.status != 400 || !strings.HasPrefix(p.detail, "the body is not JSON: ") || amount != 0 || id != (paymentID{}) {
			t.Errorf("%.80q: got %v, %d, %+v, want 400", body, id, amount, p)
		}
	}
}

func TestFieldThatIsMissingOrIllTypedIs400(t *testing.T) {
	f := func(body, detail string) {
		t.Helper()
		id, amount, p := parsePayment([]byte(body))
		if p == nil || p.status != 400 || !strings.HasPrefix(p.detail, detail) || amount != 0 || id != (paymentID{}) {
			t.Errorf("%s: got %v, %d, %+v, want 400 and %q", body, id, amount, p, detail)
		}
	}
	for _, body := range []string{"null", "true", "1", `"x"`, "[]", " [ {} ] ", "[" + withAmount("1") + "]"} {
		f(body, "the body must be a JSON object")
	}
	f("{}", "correlationId is missing")
	f(`{"amount":1}`, "correlationId is missing")
	f(`{"CorrelationId":"`+someID+`","amount":1}`, "correlationId is missing")
	f(`{"correlationid":"`+someID+`","amount":1}`, "correlationId is missing")
	f(`{"correlationId ":"`+someID+`","amount":1}`, "correlationId is missing")
	f(`{"x":`+withAmount("1")+`}`, "correlationId is missing")
	f(`{"correlationId":"`+someID+`"}`, "amount is missing")
	f(`{"correlationId":"`+someID+`","Amount":1}`, "amount is missing")
	f(`{"correlationId":"`+someID+`","AMOUNT":1}`, "amount is missing")
	for _, value := range []string{"null", "1", "true", "{}", "[]", `["` + someID + `"]`} {
		f(withID(value), "correlationId must be a string")
	}
	for _, value := range []string{`""`, `"x"`, `"` + someID + ` "`, `"{` + someID + `}"`, `"` + someID[1:] + `"`, `"g` + someID[1:] + `"`} {
		f(withID(value), "correlationId must be a UUID")
	}
	for _, value := range []string{"null", "true", "false", `"19.90"`, "{}", "[1]"} {
		f(withAmount(value), "amount must be a number")
	}
	// The id is looked at first, and then the amount.
	f(`{"amount":-1}`, "correlationId is missing")
	// The last of a repeated name counts, also when it is worse.
	f(`{"amount":1,"correlationId":"`+someID+`","amount":null}`, "amount must be a number")
	f(`{"correlationId":"`+someID+`","amount":1,"correlationId":"x"}`, "correlationId must be a UUID")
}

func TestEveryWayToWriteAPaymentIsTaken(t *testing.T) {
	f := func(body string) {
		t.Helper()
		id, amount, p := parsePayment([]byte(body))
		if p != nil || id.String() != someID || amount != 1990 {
			t.Errorf("%s: got %v, %d, %+v", body, id, amount, p)
		}
	}
	f(withAmount("19.90"))
	f(`{"\u0063orrelationId":"` + someID + `","\u0061m\u006Funt":19.90}`)
	f(`{"correlationId":"\u0034` + someID[1:] + `","amount":19.90}`)
	f(`{"correlationId":"` + strings.ReplaceAll(someID, "-", `\u002D`) + `","amount":19.90}`)
	f(`{"a":{"correlationId":1,"b":[1,2,{"amount":"}"}]},"correlationId":"` + someID + `","c":"\"\\}","amount":19.90,"d":null}`)
	f(`{"":"","Amount":1,"AMOUNT":"x","amount":19.90,"CORRELATIONID":"x","correlationId":"` + someID + `","correlationID":7}`)
	f(`{"amount":"x","amount":5,"correlationId":null,"correlationId":"` + someID + `","amount":19.90}`)
	f(`{"amount":5,"\u0061mount":19.90,"correlationId":"` + someID + `"}`)
	f(`{"🙂":"\ud83d\ude42 \ud800 é \u0000","correlationId":"` + someID + `","amount":19.90}`)
	f(`{"\ud800":1,"\udc00amount":2,"amount\u0000":3,"correlationId":"` + someID + `","amount":19.90}`)
	f(`{"big":1e999999999,"x":-0.0e-0,"correlationId":"` + someID + `","amount":19.90}`)
	f(`{"x":` + strings.Repeat("[", maxDepth-1) + strings.Repeat("]", maxDepth-1) + `,"correlationId":"` + someID + `","amount":19.90}`)
	f(`{"x":"` + strings.Repeat(`[\"`, 1000) + `","correlationId":"` + someID + `","amount":19.90}`)
	f(`{"x":[` + strings.Repeat("[],", 1000) + `[]],"correlationId":"` + someID + `","amount":19.90}`)
}

func TestAmountsGoRound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := cents(rapid.Int64Range(1, int64(maxCents)).Draw(t, "amount"))
		// The same value, with its point moved to either side and the exponent making up for it.
		moved := strconv.FormatInt(int64(want), 10)
		shift := rapid.IntRange(-40, 40).Draw(t, "shift")
		switch {
		case shift > 0:
			moved += strings.Repeat("0", shift)
		case shift < 0 && -shift < len(moved):
			moved = moved[:len(moved)+shift] + "." + moved[len(moved)+shift:]
		case shift < 0:
			moved = "0." + strings.Repeat("0", -shift-len(moved)) + moved
		}
		moved += "e" + strconv.Itoa(-centPlaces-shift)
		for _, amount := range []string{string(want.appendDecimal(nil)), moved} {
			exact, ok := new(big.Rat).SetString(amount)
			if !ok || exact.Cmp(big.NewRat(int64(want), 100)) != 0 {
				t.Fatalf("%s is not %d cents: the test is wrong", amount, want)
			}
			if _, got, p := parsePayment([]byte(withAmount(amount))); p != nil || got != want {
				t.Fatalf("%s: got %d, %+v, want %d", amount, got, p, want)
			}
		}
	})
}

func TestAmountsAreWhatRationalsSay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?`).Draw(t, "number")
		places := rapid.Int64Range(0, 6).Draw(t, "places")
		wantUnits, wantFit := scaledByRat(text, places)
		if units, fit := parseScaled([]byte(text), places); units != wantUnits || fit != wantFit {
			t.Fatalf("parseScaled(%s, %d) = %d, %v, want %d, %v", text, places, units, fit, wantUnits, wantFit)
		}
	})
}

// scaledByRat is parseScaled in exact arithmetic.
func scaledByRat(text string, places int64) (int64, unitFit) {
	exact, ok := new(big.Rat).SetString(text)
	if !ok {
		panic("no number: " + text)
	}
	tenTo := func(n int64) *big.Rat {
		return new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil))
	}
	exact.Mul(exact, tenTo(places))
	switch {
	case exact.Sign() < 0:
		return -1, wholeUnits
	case exact.Cmp(tenTo(maxUnitDigits)) >= 0:
		return 0, tooManyUnits
	case !exact.IsInt():
		return 0, partUnits
	}
	return exact.Num().Int64(), wholeUnits
}

// TestHugeNumbersCostNothing would not end before the test run's own limit if an exponent were counted out.
func TestHugeNumbersCostNothing(t *testing.T) {
	for _, number := range []string{"1e999999999999", "1e-999999999999", "0e999999999999", "1e" + strings.Repeat("9", 4000)} {
		if _, _, p := parsePayment([]byte(withAmount(number))); p == nil || p.status != 422 {
			t.Fatalf("%.40s: got %+v, want 422", number, p)
		}
	}
}

// byStandard is a second reader of the body, by the standard library's tokens and exact arithmetic. It
// returns only the status of a refusal.
func byStandard(body []byte) (paymentID, cents, int) {
	if !stdjson.Valid(body) || !utf8.Valid(body) || tooDeep(body) {
		return paymentID{}, 0, 400
	}
	in := stdjson.NewDecoder(bytes.NewReader(body))
	in.UseNumber()
	var idValue, amountValue any
	if start, err := in.Token(); err != nil || start != stdjson.Delim('{') {
		return paymentID{}, 0, 400
	}
	for in.More() {
		name, _ := in.Token()
		var value any
		if err := in.Decode(&value); err != nil {
			return paymentID{}, 0, 400
		}
		switch name {
		case "correlationId":
			idValue = value
		case "amount":
			amountValue = value
		}
	}
	text, isText := idValue.(string)
	number, isNumber := amountValue.(stdjson.Number)
	id, isID := plainPaymentID([]byte(text))
	if !isText || !isNumber || !isID {
		return paymentID{}, 0, 400
	}
	// No mantissa of the bodies here makes up for an exponent of five digits.
	if _, exponent, ok := strings.Cut(strings.ToLower(string(number)), "e"); ok {
		if len(strings.TrimLeft(exponent, "+-0")) > 4 {
			return paymentID{}, 0, 422
		}
	}
	units, fit := scaledByRat(string(number), centPlaces)
	if fit != wholeUnits || units <= 0 || cents(units) > maxCents {
		return paymentID{}, 0, 422
	}
	return id, cents(units), 0
}

// FuzzParsePayment holds the two ways against each other and both against the standard library.
func FuzzParsePayment(f *testing.F) {
	for _, body := range plainBodies() {
		f.Add(body)
	}
	for _, body := range []string{
		"", "null", "[]", "{}", withAmount("1.99e1"), withAmount("019"), withAmount("1e400"), withAmount("-0"), withAmount("null"),
		withAmount("19.901"), withAmount("10000000000"), withID("null"), withID(`"\u0034` + someID[1:] + `"`),
		`{"\u0061mount":1,"amount":2,"correlationId":"` + someID + `","correlationId":"` + someID + `"}`,
		`{"Amount":1,"amount":2,"CORRELATIONID":3,"correlationId":"` + someID + `","x":{"y":[1,"\ud800",null]}}`,
		"{\"x\":\"\xff\"}", "{\"x\":\"\x01\"}", strings.Repeat("[", 100), `{"\udc00amount":2,"":1}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > 4096 {
			return
		}
		wantID, wantAmount, wantStatus := byStandard(body)
		before := bytes.Clone(body)
		id, amount, p := parsePayment(body)
		if !bytes.Equal(before, body) {
			t.Fatalf("%q was changed to %q", before, body)
		}
		if status := statusOf(p); id != wantID || amount != wantAmount || status != wantStatus {
			t.Fatalf("%q: got %v, %d, %d, want %v, %d, %d", body, id, amount, status, wantID, wantAmount, wantStatus)
		}
		anyID, anyAmount, anyProblem := parseAnyJSON(body)
		var plainID paymentID
		if plainAmount, ok := parsePlain(body, &plainID); ok && (anyProblem != nil || plainID != anyID || plainAmount != anyAmount) {
			t.Fatalf("%q: the plain way has %v, %d, and the general one %v, %d, %+v", body, plainID, plainAmount, anyID, anyAmount, anyProblem)
		}
		if p != nil && !stdjson.Valid(p.appendJSON(nil)) {
			t.Fatalf("%q: the answer is not JSON: %s", body, p.appendJSON(nil))
		}
	})
}

// statusOf returns the status of a refusal, or 0.
func statusOf(p *problem) int {
	if p == nil {
		return 0
	}
	return p.status
}

// BenchmarkParse keeps beside our ways what a plain use of each library costs. Those baselines check
// neither the rules nor the exact names, and have a float or a text for the amount.
func BenchmarkParse(b *testing.B) {
	body := plainBodies()[0]
	type wire struct {
		CorrelationID string      `json:"correlationId"`
		Amount        json.Number `json:"amount"`
	}
	run := func(name string, parse func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if err := parse(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	refused := func(p *problem) error {
		if p != nil {
			return fmt.Errorf("refused: %s", p.detail)
		}
		return nil
	}
	idText := []byte(someID)
	ok := true
	run("id", func() error { _, good := parsePaymentID(idText); ok = ok && good; return nil })
	run("id-a-digit-at-a-time", func() error { _, good := plainPaymentID(idText); ok = ok && good; return nil })
	if !ok {
		b.Fatal("an id was refused")
	}
	run("plain", func() error { _, _, p := parsePayment(body); return refused(p) })
	run("general", func() error { _, _, p := parseAnyJSON(body); return refused(p) })
	run("go-json", func() error { var w wire; return json.Unmarshal(body, &w) })
	run("encoding-json", func() error { var w wire; return stdjson.Unmarshal(body, &w) })
	run("encoding-json-tokens", func() error {
		in := stdjson.NewDecoder(bytes.NewReader(body))
		in.UseNumber()
		for {
			if _, err := in.Token(); err == io.EOF {
				return nil
			} else if err != nil {
				return err
			}
		}
	})
}

// BenchmarkAppend measures what is printed for every send.
func BenchmarkAppend(b *testing.B) {
	id, _ := parsePaymentID([]byte(someID))
	at := nowMicros()
	dst := make([]byte, 0, 64)
	b.Run("id", func(b *testing.B) {
		for b.Loop() {
			dst = id.appendText(dst[:0])
		}
	})
	b.Run("time", func(b *testing.B) {
		for b.Loop() {
			dst = at.appendTime(dst[:0])
		}
	})
	b.Run("time-by-layout", func(b *testing.B) {
		for b.Loop() {
			dst = time.UnixMicro(int64(at)).UTC().AppendFormat(dst[:0], "2006-01-02T15:04:05.000000Z")
		}
	})
}
