package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/valyala/fasthttp"
)

// operator does what an operator asks for one payment by hand, on the journals of this process. It is used by a running galo, through
// its admin listener, and by the galo command on a journal that nobody owns.
type operator struct {
	ledger   *ledger
	settler  *settler
	resolver *resolver
	feeder   *feeder
	order    func(ctx context.Context, do func(ctx context.Context) error) error // runs do while no settle is under way
	wait     time.Duration                                                       // how long an attempt that is out may take
	log      *slog.Logger
}

// refusal says why a command did nothing, with the HTTP status that goes with it.
type refusal struct {
	status int
	why    string
}

func (r *refusal) Error() string { return r.why }

// verdict is what an operator says of a payment whose outcome galo cannot find out.
type verdict uint8

const (
	verdictPaid   verdict = iota // the processor has written it, as it was sent
	verdictUnpaid                // the processor has not written it and never will
)

func (v verdict) String() string {
	switch v {
	case verdictPaid:
		return "paid"
	case verdictUnpaid:
		return "unpaid"
	}
	return "unknown verdict"
}

func parseVerdict(text string) (verdict, bool) {
	for _, v := range []verdict{verdictPaid, verdictUnpaid} {
		if text == v.String() {
			return v, true
		}
	}
	return 0, false
}

// located is the one slot that stands for a payment, whoever owns its journal.
type located struct {
	journal *inspected
	seen    seenSlot
}

func (l *located) known() string {
	s := &l.seen
	text := fmt.Sprintf("payment %s: amount %s, %s", s.id, s.amount.appendDecimal(nil), s.shownState())
	switch s.word.state() {
	case slotSent, slotPaid, slotSettled:
		text += fmt.Sprintf(" at %s under requestedAt %s", s.word.processor(), s.requestedAt.appendTime(nil))
	case slotFree, slotAccepted, slotLeaving, slotPurged, slotInvalid, slotRejected, slotElsewhere, slotDuplicate, slotConflict, slotSetAside, slotStates:
	}
	return text + fmt.Sprintf(", acceptedAt %s (%s ago), %d attempts, journal %s", s.acceptedAt.appendTime(nil), age(s.acceptedAt), s.word.attempts(), l.journal.id)
}

// locate looks for a payment in all journals in DATA_DIR. Slots that lost their claim to another one, or were purged, do not stand for it.
func locate(path string, id paymentID) (located, error) {
	list, err := inspectFolder(path)
	if err != nil {
		return located{}, err
	}
	var stand, others []located
	for i := range list {
		err := list[i].each(func(_ inspectedSegment, s seenSlot) {
			if s.id != id || s.fault != "" {
				return
			}
			switch s.word.state() {
			case slotElsewhere, slotDuplicate, slotConflict, slotPurged, slotSetAside, slotFree, slotStates:
				others = append(others, located{&list[i], s})
			case slotAccepted, slotLeaving, slotSent, slotPaid, slotSettled, slotInvalid, slotRejected:
				if s.aside || s.purged && s.word.state().final() {
					others = append(others, located{&list[i], s})
				} else {
					stand = append(stand, located{&list[i], s})
				}
			}
		}, func(inspectedSegment, segmentState) {})
		if err != nil {
			return located{}, err
		}
	}
	switch {
	case len(stand) == 1:
		return stand[0], nil
	case len(stand) > 1:
		return located{}, &refusal{409, fmt.Sprintf("payment %s is ambiguous, there are several: %s", id, statesText(stand))}
	case len(others) > 0:
		return located{}, &refusal{409, fmt.Sprintf("payment %s has no slot that could be changed: %s", id, statesText(others))}
	}
	return located{}, &refusal{404, fmt.Sprintf("payment %s is in no journal in %s", id, path)}
}

func statesText(list []located) string {
	var parts []string
	for _, l := range list {
		parts = append(parts, l.seen.shownState()+" in journal "+l.journal.id.String())
	}
	return strings.Join(parts, ", ")
}

