package main

import (
	"fmt"

	"github.com/alicebob/miniredis/v2"
)

// startEmbedded starts a Redis of this process's own, on a free loopback port, for when no other one is set. It
// keeps nothing: what it held is rebuilt from the journals. stop ends it and waits for its connections.
//
// Its expiries stand still, since its clock (FastForward) goes through a sorted list of all keys under its one
// lock. Nothing here needs them: the poll keys, the only ones that expire, say until when they hold.
func startEmbedded() (url string, stop func(), err error) {
	server := miniredis.NewMiniRedis()
	if err := server.StartAddr("127.0.0.1:0"); err != nil {
		return "", nil, fmt.Errorf("cannot start the embedded store: %w", err)
	}
	return "redis://" + server.Addr(), server.Close, nil
}
