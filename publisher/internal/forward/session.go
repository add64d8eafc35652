package forward

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/publisher/internal/backoff"
	"github.com/nats-io/nats.go"
)

// session publishes from one comparison of journal and stream until the next one. Only the goroutine of run uses its fields. What
// may block runs in other goroutines, each of which returns a function that the goroutine of run calls.
type session struct {
	f      *Forwarder
	target Target
	plan   plan
	p      *pipeline

	nc    *nats.Conn
	sub   *nats.Subscription
	inbox string
	acks  chan *nats.Msg
	// listener receives a value when nc is lost. status is the same channel, or nil after the loss was handled.
	listener, status chan nats.Status

	records chan []Record
	pending []Record // records that were read and not admitted
	results chan func(now time.Time)
	work    sync.WaitGroup
	readers chan struct{} // limits how many duplicates are read back at once

	connecting, infoRequested, saving bool

	room      int64 // number of bytes that may be published before the next question for room
	unsaved   int64 // bytes acknowledged since the last checkpoint
	saveAt    time.Time
	inspectAt time.Time
	healthAt  time.Time
	lossSince time.Time // since when the stream seems to have lost events

	refilled        uint64
	checkpointCalls []chan error // calls of Checkpoint that wait for the next checkpoint

	ended  bool
	result error     // why the session ends
	until  time.Time // the session waits for answers until then
}

var (
	// errResume ends a session because the stream must be compared with the journal.
	errResume = errors.New("compare the stream again")
	// errFailedStore ends a session because the embedded store must be restarted.
	errFailedStore = errors.New("the embedded store has failed")
)

const (
	batchBytes = 1 << 20
	roomBytes  = 256 << 10 // number of bytes in one question for room, or fewer for a small stream
	// When the journal has no more records, the reader waits this long for each record that it has just read, so that new records can
	// gather. Below 5,000 records a second this has no effect. Above, several records are published at once, with fewer wake-ups.
	gatherPerRecord = 200 * time.Microsecond
	maxGather       = 20 * time.Millisecond
)

func newSession(f *Forwarder, p plan) *session {
	now := time.Now()
	s := &session{
		f: f, target: f.opts.Target, plan: p, p: newPipeline(f.limits, p.after, p.below, p.highest, rand.Float64),
		acks: make(chan *nats.Msg, 4*f.limits.window), records: make(chan []Record, 1), results: make(chan func(time.Time)),
		readers: make(chan struct{}, scanners),
		saveAt:  now.Add(f.timing.checkpoint), inspectAt: now.Add(f.timing.inspect), healthAt: now,
	}
	switch {
	case p.situation.lost():
		s.p.republish = p.refill
	case p.situation == doubtful:
		s.p.republish, s.p.doubt = f.opts.Journal.Durable(), true
	}
	return s
}

// run publishes until ctx ends, or until something must be done outside of a session, which is an error.
func (s *session) run(ctx context.Context) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer s.work.Wait()
	defer cancel()
	defer s.disconnect()
	s.work.Go(func() { s.read(work) })
	s.connect(work)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var armed time.Time
	for stop := ctx.Done(); ; {
		now := time.Now()
		for range len(s.acks) { // before an attempt is treated as unanswered
			s.answer(<-s.acks, now)
		}
		s.step(work, now)
		if s.isDone(now) {
			break
		}
		if due := s.due(now); !armed.After(now) || due.Before(armed) {
			timer.Reset(due.Sub(now))
			armed = due
		}
		select {
		case m := <-s.acks:
			s.answer(m, time.Now())
		case s.pending = <-s.input():
		case then := <-s.results:
			then(time.Now())
		case done := <-s.f.checkpoints:
			s.checkpointCalls = append(s.checkpointCalls, done)
		case <-s.status:
			s.status = nil
			s.connectionLost(work, "the connection was lost", time.Now())
		case <-timer.C:
		case <-stop:
			s.end(nil, time.Now())
			stop = nil
		}
	}
	if s.result == nil {
		s.result = s.saveNow(work)
		s.report()
	}
	answerAll(s.checkpointCalls, s.result)
	return s.result
}

// input returns the channel of records, or nil while there are records that were not admitted.
func (s *session) input() <-chan []Record {
	if len(s.pending) > 0 {
		return nil
	}
	return s.records
}

// step does all work that needs no waiting.
func (s *session) step(ctx context.Context, now time.Time) {
	s.p.advance(now)
	s.admit(now)
	if !s.ended && s.nc != nil && !s.connecting {
		s.publish(ctx, now)
	}
	for _, i := range s.p.toReadBack {
		s.readBack(ctx, i)
	}
	for _, i := range s.p.toPark {
		s.parkRecord(ctx, i)
	}
	s.p.toReadBack, s.p.toPark = s.p.toReadBack[:0], s.p.toPark[:0]
	if !s.ended {
		s.watch(ctx, now)
	}
	s.report()
}

