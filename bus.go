package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/goccy/go-json"
	"github.com/nats-io/nats.go"
)

const (
	subjectHealth  = "galo.health"
	subjectFinding = "galo.finding"
	subjectPurge   = "galo.purge"
	subjectAsk     = "galo.ask"

	// outboxLen is seconds of findings from both processors. What does not fit is dropped: each of these
	// messages is replaced by the next one or found out another way.
	outboxLen = 256

	// messageLife bounds the age of what is sent. News that waited behind a stuck connection would undo
	// what has been learnt since.
	messageLife = time.Second

	// natsTimeout is for connecting and for writing. Publishers don't wait for it; start and stop may.
	natsTimeout = time.Second

	natsReconnectWait = 250 * time.Millisecond

	// natsPing finds a dead connection after two missing answers, about when a follower takes over anyway.
	natsPing = 4 * time.Second

	// maxAnswers is how many answers to one question may lie waiting for who asked; there are as many as
	// there are other instances.
	maxAnswers = 64
)

// healthReport is what a processor said of its health. instance is set by the bus. at is the reporter's
// clock, for people: who needs an age takes the time of arrival.
type healthReport struct {
	instance  string
	processor processorID
	reading   healthReading
	at        micros
}

// finding is what an instance learnt from a payment of its own: whether the processor is open, and how long
// it took to answer. instance is set by the bus; at as in healthReport.
type finding struct {
	instance   string
	processor  processorID
	open       bool
	probe      bool // nothing has changed: a probe found it so
	answerTime time.Duration
	at         micros
}

// answer is what another instance knows of a payment: the journals it works, and the payment if it is known.
type answer struct {
	instance string
	journals []string
	known    bool
	payment  payment
}

// bus lets instances hear each other over NATS. Nothing on it is needed for correctness, and everything may
// be lost: no call waits for the network, and what can't go out at once is dropped. A nil *bus is that of an
// instance that is alone: it drops everything and hears nothing.
type bus struct {
	instance string
	log      *slog.Logger
	conn     *nats.Conn
	inbox    string // the prefix of the subjects on which answers come back

	outbox chan outgoing
	stop   chan struct{}
	sender sync.WaitGroup

	// Each is stored once, before or after messages arrive, and called by NATS, one message at a time.
	onHealthFunc  atomic.Pointer[func(healthReport)]
	onFindingFunc atomic.Pointer[func(finding)]
	onPurgeFunc   atomic.Pointer[func(uint64)]
	answerFunc    atomic.Pointer[func(paymentID) answer]

	mu        sync.Mutex
	said      linkState // what was logged last
	questions map[uint64]chan answer
	asked     uint64 // number of the last question

	up      atomic.Bool // what connected returns: asking the library would wait while it dials
	foreign atomic.Uint64
	dropped atomic.Uint64
}

// outgoing is a message on its way to NATS. queued is read on the monotonic clock.
type outgoing struct {
	subject, reply string
	data           []byte
	queued         time.Time
}

// linkState is what people know of the connection.
type linkState uint8

const (
	linkUnsaid linkState = iota
	linkUp
	linkAway
)

