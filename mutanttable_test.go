package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// mutant is galo broken on purpose in one place. Something has to notice.
type mutant struct {
	name  string // what it does, as in "galo ..."
	file  string
	edits []edit
	// model says that random schedules find it; tests, a pattern, which tests do. Each of the two that is there has to.
	model bool
	tests string
}

// edit replaces text that is there exactly once.
type edit struct{ old, new string }

// mutants is the table. Each invariant of the model, and each promise that a test of its own holds, is broken here at least once.
var mutants = []mutant{
	{
		name: "works with a store that is laid out otherwise",
		file: "redisscripts.go", tests: "TestStoreOfAnotherVersionIsRefused",
		edits: []edit{{`if layout ~= ARGV[5] then`, `if false then`}},
	},
	{
		name: "says that nobody knows what was settled while others were asked",
		file: "finder.go", tests: "TestSettledWhileOthersAreAskedIsNo404|TestTakenOverWhileOthersAreAskedIsNo404",
		edits: []edit{{`	p, what, err = f.look(ctx, id)
`, ``}},
	},
	{
		name: "believes the amount that goes with a garbled word",
		file: "damage.go", tests: "TestGarbageThatPassesForAWordIsNotBooked",
		edits: []edit{{` && w.state() == slotSent && !w.foreign() {`, ` && w.state() == slotSent {`}, {` && w.pinned() && !w.foreign() && w`, ` && w.pinned() && w`}},
	},
	{
		name: "believes the instant in a garbled word",
		file: "mend.go", tests: "TestGarbageThatPassesForAWordIsNotBooked",
		edits: []edit{{` && m.plausible(rec.acceptedAt, v.word) && `, ` && `}},
	},
	{
		name: "believes the instant in a garbled word where the rest of the slot is whole",
		file: "mend.go", tests: "TestGarbageThatPassesForAWordIsNotBooked",
		edits: []edit{{` && m.plausible(v.acceptedAt, v.word):`, `:`}},
	},
	{
		name: "believes a word that reads sent after a power loss",
		file: "recover.go", tests: "TestAfterAPowerLossWhatReadsSentMayBeAtTheOther",
		edits: []edit{{`if seg.head.boot != j.boot { // it may have been refused since`, `if false { // it may have been refused since`}},
	},
	{
		name: "takes a look-up for the last word while an attempt from before a power loss may be under way",
		file: "resolver.go", tests: "TestAfterAPowerLossAnAttemptMayStillLand",
		edits: []edit{{`case answered && !asked.Before(certain):`, `case answered && !asked.Before(d.since):`}},
	},
	{
		name: "sends what lost its claim before a power loss without asking",
		file: "elsewhere.go", tests: "TestAfterAPowerLossWhatReadsSentMayBeAtTheOther",
		edits: []edit{{`case e.ledger.late(v), e.ledger.outlivedHost(v.ref):`, `case e.ledger.late(v):`}},
	},
	{
		name: "takes pages for written that the kernel could not write",
		file: "segment.go", tests: "TestSyncThatFailedIsNotBelievedTheSecondTime",
		edits: []edit{{`		s.slots[i].word.Add(0)
`, `		_ = i
`}},
	},
	{
		name: "does not write to the disk what an earlier process had stored",
		file: "recover.go", tests: "TestSyncAfterAStartWritesWhatWasThere",
		edits: []edit{{`			seg.soilAll() // the process before may have died before it had synced, or after it could not
`, ``}},
	},
	{
		name: "takes the loser of a race for the winner after a start",
		file: "recover.go", tests: "TestLoserOfARaceIsNotTakenForTheWinner",
		edits: []edit{{`		if w.state().loser() {`, `		if false {`}},
	},
	{
		name: "lets a full Redis refuse what would make room in it",
		file: "redisscripts.go", tests: "TestFullRedisCanBeMadeRoomIn",
		edits: []edit{{`redis.call('PERSIST', KEYS[1])
`, ``}},
	},
	{
		name: "takes a life for one that is not ready when an answer comes late",
		file: "redisstore.go", tests: "TestLifeStaysReadyWhateverComesLate",
		edits: []edit{{`		if rest == stateReady {
			s.nowReady(t)
		}
`, `		s.current.Store(&life{token: t, ready: rest == stateReady})
`}},
	},
	{
		name: "settles from a journal that may have missed a purge",
		file: "settle.go", tests: "TestAdoptedJournalIsEnteredBeforeItIsSettled",
		edits: []edit{{`if s.inHand > 0 && !s.allReplayed(s.store.token()) {`, `if false {`}},
	},
	{
		name: "takes a doubled answer over TLS for the next one",
		file: "processorconn.go", tests: "TestDoubledAnswerOverTLSIsNotTheNextOnes",
		edits: []edit{{`	if !c.used {
`, `	if true {
`}},
	},
	{
		name: "lets what waits go more slowly than payments arrive",
		file: "pace.go", tests: "TestPaceIsAboveTheArrivals",
		edits: []edit{{`	c.perSecond = max(c.perSecond, slowestPace(rate))
`, `	c.perSecond = max(c.perSecond, firstPace)
`}},
	},
	{
		name: "has summaries wait behind look-ups of single payments",
		file: "server.go", tests: "TestSummariesDoNotWaitBehindLookUps",
		edits: []edit{{`s.queries.serve(s.getSummary)`, `s.lookUps.serve(s.getSummary)`}},
	},
	{
		name: "waits for the other processor where fees are equal",
		file: "policy.go", tests: "TestPolicyWaitsForNothingWhereFeesAreEqual",
		edits: []edit{{`		p.patience = 0 // there is nothing to wait for
`, ``}},
	},
	{
		name: "sends what was queued again by hand without asking",
		file: "operator.go", tests: "TestPaymentQueuedAgainIsLookedUpFirst",
		edits: []edit{{`	o.resolver.doubt(r) // it may`, `	o.feeder.add(r) // it may`}},
	},
	{
		name: "sends a payment whose outcome is unknown to the other processor",
		file: "worker.go", model: true, tests: "TestTimeoutStaysWithItsProcessor",
		edits: []edit{{`			if v, ok = p.ledger.pinned(v); ok {
				p.resolver.pin(v)
			}
			return
`, `			v, ok = p.ledger.refused(v)
			pm.processor = 1 - pm.processor
`}},
	},
	{
		name: "sends without a claim",
		file: "worker.go", model: true,
		edits: []edit{{`		err := w.store.claim(ctx, token, false, w.claims, w.answers[:len(w.claims)])
`, `		var err error
		clear(w.answers)
`}},
	},
	{
		name: "counts a payment at each time that it is settled",
		file: "redisscripts.go", tests: "TestSettlingInAnyOrderAndAgainGivesTheSame",
		edits: []edit{{`local new, spoilt, rejected = not old and not seen[field] and not forgotten, false, false`, `local new, spoilt, rejected = true, false, false`}},
	},
	{
		name: "does not count a payment in whose place the store has something else",
		file: "redisscripts.go", tests: "TestPaidPaymentReplacesWhatCannotBeRead",
		edits: []edit{{`(spoilt or (rejected and group))`, `(rejected and group)`}},
	},
	{
		name: "writes a record only where there is none, so that a torn half may come back in its place",
		file: "redisscripts.go", tests: "TestSettleThatWasTornOffDoesNotComeBack",
		edits: []edit{{`  redis.call('HSET', KEYS[6 + i], ARGV[fieldsAt + i], ARGV[paymentsAt + 4 * (i - 1) + 1])
`, `  redis.call('HSETNX', KEYS[6 + i], ARGV[fieldsAt + i], ARGV[paymentsAt + 4 * (i - 1) + 1])
`}},
	},
	{
		name: "says that a journal is settled although a record could not be written",
		file: "redisscripts.go", tests: "TestRecordThatCannotBeWrittenHoldsUpOnlyItsPayment",
		edits: []edit{{`if failed then
  return failed
end
`, ``}},
	},
	{
		name: "counts once more what was forgotten",
		file: "redisscripts.go", tests: "TestReplayOfForgottenPaymentsCountsNothing",
		edits: []edit{{`local forgotten = group and group.late and not claimed[i]`, `local forgotten = false`}},
	},
	{
		name: "answers before the payment is in the journal",
		file: "journal.go", model: true,
		edits: []edit{
			{`	s.seq, s.id, s.amount, s.acceptedAt = seq, *id, amount, acceptedAt
	s.sum = s.checksum(j.seed)
	accepted := word(0).with(slotAccepted)
	s.word.Store(uint64(accepted)) // published: from here on a crash does not lose it
`, `	accepted, copied := word(0).with(slotAccepted), *id
	time.AfterFunc(100*time.Microsecond, func() {
		s.seq, s.id, s.amount, s.acceptedAt = seq, copied, amount, acceptedAt
		s.sum = s.checksum(j.seed)
		s.word.Store(uint64(accepted))
	})
`},
			{`	"sync/atomic"
`, `	"sync/atomic"
	"time"
`}},
	},
	{
		name: "frees a pinned payment when its processor refuses it",
		file: "resolver.go", model: true,
		edits: []edit{{`	case outcomeRefused, outcomeBusy, outcomeUnknown:
	}
	return false
`, `	case outcomeRefused, outcomeBusy:
		if v, ok := r.ledger.replace(v, (v.word.with(slotAccepted) &^ wordPinned).checked(), 0); ok {
			r.feeder.add(v.ref)
		}
		return true
	case outcomeUnknown:
	}
	return false
`}},
	},
	{
		name: "rejects a pinned payment when its processor answers 400",
		file: "resolver.go", model: true,
		edits: []edit{{`	case outcomeMisconfigured, outcomeInvalid:
`, `	case outcomeInvalid:
		if v, ok := r.ledger.become(v, slotInvalid); ok {
			r.settler.add(v.ref)
		}
		return true
	case outcomeMisconfigured:
`}},
	},
	{
		name: "frees a pinned payment when its processor does not know it",
		file: "resolver.go", model: true,
		edits: []edit{{`	if res.kind != lookUpFound {
		return false
	}
`, `	if res.kind == lookUpAbsent && v.word.pinned() {
		if v, ok := r.ledger.replace(v, (v.word.with(slotAccepted) &^ wordPinned).checked(), 0); ok {
			r.feeder.add(v.ref)
		}
		return true
	}
	if res.kind != lookUpFound {
		return false
	}
`}},
	},
	{
		name: "sends a pinned payment again under another requestedAt",
		file: "resolver.go", model: true,
		edits: []edit{{`	res := r.processors[at].pay(v.id, v.amount, v.requestedAt)
`, `	res := r.processors[at].pay(v.id, v.amount, nowMicros())
`}},
	},
	{
		name: "takes what was sent before a crash as never sent",
		file: "recover.go", model: true, tests: "TestJournalReopenedAfterEveryState",
		edits: []edit{{`			f.sent = append(f.sent, r)
`, `			s.word.Store(uint64((w.with(slotAccepted) &^ wordPinned).checked()))
			f.accepted = append(f.accepted, r)
`}},
	},
	{
		name: "does not settle again what was paid before a crash",
		file: "recover.go", model: true, tests: "TestJournalReopenedAfterEveryState",
		edits: []edit{{`			f.settling = append(f.settling, r)
`, `			_ = r
`}},
	},
	{
		name: "appends where an earlier owner has told progress",
		file: "ledger.go", tests: "TestProgressEndsWhereTheNextOwnerAppends", // one schedule in some five thousand comes to it
		edits: []edit{{`		j.appendable = j.next.Load()
`, ``}},
	},
	{
		name: "sends under a claim of an earlier life",
		file: "worker.go", model: true, tests: "TestClaimOfAnEarlierLifeIsVoid",
		edits: []edit{{`	if ok && p.store.token() == token {
`, `	if ok {
`}},
	},
	{
		name: "journals an attempt as sent before it looks at the life",
		file: "worker.go", tests: "TestAttemptIsSentOnlyAfterTheLookAtTheLife",
		edits: []edit{{`	v, ok := p.ledger.leaving(v, pm.processor, nowMicros())
`, `	v, ok := p.ledger.sent(v, pm.processor, nowMicros())
`}},
	},
	{
		name: "lets claims be made in a life that is still replayed into",
		file: "redisscripts.go", tests: "TestClaimsNeedTheStateTheyWereMadeFor",
		edits: []edit{{`if ARGV[2] ~= 'any' and ARGV[2] ~= state then`, `if false then`}},
	},
	{
		name: "gives summaries without asking whether every instance is heard of",
		file: "summary.go", tests: "TestSummaryIsRefusedWhileAJournalIsSilent|TestNoSummaryLacksWhatAnInstancePaidThatHearsNothing",
		edits: []edit{{`	if len(journals) > 0 {
		if err`, `	if len(journals) > 0 && from > to {
		if err`}},
	},
	{
		name: "takes a backlog for settled when its first batch is",
		file: "settle.go", tests: "TestJournalLacksUntilTheBacklogIsSettled",
		edits: []edit{{`	if s.inHand < settleBatch {`, `	if s.inHand > 0 {`}},
	},
	{
		name: "takes leave of the store with an attempt out",
		file: "settle.go", tests: "TestSummariesWaitForWhatAStopLeftOut",
		edits: []edit{{`s.ledger.journalsAtRest()`, `s.ledger.journalNames()`}},
	},
	{
		name: "reports a journal before it is replayed",
		file: "replay.go", model: true,
		edits: []edit{{`			started := time.Now()
`, `			started := time.Now()
			names, _ := s.ledger.folder.journalIDs()
			s.store.report(ctx, born.token, j.id.String(), !s.lacking.Load(), texts(names))
`}},
	},
	{
		name: "says nothing at a heartbeat",
		file: "replay.go", tests: "TestJournalIsHeardOfUnderLoad|TestIdleInstanceIsHeardOf",
		edits: []edit{{`	if !s.beatDue {`, `	if s.beatDue = false; !s.beatDue {`}},
	},
	{
		name: "says at a heartbeat that a journal is settled which is adopted at that moment",
		file: "replay.go", tests: "TestOnlyReplayedJournalsAreHeardOf",
		edits: []edit{{`		if j.replayedIn != token {
			return nil, false
		}
`, ``}},
	},
	{
		name: "does not notice that workers wait for a life that goes on",
		file: "replay.go", tests: "TestLifeThatGoesOnIsReadyAgain",
		edits: []edit{{` && s.life.present() == token {`, ` {`}},
	},
	{
		name: "lets a purge's leavings be where the mark was heard of by another way",
		file: "redislife.go", tests: "TestBeatCleansUpAfterAPurgeElsewhere",
		edits: []edit{{`	s.cleaner.wake() // a purge may`, `	// a purge may`}},
	},
	{
		name: "lingers until much is there, however much comes",
		file: "linger.go", tests: "TestLingerIsUntilThereIsEnough",
		edits: []edit{{`return min(l.longest, time.Duration(l.enough)*l.gap)`, `return l.longest`}},
	},
	{
		name: "keeps its clients' connections as they were",
		file: "listener.go", tests: "TestInstanceIsQuietOnItsSockets",
		edits: []edit{{`return l.know(quieten(conn)), nil`, `return l.know(conn), nil`}},
	},
	{
		name: "does not look at the mark at a heartbeat",
		file: "redisscripts.go", tests: "TestBeatSaysWhatAReportSays",
		edits: []edit{{`script(luaLife + luaMark + luaWhenFull + luaHeard + luaBeat)`, `script(luaLife + luaWhenFull + luaHeard + luaBeat)`}},
	},
	{
		name: "never asks for news of room at a quiet connection",
		file: "quietconn.go", tests: "TestQuietConnIsToldOfNoRoomUntilThereIsNone",
		edits: []edit{{`func(uintptr) { err = c.at.ask(c.at.events) }`, `func(uintptr) { err = c.at.ask(c.at.events &^ unix.EPOLLOUT) }`}},
	},
	{
		name: "asks for a short slice for its first thread only",
		file: "sched.go", tests: "TestThreadsHaveShortSlices",
		edits: []edit{{`			if err := shortenSlice(id); err`, `			if id != os.Getpid() {
				continue
			}
			if err := shortenSlice(id); err`}},
	},
	{
		name: "is told of room at a quiet connection",
		file: "quietconn.go", tests: "TestQuietConnIsToldOfNoRoomUntilThereIsNone",
		edits: []edit{{`			err = c.at.ask(c.at.events &^ unix.EPOLLOUT)`, `			err = c.at.ask(c.at.events)`}},
	},
	{
		name: "does not wait for the journals of others",
		file: "replay.go", model: true,
		edits: []edit{{`s.store.report(ctx, born.token, j.id.String(), !s.lacking.Load(), texts(ids))`, `s.store.report(ctx, born.token, j.id.String(), !s.lacking.Load(), texts(ids[:0]))`}},
	},
	{
		name: "leaves the claims of what is out behind in a new life",
		file: "replay.go", model: true,
		edits: []edit{{`		case slotSent, slotLeaving:
			out = append(out, s.ledger.claimOf(v))
`, `		case slotSent, slotLeaving:
`}},
	},
	{
		name: "leaves the claim of a damaged slot behind in a new life",
		file: "replay.go", tests: "TestDamagedSlotKeepsItsIDInANewLife",
		edits: []edit{{`		case slotFree: // damaged, waits for the mender: may have been paid, or be out. It takes no claim from anybody
			out = append(out, s.ledger.claimOf(v))
`, `		case slotFree:
`}},
	},
	{
		name: "takes a damaged slot for accepted before both processors have answered",
		file: "mend.go", tests: "TestDamagedSlotStaysInDoubtOverAStart",
		edits: []edit{{`m.ledger.replace(v, damagedWord, 0)`, `m.ledger.replace(v, word(0).with(slotAccepted), 0)`}},
	},
	{
		name: "takes the later one of two racing slots for the duplicate",
		file: "recover.go", tests: "TestOfTwoRacingSlotsTheClaimDecides",
		edits: []edit{{`		seg.ids.insert(seg.slots, uint32(i), indexHash(&s.id))
`, `		if _, inserted := seg.ids.insert(seg.slots, uint32(i), indexHash(&s.id)); !inserted && w.state() == slotAccepted {
			w = w.with(slotDuplicate)
			s.word.Store(uint64(w))
		}
`}},
	},
	{
		name: "tells progress of journals that were not replayed",
		file: "settle.go", tests: "TestProgressIsOnlyOfJournalsThatWereReplayed",
		edits: []edit{{`		if j.replayedIn == token {
`, `		if token != "" {
`}},
	},
	{
		name: "journals as settled what the store has not confirmed",
		file: "settle.go", model: true,
		edits: []edit{{`	hidden, err := s.store.settle(ctx, token, s.mark(), s.batch, s.progress(token))
	if err != nil {
`, `	hidden, err := s.store.settle(ctx, token, s.mark(), s.batch, s.progress(token))
	if err != nil && ctx.Err() != nil {
`}},
	},
	{
		name: "takes a journal that has an owner",
		file: "folder.go", model: true, tests: "TestOneOwnerPerJournal",
		edits: []edit{{`	if errors.Is(err, unix.EWOULDBLOCK) {
		return errOwned
	}
`, `	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
`}},
	},
	{
		name: "takes a journal whose head is lost from its owner",
		file: "folder.go", tests: "TestLostHeadIsMadeAnew",
		edits: []edit{{`	if errors.Is(err, errOwned) {
		return nil, err
	}
	j, err := f.remakeHead(`, `	j, err := f.remakeHead(`}},
	},
	{
		name: "makes a head anew as if nothing had ever been queued again",
		file: "head.go", tests: "TestDamagedFieldOfAHeaderIsMended",
		edits: []edit{{`	head.requeued.Store(requeuedAny)
`, ``}},
	},
	{
		name: "takes a damaged version for another format",
		file: "segment.go", tests: "TestNoDamagedByteIsTakenForAnotherFormat",
		edits: []edit{{`newerVersion(h.version) && h.sum != h.checksum()`, `newerVersion(h.version)`}},
	},
	{
		name: "never takes over what an instance has left behind",
		file: "ledger.go", model: true, tests: "TestOrphanIsFinishedInPlace",
		edits: []edit{{`		return orphans[h.id]
`, `		return false
`}},
	},
	{
		name: "forgets what is not settled when it is purged",
		file: "retention.go", tests: "TestPurgeForgetsWhatIsSettledOnly",
		edits: []edit{{`if w := s.load(); w.state() == slotSettled || w.state() == slotRejected {`, `if w := s.load(); w != 0 {`}},
	},
	{
		name: "counts a segment's age from the acceptance of its payments",
		file: "retention.go", tests: "TestLateSettledPaymentOutlivesItsSettling",
		edits: []edit{{`	since := nowMicros()
`, `	since := seg.slots[0].acceptedAt
`}},
	},
	{
		name: "does not look for a purge elsewhere before it purges",
		file: "purge.go", tests: "TestPurgeGoesBeyondOneThatWasMissed",
		edits: []edit{{`	s.known = "" // of a purge elsewhere`, `	// of a purge elsewhere`}},
	},
	{
		name: "does not journal that a processor has refused",
		file: "ledger.go", tests: "TestJournalReopenedAfterEveryState",
		edits: []edit{{`	if v.word.pinned() {
		return v, true
	}
	return l.replace(v, v.word.with(slotAccepted), 0)
`, `	return v, true
`}},
	},
	{
		name: "takes a 422 as paid, without looking it up",
		file: "worker.go", model: true, tests: "TestTakenButAbsentIsKept",
		edits: []edit{{`		case outcomePaid:
`, `		case outcomePaid, outcomeTaken:
`}, {`		case outcomeUnknown, outcomeTaken:
`, `		case outcomeUnknown:
`}},
	},
	{
		name: "takes a page of HTML with a 200 as paid",
		file: "outcome.go", tests: "TestOutcomes",
		edits: []edit{{`	if !json.Valid(a.body) {
`, `	if !json.Valid(a.body) && len(a.body) == 0 {
`}},
	},
	{
		name: "takes a failure as a refusal after bytes were written",
		file: "processor.go", tests: "TestHangingIsUnknownInTime",
		edits: []edit{{`		result.outcome, result.detail = outcomeUnknown, err.detail()
`, `		result.outcome, result.detail = outcomeRefused, err.detail()
`}},
	},
	{
		name: "makes two payments of two racing requests with one id",
		file: "journal.go", tests: "TestSecondOfTwoRacingRequestsIsADuplicate",
		edits: []edit{{`	if at, inserted := seg.ids.insert(seg.slots, position, hash); !inserted {
`, `	if at, inserted := seg.ids.insert(seg.slots, position, hash); !inserted && at >= segmentSlots {
`}},
	},
	{
		name: "pays both amounts that came under one id",
		file: "worker.go", model: true,
		edits: []edit{{`		case claimWon:
`, `		case claimWon, claimHeld:
`}, {`		case claimHeld, claimFinal:
`, `		case claimFinal:
`}},
	},
	{
		name: "takes a claim that was won late as any other",
		file: "worker.go", tests: "TestRepeatThatIsClaimedLateIsNotPaidAgain",
		edits: []edit{{`			if (w.answers[i].anew || v.word.attempts() == 0) && w.ledger.late(v) {
`, `			if v.word.attempts() < 0 && w.ledger.late(v) {
`}},
	},
	{
		name: "takes a payment that was refused in an earlier life for one that was asked for",
		file: "worker.go", tests: "TestRepeatThatIsClaimedLateIsNotPaidAgain",
		edits: []edit{{`(w.answers[i].anew || v.word.attempts() == 0)`, `v.word.attempts() == 0`}},
	},
	{
		name: "takes old claims away from slots that are there",
		file: "retention.go", tests: "TestClaimOfASlotThatIsGoneIsRemoved",
		edits: []edit{{`	_, err := os.Stat(segmentPath(dir, c.seq>>segmentSlotsLog2))
`, `	_, err := os.Stat(segmentPath(dir, c.seq>>segmentSlotsLog2) + ".gone")
`}},
	},
	{
		name: "gives up a payment whose claim the store has lost",
		file: "elsewhere.go", tests: "TestLoserClaimsAnewWhenTheClaimIsLost",
		edits: []edit{{`		case !f.found:
`, `		case !f.found && e.ledger.retention < 0:
`}},
	},
	{
		name: "tells nobody that one id came with two amounts",
		file: "elsewhere.go", model: true, tests: "TestTwoAmountsAtTwoInstancesAreAConflict",
		edits: []edit{{`		case f.found && f.amount != v.amount:
`, `		case f.found && f.amount < 0:
`}},
	},
	{
		name: "reserves no room for a payment before it is in the journal",
		file: "ledger.go", tests: "TestFullQueueAcceptsNothing",
		edits: []edit{{`	if l.pending.Add(1) > l.maxPending {
`, `	if l.pending.Add(1) < 0 {
`}},
	},
	{
		name: "takes the answer to its own repeated claim as another's",
		file: "redispayments.go", tests: "TestSlotThatAsksAgainKeepsItsClaim",
		edits: []edit{{`	case rec.journal == c.journal && rec.seq == c.seq:
`, `	case rec.journal == c.journal && rec.seq == c.seq && c.amount < 0:
`}},
	},
	{
		name: "takes a processor's whole limit at each instance",
		file: "policy.go", tests: "TestInstancesShareWhatAProcessorServes",
		edits: []edit{{`max(1, p.limit/p.peers())`, `p.limit`}},
	},
	{
		name: "counts instances that are gone",
		file: "redisscripts.go", tests: "TestInstancesAreCounted",
		edits: []edit{{`redis.call('ZREMRANGEBYSCORE', key, '-inf', string.format('(%.0f', now - within))
`, ``}},
	},
	{
		name: "goes to the dearer processor before patience is over",
		file: "policy.go", tests: "TestPolicyHoldsForItsPatienceThenGoesToTheDearer",
		edits: []edit{{`if beyond >= 0 && !awaits {`, `if !awaits {`}},
	},
	{
		name: "believes a finding however old it is",
		file: "policy.go", tests: "TestFindingsOfOthersAreHints",
		edits: []edit{{`> findingLife {`, `> 1000*findingLife {`}},
	},
	{
		name: "believes health rather than what it has just seen",
		file: "policy.go", tests: "TestOwnAnswersOutweighHealth",
		edits: []edit{{`now.Sub(s.spokenAt) > ownWord {`, `now.Sub(s.spokenAt) >= 0 {`}},
	},
	{
		name: "opens a processor for an answer that was given before the refusal",
		file: "policy.go", tests: "TestASuccessThatCrossesTheRefusalDoesNotOpen",
		edits: []edit{{`now.Sub(s.closedAt) > aboutThen)`, `now.Sub(s.closedAt) >= 0)`}},
	},
	{
		name: "learns from an answer to an attempt of long ago",
		file: "policystate.go", tests: "TestTheYoungestAttemptHasTheLastWord",
		edits: []edit{{`return s.spokenAt.Sub(wentOut) <= max(aboutThen, s.answer/4)`, `return true`}},
	},
	{
		name: "sends as many as it may to a processor that has not answered yet",
		file: "policystate.go", tests: "TestTheWindowOpensInSteps|TestHangingSendsCloseTheGateForOthers",
		edits: []edit{{`return firstWindow + 2*max(`, `return attemptsKept + 2*max(`}},
	},
	{
		name: "lets all go at once that it held",
		file: "pace.go", tests: "TestPolicyPacesWhatItHeld",
		edits: []edit{{`if !c.on || !now.Before(c.nextAt) {`, `if !c.on || !now.Before(c.judgedAt) {`}},
	},
	{
		name: "sends a payment on a connection that its processor has given up",
		file: "processorconn.go", tests: "TestClosedWhileIdle|TestUnaskedAnswerIsNotBelieved",
		edits: []edit{{`	if c.stale = !c.silent(fd); c.stale {`, `	if c.stale = false; c.stale {`}},
	},
	{
		name: "waits for ever for a client",
		file: "knownconn.go", tests: "TestIdleConnectionIsClosedInTime|TestHalfARequestIsAnsweredInTime",
		edits: []edit{{`	if shall && c.state.`, `	if false && c.state.`}},
	},
	{
		name: "cuts off a client for the time that its own handler took",
		file: "knownconn.go", tests: "TestHandlerMayTakeItsTime|TestRequestThatComesAsItsConnectionIsCutOffIsServed",
		edits: []edit{{`		c.Conn.SetDeadline(time.Time{})
`, ``}},
	},
	{
		name: "leaves what changed in a segment out of a sync",
		file: "segment.go", tests: "TestEveryStoreIsMarkedForTheNextSync",
		edits: []edit{{`	if !s.dirty.Load() {`, `	if s.dirty.Load() {`}},
	},
	{
		name: "loses a flight that finds no goroutine",
		file: "flights.go", tests: "TestFlightsDoNotWaitForEachOther",
		edits: []edit{{`		f.begin(one)
`, ``}},
	},
	{
		name: "looks at a slow processor with every payment",
		file: "policy.go", tests: "TestFewLookAtASlowProcessorWhileThereIsPatience",
		edits: []edit{{`cheap.noNews(now, rate)`, `true`}},
	},
	{
		name: "pays at the dearer processor that comes back first, without waiting for the probe of the cheaper one",
		file: "policy.go", tests: "TestWhenTheDearerIsBackPaymentsWaitForTheProbeOfTheCheaper",
		edits: []edit{{`		cheap.probesOut > 0 && now.Sub(dear.openedAt) < moment //`, `		false //`}},
	},
}

