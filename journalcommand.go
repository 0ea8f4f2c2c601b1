package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
	"golang.org/x/sys/unix"
)

// journalCommand is `galo journal …`.
type journalCommand struct {
	config   config
	out      io.Writer
	log      *slog.Logger
	terminal io.Reader // a person who is asked before something is done that cannot be taken back; nil in a script
}

const journalUsage = "galo journal [-json] | unsettled [-json] | rejected [-json] | verify [-json] | requeue ID | resolve ID paid|unpaid"

func runJournalCommand(ctx context.Context, args []string, lookup func(string) (string, bool), stdout, stderr io.Writer) error {
	c, err := readConfig(lookup)
	if err != nil {
		return err
	}
	cmd := journalCommand{config: c, out: stdout, log: slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: max(c.logLevel, slog.LevelWarn)}))}
	if _, err := unix.IoctlGetTermios(int(os.Stdin.Fd()), unix.TCGETS); err == nil {
		cmd.terminal = os.Stdin
	}
	return cmd.run(ctx, args)
}

func (c *journalCommand) run(ctx context.Context, args []string) error {
	isJSON := func(arg string) bool { return arg == "-json" || arg == "--json" }
	asJSON := slices.ContainsFunc(args, isJSON)
	args = slices.DeleteFunc(slices.Clone(args), isJSON)
	switch {
	case len(args) == 0:
		return printJournals(c.config.dataDir, asJSON, c.out)
	case len(args) == 1 && args[0] == "unsettled":
		return printPayments(c.config.dataDir, (*seenSlot).unsettled, asJSON, c.out)
	case len(args) == 1 && args[0] == "rejected":
		return printPayments(c.config.dataDir, (*seenSlot).rejected, asJSON, c.out)
	case len(args) == 1 && args[0] == "verify":
		return verifyJournals(c.config.dataDir, asJSON, c.out)
	case len(args) == 2 && args[0] == "requeue" && !asJSON:
		return c.requeue(ctx, args[1])
	case len(args) == 3 && args[0] == "resolve" && !asJSON:
		return c.resolve(ctx, args[1], args[2])
	}
	return fmt.Errorf("cannot do %q: %s", strings.Join(args, " "), journalUsage)
}

func (c *journalCommand) requeue(ctx context.Context, text string) error {
	l, err := c.find(text)
	if err == nil {
		err = l.wantRejected()
	}
	if err != nil {
		return err
	}
	return c.do(ctx, l, "/journal/requeue?id="+l.seen.id.String(), func(ctx context.Context, o *operator) (string, error) {
		return o.requeue(ctx, l.seen.id)
	})
}

// resolve says what is known of the payment first. The whole id and the word have to be given; at a terminal the word is asked for again.
func (c *journalCommand) resolve(ctx context.Context, text, word string) error {
	as, ok := parseVerdict(word)
	if !ok {
		return fmt.Errorf("cannot resolve a payment as %q: it is paid or unpaid", word)
	}
	l, err := c.find(text)
	if err == nil {
		err = l.wantPinned()
	}
	if err != nil {
		return err
	}
	at := l.seen.word.processor()
	vouch := fmt.Sprintf("%s has not written it and never will: it may be sent to either processor", at)
	if as == verdictPaid {
		vouch = fmt.Sprintf("%s has written it as it was sent: it counts as paid there", at)
	}
	fmt.Fprintf(c.out, "%s\n%s\n%s: you vouch that %s\n", l.known(), c.answered(at, l.seen.id), as, vouch)
	if c.terminal != nil {
		fmt.Fprintf(c.out, "type %s to go on: ", as)
		if answer, _ := bufio.NewReader(c.terminal).ReadString('\n'); strings.TrimSpace(answer) != as.String() {
			return errors.New("nothing was done")
		}
	}
	return c.do(ctx, l, fmt.Sprintf("/journal/resolve?id=%s&as=%s", l.seen.id, as), func(ctx context.Context, o *operator) (string, error) {
		return o.resolve(ctx, l.seen.id, as)
	})
}

// answered is what a processor says of a payment when it is looked up now.
func (c *journalCommand) answered(at processorID, id paymentID) string {
	p, err := newProcessor(at, c.config.processorURL[at], 1, c.config.sendTimeout)
	if err != nil {
		return err.Error()
	}
	defer p.close()
	return fmt.Sprintf("%s was asked for it just now, which came to: %s", at, p.lookUp(id))
}

func (c *journalCommand) find(text string) (located, error) {
	id, ok := parsePaymentID([]byte(text))
	if !ok {
		return located{}, fmt.Errorf("%q is not a payment's id: it has to be a UUID", text)
	}
	return locate(c.config.dataDir, id)
}

