package main

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lookedAt notes the state of one slot each time that somebody asks for the store's life.
type lookedAt struct {
	*bubble
	id   paymentID
	mu   sync.Mutex
	seen []slotState
}

func (l *lookedAt) token() lifeToken {
	if v, known := l.ledger.find(&l.id, indexHash(&l.id)); known {
		l.mu.Lock()
		l.seen = append(l.seen, v.word.state())
		l.mu.Unlock()
	}
	return l.bubble.token()
}

// TestAttemptIsSentOnlyAfterTheLookAtTheLife: at that look the slot reads leaving. If it read sent, a crash just then would leave an
// attempt without a claim in the life that has begun meanwhile.
func TestAttemptIsSentOnlyAfterTheLookAtTheLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		b := newBubble(t, ctx, time.Second)
		synctest.Wait()
		looked := &lookedAt{bubble: b, id: nthID(1)}
		b.payer.store = looked
		b.accept(t, 1)
		<-b.settled
		stop()
		synctest.Wait()
		b.policy.(*policy).stop()
		if want := []slotState{slotLeaving}; !slices.Equal(looked.seen, want) {
			t.Errorf("the slot read %v, want %v", looked.seen, want)
		}
	})
}
