package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// sourceEdit is a text for galo's own source, at a place that is named by an anchor: a text that the file has exactly once.
// Tests build a variant of galo with such edits (go build -overlay); what is built without them knows nothing of it.
type sourceEdit struct {
	file, anchor string
	where        editPlace
	text         string
}

type editPlace uint8

const (
	beforeAnchor editPlace = iota
	afterAnchor
	insteadOfAnchor
)

// place is where in the source the edit goes, and what it takes away.
func (e sourceEdit) place(source string) (from, to int, err error) {
	if n := strings.Count(source, e.anchor); n != 1 {
		return 0, 0, fmt.Errorf("%s has %d times, and not once: %q", e.file, n, e.anchor)
	}
	from = strings.Index(source, e.anchor)
	to = from + len(e.anchor)
	switch e.where {
	case beforeAnchor:
		return from, from, nil
	case afterAnchor:
		return to, to, nil
	case insteadOfAnchor:
	}
	return from, to, nil
}

// editedSources returns every file that the edits touch, with all of them in it. Edits at one place are put there in their order.
func editedSources(edits []sourceEdit) (map[string]string, error) {
	byFile := make(map[string][]sourceEdit)
	for _, e := range edits {
		byFile[e.file] = append(byFile[e.file], e)
	}
	edited := make(map[string]string)
	for file, list := range byFile {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		source := string(content)
		type patch struct {
			from, to int
			text     string
		}
		var patches []patch
		for _, e := range list {
			from, to, err := e.place(source)
			if err != nil {
				return nil, err
			}
			patches = append(patches, patch{from, to, e.text})
		}
		slices.SortStableFunc(patches, func(a, b patch) int { return cmp.Compare(a.from, b.from) })
		var b strings.Builder
		at := 0
		for _, p := range patches {
			if p.from < at {
				return nil, fmt.Errorf("two edits of %s overlap at %q", file, source[p.from:p.to])
			}
			b.WriteString(source[at:p.from] + p.text)
			at = p.to
		}
		edited[file] = b.String() + source[at:]
	}
	return edited, nil
}

// variant is a program that has no name on the disk any more: it lives as long as this process holds it open, and nothing is left
// behind however the tests end.
type variant struct{ file *os.File }

func (v variant) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), v.file.Fd()) }

// buildVariant builds galo with the edits and the added files.
func buildVariant(edits []sourceEdit, added map[string]string) (variant, error) {
	sources, err := editedSources(edits)
	if err != nil {
		return variant{}, err
	}
	for name, text := range added {
		sources[name] = text
	}
	dir, err := os.MkdirTemp("", "galo")
	if err != nil {
		return variant{}, err
	}
	defer os.RemoveAll(dir)
	here, err := os.Getwd()
	if err != nil {
		return variant{}, err
	}
	replace := make(map[string]string)
	for name, text := range sources {
		replace[filepath.Join(here, name)] = filepath.Join(dir, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return variant{}, err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return variant{}, err
	}
	table, program := filepath.Join(dir, "overlay.json"), filepath.Join(dir, "galo")
	if err := os.WriteFile(table, overlay, 0o600); err != nil {
		return variant{}, err
	}
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-overlay", table, "-o", program, ".").CombinedOutput(); err != nil {
		return variant{}, fmt.Errorf("cannot build a variant of galo: %w\n%s", err, out)
	}
	file, err := os.Open(program)
	if err != nil {
		return variant{}, err
	}
	return variant{file}, nil
}

// crashVariant is galo with a crash point at every step of a payment's way, and with what takes long in galo shortened: segments
// of 64 slots, orphans looked for and old segments removed many times a second. Its wall clock can be stepped.
var crashVariant = sync.OnceValues(func() (variant, error) {
	return buildVariant(append(crashEdits(), quickEdits()...), map[string]string{"crashpoint.go": crashPointSource})
})

// quickEdits makes rare things frequent. None of them changes what is done, only how often or how much at a time.
func quickEdits() []sourceEdit {
	return []sourceEdit{
		{"segmentsize.go", "const segmentSlotsLog2 = 16", insteadOfAnchor, "const segmentSlotsLog2 = 6"},
		{"main.go", "const every = 2 * time.Second", insteadOfAnchor, "const every = 100 * time.Millisecond"},
		{"elsewhere.go", "elsewhereEvery = 500 * time.Millisecond", insteadOfAnchor, "elsewhereEvery = 20 * time.Millisecond"},
		{"ledger.go", "housekeeping = time.Second", insteadOfAnchor, "housekeeping = 20 * time.Millisecond"},
		{"config.go", "aDuration(time.Minute, 8760*time.Hour,", insteadOfAnchor, "aDuration(time.Millisecond, 8760*time.Hour,"},
		{"main.go", "g.resolver.doubtGrace = c.sendTimeout", insteadOfAnchor, "g.resolver.doubtGrace = 100 * time.Millisecond"},
		{"payment.go", "return micros(time.Now().UnixMicro())", insteadOfAnchor, "return micros(time.Now().Add(clockStep()).UnixMicro())"},
		{"clock.go", "base: micros(now.UnixMicro())", insteadOfAnchor, "base: micros(now.Add(clockStep()).UnixMicro())"},
	}
}

// crashPointSource is the file that the variant has in addition. GALO_CRASH=name:n kills the process when it comes by the point for
// the n-th time; GALO_CLOCK names a file with the wall clock's step in it.
const crashPointSource = `package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	crashName, crashTimes, _ = strings.Cut(os.Getenv("GALO_CRASH"), ":")
	crashLeft                atomic.Int64
)

func init() {
	n, _ := strconv.ParseInt(crashTimes, 10, 64)
	crashLeft.Store(n)
}

func crashPoint(name string) {
	if name == crashName && crashLeft.Add(-1) == 0 {
		os.Stderr.WriteString("crash point " + name + "\n")
		syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func clockStep() time.Duration {
	file := os.Getenv("GALO_CLOCK")
	if file == "" {
		return 0
	}
	text, _ := os.ReadFile(file)
	d, _ := time.ParseDuration(string(text))
	return d
}
`

func variantOf(t *testing.T) string {
	t.Helper()
	v, err := crashVariant()
	if err != nil {
		t.Fatal(err)
	}
	return v.path()
}
