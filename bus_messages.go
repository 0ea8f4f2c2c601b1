package main

import (
	"slices"
	"time"

	"github.com/goccy/go-json"
	"github.com/nats-io/nats.go"
)

// messageVersion is raised when a message changes its meaning. Instances of two versions run side by side
// while one is replaced by the other: each ignores, and counts, what it does not understand.
const messageVersion = 1

// longestTold bounds the times that others may tell: far beyond every time-out, and far below what overflows.
const longestTold = int64(time.Hour / time.Microsecond)

func believable(micros int64) bool { return micros >= 0 && micros <= longestTold }

// tellable are the states in which an instance tells others of a payment; the processors' names are believed as they are spelt.
// Both are told on to clients as they came, so nothing else gets through.
var tellable = []string{"accepted", "sent", "pinned", "paid", "rejected"}

// versioned is what every message is.
type versioned interface{ version() int }

type healthMessage struct {
	Version           int         `json:"v"`
	Instance          string      `json:"instance"`
	Processor         processorID `json:"processor"`
	Failing           bool        `json:"failing"`
	MinResponseMicros int64       `json:"minResponseMicros"`
	At                micros      `json:"at"`
}

type findingMessage struct {
	Version      int         `json:"v"`
	Instance     string      `json:"instance"`
	Processor    processorID `json:"processor"`
	Open         bool        `json:"open"`
	Probe        bool        `json:"probe,omitempty"`
	AnswerMicros int64       `json:"answerMicros"`
	At           micros      `json:"at"`
}

type purgeMessage struct {
	Version  int    `json:"v"`
	Instance string `json:"instance"`
	Mark     uint64 `json:"mark"`
}

type askMessage struct {
	Version  int    `json:"v"`
	Instance string `json:"instance"`
	ID       string `json:"id"`
}

type answerMessage struct {
	Version  int             `json:"v"`
	Instance string          `json:"instance"`
	Journals []string        `json:"journals"`
	Payment  *paymentMessage `json:"payment,omitempty"` // missing: not known
}

// paymentMessage is what a journal knows of a payment that is not settled.
type paymentMessage struct {
	ID          string `json:"id"`
	Amount      cents  `json:"cents"`
	State       string `json:"state"`
	Processor   string `json:"processor,omitempty"`
	RequestedAt micros `json:"requestedAt,omitempty"`
	AcceptedAt  micros `json:"acceptedAt"`
}

func (m *healthMessage) version() int  { return m.Version }
func (m *findingMessage) version() int { return m.Version }
func (m *purgeMessage) version() int   { return m.Version }
func (m *askMessage) version() int     { return m.Version }
func (m *answerMessage) version() int  { return m.Version }

// understand fills message from data. A message of another version is not understood even if it fits.
func understand(data []byte, message versioned) bool {
	return json.Unmarshal(data, message) == nil && message.version() == messageVersion
}

func (b *bus) hearHealth(m *nats.Msg) {
	var said healthMessage
	if !understand(m.Data, &said) || said.Processor >= processors || !believable(said.MinResponseMicros) {
		b.foreign.Add(1)
		return
	}
	if hear := b.onHealthFunc.Load(); hear != nil {
		(*hear)(healthReport{
			instance: said.Instance, processor: said.Processor, at: said.At,
			reading: healthReading{failing: said.Failing, minResponse: time.Duration(said.MinResponseMicros) * time.Microsecond},
		})
	}
}

func (b *bus) hearFinding(m *nats.Msg) {
	var said findingMessage
	if !understand(m.Data, &said) || said.Processor >= processors || !believable(said.AnswerMicros) {
		b.foreign.Add(1)
		return
	}
	if hear := b.onFindingFunc.Load(); hear != nil {
		(*hear)(finding{
			instance: said.Instance, processor: said.Processor, at: said.At,
			open: said.Open, probe: said.Probe, answerTime: time.Duration(said.AnswerMicros) * time.Microsecond,
		})
	}
}

func (b *bus) hearPurge(m *nats.Msg) {
	var said purgeMessage
	if !understand(m.Data, &said) {
		b.foreign.Add(1)
		return
	}
	if hear := b.onPurgeFunc.Load(); hear != nil {
		(*hear)(said.Mark)
	}
}

// hearQuestion answers what another instance asks.
func (b *bus) hearQuestion(m *nats.Msg) {
	var said askMessage
	if !understand(m.Data, &said) || m.Reply == "" {
		b.foreign.Add(1)
		return
	}
	id, ok := parsePaymentID([]byte(said.ID))
	if !ok {
		b.foreign.Add(1)
		return
	}
	know := b.answerFunc.Load()
	if know == nil {
		return
	}
	a := (*know)(id)
	message := answerMessage{Version: messageVersion, Instance: b.instance, Journals: a.journals}
	if a.known {
		p := a.payment
		message.Payment = &paymentMessage{
			ID: p.id.String(), Amount: p.amount, State: p.state, Processor: p.processor,
			RequestedAt: p.requestedAt, AcceptedAt: p.acceptedAt,
		}
	}
	b.publish(m.Reply, "", message)
}

func decodeAnswer(data []byte) (answer, bool) {
	var said answerMessage
	if !understand(data, &said) {
		return answer{}, false
	}
	a := answer{instance: said.Instance, journals: said.Journals}
	p := said.Payment
	if p == nil {
		return a, true
	}
	id, ok := parsePaymentID([]byte(p.ID))
	if !ok || !slices.Contains(tellable, p.State) || p.Amount <= 0 || p.Amount > maxCents ||
		p.Processor != "" && p.Processor != onDefault.String() && p.Processor != onFallback.String() {
		return answer{}, false
	}
	a.known = true
	a.payment = payment{
		id: id, amount: p.Amount, state: p.State, processor: p.Processor, requestedAt: p.RequestedAt, acceptedAt: p.AcceptedAt,
	}
	return a, true
}
