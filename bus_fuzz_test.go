package main

import (
	"encoding/json"
	"reflect"
	"strconv"
	"testing"

	"github.com/nats-io/nats.go"
)

// fuzzedBus is a bus without a connection, and how often each of its listeners was called.
func fuzzedBus() (b *bus, heard map[string]int, reports map[string]any) {
	b = &bus{instance: "one", log: quietLog(), inbox: "inbox", outbox: make(chan outgoing, outboxLen), questions: map[uint64]chan answer{}}
	b.up.Store(true)
	heard, reports = map[string]int{}, map[string]any{}
	note := func(subject string, what any) {
		heard[subject]++
		reports[subject] = what
	}
	b.onHealth(func(r healthReport) { note(subjectHealth, r) })
	b.onFinding(func(f finding) { note(subjectFinding, f) })
	b.onPurge(func(mark uint64) { note(subjectPurge, mark) })
	b.answerWith(func(id paymentID) answer {
		note(subjectAsk, id)
		return answer{journals: []string{"0123"}, known: true, payment: payment{id: id, amount: 1990, state: "sent", processor: "default", requestedAt: noon}}
	})
	return b, heard, reports
}

// FuzzBusMessages sends anything on every subject: nothing panics, what is no message of ours is counted and heard by nobody,
// and what is heard means the same when it is said again.
func FuzzBusMessages(f *testing.F) {
	id := nthID(1).String()
	for _, text := range []string{
		`{"v":1,"instance":"two","processor":1,"failing":true,"minResponseMicros":100000,"at":5}`,
		`{"v":1,"instance":"two","processor":0,"open":true,"answerMicros":9223372036854775807}`,
		`{"v":1,"instance":"two","mark":18446744073709551615}`, `{"v":1,"instance":"two","id":"` + id + `"}`,
		`{"v":1,"instance":"two","journals":["a"],"payment":{"id":"` + id + `","cents":1990,"state":"sent","processor":"default","requestedAt":-9223372036854775808}}`,
		`{"v":1,"journals":null,"payment":{"id":"` + id + `","cents":1,"state":"sent\",\"x\":\"","processor":"\r\n"}}`,
		`{"v":1,"payment":{"id":"` + id + `","cents":1,"state":"sent\",\"settledBy\":\"me","processor":"default"}}`,
		`{"v":1,"payment":{"id":"` + id + `","cents":1,"state":"sent","processor":"default\",\"settledBy\":\"me"}}`,
		`{"v":2}`, `{`, ``, `null`, `[]`, "\x00\xff", `{"v":1,"processor":255}`, `{"v":1,"processor":-1}`, `{"v":1.0,"mark":1e3}`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, heard, reports := fuzzedBus()
		for subject, hear := range map[string]nats.MsgHandler{
			subjectHealth: b.hearHealth, subjectFinding: b.hearFinding, subjectPurge: b.hearPurge, subjectAsk: b.hearQuestion,
		} {
			before := b.foreign.Load()
			hear(&nats.Msg{Subject: subject, Reply: "inbox.1", Data: data})
			if n := uint64(heard[subject]) + b.foreign.Load() - before; n != 1 {
				t.Errorf("%s: heard and foreign %d times: %q", subject, n, data)
			}
			if heard[subject] > 0 && !json.Valid(data) {
				t.Errorf("%s: heard what is not JSON: %q", subject, data)
			}
			if heard[subject] > 0 {
				sayAgain(t, b, subject, hear, reports)
				if subject != subjectAsk && heard[subject] != 2 {
					t.Errorf("%s: what was heard is foreign when it is said again: %q", subject, data)
				}
			}
		}
		hearAnyAnswer(t, b, data)
	})
}

// sayAgain publishes what was heard, hears it, and compares; of a question it reads the answer.
func sayAgain(t *testing.T, b *bus, subject string, hear nats.MsgHandler, reports map[string]any) {
	first := reports[subject]
	switch r := first.(type) {
	case paymentID:
		if a, ok := decodeAnswer((<-b.outbox).data); !ok || !a.known || a.payment.id != r || a.payment.amount != 1990 {
			t.Errorf("our own answer is not understood: %+v", a)
		}
		return
	case healthReport:
		b.instance = r.instance
		b.publishHealth(r)
	case finding:
		b.instance = r.instance
		b.publishFinding(r)
	case uint64:
		b.publishPurge(r)
	}
	hear(&nats.Msg{Subject: subject, Data: (<-b.outbox).data})
	if !reflect.DeepEqual(reports[subject], first) {
		t.Errorf("%s: said again, %+v became %+v", subject, first, reports[subject])
	}
}

// hearAnyAnswer hears an answer as if it had been asked for: what clients are told of it is JSON, and of this payment.
func hearAnyAnswer(t *testing.T, b *bus, data []byte) {
	const number = 7
	back := make(chan answer, 1)
	b.questions[number] = back
	before := b.foreign.Load()
	b.hearAnswer(&nats.Msg{Subject: "inbox." + strconv.Itoa(number), Data: data})
	if foreign := b.foreign.Load() - before; foreign+uint64(len(back)) != 1 {
		t.Fatalf("an answer is foreign %d times, and passed on %d times: %q", foreign, len(back), data)
	}
	if len(back) == 0 {
		return
	}
	a := <-back
	if !a.known {
		return
	}
	var told map[string]any
	text := a.payment.appendJSON(nil)
	if err := json.Unmarshal(text, &told); err != nil {
		t.Fatalf("%q makes %q: %v", data, text, err)
	}
	for name := range told {
		switch name {
		case "id", "amount", "state", "processor", "requestedAt", "acceptedAt":
		default:
			t.Errorf("%q adds %s to what clients are told: %s", data, name, text)
		}
	}
}
