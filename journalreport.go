package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"
)

// journalReport is what `galo journal` says of one journal.
type journalReport struct {
	Journal   string `json:"journal"`
	SetAside  bool   `json:"setAside,omitempty"`
	Fault     string `json:"fault,omitempty"`
	MadeBy    string `json:"madeBy"`
	Owned     bool   `json:"owned"`
	OwnedBy   string `json:"ownedBy,omitempty"`
	Format    uint32 `json:"format"`
	PurgeMark uint64 `json:"purgeMark"`
	Segments  struct {
		Mapped   int   `json:"mapped"`
		Retired  int   `json:"retired"`
		SetAside int   `json:"setAside"`
		Bytes    int64 `json:"bytes"`
	} `json:"segments"`
	Slots           map[string]int               `json:"slots"`
	Unsettled       map[string]int               `json:"unsettled"`
	OldestUnsettled string                       `json:"oldestUnsettled,omitempty"`
	OldestAccepted  string                       `json:"oldestAccepted,omitempty"`
	Paid            map[string]processorsJournal `json:"paid"`
	Damaged         int                          `json:"damaged"`

	oldestAccepted, oldestUnsettled micros
}

// processorsJournal is what a journal holds of one processor's payments: paid, and not forgotten by a purge.
type processorsJournal struct {
	Requests int   `json:"requests"`
	Cents    cents `json:"cents"`
}

// report reads a journal through.
func (j *inspected) report() (journalReport, error) {
	r := journalReport{Journal: j.id.String(), SetAside: j.setAside, Fault: j.fault, MadeBy: j.madeBy, Owned: j.owned, OwnedBy: j.ownedBy, Format: j.format,
		PurgeMark: j.mark, Slots: map[string]int{}, Unsettled: map[string]int{}, Paid: map[string]processorsJournal{}}
	if !r.Owned {
		r.OwnedBy = ""
	}
	if j.fault != "" {
		r.Damaged++
	}
	for _, seg := range j.segments {
		r.Segments.Bytes += seg.bytes
	}
	err := j.each(func(_ inspectedSegment, s seenSlot) { r.count(s) }, func(seg inspectedSegment, state segmentState) {
		switch {
		case seg.setAside:
			r.Segments.SetAside++
		case state.gone:
		case state.retired:
			r.Segments.Retired++
		default:
			r.Segments.Mapped++
		}
		if state.fault != "" {
			r.Damaged++
		}
	})
	r.OldestUnsettled, r.OldestAccepted = instantText(r.oldestUnsettled), instantText(r.oldestAccepted)
	return r, err
}

func (r *journalReport) count(s seenSlot) {
	if s.fault != "" {
		r.Damaged++
		r.Slots["damaged"]++
		return
	}
	state := s.shownState()
	r.Slots[state]++
	r.oldestAccepted = earlier(r.oldestAccepted, s.acceptedAt)
	if !s.word.state().final() {
		r.Unsettled[state]++
		r.oldestUnsettled = earlier(r.oldestUnsettled, s.acceptedAt)
	}
	if st := s.word.state(); !s.purged && (st == slotPaid || st == slotSettled) {
		paid := r.Paid[s.word.processor().String()]
		paid.Requests++
		paid.Cents += s.paidAmount
		r.Paid[s.word.processor().String()] = paid
	}
}

// earlier is the earlier of two instants, of which 0 is none.
func earlier(a, b micros) micros {
	if a == 0 || b < a {
		return b
	}
	return a
}

func instantText(t micros) string {
	if t == 0 {
		return ""
	}
	return string(t.appendTime(nil))
}

func (r *journalReport) print(w io.Writer) {
	owner := "free"
	if r.Owned {
		owner = "owned"
		if r.OwnedBy != "" {
			owner += " by " + r.OwnedBy
		}
	}
	aside := ""
	if r.SetAside {
		aside = ", set aside"
	}
	fmt.Fprintf(w, "journal %s: made by %s, %s, format %d%s\n", r.Journal, r.MadeBy, owner, r.Format, aside)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, a ...any) { fmt.Fprintf(table, "  %s\t%s\n", name, fmt.Sprintf(format, a...)) }
	if r.Fault != "" {
		row("fault", "%s", r.Fault)
	}
	row("segments", "%d mapped, %d retired, %d set aside, %d bytes", r.Segments.Mapped, r.Segments.Retired, r.Segments.SetAside, r.Segments.Bytes)
	row("slots", "%s", countsText(r.Slots))
	row("unsettled", "%s", countsText(r.Unsettled))
	if r.oldestUnsettled != 0 {
		row("oldest unsettled", "%s (%s ago)", r.OldestUnsettled, age(r.oldestUnsettled))
	}
	if r.oldestAccepted != 0 {
		row("reaches back to", "%s (%s ago)", r.OldestAccepted, age(r.oldestAccepted))
	}
	for id := range processorID(processors) {
		p := r.Paid[id.String()]
		row("paid at "+id.String(), "%d, %s", p.Requests, p.Cents.appendDecimal(nil))
	}
	row("purge mark", "%d", r.PurgeMark)
	row("damaged", "%d", r.Damaged)
	table.Flush()
}

// countsText lists the counts by state, in the order of a payment's life.
func countsText(counts map[string]int) string {
	var parts []string
	total := 0
	for _, name := range append([]string{"pinned", "damaged"}, slotStateNames[:]...) {
		if n := counts[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, name))
			total += n
		}
	}
	if len(parts) < 2 {
		return strings.Join(append(parts, "none")[:1], "")
	}
	return fmt.Sprintf("%d: %s", total, strings.Join(parts, ", "))
}

