//go:build smallsegments

package main

// segmentSlotsLog2 gives a segment 32 slots. This is for the model of the protocol alone (go test -tags smallsegments): it opens
// dozens of journals in a schedule, and goes through a segment with a few payments. No galo is built like this.
const segmentSlotsLog2 = 5
