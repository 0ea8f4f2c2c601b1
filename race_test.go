//go:build race

package main

// raceEnabled says that the race detector is compiled in. It allocates for its own book-keeping,
// so a test that counts allocations means nothing beside it.
const raceEnabled = true
