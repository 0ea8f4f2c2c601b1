package main

import (
	"context"
	"sync"
)

// lifeWatch is what workers know of Redis's present life: its token once every journal has reported in it, and nothing before.
type lifeWatch struct {
	mu    sync.Mutex
	token lifeToken     // "" while no life is ready
	ready chan struct{} // closed while one is
}

func newLifeWatch() *lifeWatch { return &lifeWatch{ready: make(chan struct{})} }

// await returns the token of the life in which claims may be made. It is false when ctx ends first.
func (l *lifeWatch) await(ctx context.Context) (lifeToken, bool) {
	for {
		l.mu.Lock()
		token, ready := l.token, l.ready
		l.mu.Unlock()
		if token != "" {
			return token, true
		}
		select {
		case <-ready:
		case <-ctx.Done():
			return "", false
		}
	}
}

// begun says that a life is ready; it is true if that is news.
func (l *lifeWatch) begun(token lifeToken) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := l.token != token
	if l.token == "" {
		close(l.ready)
	}
	l.token = token
	return news
}

// lost says that a life is over; of one that is over already it says nothing new.
func (l *lifeWatch) lost(token lifeToken) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token == token {
		l.end()
	}
}

// lostUnless says that every life but this one is over.
func (l *lifeWatch) lostUnless(token lifeToken) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.token != token {
		l.end()
	}
}

func (l *lifeWatch) end() {
	if l.token != "" {
		l.token, l.ready = "", make(chan struct{})
	}
}

// present is the life in which claims may be made, or "".
func (l *lifeWatch) present() lifeToken {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.token
}
