package forward

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
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
	batchRecords = 256
	batchBytes   = 1 << 20
	roomBytes    = 256 << 10 // that is asked for at once, or less in a small stream
	checkEvery   = time.Second
)

func newSession(f *Forwarder, p plan) *session {
	now := time.Now()
	s := &session{
		f: f, target: f.opts.Target, plan: p, p: newPipeline(f.limits, p.after, p.below, p.highest, rand.Float64),
		acks: make(chan *nats.Msg, 4*f.limits.window), records: make(chan []Record, 1), results: make(chan func(time.Time)), readers: make(chan struct{}, scanners),
		saveAt: now.Add(f.timing.checkpoint), lookAt: now.Add(f.timing.look), checkAt: now,
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
	if !s.target.Exact() || now.Before(s.checkAt) {
		return
	}
	if now.Sub(s.checkAt) > checkEvery {
		s.p.asked = time.Time{} // the process was paused
	}
	s.checkAt = now.Add(checkEvery)
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
	if s.target.Exact() && s.checkAt.Before(at) {
		at = s.checkAt
	}
	if at.Before(now) {
		return now.Add(checkEvery) // a result is awaited
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

// read hands over the journal's records in order.
func (s *session) read(ctx context.Context) {
	reader := s.f.opts.Journal.NewReader(s.plan.after)
	for {
		var batch []Record
		var bytes int64
		for len(batch) < batchRecords && bytes < batchBytes {
			r, err := reader.Next(ctx)
			if err != nil {
				s.hand(ctx, batch)
				s.async(ctx, func() func(time.Time) {
					return func(now time.Time) { s.end(fmt.Errorf("read the journal: %w", err), now) }
				})
				return
			}
			batch, bytes = append(batch, r), bytes+r.size()
			if r.Sequence >= s.f.opts.Journal.Durable() {
				break // the next call would wait
			}
		}
		if !s.hand(ctx, batch) {
			return
		}
	}
}

func (s *session) hand(ctx context.Context, batch []Record) bool {
	select {
	case s.records <- batch:
		return true
	case <-ctx.Done():
		return false
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

// publish sends what may be sent.
func (s *session) publish(ctx context.Context, now time.Time) {
	for {
		i := s.p.head()
		if i == nil || s.p.stopped() || s.target.Exact() && !s.makeRoom(ctx, i, now) {
			return
		}
		if i = s.p.next(now); i == nil {
			return
		}
		s.room -= i.size()
		if i.attempts > 1 {
			s.f.total.Retries++
		}
		if i.unknown > 0 {
			s.f.total.Resent++
		}
		s.f.spans.begin(i)
		m := s.f.message(i)
		m.Reply = replySubject(s.inbox, i.Sequence, i.conflict)
		switch err := s.nc.PublishMsg(m); {
		case err == nil:
		case errors.Is(err, nats.ErrMaxPayload), errors.Is(err, nats.ErrBadSubject), errors.Is(err, nats.ErrBadHeaderMsg):
			s.refuse(i.Sequence, i.conflict, fmt.Errorf("%w: %w", event.ErrTooLarge, err), now)
		default:
			s.lose(ctx, err.Error(), now)
			return
		}
	}
}

// makeRoom asks an embedded target for room, for several records at once if it
// has that much.
func (s *session) makeRoom(ctx context.Context, i *item, now time.Time) bool {
	if s.room >= i.size() {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, s.f.timing.timeout)
	defer cancel()
	var err error
	several := int64(roomBytes)
	if limit := s.plan.info.MaxBytes; limit > 0 {
		several = min(several, limit/64)
	}
	for _, bytes := range []int64{max(several, i.size()), i.size()} {
		if err = s.target.Room(ctx, s.p.flying+bytes, s.f.trimmable()); err == nil {
			s.room = bytes
			return true
		}
	}
	state := stateOf(err)
	s.p.stop(state.Kind, state.Reason, now)
	return false
}

// trimmable returns the stream sequence up to which the stream's events are
// never compared again.
func (f *Forwarder) trimmable() uint64 {
	if f.saved == nil || f.saved.Refill || f.saved.Target != f.opts.Target.Name() || f.saved.Journal != f.id {
		return 0
	}
	return f.saved.CompareAfter
}

// answer handles an answer to a publish.
func (s *session) answer(m *nats.Msg, now time.Time) {
	sequence, conflict, ok := parseReply(s.inbox, m.Subject)
	if !ok {
		return
	}
	if len(m.Data) == 0 && m.Header.Get(statusHeader) == noResponders {
		s.p.unserved(sequence, conflict, now)
		s.f.spans.fail(s.p.items[sequence], "no responders")
		return
	}
	ack, err := parseAck(m.Data, s.target.Stream())
	if err != nil {
		s.refuse(sequence, conflict, err, now)
		return
	}
	if !ack.Duplicate { // a failed store recognizes duplicates too
		s.f.restarts = 0
	}
	if i, done := s.p.acknowledged(sequence, conflict, ack.Sequence, ack.Duplicate, now); done {
		s.finish(i, now)
	}
}

// refuse handles an error that was answered, or found by the client library.
func (s *session) refuse(sequence uint64, conflict bool, err error, now time.Time) {
	if i := s.p.refused(sequence, conflict, err, err.Error(), now); i != nil {
		s.f.spans.fail(i, err.Error())
	}
}

// finish counts a record that has been forwarded.
func (s *session) finish(i *item, now time.Time) {
	s.f.total.Forwarded++
	s.unsaved += i.size()
	if i.conflict {
		s.f.total.Conflicts++
	}
	if i.Sequence <= s.plan.refill && s.plan.situation.lost() {
		s.f.total.Refilled++
		s.refilled++
	}
	s.f.spans.finish(i, now)
}

// readBack reads the message that a duplicate answer named.
func (s *session) readBack(ctx context.Context, i *item) {
	record, found := i.Record, i.found
	s.async(ctx, func() func(time.Time) {
		s.readers <- struct{}{}
		defer func() { <-s.readers }()
		ctx, cancel := context.WithTimeout(ctx, s.f.timing.timeout)
		defer cancel()
		m, err := s.target.Get(ctx, found)
		v, foreign := unread, false
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			v = gone
		case errors.Is(err, nats.ErrPermissionViolation):
			v = other
		case err == nil && isCopy(m, &record, s.f.id):
			v = same
			_, sequence := origin(m)
			foreign = sequence != record.Sequence
		case err == nil:
			v = other
		}
		return func(now time.Time) {
			if s.p.settled(i, v, now) {
				if foreign {
					s.f.settled[i.Sequence] = struct{}{}
				}
				s.finish(i, now)
			}
		}
	})
}

// parkRecord hands a record to the quarantine.
func (s *session) parkRecord(ctx context.Context, i *item) {
	record, reason := i.Record, i.reason
	s.async(ctx, func() func(time.Time) {
		err := s.f.opts.Park(ctx, record, reason)
		return func(now time.Time) {
			switch {
			case s.p.parked(i, err, now):
				s.f.total.Parked++
				s.f.settled[i.Sequence] = struct{}{}
				s.f.log.Error("event moved to the quarantine: the stream will never accept it", zap.Uint64("sequence", i.Sequence), zap.String("id", i.ID), zap.String("reason", reason))
			case err != nil && i.failures == 1:
				s.f.log.Error("an event that the stream will never accept cannot be quarantined: it is tried again", zap.Uint64("sequence", i.Sequence), zap.String("id", i.ID), zap.Error(err))
			}
		}
	})
}

// connect waits for a connection.
func (s *session) connect(ctx context.Context) {
	s.connecting = true
	s.async(ctx, func() func(time.Time) {
		for n := 1; ; n++ {
			nc, err := s.target.Conn(ctx)
			if err == nil {
				return func(now time.Time) { s.use(ctx, nc, now) }
			}
			if sleep(ctx, s.f.pause(n)) != nil {
				return nil
			}
		}
	})
}

// use publishes on a connection.
func (s *session) use(ctx context.Context, nc *nats.Conn, now time.Time) {
	s.connecting = false
	if nc != s.nc {
		s.disconnect()
		inbox := nc.NewInbox()
		sub, err := nc.ChanSubscribe(inbox+".>", s.acks)
		if err != nil {
			s.lose(ctx, err.Error(), now)
			return
		}
		s.nc, s.sub, s.inbox = nc, sub, inbox
		s.listener = nc.StatusChanged(nats.RECONNECTING, nats.CLOSED)
	}
	for len(s.listener) > 0 { // of a loss that is known
		<-s.listener
	}
	if !nc.IsConnected() {
		s.lose(ctx, "the connection was lost", now)
		return
	}
	s.status = s.listener
	s.p.connected(now)
}

// disconnect stops listening on the connection.
func (s *session) disconnect() {
	if s.nc == nil {
		return
	}
	s.nc.RemoveStatusListener(s.listener)
	// The connection belongs to the target and may be closed already.
	_ = s.sub.Unsubscribe()
	s.nc, s.status = nil, nil
}

// lose handles the loss of the connection.
func (s *session) lose(ctx context.Context, reason string, now time.Time) {
	s.p.disconnected(reason, now)
	if !s.connecting {
		s.connect(ctx)
	}
}

// ask asks for the stream's state: to see whether it has lost something, and, if
// publishing has been stopped, whether it can begin again.
func (s *session) ask(ctx context.Context) {
	s.inquiring = true
	var bytes int64
	if i := s.p.head(); i != nil {
		bytes = i.size()
	}
	stopped, trimmable := s.p.stopped(), s.f.trimmable()
	s.async(ctx, func() func(time.Time) {
		info, err := s.f.info(ctx)
		switch {
		case err != nil || !stopped:
		case s.target.Exact():
			err = s.target.Room(ctx, bytes, trimmable)
		case info.full(bytes) != "":
			err = fmt.Errorf("%w: %s", event.ErrFull, info.full(bytes))
		}
		return func(now time.Time) {
			s.inquiring = false
			s.lookAt = now.Add(s.f.timing.look)
			if err != nil {
				if state := stateOf(err); stopped {
					s.p.probed(state.Kind, state.Reason, now)
				}
				return // while it publishes, the answers show more
			}
			s.examine(info, now)
			if info.Duplicates > 0 && s.p.stale(now, info.Duplicates/2) {
				s.end(errResume, now)
			}
			if stopped && !s.ended {
				s.p.probed(Forwarding, "", now)
			}
		}
	})
}

// examine ends the session if the stream has lost events. At a remote it must
// show so twice.
func (s *session) examine(info Info, now time.Time) {
	if s.f.saved == nil {
		return
	}
	if len(info.Lost) < len(s.plan.info.Lost) { // they have expired
		s.plan.info.Lost = info.Lost
		s.f.saved.Lost = len(info.Lost)
	}
	switch s.f.saved.compare(s.target.Name(), s.f.id, info) {
	case recreated, shortened, gaps:
	default:
		s.suspect = time.Time{}
		return
	}
	if s.suspect.IsZero() {
		s.suspect = now
	}
	if s.target.Exact() || now.Sub(s.suspect) >= s.f.timing.confirm {
		s.end(errResume, now)
		return
	}
	s.lookAt = s.suspect.Add(s.f.timing.confirm)
}

// save writes a checkpoint in another goroutine.
func (s *session) save(ctx context.Context, now time.Time) {
	if s.saving {
		return
	}
	s.saveAt, s.unsaved = now.Add(s.f.timing.checkpoint), 0
	asking := s.asking
	s.asking = nil
	c, ok := s.snapshot(now)
	if !ok {
		answerAll(asking, nil)
		return
	}
	s.saving = true
	s.async(ctx, func() func(time.Time) {
		err := s.f.store(ctx, c)
		return func(now time.Time) {
			s.saving = false
			s.saved(c, err, now)
			answerAll(asking, err)
		}
	})
}

// saveNow writes the last checkpoint.
func (s *session) saveNow(ctx context.Context) error {
	now := time.Now()
	c, ok := s.snapshot(now)
	if !ok {
		return nil
	}
	err := s.f.store(ctx, c)
	s.saved(c, err, now)
	return err
}

func answerAll(asking []chan error, err error) {
	for _, c := range asking {
		c <- err
	}
}

// snapshot returns the checkpoint that may be written after a sync of the target,
// or false if it is the one that is written already.
func (s *session) snapshot(now time.Time) (checkpoint, bool) {
	sequence, below := s.p.prefix()
	c := checkpoint{
		Target: s.target.Name(), Created: s.plan.info.Created, Journal: s.f.id, Sequence: sequence, StreamSequence: s.p.stream, CompareAfter: below,
		Lost: len(s.plan.info.Lost),
	}
	if before := s.f.saved; before != nil && before.Target == c.Target && before.Created.Equal(c.Created) && before.Journal == c.Journal {
		if before.Refill && sequence < before.Sequence {
			return c, false
		}
		c.StreamSequence = max(c.StreamSequence, before.StreamSequence)
		c.Doubt = before.Doubt && sequence < s.p.again
		c.Created, c.Written = before.Created, before.Written
		if c == *before {
			return c, false
		}
	}
	c.Written = now
	return c, true
}

// store makes durable what the stream has acknowledged, and then the checkpoint.
func (f *Forwarder) store(ctx context.Context, c checkpoint) error {
	if err := f.opts.Target.Sync(ctx); err != nil {
		return fmt.Errorf("%w: %w", errSync, err)
	}
	if err := c.write(f.opts.Dir); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	f.opts.Journal.Release(c.Sequence)
	return nil
}

// saved handles the outcome of store.
func (s *session) saved(c checkpoint, err error, now time.Time) {
	f := s.f
	if errors.Is(err, errSync) {
		if f.saved == nil {
			f.saved = &checkpoint{Target: c.Target, Created: c.Created, Journal: c.Journal, Sequence: s.plan.after, Written: now}
		}
		f.doubt()
		s.end(err, now)
		return
	}
	if (err != nil) != f.unsaved {
		f.unsaved = err != nil
		if f.unsaved {
			f.log.Error("the checkpoint cannot be written: the journal grows", zap.Error(err))
		} else {
			f.log.Info("the checkpoint is written again")
		}
	}
	if err != nil {
		return
	}
	if f.saved != nil && f.saved.Refill && s.plan.situation.lost() {
		s.endRefill()
	}
	f.saved = &c
	for sequence := range f.settled {
		if sequence <= c.Sequence {
			delete(f.settled, sequence)
		}
	}
}

// endRefill reports what a refill has brought back.
func (s *session) endRefill() {
	missing := s.plan.lost - min(s.plan.lost, s.refilled)
	s.f.total.Missing += missing
	s.f.log.Warn("the stream has again what the journal had of its lost events", zap.Uint64("refilled", s.refilled), zap.Uint64("missing", missing), zap.Uint64("journal_begins", s.f.opts.Journal.First()))
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