// mutated returns a file's text as a mutant has it.
func (m *mutant) mutated(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	changed := string(text)
	for _, e := range m.edits {
		if n := strings.Count(changed, e.old); n != 1 {
			t.Errorf("what the mutant replaces is %d times in %s, want once:\n%s", n, m.file, e.old)
		}
		changed = strings.Replace(changed, e.old, e.new, 1)
	}
	return changed
}

// TestMutantsFitTheCode: a mutant whose place in the code has changed would break nothing, or something else, and one whose tests have other
// names is not looked for. Whether they are caught is for go test -tags mutants -run TestMutantsAreCaught.
func TestMutantsFitTheCode(t *testing.T) {
	tests := testNames(t)
	names := make(map[string]bool)
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			if m.mutated(t); names[m.name] || !m.model && m.tests == "" {
				t.Error("nothing has to catch it, or its name is there twice")
			}
			for one := range strings.SplitSeq(m.tests, "|") {
				if name, _, _ := strings.Cut(one, "/"); name != "" && !tests[name] {
					t.Errorf("there is no test %s", name)
				}
			}
		})
		names[m.name] = true
	}
}

// testNames are the names of all tests here.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	files, err := filepath.Glob("*_test.go")
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, found := range regexp.MustCompile(`(?m)^func (Test\w+|Fuzz\w+)\(`).FindAllSubmatch(text, -1) {
			names[string(found[1])] = true
		}
	}
	return names
}
