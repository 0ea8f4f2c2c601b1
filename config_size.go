package main

import (
	"fmt"
	"strconv"
	"strings"
)

// What JOURNAL_MAX_SIZE may be: four segments are the least with which a journal can run.
const (
	leastJournal = 16 << 20
	mostJournal  = 1 << 50
)

// aSize allows 0, and bytes from least to most, with or without a unit.
func aSize(least, most int64, field func(*config) *int64) valueKind {
	return valueKind{
		allowed: fmt.Sprintf("0, or bytes from %d to %d, such as 67108864, 512MiB or 10GiB (KiB, MiB, GiB, TiB)", least, most),
		set: func(c *config, value string) bool {
			n, ok := parseSize(value)
			*field(c) = n
			return ok && (n == 0 || n >= least && n <= most)
		},
	}
}

// parseSize reads a whole number of bytes, or of one of the binary units.
func parseSize(text string) (int64, bool) {
	for i, unit := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if number, ok := strings.CutSuffix(text, unit); ok {
			n, err := strconv.ParseInt(number, 10, 64)
			shift := 10 * (i + 1)
			return n << shift, err == nil && n >= 0 && n<<shift>>shift == n && onlyOf(number, "0123456789")
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil && onlyOf(text, "0123456789")
}
