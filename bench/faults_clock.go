package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// A steppedClock is a wall clock that galo takes for the true one, and that can be put forward and back. It is a file with the
// step in microseconds; only a galo that was built for it reads it.
type steppedClock struct{ path string }

const clockVariable = "BENCH_CLOCK_STEP"

func newSteppedClock(dir string) (steppedClock, error) {
	c := steppedClock{filepath.Join(dir, "clock-step")}
	return c, c.step(0)
}

// step puts the clock so far from the true time.
func (c steppedClock) step(by time.Duration) error {
	// By a rename, so that nobody reads half a number.
	made := c.path + ".new"
	err := os.WriteFile(made, []byte(strconv.FormatInt(by.Microseconds(), 10)), 0o644)
	if err == nil {
		err = os.Rename(made, c.path)
	}
	if err != nil {
		return fmt.Errorf("cannot step the clock: %w", err)
	}
	return nil
}

// steppedSource is added to galo's own files for the build.
const steppedSource = `package main

import (
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

var clockStep atomic.Int64 // microseconds

func init() {
	path := os.Getenv("` + clockVariable + `")
	if path == "" {
		return
	}
	read := func() {
		if text, err := os.ReadFile(path); err == nil {
			if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
				clockStep.Store(n)
			}
		}
	}
	read()
	go func() {
		for {
			time.Sleep(25 * time.Millisecond)
			read()
		}
	}()
}
`

// The two places where galo takes the wall clock's time, and what they read instead.
var steppedPlaces = []struct{ file, old, new string }{
	{"payment.go", "return micros(time.Now().UnixMicro())", "return micros(time.Now().UnixMicro() + clockStep.Load())"},
	{"clock.go", "micros(now.UnixMicro())", "micros(now.UnixMicro() + clockStep.Load())"},
}

// buildStepped compiles a galo that goes by a stepped clock. Nothing in the source knows of it. Another overlay may replace
// further files.
func buildStepped(ctx context.Context, dir, other string, flags ...string) (string, error) {
	root, err := moduleRoot(ctx)
	if err != nil {
		return "", err
	}
	replace, err := readOverlay(other)
	if err != nil {
		return "", err
	}
	put := func(name string, text []byte) error {
		replace[filepath.Join(root, name)] = filepath.Join(dir, name)
		return os.WriteFile(filepath.Join(dir, name), text, 0o644)
	}
	if err := put("bench_clock.go", []byte(steppedSource)); err != nil {
		return "", fmt.Errorf("cannot build galo with a stepped clock: %w", err)
	}
	for _, p := range steppedPlaces {
		path := filepath.Join(root, p.file)
		text, err := os.ReadFile(cmp.Or(replace[path], path))
		if err == nil && bytes.Count(text, []byte(p.old)) != 1 {
			err = fmt.Errorf("%s has not one place that reads %q", p.file, p.old)
		}
		if err == nil {
			err = put(p.file, bytes.Replace(text, []byte(p.old), []byte(p.new), 1))
		}
		if err != nil {
			return "", fmt.Errorf("cannot build galo with a stepped clock: %w", err)
		}
	}
	overlay := filepath.Join(dir, "overlay.json")
	text, err := json.Marshal(map[string]any{"Replace": replace})
	if err == nil {
		err = os.WriteFile(overlay, text, 0o644)
	}
	if err != nil {
		return "", fmt.Errorf("cannot build galo with a stepped clock: %w", err)
	}
	return buildGalo(ctx, dir, append(flags, "-overlay", overlay)...)
}

// readOverlay is what an overlay file replaces: by path, where the text is instead.
func readOverlay(path string) (map[string]string, error) {
	var overlay struct{ Replace map[string]string }
	if path == "" {
		return make(map[string]string), nil
	}
	text, err := os.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &overlay)
	}
	if err == nil && overlay.Replace == nil {
		err = errors.New("it replaces nothing")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot use overlay: %w", err)
	}
	return overlay.Replace, nil
}
