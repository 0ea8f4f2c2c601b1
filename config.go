package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"text/tabwriter"
	"time"
)

// config is everything that an operator can set. It is read once, at the start, and never changed.
type config struct {
	listen       listenAddress
	adminListen  listenAddress // The zero address means off.
	processorURL [processors]string
	processorFee [processors]ppm
	redisURL     secretURL // Empty: an embedded store in the process.
	natsURL      secretURL // One URL or several with commas between. Empty: this process is alone.
	role         role
	instance     string
	dataDir      string
	durability   durability
	retention    time.Duration
	journalMax   int64 // Bytes; 0: unbounded.
	workers      int
	maxPending   int
	patience     time.Duration
	allowPurge   bool
	logLevel     slog.Level
	sendTimeout  time.Duration
	maxInFlight  int // Per processor, of all instances together.
	linger       time.Duration
	stopTimeout  time.Duration
}

// setting is one row of the table that both reading and `galo -h` go by.
type setting struct {
	name     string
	standard string // The value when the environment has none, in the same text form.
	shown    string // What to print as the default where standard does not say it.
	meaning  string
	emptyOff bool // An empty value is a value of its own, and not the same as none.
	secret   bool // Its value may hold a password; so may any other that has an @ in it.
	valueKind
}

// valueKind is a sort of value: what is allowed, in words, and the check and the place that go with the words.
type valueKind struct {
	allowed string
	set     func(c *config, value string) bool
}

// settings returns the table, in the order in which it is printed. The names and defaults down to LOG_LEVEL
// are the contract's, save for the two that it leaves to measuring.
func settings() []setting {
	return []setting{
		{name: "LISTEN", standard: ":9999", meaning: "where clients call",
			valueKind: anAddress(func(c *config) *listenAddress { return &c.listen })},
		{name: "ADMIN_LISTEN", standard: "127.0.0.1:9990", emptyOff: true,
			meaning:   "/metrics, /healthz, /readyz, /debug/pprof; never through the load balancer; empty: off",
			valueKind: anAddress(func(c *config) *listenAddress { return &c.adminListen })},
		{name: "PROCESSOR_DEFAULT_URL", standard: "http://payment-processor-default:8080",
			meaning:   "the cheaper processor",
			valueKind: anHTTPURL(func(c *config) *string { return &c.processorURL[onDefault] })},
		{name: "PROCESSOR_FALLBACK_URL", standard: "http://payment-processor-fallback:8080",
			meaning:   "the dearer processor",
			valueKind: anHTTPURL(func(c *config) *string { return &c.processorURL[onFallback] })},
		{name: "PROCESSOR_DEFAULT_FEE", standard: "0.05", meaning: "the default processor's fee, as a part of the amount",
			valueKind: aFee(func(c *config) *ppm { return &c.processorFee[onDefault] })},
		{name: "PROCESSOR_FALLBACK_FEE", standard: "0.15", meaning: "the fallback processor's fee, as a part of the amount",
			valueKind: aFee(func(c *config) *ppm { return &c.processorFee[onFallback] })},
		{name: "REDIS_URL", secret: true,
			meaning:   "the store that the instances share; empty: an embedded store in the process",
			valueKind: aRedisURL(func(c *config) *secretURL { return &c.redisURL })},
		{name: "NATS_URL", secret: true,
			meaning:   "how the instances tell each other what they see; empty: this process is alone",
			valueKind: aNATSURL(func(c *config) *secretURL { return &c.natsURL })},
		{name: "ROLE", standard: "auto", meaning: "who asks the processors for their health",
			valueKind: oneOf(func(c *config) *role { return &c.role }, roleAuto, roleLeader, roleFollower)},
		{name: "INSTANCE", shown: "the host's name", meaning: "names this instance and its journal",
			valueKind: anInstance(func(c *config) *string { return &c.instance })},
		{name: "DATA_DIR", standard: "./data", meaning: "the folder of the journals",
			valueKind: aPath(func(c *config) *string { return &c.dataDir })},
		{name: "DURABILITY", standard: "process",
			meaning:   "what an accepted payment survives; process: kill -9 and a container's death; disk: power loss too",
			valueKind: oneOf(func(c *config) *durability { return &c.durability }, durableProcess, durableDisk)},
		{name: "RETENTION", standard: "24h",
			meaning:   "how long ids are remembered, records kept and the journal replayable",
			valueKind: aDuration(time.Minute, 8760*time.Hour, func(c *config) *time.Duration { return &c.retention })},
		{name: "JOURNAL_MAX_SIZE", standard: "0",
			meaning:   "beyond it this process's oldest settled segments go before RETENTION is over; 0: no limit",
			valueKind: aSize(leastJournal, mostJournal, func(c *config) *int64 { return &c.journalMax })},
		{name: "WORKERS", standard: "4", meaning: "how many workers take payments off the rings",
			valueKind: aNumber(1, 63, func(c *config) *int { return &c.workers })},
		{name: "MAX_PENDING", standard: "131072", meaning: "how many payments may wait; beyond it: 503",
			valueKind: aNumber(1, 4_194_304, func(c *config) *int { return &c.maxPending })},
		{name: "PATIENCE", standard: "10s",
			meaning:   "how long a payment may wait for the cheaper processor before it may go to the dearer one",
			valueKind: aDuration(0, time.Hour, func(c *config) *time.Duration { return &c.patience })},
		{name: "ALLOW_PURGE", standard: "false", meaning: "whether POST /purge-payments is served",
			valueKind: trueOrFalse(func(c *config) *bool { return &c.allowPurge })},
		{name: "LOG_LEVEL", standard: "info", meaning: "what is worth a line",
			valueKind: aLogLevel(func(c *config) *slog.Level { return &c.logLevel })},
		{name: "SEND_TIMEOUT", standard: "10s",
			meaning:   "how long an answer is waited for before the attempt is unknown",
			valueKind: aDuration(100*time.Millisecond, time.Minute, func(c *config) *time.Duration { return &c.sendTimeout })},
		{name: "MAX_IN_FLIGHT", standard: "800", meaning: "sends at once to each processor, from all instances together",
			valueKind: aNumber(1, 1200, func(c *config) *int { return &c.maxInFlight })},
		{name: "LINGER", standard: "5ms", meaning: "how long a claim waits at most for others to go with it; a settle waits five times as long, at most 100 ms",
			valueKind: aDuration(0, 100*time.Millisecond, func(c *config) *time.Duration { return &c.linger })},
		{name: "STOP_TIMEOUT", standard: "20s", meaning: "how long a stop may take",
			valueKind: aDuration(time.Second, 10*time.Minute, func(c *config) *time.Duration { return &c.stopTimeout })},
	}
}