func (l *located) wantRejected() error {
	if st := l.seen.word.state(); st != slotRejected && st != slotInvalid {
		return &refusal{409, fmt.Sprintf("payment %s is %s, not rejected: only a rejected one can be queued again", l.seen.id, l.seen.shownState())}
	}
	return nil
}

func (l *located) wantPinned() error {
	if !l.seen.word.pinned() || l.seen.word.state() != slotSent {
		return &refusal{409, fmt.Sprintf("payment %s is %s, not pinned: only a pinned one can be resolved", l.seen.id, l.seen.shownState())}
	}
	return nil
}

// own returns the ref of a located slot in this process.
func (o *operator) own(l located) (ref, error) {
	list := *o.ledger.journals.Load()
	at := slices.IndexFunc(list, func(j *journal) bool { return j.id == l.journal.id })
	if at < 0 {
		owner := "nobody owns right now: try again in some seconds"
		if l.journal.owned {
			owner = fmt.Sprintf("instance %s owns: use that one's ADMIN_LISTEN", orDefault(l.journal.ownedBy, l.journal.madeBy))
		}
		return 0, &refusal{421, fmt.Sprintf("payment %s lies in journal %s, which %s", l.seen.id, l.journal.id, owner)}
	}
	return makeRef(list[at].number, l.seen.seq), nil
}

// find looks for the slot that stands for a payment, in the state that is wanted, in the journals of this process.
func (o *operator) find(id paymentID, wanted func(*located) error) (ref, error) {
	l, err := locate(o.ledger.folder.path, id)
	if err == nil {
		err = wanted(&l)
	}
	if err != nil {
		return 0, err
	}
	return o.own(l)
}

// requeue queues a rejected payment again, and says what it did.
func (o *operator) requeue(ctx context.Context, id paymentID) (string, error) {
	r, err := o.find(id, (*located).wantRejected)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	if err := o.order(ctx, func(ctx context.Context) error { return o.reopen(ctx, r, id) }); err != nil {
		return "", fmt.Errorf("cannot queue payment %s again: %w", id, err)
	}
	return fmt.Sprintf("payment %s was rejected, and is queued again: once both processors have said that they do not know it, it may go to either", id), nil
}

// reopen queues the slot again and hands it on, to be looked up first. All of it is one order: it may be carried out when nobody waits for it any more.
func (o *operator) reopen(ctx context.Context, r ref, id paymentID) error {
	if err := o.settler.requeue(ctx, r); err != nil {
		return err
	}
	o.ledger.sync(r)
	o.resolver.doubt(r) // it may have been queued again before, and paid, and a power loss have taken the trace
	o.log.Warn("rejected payment queued again by an operator", "id", id.String())
	return nil
}

// resolve ends a pinned payment on an operator's word, and says what it did.
func (o *operator) resolve(ctx context.Context, id paymentID, as verdict) (string, error) {
	r, err := o.find(id, (*located).wantPinned)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, o.wait)
	defer cancel()
	did := ""
	switch as {
	case verdictPaid:
		did, err = o.resolvePaid(ctx, r)
	case verdictUnpaid:
		did, err = o.resolveUnpaid(ctx, r)
	}
	if err != nil {
		return "", fmt.Errorf("cannot resolve payment %s: %w", id, err)
	}
	o.log.Warn("pinned payment resolved by an operator", "id", id.String(), "as", as.String())
	return did, nil
}

// resolvePaid needs no attempt to be over: whatever comes back finds a slot that is paid.
func (o *operator) resolvePaid(ctx context.Context, r ref) (string, error) {
	for ctx.Err() == nil {
		v, ok := o.ledger.read(r)
		if !ok || v.word.state() != slotSent || !v.word.pinned() {
			return "", changed(v)
		}
		if _, ok := o.ledger.paid(v); ok {
			o.ledger.sync(r)
			o.settler.addNow(r)
			return fmt.Sprintf("payment %s was pinned, and counts as paid at %s under requestedAt %s", v.id, v.word.processor(), v.requestedAt.appendTime(nil)), nil
		}
	}
	return "", ctx.Err()
}

