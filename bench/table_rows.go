package main

import "strings"

// A tableRow is one claim: a figure, what it comes from, and what it has to reach.
type tableRow struct {
	what    string
	command string
	of      series
	over    series // what it is held against, run by run; no benchmark: nothing
	faster  bool   // the figure says how many times less `of` takes than `over`; else how many times more
	unit    string // what values are shown in
	goal    goal
	// A row of an exact count has no series: the tests that count it, and what they hold it to.
	tests []string
	exact string
}

// A goal is what a figure has to reach. The zero one is none.
type goal struct {
	kind  goalKind
	limit float64
}

type goalKind uint8

const (
	noGoal goalKind = iota
	atMost
	atLeast
)

func most(limit float64) goal  { return goal{atMost, limit} }
func least(limit float64) goal { return goal{atLeast, limit} }

// tableRows is the whole table, in its order.
func tableRows() []tableRow {
	commands := make(map[string]string)
	for _, b := range tableBenches() {
		commands[b.name] = b.shown()
	}
	var rows []tableRow
	add := func(more ...tableRow) {
		for _, row := range more {
			if row.command == "" {
				name, _, _ := strings.Cut(row.of.bench, "/")
				row.command = commands[name]
			}
			rows = append(rows, row)
		}
	}
	add(countRows()...)
	add(
		tableRow{what: "intake, request bytes to answer bytes, over a handler that does nothing", of: series{"Intake/galo", "ns/op"}, over: series{"Intake/nothing", "ns/op"}, unit: "ns", goal: most(1.6)},
		tableRow{what: "its allocations a payment", of: series{"Intake/galo", "allocs/op"}, goal: most(0)},
		tableRow{what: "parsing a payment, over go-json into a struct", of: series{"Parse/plain", "ns/op"}, over: series{"Parse/go-json", "ns/op"}, faster: true, unit: "ns"},
	)
	add(ringRows()...)
	add(storeRows()...)
	add(summaryRows()...)
	add(instanceRows()...)
	add(stackRows()...)
	return rows
}

// countRows are the exact ones: they hold on every machine, or are wrong.
func countRows() []tableRow {
	row := func(what, exact string, tests ...string) tableRow {
		return tableRow{what: what, exact: exact, tests: tests, command: "go test -run '" + testPattern(tests) + "' ."}
	}
	return []tableRow{
		row("round trips to Redis for a batch of claims, of settles or of look-ups, and for a summary", "1 each", "TestOneRoundTripEach"),
		row("bytes of a payment in the journal", "64", "TestSlotIsOneCacheLine"),
		row("allocations of a payment at the intake, and when it is sent to a processor", "0", "TestIntakeAllocatesNothing", "TestIntakeAllocatesNothingFromBytesToBytes", "TestPayTakesNoMemory"),
		row("reads and writes of a connection for a payment", "1 each", "TestIntakeReadsOnceAndWritesOnce"),
	}
}

func ringRows() (rows []tableRow) {
	for _, shape := range []struct {
		name, text string
		goal       float64
	}{{"1to1", "1 to 1", 1.4}, {"4to1", "4 to 1", 1.5}, {"4to4", "4 to 4", 1.5}} {
		ring := series{"Ring/" + shape.name + "/ring", "ns/op"}
		for _, other := range []struct {
			name, text string
			goal       float64
		}{{"channel", "a channel polled alike", shape.goal}, {"mutex", "a mutex queue", 1}} {
			rows = append(rows, tableRow{what: "ring, " + shape.text + ", over " + other.text, of: ring, over: series{"Ring/" + shape.name + "/" + other.name, "ns/op"},
				faster: true, unit: "ns", goal: least(other.goal)})
		}
	}
	return rows
}

// storeRows are about settling, and what a payment takes in Redis.
func storeRows() []tableRow {
	const unit = "ns/payment"
	single := series{"Settle/roundtrips/64", unit}
	settle := func(what, bench string, goal float64) tableRow {
		return tableRow{what: what + ", over a round trip each", of: series{bench, unit}, over: single, faster: true, unit: "ns", goal: least(goal)}
	}
	memory := func(what, bench string, g goal) tableRow {
		return tableRow{what: "Redis memory of a payment, 1,000,000 of them " + what, of: series{"Memory/" + bench, "B/payment"}, unit: "bytes", goal: g}
	}
	return []tableRow{
		settle("settling 64 payments in one script", "Settle/script/64", 10),
		settle("settling 256 payments in one script", "Settle/script/256", 10),
		settle("settling 64 payments in a pipeline of single scripts", "Settle/pipeline/64", 4),
		memory("at 500 a second", "500_a_second", most(200)),
		memory("at 5,000 a second", "5000_a_second", goal{}),
		memory("within 30 days", "30_days", most(280)),
	}
}