// openBus connects to NATS at url, or goes on trying: that NATS is away is no error. An empty url gives a
// nil bus. The caller closes it.
func openBus(url, instance string, log *slog.Logger) (*bus, error) {
	if url == "" {
		return nil, nil
	}
	b := &bus{
		instance:  instance,
		log:       log,
		inbox:     nats.NewInbox(),
		outbox:    make(chan outgoing, outboxLen),
		stop:      make(chan struct{}),
		questions: map[uint64]chan answer{},
	}
	conn, err := nats.Connect(url,
		nats.Name("galo "+instance),
		nats.NoEcho(),
		nats.RetryOnFailedConnect(true),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(),
		nats.ReconnectWait(natsReconnectWait),
		nats.ReconnectJitter(natsReconnectWait, natsReconnectWait),
		// Negative: nothing is kept for later while NATS is away.
		nats.ReconnectBufSize(-1),
		nats.Timeout(natsTimeout),
		nats.FlusherTimeout(natsTimeout),
		nats.ReconnectOnFlusherError(),
		nats.PingInterval(natsPing),
		nats.MaxPingsOutstanding(2),
		// The dialer looks names up by itself, within its time-out.
		nats.SkipHostLookup(),
		nats.NoCallbacksAfterClientClose(),
		nats.ConnectHandler(func(*nats.Conn) { b.note(linkUp, nil) }),
		nats.ReconnectHandler(func(*nats.Conn) { b.note(linkUp, nil) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { b.note(linkAway, err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			log.Debug("NATS reports an error", "error", err)
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("cannot open the bus: %w", err)
	}
	b.conn = conn
	if err := b.subscribe(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot open the bus: %w", err)
	}
	b.noteFirst()
	b.sender.Go(b.send)
	return b, nil
}

func (b *bus) subscribe() error {
	for subject, hear := range map[string]nats.MsgHandler{
		subjectHealth:  b.hearHealth,
		subjectFinding: b.hearFinding,
		subjectPurge:   b.hearPurge,
		subjectAsk:     b.hearQuestion,
		b.inbox + ".*": b.hearAnswer,
	} {
		if _, err := b.conn.Subscribe(subject, hear); err != nil {
			return err
		}
	}
	return nil
}

// close drops what comes after it and leaves NATS. It must be called once.
func (b *bus) close() {
	if b == nil {
		return
	}
	close(b.stop)
	b.sender.Wait()
	b.conn.Close()
	b.up.Store(false)
}

// connected says whether messages go out and come in.
func (b *bus) connected() bool { return b != nil && b.up.Load() }

// note logs the connection's state when it has changed.
func (b *bus) note(now linkState, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noteLocked(now, cause)
}

// noteFirst says how the start went, unless the library has said it already.
func (b *bus) noteFirst() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.said == linkUnsaid && !b.conn.IsConnected() {
		b.noteLocked(linkAway, errors.New("not reached yet"))
	}
}

func (b *bus) noteLocked(now linkState, cause error) {
	if now == b.said {
		return
	}
	b.said = now
	b.up.Store(now == linkUp)
	switch now {
	case linkUp:
		b.log.Info("NATS is connected")
	case linkAway:
		b.log.Warn("NATS is away: going on with what this instance finds by itself", "cause", cause)
	case linkUnsaid:
	}
}

// foreignMessages counts what was heard and not understood: another version, or not ours.
func (b *bus) foreignMessages() uint64 {
	if b == nil {
		return 0
	}
	return b.foreign.Load()
}

// droppedMessages counts what was to be sent and was not.
func (b *bus) droppedMessages() uint64 {
	if b == nil {
		return 0
	}
	return b.dropped.Load()
}

// publishHealth tells the others; it never waits.
func (b *bus) publishHealth(r healthReport) {
	if b == nil {
		return
	}
	b.publish(subjectHealth, "", healthMessage{
		Version: messageVersion, Instance: b.instance, Processor: r.processor, Failing: r.reading.failing,
		MinResponseMicros: r.reading.minResponse.Microseconds(), At: r.at,
	})
}

// publishFinding tells the others; it never waits.
func (b *bus) publishFinding(f finding) {
	if b == nil {
		return
	}
	b.publish(subjectFinding, "", findingMessage{
		Version: messageVersion, Instance: b.instance, Processor: f.processor, Open: f.open, Probe: f.probe,
		AnswerMicros: f.answerTime.Microseconds(), At: f.at,
	})
}

// publishPurge tells the others that the purge mark was raised; it never waits. Whoever misses it meets the
// mark in the store.
func (b *bus) publishPurge(mark uint64) {
	if b == nil {
		return
	}
	b.publish(subjectPurge, "", purgeMessage{Version: messageVersion, Instance: b.instance, Mark: mark})
}

// onHealth, onFinding, onPurge and answerWith say who hears what others send. The functions are called one
// message at a time, must not wait, and may be called as soon as they are given.
func (b *bus) onHealth(hear func(healthReport)) {
	if b != nil {
		b.onHealthFunc.Store(&hear)
	}
}

func (b *bus) onFinding(hear func(finding)) {
	if b != nil {
		b.onFindingFunc.Store(&hear)
	}
}

func (b *bus) onPurge(hear func(mark uint64)) {
	if b != nil {
		b.onPurgeFunc.Store(&hear)
	}
}

// answerWith says how this instance answers what others ask. The answer's instance is set by the bus.
func (b *bus) answerWith(know func(id paymentID) answer) {
	if b != nil {
		b.answerFunc.Store(&know)
	}
}

// ask asks all other instances what they know of a payment, and returns what came back until it was enough
// or ctx ended: so ctx needs a deadline. While NATS is away it returns nothing, at once.
func (b *bus) ask(ctx context.Context, id paymentID, enough func([]answer) bool) []answer {
	if !b.connected() {
		return nil
	}
	back := make(chan answer, maxAnswers)
	b.mu.Lock()
	b.asked++
	number := b.asked
	b.questions[number] = back
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.questions, number)
		b.mu.Unlock()
	}()

	if !b.publish(subjectAsk, b.inbox+"."+strconv.FormatUint(number, 10), askMessage{
		Version: messageVersion, Instance: b.instance, ID: id.String(),
	}) {
		return nil
	}
	var answers []answer
	for {
		select {
		case a := <-back:
			if answers = append(answers, a); enough(answers) {
				return answers
			}
		case <-ctx.Done():
			return answers
		}
	}
}

// publish hands a message to the sender, or drops it and returns false.
func (b *bus) publish(subject, reply string, message any) bool {
	data, err := json.Marshal(message)
	if err == nil && b.up.Load() {
		select {
		case b.outbox <- outgoing{subject: subject, reply: reply, data: data, queued: time.Now()}:
			return true
		default:
		}
	}
	b.dropped.Add(1)
	return false
}

// send is the one goroutine that calls NATS to publish: the library holds a lock while it dials or writes,
// and whoever publishes waits for it.
func (b *bus) send() {
	for {
		select {
		case m := <-b.outbox:
			b.sendOne(m)
		case <-b.stop:
			for len(b.outbox) > 0 {
				b.sendOne(<-b.outbox)
			}
			return
		}
	}
}

func (b *bus) sendOne(m outgoing) {
	if time.Since(m.queued) > messageLife ||
		b.conn.PublishMsg(&nats.Msg{Subject: m.subject, Reply: m.reply, Data: m.data}) != nil {
		b.dropped.Add(1)
	}
}

// hearAnswer passes an answer to who asked, if it is still waiting.
func (b *bus) hearAnswer(m *nats.Msg) {
	number, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, b.inbox+"."), 10, 64)
	a, ok := decodeAnswer(m.Data)
	if err != nil || !ok {
		b.foreign.Add(1)
		return
	}
	b.mu.Lock()
	back := b.questions[number]
	b.mu.Unlock()
	select {
	case back <- a:
	default: // nobody waits any more: back is nil, or full
	}
}
