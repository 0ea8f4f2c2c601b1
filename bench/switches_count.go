package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// family is a process and all that it has started, as the host numbers them. What is run beside it in its container, as a health check is, is no part of it.
func family(pid int) ([]int, error) {
	all := []int{pid}
	lists, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil || len(lists) == 0 {
		return nil, fmt.Errorf("cannot find process %d: the containers' processes have to be this host's: %w", pid, errors.Join(err, fs.ErrNotExist))
	}
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for field := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("cannot read %s: %w", list, err)
			}
			if theirs, err := family(child); err == nil { // else it has ended
				all = append(all, theirs...)
			}
		}
	}
	return all, nil
}

// switches are how often threads gave up their core: by themselves, since they had nothing to do, or because another one was put there.
type switches struct {
	voluntary, involuntary int64
}

// readSwitches are those of each thread of some processes since it began, by its number.
func readSwitches(pids []int) (map[int]switches, error) {
	all := make(map[int]switches)
	for _, pid := range pids {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
		if err != nil {
			return nil, fmt.Errorf("cannot find the threads of process %d: %w", pid, err)
		}
		for _, thread := range threads {
			status, err := os.ReadFile(filepath.Join(thread, "status"))
			if err != nil {
				continue // it has ended
			}
			number, err := strconv.Atoi(filepath.Base(thread))
			if err != nil {
				return nil, fmt.Errorf("cannot read the number of a thread: %w", err)
			}
			voluntary, err1 := statusNumber(status, "voluntary_ctxt_switches")
			involuntary, err2 := statusNumber(status, "nonvoluntary_ctxt_switches")
			if err := errors.Join(err1, err2); err != nil {
				return nil, err
			}
			all[number] = switches{voluntary, involuntary}
		}
	}
	return all, nil
}

// statusNumber is a number in a file such as /proc/PID/status.
func statusNumber(status []byte, name string) (int64, error) {
	for line := range bytes.Lines(status) {
		if key, value, _ := strings.Cut(string(line), ":"); key == name {
			n, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("cannot read %s of a thread: %w", name, err)
			}
			return n, nil
		}
	}
	return 0, fmt.Errorf("cannot read %s of a thread: %w", name, io.ErrUnexpectedEOF)
}

// switchesSince adds up what has come from before to after. A thread that began meanwhile counts whole; of one that ended nothing is known.
func switchesSince(before, after map[int]switches) (sum switches) {
	for thread, now := range after {
		was := before[thread]
		sum.voluntary += now.voluntary - was.voluntary
		sum.involuntary += now.involuntary - was.involuntary
	}
	return sum
}

const (
	attachedWithin = 10 * time.Second
	attachedEvery  = 5 * time.Millisecond
)

// traced has strace count the system calls of processes by name for some time, and says how many payments were accepted in it.
func traced(ctx context.Context, pids []int, during time.Duration, accepted func() int64) (calls map[string]int64, payments int64, err error) {
	file, err := os.CreateTemp("", "galo-strace-*")
	if err != nil {
		return nil, 0, fmt.Errorf("cannot count system calls: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	args := []string{"-c", "-f", "-o", file.Name()}
	for _, pid := range pids {
		args = append(args, "-p", strconv.Itoa(pid))
	}
	var complaint bytes.Buffer
	cmd := exec.CommandContext(ctx, "strace", args...)
	cmd.Stderr = &complaint
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // killed, it would leave them stopped
	if err := cmd.Start(); err != nil {
		return nil, 0, fmt.Errorf("cannot count system calls: %w", err)
	}
	attached := awaitTracer(ctx, pids)
	if attached {
		from := accepted()
		sleepUntil(ctx, time.Now().Add(during))
		payments = accepted() - from
	}
	_ = cmd.Process.Signal(os.Interrupt) // one that is gone has said why
	_ = cmd.Wait()                       // its status is that of an interrupted program, also when all is well
	if ctx.Err() != nil {
		return nil, 0, fmt.Errorf("cannot count system calls: %w", context.Cause(ctx))
	}
	if !attached {
		return nil, 0, fmt.Errorf("cannot count system calls: strace had not begun within %v: %s", attachedWithin, strings.TrimSpace(complaint.String()))
	}
	calls, err = readCalls(file)
	return calls, payments, err
}

// awaitTracer waits until every process is traced.
func awaitTracer(ctx context.Context, pids []int) bool {
	for until := time.Now().Add(attachedWithin); time.Now().Before(until); {
		all := true
		for _, pid := range pids {
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err == nil {
				tracer, err := statusNumber(status, "TracerPid")
				all = all && err == nil && tracer != 0
			}
		}
		if all {
			return true
		}
		if !sleepUntil(ctx, time.Now().Add(attachedEvery)) {
			return false
		}
	}
	return false
}

// readCalls reads the table that strace -c writes: share, seconds, microseconds a call, calls, errors unless there are none, and the name.
func readCalls(in io.Reader) (map[string]int64, error) {
	const callsField, fewestFields = 3, 5
	calls := make(map[string]int64)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < fewestFields || fields[0] == "%" || strings.HasPrefix(fields[0], "-") {
			continue
		}
		name := fields[len(fields)-1]
		if name == "total" {
			continue
		}
		n, err := strconv.ParseInt(fields[callsField], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("cannot read what strace counted in %q: %w", lines.Text(), err)
		}
		calls[name] += n
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("cannot read what strace counted: %w", err)
	}
	return calls, nil
}
