package main

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// limitsFile is a compose file as far as it sets limits.
type limitsFile struct {
	Services map[string]limitedService `yaml:"services"`
}

type limitedService struct {
	Deploy struct {
		Resources struct {
			Limits struct {
				CPUs   string `yaml:"cpus"`
				Memory string `yaml:"memory,omitempty"`
			} `yaml:"limits"`
		} `yaml:"resources"`
	} `yaml:"deploy"`
}

const wholeCPU = 1000 // thousandths

// A split is how many thousandths of a CPU each service may use.
type split map[string]int

// readSplit is the split in a compose file.
func readSplit(path string) (split, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the limits: %w", err)
	}
	var f limitsFile
	if err := yaml.Unmarshal(text, &f); err != nil {
		return nil, fmt.Errorf("cannot read the limits in %s: %w", path, err)
	}
	s := make(split)
	for name, service := range f.Services {
		cpus, err := strconv.ParseFloat(service.Deploy.Resources.Limits.CPUs, 64)
		if err != nil {
			return nil, fmt.Errorf("cannot read the CPU limit of %s in %s: %w", name, path, err)
		}
		s[name] = int(math.Round(cpus * wholeCPU))
	}
	return s, nil
}

// compose is the split as a compose file that has the last word.
func (s split) compose() ([]byte, error) {
	f := limitsFile{Services: make(map[string]limitedService)}
	for name, limit := range s {
		var service limitedService
		service.Deploy.Resources.Limits.CPUs = fmt.Sprintf("%.3f", float64(limit)/wholeCPU)
		f.Services[name] = service
	}
	text, err := yaml.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("cannot write the limits: %w", err)
	}
	return text, nil
}

// partOf is what gets and gives together: galo's instances always have the same limits.
func partOf(service string) string {
	if strings.HasPrefix(service, galoPrefix) {
		return galoPrefix
	}
	return service
}

// parts are the split's, and how many services each has.
func (s split) parts() map[string]int {
	all := make(map[string]int)
	for service := range s {
		all[partOf(service)]++
	}
	return all
}

// of is what each service of a part may use.
func (s split) of(part string) int {
	for service, limit := range s {
		if partOf(service) == part {
			return limit
		}
	}
	return 0
}

// String has the parts in the order of their names.
func (s split) String() string {
	var all []string
	for _, part := range slices.Sorted(maps.Keys(s.parts())) {
		all = append(all, fmt.Sprintf("%s %.3f", part, float64(s.of(part))/wholeCPU))
	}
	return strings.Join(all, ", ")
}

// A move takes CPU from one part and gives it to another one.
type move struct{ from, to string }

// lowestLimit is a twentieth of a CPU: with less, a health check alone may take a period's quota.
const lowestLimit = 50

// moved is the split after a move; the sum stays. It says no where a service would have too little, or the step cannot be dealt out.
func (s split) moved(m move, step int) (split, bool) {
	next, parts := maps.Clone(s), s.parts()
	if step%parts[m.from] != 0 || step%parts[m.to] != 0 {
		return nil, false
	}
	for service := range next {
		switch partOf(service) {
		case m.from:
			next[service] -= step / parts[m.from]
		case m.to:
			next[service] += step / parts[m.to]
		}
	}
	return next, next.of(m.from) >= lowestLimit
}

// neighbours are the splits one move away. Those come first that give to the part that uses most of what it may, from the one that uses least of it.
func (s split) neighbours(step int, used map[string]float64) (all []split) {
	parts := slices.Sorted(maps.Keys(s.parts()))
	var moves []move
	for _, from := range parts {
		for _, to := range parts {
			if from != to {
				moves = append(moves, move{from, to})
			}
		}
	}
	slices.SortStableFunc(moves, func(a, b move) int { return cmp.Compare(used[b.to]-used[b.from], used[a.to]-used[a.from]) })
	for _, m := range moves {
		if next, ok := s.moved(m, step); ok {
			all = append(all, next)
		}
	}
	return all
}

// A trial is how the storm went under a split.
type trial struct {
	clean     bool // a stack that is not has no other figure that counts
	latency   quantiles
	throttled int64              // periods, of all containers
	used      map[string]float64 // by part: what share of the CPU that it might use it did
}

// alikeWithin is how much two figures may differ and say nothing: then the next one decides.
const alikeWithin = 0.05

// against compares two trials: above 0 the first is better. The first of p99, p99.9 and throttled periods that differs by more than alikeWithin
// decides, and is named.
func (t *trial) against(other *trial) (better int, by string) {
	if t.clean != other.clean {
		if t.clean {
			return 1, "verdict"
		}
		return -1, "verdict"
	}
	for _, f := range []struct {
		name       string
		mine, that int64
	}{
		{"p99", t.latency.P99, other.latency.P99},
		{"p99.9", t.latency.P999, other.latency.P999},
		{"throttled", t.throttled, other.throttled},
	} {
		if math.Abs(float64(f.mine-f.that)) > alikeWithin*float64(max(f.mine, f.that)) {
			return cmp.Compare(f.that, f.mine), f.name
		}
	}
	return 0, "nothing"
}

// A contest is a split that was tried beside another one, in turn.
type contest struct {
	now, tried   split
	nows, trieds []trial // of each round
	rounds       int     // as many as there may be
	remark       string
}

// wins is in how many rounds what was tried was better, and by what.
func (c *contest) wins() (n int, by map[string]int) {
	by = make(map[string]int)
	for i := range c.trieds {
		if better, name := c.trieds[i].against(&c.nows[i]); better > 0 {
			n++
			by[name]++
		}
	}
	return n, by
}

// won says whether what was tried was better in a majority of the rounds.
func (c *contest) won() bool {
	n, _ := c.wins()
	return 2*n > c.rounds
}

// decided says whether the rounds that are left could change anything.
func (c *contest) decided() bool {
	n, _ := c.wins()
	left := c.rounds - len(c.trieds)
	return c.won() || 2*(n+left) <= c.rounds
}

// memoryLimits proposes limits of memory in MB by part: the highest use of any of its services and a margin, the margin as much smaller as
// it has to be for all of them to be within most. It says no if there is no room even without one.
func memoryLimits(peaks map[string]int64, most int, margin float64) (limits map[string]int, kept float64, ok bool) {
	for percent := int(math.Round(margin * 100)); percent >= 0; percent-- {
		limits = make(map[string]int)
		for service, peak := range peaks {
			limit := int((peak*int64(100+percent) + 100*megabyte - 1) / (100 * megabyte)) // rounded up
			limits[partOf(service)] = max(limits[partOf(service)], limit)
		}
		sum := 0
		for service := range peaks {
			sum += limits[partOf(service)]
		}
		if sum <= most {
			return limits, float64(percent) / 100, true
		}
	}
	return nil, 0, false
}