// resolveUnpaid takes the pin off while no attempt is out and none can be made. The processor is asked one last time: if it has the payment
// after all, that counts and not the operator's word.
func (o *operator) resolveUnpaid(ctx context.Context, r ref) (string, error) {
	p, ok := o.resolver.seize(ctx, r)
	if !ok {
		v, _ := o.ledger.read(r)
		if v.word.state() == slotSent && o.ledger.outlivedHost(r) {
			return "", &refusal{503, fmt.Sprintf("it was sent before the host went down, perhaps to %s as well, which has yet to say that it does not know it: nothing was done; try again",
				v.word.processor().other())}
		}
		if v.word.state() == slotSent {
			return "", &refusal{503, "an attempt is out, and its outcome is not known yet: nothing was done; try again"}
		}
		return "", changed(v)
	}
	v, ok := o.ledger.read(r)
	if !ok || v.word.state() != slotSent {
		return "", changed(v)
	}
	at := v.word.processor()
	res := o.resolver.ask(v, at)
	if o.resolver.heed(v, at, res) {
		return "", &refusal{409, fmt.Sprintf("%s has the payment: it counts as paid there", at)}
	}
	if _, ok := o.ledger.unpinned(v); !ok {
		o.resolver.schedule(p)
		v, _ := o.ledger.read(r)
		return "", changed(v)
	}
	o.ledger.sync(r)
	o.feeder.add(r)
	return fmt.Sprintf("payment %s was pinned to %s, and is queued again: it may go to either processor; the last look-up there came to: %s", v.id, at, res), nil
}

func changed(v slotView) error {
	return &refusal{409, fmt.Sprintf("the payment has changed meanwhile, and is %s: nothing was done", v.word.state())}
}

// unpinned: an operator vouches that the attempt has written nothing and never will.
func (l *ledger) unpinned(v slotView) (slotView, bool) {
	return l.replace(v, v.word.with(slotAccepted).unpin(), 0)
}

// refusalStatus is the HTTP status that goes with a command's error.
func refusalStatus(err error) int {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.status
	}
	return 503
}

// serveRequeue and serveResolve are what `galo journal` asks a running galo for.
func (o *operator) serveRequeue(ctx *fasthttp.RequestCtx) {
	o.serve(ctx, func(c context.Context, id paymentID) (string, error) { return o.requeue(c, id) })
}

func (o *operator) serveResolve(ctx *fasthttp.RequestCtx) {
	as, ok := parseVerdict(string(ctx.QueryArgs().Peek("as")))
	o.serve(ctx, func(c context.Context, id paymentID) (string, error) {
		if !ok {
			return "", &refusal{400, "as has to be paid or unpaid"}
		}
		return o.resolve(c, id, as)
	})
}

func (o *operator) serve(ctx *fasthttp.RequestCtx, do func(ctx context.Context, id paymentID) (string, error)) {
	did, err := "", error(&refusal{400, "id has to be a payment's UUID"})
	if id, ok := parsePaymentID(ctx.QueryArgs().Peek("id")); ok {
		did, err = do(context.Background(), id) // bounded by o.wait
	}
	if err != nil {
		status := refusalStatus(err)
		p := problem{status: status, title: fasthttp.StatusMessage(status), detail: err.Error()}
		ctx.SetStatusCode(status)
		ctx.SetContentType(problemType)
		ctx.SetBody(p.appendJSON(nil))
		return
	}
	ctx.SetBodyString(did + "\n")
}

// problemDetail is what a problem answer says, or all of one that is none.
func problemDetail(body []byte) string {
	var p struct{ Detail string }
	if json.Unmarshal(body, &p) != nil || p.Detail == "" {
		return strings.TrimSpace(string(body))
	}
	return p.Detail
}
