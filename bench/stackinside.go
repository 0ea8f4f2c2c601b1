package main

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
)

// busybox runs one command in a container of its own: galo's image holds nothing but galo, and its admin side listens inside
// its container only.
func (r *stackRun) busybox(ctx context.Context, where []string, command ...string) (string, error) {
	args := append(append([]string{"run", "--rm"}, where...), "busybox:1")
	out, err := exec.CommandContext(ctx, "docker", append(args, command...)...).Output()
	if err != nil {
		return "", fmt.Errorf("cannot run %s in a container: %w", strings.Join(command, " "), err)
	}
	return string(out), nil
}

// metrics are those of the instance in a container.
func (r *stackRun) metrics(ctx context.Context, c container) (map[string]float64, error) {
	text, err := r.busybox(ctx, []string{"--network", "container:" + c.id}, "wget", "-q", "-O", "-", "http://127.0.0.1:9990/metrics")
	if err != nil {
		return nil, err
	}
	return readMetrics(text)
}

// readMetrics reads Prometheus's text format: a name with its labels, and a number.
func readMetrics(text string) (map[string]float64, error) {
	all := make(map[string]float64)
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		line := lines.Text()
		at := strings.LastIndexByte(line, ' ')
		if at < 0 || strings.HasPrefix(line, "#") {
			continue
		}
		value, err := strconv.ParseFloat(line[at+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("cannot read metric %q: %w", line, err)
		}
		all[line[:at]] = value
	}
	return all, nil
}