// age is how long ago an instant was, for people.
func age(t micros) time.Duration {
	return max(0, time.Duration(nowMicros()-t)*time.Microsecond).Round(time.Second)
}

func printJournals(path string, asJSON bool, w io.Writer) error {
	list, err := inspectFolder(path)
	if err != nil {
		return err
	}
	reports := make([]journalReport, len(list))
	for i := range list {
		if reports[i], err = list[i].report(); err != nil {
			return err
		}
	}
	if asJSON {
		return printJSON(w, reports)
	}
	for i := range reports {
		reports[i].print(w)
	}
	if len(reports) == 0 {
		fmt.Fprintf(w, "no journal in %s\n", path)
	}
	return nil
}

func printJSON(w io.Writer, what any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(what)
}

// listedPayment is one line of `galo journal unsettled` or `galo journal rejected`.
type listedPayment struct {
	ID          string      `json:"id"`
	Amount      json.Number `json:"amount"`
	State       string      `json:"state"`
	Processor   string      `json:"processor,omitempty"`
	RequestedAt string      `json:"requestedAt,omitempty"`
	AcceptedAt  string      `json:"acceptedAt"`
	Attempts    int         `json:"attempts"`
	AgeSeconds  float64     `json:"ageSeconds"`
	Journal     string      `json:"journal"`
	Sequence    uint64      `json:"sequence"`

	age time.Duration
}

func listed(j *inspected, s seenSlot) listedPayment {
	u := listedPayment{ID: s.id.String(), Amount: json.Number(s.amount.appendDecimal(nil)), State: s.shownState(), AcceptedAt: instantText(s.acceptedAt),
		Attempts: s.word.attempts(), age: age(s.acceptedAt), Journal: j.id.String(), Sequence: s.seq}
	if st := s.word.state(); st == slotSent || st == slotPaid || s.rejected() && s.word.attempts() > 0 {
		u.Processor, u.RequestedAt = s.word.processor().String(), instantText(s.requestedAt)
	}
	u.AgeSeconds = u.age.Seconds()
	return u
}

// rejected says that a payment could be queued again.
func (s *seenSlot) rejected() bool {
	st := s.word.state()
	return (st == slotRejected || st == slotInvalid) && !s.purged && !s.aside
}

func (s *seenSlot) unsettled() bool { return !s.word.state().final() }

// printPayments lists the payments that are wanted. Of a rejected one, processor and requestedAt are those of the attempt that was answered 400.
func printPayments(path string, wanted func(s *seenSlot) bool, asJSON bool, w io.Writer) error {
	list, err := inspectFolder(path)
	if err != nil {
		return err
	}
	all := []listedPayment{}
	for i := range list {
		err := list[i].each(func(_ inspectedSegment, s seenSlot) {
			if s.fault == "" && wanted(&s) {
				all = append(all, listed(&list[i], s))
			}
		}, func(inspectedSegment, segmentState) {})
		if err != nil {
			return err
		}
	}
	if asJSON {
		return printJSON(w, all)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "id\tamount\tstate\tprocessor\trequestedAt\tacceptedAt\tattempts\tage\tjournal")
	for _, u := range all {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", u.ID, u.Amount, u.State, orDefault(u.Processor, "-"), orDefault(u.RequestedAt, "-"),
			u.AcceptedAt, u.Attempts, u.age, u.Journal)
	}
	return table.Flush()
}

// damage is one thing that is not what was once written. Sequence and offset are of a slot; a fault of a whole file has neither.
type damage struct {
	Journal  string  `json:"journal"`
	Sequence *uint64 `json:"sequence,omitempty"`
	File     string  `json:"file"`
	Offset   *int64  `json:"offset,omitempty"`
	What     string  `json:"what"`
}

func (d damage) String() string {
	at := ""
	if d.Sequence != nil {
		at = fmt.Sprintf(", sequence %d, offset %d", *d.Sequence, *d.Offset)
	}
	return fmt.Sprintf("journal %s, %s%s: %s", d.Journal, d.File, at, d.What)
}

// verifyJournals checks every checksum and state word there is. The error says that something is damaged.
func verifyJournals(path string, asJSON bool, w io.Writer) error {
	list, err := inspectFolder(path)
	if err != nil {
		return err
	}
	damages := []damage{}
	segments, slots := 0, 0
	for i := range list {
		j := &list[i]
		if j.fault != "" {
			damages = append(damages, damage{Journal: j.id.String(), File: filepath.Join(filepath.Base(j.dir), headName), What: j.fault})
		}
		file := func(seg inspectedSegment) string { return filepath.Join(filepath.Base(j.dir), filepath.Base(seg.path)) }
		err := j.each(func(seg inspectedSegment, s seenSlot) {
			slots++
			if s.fault != "" {
				damages = append(damages, damage{j.id.String(), &s.seq, file(seg), &s.offset, s.fault})
			}
		}, func(seg inspectedSegment, state segmentState) {
			segments++
			if seg.setAside && state.fault == "" {
				state.fault = "is set aside"
			}
			if state.fault != "" {
				damages = append(damages, damage{Journal: j.id.String(), File: file(seg), What: state.fault})
			}
		})
		if err != nil {
			return err
		}
	}
	if asJSON {
		err = printJSON(w, damages)
	} else {
		for _, d := range damages {
			fmt.Fprintln(w, d)
		}
		fmt.Fprintf(w, "looked at %d journals, %d segments, %d slots: %d damaged\n", len(list), segments, slots, len(damages))
	}
	if err == nil && len(damages) > 0 {
		err = fmt.Errorf("cannot vouch for %s: %d damaged", path, len(damages))
	}
	return err
}
