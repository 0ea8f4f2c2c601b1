package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// rebuild is `galo rebuild`: it fills Redis from the journals that nobody owns, by the way that a galo takes at its start, and gives them
// back. A running galo brings its own part by itself. Whatever is in Redis already is left alone, so that it may be repeated.
type rebuild struct {
	config  config
	out     io.Writer
	ledger  *ledger
	settler *settler
	store   *redisStore
}

func runRebuild(ctx context.Context, lookup func(string) (string, bool), stdout, stderr io.Writer) (failed error) {
	c, err := readConfig(lookup)
	if err != nil {
		return err
	}
	url := c.redisURL.reveal()
	if url == "" {
		return errors.New("cannot rebuild: REDIS_URL is empty, and the embedded store is filled from the journals at each start anyway")
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: max(c.logLevel, slog.LevelWarn)}))
	list, err := inspectFolder(c.dataDir)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("cannot rebuild: there is no journal in %s", c.dataDir)
	}
	f, err := openFolder(c.dataDir, "galo rebuild", false, log)
	if err != nil {
		return err
	}
	r := rebuild{config: c, out: stdout, ledger: newLedger(f, newClock(), 1<<10, c.retention, log)}
	if r.store, err = newStore(storeOptions{url: url, log: log}); err != nil {
		return err
	}
	defer func() { failed = errors.Join(failed, r.ledger.syncJournals(), r.ledger.close(), r.store.close()) }()
	return r.run(ctx, log)
}

// run takes the free journals, replays them, and says what came of it. It fails unless all of them were replayed.
func (r *rebuild) run(ctx context.Context, log *slog.Logger) error {
	_, failed := r.ledger.adopt(func(*journalHead) bool { return true })
	r.settler = newSettler(r.ledger, r.store, newLifeWatch(), 0, newMetrics(), log)
	if err := r.enter(ctx); err != nil {
		return errors.Join(failed, fmt.Errorf("cannot rebuild: %w", err))
	}
	list, err := inspectFolder(r.config.dataDir)
	if err != nil {
		return errors.Join(failed, err)
	}
	return errors.Join(failed, r.tell(ctx, list))
}

// enter replays our journals into the store's life, once more if that life ends meanwhile.
func (r *rebuild) enter(ctx context.Context) error {
	const tries = 3
	var err error
	for range tries {
		if len(*r.ledger.journals.Load()) == 0 {
			return r.store.reach(ctx) // the owners of all journals rebuild it by themselves, if it is there
		}
		if err = r.settler.enter(ctx); !errors.Is(err, errNoLife) {
			return err
		}
	}
	return err
}

func (r *rebuild) tell(ctx context.Context, list []inspected) error {
	table := tabwriter.NewWriter(r.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "journal\tmade by\tpayments replayed\treaches back to\tpaid at default\tpaid at fallback")
	var oldest micros
	var totals summary
	for i := range list {
		report, err := list[i].report()
		if err != nil {
			return err
		}
		oldest = earlier(oldest, report.oldestAccepted)
		own := *r.ledger.journals.Load()
		at := slices.IndexFunc(own, func(j *journal) bool { return j.id == list[i].id })
		replayed := "none: set aside"
		if at >= 0 {
			replayed = fmt.Sprint(own[at].replayed)
		} else if report.Owned {
			replayed = "by its owner, instance " + orDefault(report.OwnedBy, report.MadeBy)
		}
		var paid [processors]string
		for id := range processorID(processors) {
			p := report.Paid[id.String()]
			paid[id] = fmt.Sprintf("%d, %s", p.Requests, p.Cents.appendDecimal(nil))
			if err := totals.add(id, int64(p.Requests), p.Cents); err != nil {
				return err
			}
		}
		fmt.Fprintln(table, strings.Join([]string{report.Journal, report.MadeBy, replayed, orDefault(report.OldestAccepted, "-"), paid[onDefault], paid[onFallback]}, "\t"))
	}
	table.Flush()
	if oldest != 0 {
		fmt.Fprintf(r.out, "the journals reach back to %s (%s ago)\n", oldest.appendTime(nil), age(oldest))
	}
	fmt.Fprintf(r.out, "the journals hold  %s\n", totals.appendJSON(nil))
	return r.tellStore(ctx)
}

// tellStore says what the store holds now, if that is known to be everything.
func (r *rebuild) tellStore(ctx context.Context) error {
	if r.settler.known == "" {
		fmt.Fprintln(r.out, "the store is not ready yet: the owners of the other journals have to report first")
		return nil
	}
	journals, err := r.ledger.folder.journalIDs()
	if err != nil {
		return err
	}
	others := slices.DeleteFunc(journals, r.ledger.owns) // from ours nobody has paid since they were replayed, however long ago that is
	sum, err := r.store.summary(ctx, math.MinInt64, math.MaxInt64, texts(others))
	if silent, ok := errors.AsType[unheardError](err); ok {
		fmt.Fprintf(r.out, "the store is ready, but may lack what was paid since: %v\n", silent)
		return nil
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(r.out, "the store is ready %s\n", sum.appendJSON(nil))
	return nil
}
