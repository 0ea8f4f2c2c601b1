//go:build !race

package main

// raceEnabled says whether the race detector is compiled in; see race_test.go.
const raceEnabled = false