// do has the journal's owner do it, and does it in place if there is none.
func (c *journalCommand) do(ctx context.Context, l located, path string, inPlace func(ctx context.Context, o *operator) (string, error)) error {
	if !l.journal.owned {
		did, err := c.inPlace(ctx, l.journal.id, inPlace)
		if !errors.Is(err, errOwned) {
			if err == nil {
				fmt.Fprintln(c.out, did)
			}
			return err
		}
	}
	did, err := askAdmin(c.config.adminListen, path)
	if err != nil {
		return fmt.Errorf("%w (journal %s is owned by instance %s)", err, l.journal.id, orDefault(l.journal.ownedBy, l.journal.madeBy))
	}
	fmt.Fprintln(c.out, did)
	return nil
}

// inPlace takes a journal that nobody owns for as long as it takes to do one thing to it.
func (c *journalCommand) inPlace(ctx context.Context, id journalID, do func(ctx context.Context, o *operator) (string, error)) (string, error) {
	o, stop, err := c.operate(id)
	if err != nil {
		return "", err
	}
	did, err := do(ctx, o)
	if o.settler.store != nil && err == nil {
		o.settler.work(ctx) // what became paid; if the store is away the next owner settles it
	}
	return did, errors.Join(err, stop())
}

// operate takes a journal, and makes the parts that an operator's commands go through. None of them runs.
func (c *journalCommand) operate(id journalID) (*operator, func() error, error) {
	const commandName, mayBePending = "galo journal", 1 << 10
	f, err := openFolder(c.config.dataDir, commandName, false, c.log)
	if err != nil {
		return nil, nil, err
	}
	j, err := f.claim(id)
	if err != nil {
		return nil, nil, err
	}
	l := newLedger(f, newClock(), mayBePending, c.config.retention, c.log)
	found, err := l.take(j)
	if err != nil {
		return nil, nil, err
	}
	stop := func() error { return errors.Join(l.syncJournals(), l.close()) }
	s := newSettler(l, nil, newLifeWatch(), 0, newMetrics(), c.log)
	if url := c.config.redisURL.reveal(); url != "" { // else the store is filled from the journals at each start
		store, err := newStore(storeOptions{url: url, log: c.log})
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		s.store = store
		closeJournals := stop
		stop = func() error { return errors.Join(closeJournals(), store.close()) }
	}
	var clients [processors]client
	for id := range processorID(processors) {
		p, err := newProcessor(id, c.config.processorURL[id], 1, c.config.sendTimeout)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		clients[id] = p
		closeRest := stop
		stop = func() error { p.close(); return closeRest() }
	}
	feeder := newFeeder(nil, mayBePending)
	r := newResolver(l, nil, s, feeder, clients, s.metrics, c.log)
	pinned := found.sent
	for _, w := range found.waiting { // those that were sent before the host went down, too: they are asked about once more when they have an owner
		pinned = append(pinned, w.ref)
	}
	for _, one := range pinned {
		if v, ok := l.read(one); ok && v.word.state() == slotSent {
			r.pin(v)
		}
	}
	return &operator{ledger: l, settler: s, resolver: r, feeder: feeder, wait: c.config.sendTimeout + operatorSpare, log: slog.New(slog.DiscardHandler),
		order: func(ctx context.Context, do func(context.Context) error) error { return do(ctx) }}, stop, nil
}

// operatorSpare is what a command may take beyond an attempt that is out: a look-up before and after it, and the store.
const operatorSpare = 2*lookUpTimeout + 2*storeTimeout

// askAdmin has a running galo do something, and returns what it says that it did.
func askAdmin(a listenAddress, path string) (string, error) {
	const longest = 2 * time.Minute // above the longest SEND_TIMEOUT and what comes with it
	if a.off() {
		return "", errors.New("cannot ask the running galo: ADMIN_LISTEN is off")
	}
	client := &fasthttp.HostClient{Addr: a.address, MaxIdemponentCallAttempts: 1, Dial: func(string) (net.Conn, error) {
		return net.DialTimeout(a.network, a.address, time.Second)
	}}
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	request.Header.SetMethod(fasthttp.MethodPost)
	request.SetRequestURI("http://galo" + path)
	if err := client.DoTimeout(request, response, longest); err != nil {
		return "", fmt.Errorf("cannot ask %s: %w", a, err)
	}
	if response.StatusCode() != fasthttp.StatusOK {
		return "", errors.New(problemDetail(response.Body()))
	}
	return strings.TrimSpace(string(response.Body())), nil
}