func summaryRows() (rows []tableRow) {
	for _, load := range []struct{ name, text string }{{"quiet", ""}, {"load", ", while batches are settled at full speed"}} {
		for _, window := range []struct{ name, text string }{{"everything", "everything"}, {"0.4s", "0.4 s"}, {"13.5s", "13.5 s"}, {"an-hour", "an hour"}, {"30-days", "30 days"}} {
			bench := "Summary/" + load.name + "/" + window.name
			rows = append(rows, tableRow{what: "p99 of a summary of " + window.text + " among 10,000,000 payments, over 10,000 with edges as dense" + load.text,
				of: series{bench, "many-p99-µs"}, over: series{bench, "few-p99-µs"}, unit: "µs", goal: most(1.5)})
		}
	}
	return rows
}

// instanceRows are about one process.
func instanceRows() []tableRow {
	const million = "Instance/waiting=1000000"
	return []tableRow{
		{what: "the wake of a worker by a lone payment, beside intake, over that of a goroutine by a channel", of: series{"Wake/galo", "median-ns"}, over: series{"Wake/channel", "median-ns"}, unit: "ns"},
		{what: "claiming, sending and settling by one instance on one core", of: series{"Process/galo", "payments/s"}, unit: "payments/s"},
		{what: "its CPU for a payment, over that of the same requests by the same client alone", of: series{"Process/galo", "cpu-ns/payment"}, over: series{"Process/posts/64", "cpu-ns/payment"}, unit: "ns"},
		{what: "sending a payment to a processor on this host and reading its answer", of: series{"Pay", "ns/op"}, unit: "ns"},
		{what: "a 202 that outlives the process, with its whole life in the journal, 64 clients", of: series{"Durability/process/clients=64", "ns/op"}, unit: "ns"},
		{what: "a 202 that outlives the host, 64 clients", of: series{"Durability/disk/clients=64", "ns/op"}, unit: "ns"},
		{what: "an instance's own memory, nothing waiting, room for 1,048,576", of: series{"Instance/waiting=0", "anonymous-MiB"}, unit: "MiB"},
		{what: "each of 1,000,000 waiting payments: the journal, mapped", of: series{million, "mapped-B/payment"}, unit: "bytes", goal: most(64)},
		{what: "each of 1,000,000 waiting payments: besides the journal and the rings", of: series{million, "anonymous-B/payment"}, unit: "bytes", goal: most(16)},
		{what: "the collector's longest pause, with a collection when 1,000,000 wait", of: series{million, "longest-pause-µs"}, unit: "µs"},
		{what: "intake over 4 connections when 900,000 wait", of: series{million, "payments/s"}, unit: "payments/s"},
		{what: "from exec to ready, nothing waiting", of: series{"Start/waiting=0", "ms-to-ready"}, unit: "ms", goal: most(1000)},
		{what: "from exec to ready, 1,000,000 waiting", of: series{"Start/waiting=1000000", "ms-to-ready"}, unit: "ms"},
		{what: "recovering 1,000,000 payments from the disk, over reading the same files", of: series{"Recover/cold/recover", "ns/op"}, over: series{"Recover/cold/read", "ns/op"}, unit: "ns", goal: most(1)},
		{what: "recovering 1,000,000 payments from memory, over reading the same files", of: series{"Recover/warm/recover", "ns/op"}, over: series{"Recover/warm/read", "ns/op"}, unit: "ns"},
	}
}

// stackRows are about the compose stack under its limits, beside servers that do nothing behind the same nginx.
func stackRows() []tableRow {
	over := func(what, unit string, limit float64) tableRow {
		return tableRow{what: "the stack at 500 payments a second, " + what + " over servers that do nothing", command: stackCommand,
			of: series{stackBench, unit}, over: series{nothingBench, unit}, unit: "ms", goal: most(limit)}
	}
	return []tableRow{
		over("p99", unitP99, 1.15),
		over("p99.9", unitP999, 1.5),
		{what: "the stack's CPU for 100,000 payments", command: stackCommand, of: series{stackBench, unitCPU}, unit: "s", goal: most(20)},
	}
}
