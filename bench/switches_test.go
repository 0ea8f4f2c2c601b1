package main

import (
	"io"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// straceTable is what strace -c writes.
const straceTable = `% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ------------------
 51.20    0.021534           7      3010           epoll_pwait
 30.11    0.012001           5      2400       900 read
  0.01    0.000001           0        12           futex
------ ----------- ----------- --------- --------- ------------------
100.00    0.042058           7      5422       900 total
`

func TestCallsAreReadFromStrace(t *testing.T) {
	calls, err := readCalls(strings.NewReader(straceTable))
	if want := map[string]int64{"epoll_pwait": 3010, "read": 2400, "futex": 12}; err != nil || !maps.Equal(calls, want) {
		t.Errorf("%v, %v, want %v", calls, err, want)
	}
	if _, err := readCalls(strings.NewReader("1.0 0.1 7 many read\n")); err == nil {
		t.Error("no number was read as one")
	}
	if calls, err := readCalls(strings.NewReader("")); err != nil || len(calls) != 0 {
		t.Errorf("nothing was called: %v, %v", calls, err)
	}
}

func TestSwitchesCountFromTheirBeginning(t *testing.T) {
	before := map[int]switches{1: {10, 1}, 2: {100, 10}, 3: {1000, 100}}
	after := map[int]switches{1: {15, 1}, 2: {103, 12}, 4: {7, 3}} // 3 has ended, 4 has begun
	if got, want := switchesSince(before, after), (switches{15, 5}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestProcessesOfAContainerAreCounted: with those that they have started, and every thread of each.
func TestProcessesOfAContainerAreCounted(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /proc")
	}
	child := exec.Command("cat")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = in.Close(), child.Wait() }() // cat ends with its input
	pids, err := family(os.Getpid())
	if err != nil || !slices.Contains(pids, os.Getpid()) || !slices.Contains(pids, child.Process.Pid) {
		t.Fatalf("the family of %d with its child %d is %v, %v", os.Getpid(), child.Process.Pid, pids, err)
	}
	before, err := readSwitches(pids)
	if err != nil || len(before) < len(pids) {
		t.Fatalf("%d threads of %d processes: %v", len(before), len(pids), err)
	}
	for since := (switches{}); since.voluntary == 0; { // every sleep is one; the test's own time-out bounds it
		time.Sleep(time.Millisecond)
		after, err := readSwitches(pids)
		if err != nil {
			t.Fatal(err)
		}
		since = switchesSince(before, after)
	}
	if _, err := family(1 << 30); err == nil {
		t.Error("a process that is not there has a family")
	}
}

func TestKernelUsesArePrinted(t *testing.T) {
	all := []kernelUse{
		{stack: "galo-nothing", service: "galo1", voluntary: 0.5, calls: map[string]float64{"read": 1, "write": 0.5}, tracedP99: 2500},
		{stack: "galo-nothing", service: "nginx", voluntary: 1, involuntary: 0.25, calls: map[string]float64{"a": 1, "b": 2, "c": 3, "d": 4, "e": 5, "f": 6}},
		{stack: "galo-bench", service: "galo1", voluntary: 2, calls: map[string]float64{"futex": 0.1, "read": 3}},
		{stack: "galo-bench", service: "redis", voluntary: 0.125, calls: map[string]float64{"read": 0.2}},
	}
	var b strings.Builder
	printKernelUses(&b, all, switchesSettings{rate: 2, duration: switchesDuration, trace: traceDuration})
	_, table, _ := strings.Cut(b.String(), "| --- |\n")
	want := `| galo1 | galo-nothing | 0.50 | 0.00 | 1.50 | 0.00 | read 1.00, write 0.50 | 2.50 ms |
| galo1 | galo-bench | 2.00 | 0.00 | 3.10 | 0.10 | read 3.00, futex 0.10 |  |
| nginx | galo-nothing | 1.00 | 0.25 | 21.00 | 0.00 | f 6.00, e 5.00, d 4.00, c 3.00, b 2.00 |  |
| redis | galo-bench | 0.12 | 0.00 | 0.20 | 0.00 | read 0.20 |  |
| together | galo-nothing | 1.50 | 0.25 | 22.50 | 0.00 | f 6.00, e 5.00, d 4.00, c 3.00, b 2.00 |  |
| together | galo-bench | 2.12 | 0.00 | 3.30 | 0.10 | read 3.20, futex 0.10 |  |
`
	if table != want {
		t.Errorf("printed\n%s\nwant\n%s", table, want)
	}
	if !strings.HasPrefix(b.String(), "For each payment that the stack accepts, 1000 a second") {
		t.Errorf("begins with %.100s", b.String())
	}
	b.Reset()
	printKernelUses(&b, []kernelUse{{stack: "s", service: "nginx"}}, switchesSettings{rate: 1})
	if !strings.Contains(b.String(), "| nginx | s | 0.00 | 0.00 |  |  |  |  |\n") || strings.Contains(b.String(), "strace") {
		t.Errorf("calls that were not counted:\n%s", b.String())
	}
}

func TestSwitchesSettings(t *testing.T) {
	for _, bad := range []string{"-duration 0", "-trace -1s", "words"} {
		if _, err := parseSwitchesSettings(strings.Fields(bad), io.Discard); err == nil {
			t.Errorf("%s: no error", bad)
		}
	}
}