// readConfig reads the environment. It takes os.LookupEnv and not os.Getenv, since an empty ADMIN_LISTEN
// says something else than none. Every other setting that is empty has its default, as compose files
// write it. An error is one line that names the setting, its value without passwords, and what is allowed.
func readConfig(lookup func(string) (string, bool)) (config, error) {
	var c config
	for _, s := range settings() {
		value, given := lookup(s.name)
		if given && value == "" && s.emptyOff {
			continue
		}
		if value == "" {
			value = s.standard
		}
		if value == "" && s.name == "INSTANCE" {
			var err error
			if value, err = os.Hostname(); err != nil {
				return config{}, fmt.Errorf("cannot read the host's name for INSTANCE: %w", err)
			}
		}
		if value != "" && !s.set(&c, value) {
			if s.secret || strings.Contains(value, "@") {
				value = maskURL(value)
			}
			return config{}, fmt.Errorf("%s=%q is not %s", s.name, value, s.allowed)
		}
	}
	if c.natsURL.reveal() != "" && c.redisURL.reveal() == "" {
		// Instances that hear each other but share no store would not know each other's claims.
		return config{}, fmt.Errorf("NATS_URL=%q is not allowed with an empty REDIS_URL: several instances need one store", c.natsURL)
	}
	if c.processorURL[onDefault] == c.processorURL[onFallback] {
		return config{}, fmt.Errorf("PROCESSOR_FALLBACK_URL=%q is not allowed: it is PROCESSOR_DEFAULT_URL as well", c.processorURL[onFallback])
	}
	return c, nil
}

// printSettings prints every setting with its default, its meaning and what is allowed.
func printSettings(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "setting\tdefault\tmeaning")
	for _, s := range settings() {
		standard := s.standard
		switch {
		case s.shown != "":
			standard = s.shown
		case standard == "":
			standard = "(empty)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n\t\t  %s\n", s.name, standard, s.meaning, s.allowed)
	}
	table.Flush()
}
