package main

import (
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
)

// A posted payment is what the judge keeps of one id over the whole run.
type posted struct {
	id       uuid.UUID
	amount   cents
	accepted bool // some answer to this amount was 202
	doubtful bool // some try may have reached galo without an answer
	other    bool // it was posted with another amount as well, when it was paid already
}

// A posting is one shot of a round's load: of which payment, and whether under another amount.
type posting struct {
	of    int // index into the payments of the run
	other bool
}

const (
	loadSalt     = 0x6c6f6164
	repeatedPart = 0.06 // of the payments come again, once to three times
	otherPart    = 0.01 // come again with another amount, once they are paid
	olderPart    = 0.01 // of the postings are of payments of earlier rounds
	repeatWithin = 20 * time.Second
	burstEvery   = 15 * time.Second // one id, many times at once, again and again: before, while and after it is paid
	burstSize    = 60
	burstTimes   = 3
	burstAgain   = 4 * time.Second
)

// A roundLoad is what is posted in one round, in the order of time.
type roundLoad struct {
	postings []posting
	shots    []shot // by posting
}

// planLoad decides who posts what and when. New payments are put at the end of the run's.
func planLoad(run *[]posted, rng *rand.Rand, length time.Duration, rate float64) roundLoad {
	older := len(*run)
	type dated struct {
		posting
		at time.Duration
	}
	var all []dated
	put := func(of int, other bool, at time.Duration) {
		if at < length {
			all = append(all, dated{posting{of, other}, at})
		}
	}
	fresh := func(at time.Duration) int {
		*run = append(*run, posted{id: uuid.New(), amount: 1 + cents(rng.Int64N(int64(dearestSale)))})
		put(len(*run)-1, false, at)
		return len(*run) - 1
	}
	again := func(at time.Duration) time.Duration { return at + time.Duration(rng.Int64N(int64(repeatWithin))) }
	for at := time.Duration(0); at < length; at += time.Duration(rng.ExpFloat64() / rate * float64(time.Second)) {
		of := fresh(at)
		if rng.Float64() < repeatedPart {
			for range 1 + rng.IntN(3) {
				put(of, false, again(at))
			}
		}
		if rng.Float64() < otherPart {
			put(of, true, again(at))
		}
		if older > 0 && rng.Float64() < olderPart {
			put(rng.IntN(older), false, at)
		}
	}
	for at := time.Duration(rng.Int64N(int64(burstEvery))); at < length; at += burstEvery {
		of := fresh(at)
		for n := range burstTimes {
			for range burstSize {
				put(of, false, at+time.Duration(n)*burstAgain)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b dated) int { return int(a.at - b.at) })
	var l roundLoad
	for _, d := range all {
		p := (*run)[d.of]
		amount := p.amount
		if d.other {
			amount++
		}
		l.postings = append(l.postings, d.posting)
		l.shots = append(l.shots, shot{at: d.at, id: p.id, amount: amount})
	}
	return l
}

// book writes down how the round's postings ended, and returns the answers that no client may get.
func (l roundLoad) book(run []posted, ends []shotEnd) (strange map[int]int) {
	strange = make(map[int]int)
	for i, p := range l.postings {
		if p.other && ends[i] != (shotEnd{}) {
			run[p.of].other = true
		}
	}
	for i, p := range l.postings {
		to, end := &run[p.of], ends[i]
		if !p.other {
			to.accepted = to.accepted || end.status == http.StatusAccepted
			to.doubtful = to.doubtful || end.doubtful
		}
		switch end.status {
		case 0, http.StatusAccepted, http.StatusServiceUnavailable:
		case http.StatusConflict:
			// Where the id is known with another amount only, even the right one conflicts.
			if !to.other {
				strange[end.status]++
			}
		default:
			strange[end.status]++
		}
	}
	return strange
}

// asJudged is the run's payments as the judge of every bench wants them.
func asJudged(run []posted) (shots []shot, ends []shotEnd) {
	shots, ends = make([]shot, len(run)), make([]shotEnd, len(run))
	for i, p := range run {
		shots[i] = shot{id: p.id, amount: p.amount}
		ends[i].doubtful = p.doubtful
		if p.accepted {
			ends[i].status = http.StatusAccepted
		}
	}
	return shots, ends
}
