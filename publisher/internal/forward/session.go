package forward

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// session publishes from one comparison of journal and stream to the next one.
// One goroutine owns it; what may block runs in others, which hand back a
// function for the owner to call.
type session struct {
	f      *Forwarder
	target Target
	plan   plan
	p      *pipeline

	nc    *nats.Conn
	sub   *nats.Subscription
	inbox string
	acks  chan *nats.Msg
	// listener gets a value when nc is lost; status is the same channel, or nil
	// while that is known.
	listener, status chan nats.Status

	records chan []Record
	pending []Record // read and not admitted
	results chan func(now time.Time)
	work    sync.WaitGroup
	readers chan struct{} // bounds how many duplicates are read back at once

	connecting, inquiring, saving bool

	room    int64 // bytes that may be published before the target is asked for room again
	unsaved int64 // bytes acknowledged since the last checkpoint
	saveAt  time.Time
	lookAt  time.Time
	checkAt time.Time
	suspect time.Time // since when the stream seems to have lost events

	refilled uint64
	asking   []chan error // calls of Checkpoint that wait for the next save

	ended  bool
	result error     // why the session ends
	until  time.Time // answers are awaited until then
}

var (
	// errResume ends a session: the stream has to be compared with the journal.
	errResume = errors.New("compare the stream again")
	// errFailedStore ends a session: the embedded store has to be restarted.
	errFailedStore = errors.New("the embedded store has failed")
)

const (
	batchBytes = 1 << 20
	roomBytes  = 256 << 10 // that is asked for at once, or less in a small stream
	// When the journal has no more records, the reader lets new ones gather, for this
	// long for each record that it has just read. Below 5,000 records a second nothing
	// gathers. Above, many are published at once, which takes fewer wake-ups for each.
	gatherPerRecord = 200 * time.Microsecond
	maxGather       = 20 * time.Millisecond
)

func newSession(f *Forwarder, p plan) *session {
	now := time.Now()
	s := &session{
		f: f, target: f.opts.Target, plan: p, p: newPipeline(f.limits, p.after, p.below, p.highest, rand.Float64),
		acks: make(chan *nats.Msg, 4*f.limits.window), records: make(chan []Record, 1), results: make(chan func(time.Time)),
		readers: make(chan struct{}, scanners),
		saveAt:  now.Add(f.timing.checkpoint), lookAt: now.Add(f.timing.look), checkAt: now,
	}
	switch {
	case p.situation.lost():
		s.p.again = p.refill
	case p.situation == doubtful:
		s.p.again, s.p.doubt = f.opts.Journal.Durable(), true
	}
	return s
}

// run publishes until ctx ends (nil), or until something has to be done outside
// of a session.
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
		for range len(s.acks) { // before timeouts are judged
			s.answer(<-s.acks, now)
		}
		s.step(work, now)
		if s.over(now) {
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
		case done := <-s.f.saves:
			s.asking = append(s.asking, done)
		case <-s.status:
			s.status = nil
			s.lose(work, "the connection was lost", time.Now())
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
	answerAll(s.asking, s.result)
	return s.result
}

// input is where records come from, while there is none that waits.
func (s *session) input() <-chan []Record {
	if len(s.pending) > 0 {
		return nil
	}
	return s.records
}

// step does everything that can be done without waiting.
func (s *session) step(ctx context.Context, now time.Time) {
	s.p.advance(now)
	s.admit(now)
	if !s.ended && s.nc != nil && !s.connecting {
		s.publish(ctx, now)
	}
	for _, i := range s.p.settle {
		s.readBack(ctx, i)
	}
	for _, i := range s.p.park {
		s.parkRecord(ctx, i)
	}
	s.p.settle, s.p.park = s.p.settle[:0], s.p.park[:0]
	if !s.ended {
		s.watch(ctx, now)
	}
	s.report()
}

// watch starts what is due: a question to the stream, a checkpoint, a restart.
func (s *session) watch(ctx context.Context, now time.Time) {
	look := !now.Before(s.lookAt) && !s.p.stopped()
	if !s.inquiring && (look || s.p.probeDue(now)) {
		s.ask(ctx)
	}
	if len(s.asking) > 0 || !now.Before(s.saveAt) || s.unsaved >= checkpointBytes {
		s.save(ctx, now)
	}
	if now.Before(s.checkAt) {
		return
	}
	if now.Sub(s.checkAt) > s.f.timing.silence/2 {
		s.p.asked = time.Time{} // the process was paused
	}
	s.checkAt = now.Add(s.f.timing.check)
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

// due returns when step has something to do.
func (s *session) due(now time.Time) time.Time {
	at := s.saveAt
	for _, t := range []time.Time{s.lookAt, s.p.due(), s.until} {
		if t.After(now) && t.Before(at) {
			at = t
		}
	}
	if s.checkAt.Before(at) {
		at = s.checkAt
	}
	if at.Before(now) {
		return now.Add(s.f.timing.check) // a result is awaited
	}
	return at
}

// end stops publishing. The session is over when everything in flight has its
// outcome.
func (s *session) end(err error, now time.Time) {
	if s.ended {
		return
	}
	s.ended, s.result, s.until = true, err, now.Add(s.f.timing.timeout)
	if errors.Is(err, errFailedStore) {
		s.until = now
	}
}

// over reports whether the session has ended and nothing is awaited any more.
func (s *session) over(now time.Time) bool {
	busy := s.p.counts[inFlight] + s.p.counts[settling] + s.p.counts[parking]
	return s.ended && !s.saving && (busy == 0 || !now.Before(s.until))
}

// read hands over the journal's records in order. It appends to what was not
// fetched yet, so that no record waits for the next one.
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
			_ = sleep(ctx, min(time.Duration(gathered)*gatherPerRecord, maxGather)) // Next returns ctx's error
			gathered = 0
		}
	}
}

// async runs work in another goroutine, and what it returns in the session's.
func (s *session) async(ctx context.Context, work func() func(now time.Time)) {
	s.work.Go(func() {
		then := work()
		select {
		case s.results <- then:
		case <-ctx.Done():
		}
	})
}

// admit brings records into the pipeline while there is room.
func (s *session) admit(now time.Time) {
	for len(s.pending) > 0 && s.p.room() {
		r := s.pending[0]
		s.pending = s.pending[1:]
		if s.skips(&r, now) {
			s.p.pass(r.Sequence)
		} else {
			s.p.admit(r)
		}
	}
	// The sequences that the journal has skipped have no record.
	if f := s.f; len(s.pending) == 0 && s.p.last >= f.holeAfter && s.p.last < f.holeEnd {
		s.p.pass(f.holeEnd)
	}
}

// skips reports whether a record needs no publish.
func (s *session) skips(r *Record, now time.Time) bool {
	if r.Local {
		return true
	}
	if s.plan.has(r) {
		s.f.total.Present++
		return true
	}
	if _, ok := s.f.settled[r.Sequence]; ok {
		return true
	}
	old := s.f.opts.Retention > 0 && now.Sub(r.Time) > s.f.opts.Retention
	return r.Sequence <= s.plan.refill && (r.Sequence <= s.plan.trimmed || old)
}

// report publishes how far the session is.
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
