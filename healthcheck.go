package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// checkRested is `galo healthcheck -rest 30s`: a check that follows a successful one waits that long before it asks.
//
// To start a process inside a container costs about 45 ms of the container's CPU, which is more than an instance with
// 0.4 CPUs has for a tenth of a second; its clients see that. So checks should be rare, and yet the first one has to
// come soon, since others wait for it. With a rest the container runtime's own interval can be short.
//
// The mark of a successful check is a file in dir, which in a container is in memory and new after each start.
func checkRested(ctx context.Context, args []string, dir string, check func() error) error {
	flags := flag.NewFlagSet("galo healthcheck", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	rest := flags.Duration("rest", 0, "how long to wait before asking, once a check has been successful")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("cannot check health: %w", err)
	}
	if *rest <= 0 {
		return check()
	}
	mark := filepath.Join(dir, "galo-was-ready")
	if _, err := os.Stat(mark); err == nil {
		if pause(ctx, *rest); ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if err := check(); err != nil {
		return err
	}
	_ = os.WriteFile(mark, nil, 0o600) // where it cannot be marked there is no rest; the instance is ready nevertheless
	return nil
}

// withoutTrace starts this program anew as it was started, but for the trace of the scheduler that GODEBUG may ask for. docker-compose.yml does
// so for galo, and a check in the same container, which does nothing but rest, would be woken a hundred times a second for it. It returns
// when nothing is asked for, or when that cannot be done: then the check rests less well.
func withoutTrace() {
	asked := strings.Split(os.Getenv("GODEBUG"), ",")
	kept := slices.DeleteFunc(slices.Clone(asked), func(one string) bool { return strings.HasPrefix(one, "schedtrace=") })
	if len(kept) == len(asked) || os.Setenv("GODEBUG", strings.Join(kept, ",")) != nil {
		return
	}
	_ = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}