// watch starts what is due: an inspection of the stream, a checkpoint, a health check.
func (s *session) watch(ctx context.Context, now time.Time) {
	inspect := !now.Before(s.inspectAt) && !s.p.stopped()
	if !s.infoRequested && (inspect || s.p.probeDue(now)) {
		s.requestInfo(ctx)
	}
	if len(s.checkpointCalls) > 0 || !now.Before(s.saveAt) || s.unsaved >= checkpointBytes {
		s.save(ctx, now)
	}
	if now.Before(s.healthAt) {
		return
	}
	if now.Sub(s.healthAt) > s.f.timing.silence/2 {
		s.p.unansweredSince = time.Time{} // the process was suspended
	}
	s.healthAt = now.Add(s.f.timing.health)
	if !s.p.stopped() {
		s.compareStale(now)
	}
	if !s.target.Exact() {
		return
	}
	if err := s.target.Failed(); err != nil {
		s.end(fmt.Errorf("%w: %w", errFailedStore, err), now)
	} else if s.p.silent(now) >= s.f.timing.silence {
		s.end(fmt.Errorf("%w: no publish was answered for %s", errFailedStore, s.f.timing.silence), now)
	}
}

// due returns when step must be called again.
func (s *session) due(now time.Time) time.Time {
	at := s.saveAt
	for _, t := range []time.Time{s.inspectAt, s.p.due(), s.until} {
		if t.After(now) && t.Before(at) {
			at = t
		}
	}
	if s.healthAt.Before(at) {
		at = s.healthAt
	}
	if at.Before(now) {
		return now.Add(s.f.timing.health) // something is overdue that waits for a result
	}
	return at
}

// end stops publishing. The session is done when everything in flight has its outcome.
func (s *session) end(err error, now time.Time) {
	if s.ended {
		return
	}
	s.ended, s.result, s.until = true, err, now.Add(s.f.timing.timeout)
	if errors.Is(err, errFailedStore) {
		s.until = now
	}
}

// isDone reports whether the session has ended and does not wait for anything any more.
func (s *session) isDone(now time.Time) bool {
	busy := s.p.counts[inFlight] + s.p.counts[readingBack] + s.p.counts[parking]
	return s.ended && !s.saving && (busy == 0 || !now.Before(s.until))
}

// read sends the journal's records to the session, in order. It adds records to a batch that was not received yet, so that no
// record waits for the next one.
func (s *session) read(ctx context.Context) {
	reader := s.f.opts.Journal.NewReader(s.plan.after)
	bytes, gathered := int64(0), 0
	for {
		r, err := reader.Next(ctx)
		if err != nil {
			s.async(ctx, func() func(time.Time) {
				return func(now time.Time) { s.end(fmt.Errorf("read the journal: %w", err), now) }
			})
			return
		}
		batch := []Record{r}
		if bytes += r.size(); bytes < batchBytes {
			select {
			case unread := <-s.records:
				batch = append(unread, batch...)
			default:
				bytes = r.size()
			}
		} else {
			bytes = r.size()
		}
		select {
		case s.records <- batch:
		case <-ctx.Done():
			return
		}
		if gathered++; s.f.opts.Journal.Durable() <= r.Sequence {
			_ = backoff.Wait(ctx, min(time.Duration(gathered)*gatherPerRecord, maxGather)) // Next returns ctx's error
			gathered = 0
		}
	}
}

// async runs work in another goroutine, and the function that it returns in the session's goroutine.
func (s *session) async(ctx context.Context, work func() func(now time.Time)) {
	s.work.Go(func() {
		then := work()
		select {
		case s.results <- then:
		case <-ctx.Done():
		}
	})
}

// admit moves records into the pipeline while there is room.
func (s *session) admit(now time.Time) {
	for len(s.pending) > 0 && s.p.room() {
		r := s.pending[0]
		s.pending = s.pending[1:]
		if s.skips(&r, now) {
			s.p.skip(r.Sequence)
		} else {
			s.p.admit(r)
		}
	}
	// There are no records for the sequences that the journal has skipped.
	if f := s.f; len(s.pending) == 0 && s.p.last >= f.holeAfter && s.p.last < f.holeEnd {
		s.p.skip(f.holeEnd)
	}
}

// skips reports whether a record need not be published.
func (s *session) skips(r *Record, now time.Time) bool {
	if r.Local {
		return true
	}
	if s.plan.has(r) {
		s.f.total.Present++
		return true
	}
	if _, ok := s.f.finishedElsewhere[r.Sequence]; ok {
		return true
	}
	old := s.f.opts.Retention > 0 && now.Sub(r.Time) > s.f.opts.Retention
	return r.Sequence <= s.plan.refill && (r.Sequence <= s.plan.trimmed || old)
}

// report updates the figures and the state of the forwarder, and wakes calls of Wait.
func (s *session) report() {
	f := s.f
	prefix, _ := s.p.prefix()
	oldest := time.Time{}
	if len(s.p.order) > 0 {
		oldest = s.p.order[0].Time
	} else if len(s.pending) > 0 {
		oldest = s.pending[0].Time
	}
	last := s.p.last
	if n := len(s.pending); n > 0 {
		last = s.pending[n-1].Sequence
	}
	f.mu.Lock()
	f.last, f.open, f.oldest, f.prefix = last, uint64(len(s.p.items)+len(s.pending)), oldest, prefix
	f.stats.Counters = f.total
	if f.saved != nil {
		f.stats.Checkpoint = f.saved.Sequence
	}
	before := f.stats.State
	rest := f.waiters[:0]
	for _, w := range f.waiters {
		if prefix >= w.through {
			close(w.done)
		} else {
			rest = append(rest, w)
		}
	}
	f.waiters = rest
	f.mu.Unlock()
	f.setState(s.p.state(before))
}
