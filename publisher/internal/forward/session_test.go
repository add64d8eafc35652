package forward

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// bare is a target without a server.
type bare struct {
	*target
	info func() (Info, error)
	room func(bytes int64) error
	get  func(sequence uint64) (*nats.Msg, error)
	up   bool // there is a connection
}

func (b *bare) Conn(ctx context.Context) (*nats.Conn, error) {
	if b.up {
		return nil, nil
	}
	<-ctx.Done()
	return nil, ctx.Err()
}
func (b *bare) Info(context.Context) (Info, error) { return b.info() }
func (b *bare) Room(_ context.Context, bytes int64, _ uint64) error {
	return b.room(bytes)
}
func (b *bare) Get(_ context.Context, sequence uint64) (*nats.Msg, error) { return b.get(sequence) }

// newUnit returns a session of a forwarder that does not run, and its target. What is
// due in it lies an hour ahead of now.
func newUnit(t *testing.T, change ...func(*Options)) (s *session, g *bare, r *rig, now time.Time) {
	t.Helper()
	g = &bare{
		target: &target{t: t, name: "embedded/JOBS", exact: true},
		info:   func() (Info, error) { return Info{HasLeader: true}, nil },
		room:   func(int64) error { return nil },
	}
	r = newRig(t, g.target, append(change, func(o *Options) { o.Target = g })...)
	f, err := New(r.opts)
	if err != nil {
		t.Fatal(err)
	}
	now = time.Now()
	s = newSession(f, plan{info: Info{HasLeader: true}})
	s.p.oneByOne = false
	s.saveAt, s.inspectAt, s.healthAt = now.Add(time.Hour), now.Add(time.Hour), now.Add(time.Hour)
	r.f = f
	return s, g, r, now
}

// finishWork runs what the session has begun.
func (s *session) finishWork(now time.Time) {
	done := make(chan struct{})
	go func() { s.work.Wait(); close(done) }()
	for {
		select {
		case then := <-s.results:
			if then != nil {
				then(now)
			}
		case <-done:
			return
		}
	}
}

// TestWatch shows when the stream is asked, a checkpoint written, and a store taken
// for failed.
func TestWatch(t *testing.T) {
	t.Parallel()
	const silence = 5 * time.Second
	stale := func(s *session, now time.Time) {
		s.plan.info.Duplicates = 2 * time.Hour
		s.p.admit(Record{Sequence: 1})
		s.p.items[1].unknown, s.p.items[1].first = 1, now.Add(-time.Hour-1)
	}
	for name, test := range map[string]struct {
		change    func(s *session, g *bare, now time.Time)
		ask, save bool
		end       error
	}{
		"nothing is due": {func(s *session, g *bare, now time.Time) {}, false, false, nil},
		"a look":         {func(s *session, g *bare, now time.Time) { s.inspectAt = now }, true, false, nil},
		"a look, but one is under way": {func(s *session, g *bare, now time.Time) { s.inspectAt, s.infoRequested = now, true }, false,
			false, nil},
		"a look, but a probe comes later": {func(s *session, g *bare, now time.Time) { s.inspectAt = now; s.p.stop(Full, "", now) }, false,
			false, nil},
		"a probe": {func(s *session, g *bare, now time.Time) {
			s.p.stop(Full, "", now.Add(-time.Hour))
		}, true, false, nil},
		"a checkpoint": {func(s *session, g *bare, now time.Time) { s.saveAt = now }, false, true, nil},
		"a checkpoint was asked for": {func(s *session, g *bare, now time.Time) { s.checkpointCalls = []chan error{make(chan error, 1)} }, false,
			true, nil},
		"a checkpoint for its bytes":  {func(s *session, g *bare, now time.Time) { s.unsaved = checkpointBytes }, false, true, nil},
		"not enough bytes":            {func(s *session, g *bare, now time.Time) { s.unsaved = checkpointBytes - 1 }, false, false, nil},
		"a failed store, not yet due": {func(s *session, g *bare, now time.Time) { set(&g.failed, "x") }, false, false, nil},
		"a failed store": {func(s *session, g *bare, now time.Time) { set(&g.failed, "x"); s.healthAt = now }, false, false,
			errFailedStore},
		"a failed remote is its own": {func(s *session, g *bare, now time.Time) {
			set(&g.failed, "x")
			s.healthAt, g.exact = now, false
		}, false, false, nil},
		"silence": {func(s *session, g *bare, now time.Time) { s.healthAt, s.p.unansweredSince = now, now.Add(-silence) },
			false, false, errFailedStore},
		"not silent for long enough": {func(s *session, g *bare, now time.Time) { s.healthAt, s.p.unansweredSince = now, now.Add(1-silence) },
			false, false, nil},
		"silence across a pause": {func(s *session, g *bare, now time.Time) {
			s.healthAt, s.p.unansweredSince = now.Add(-silence/2-1), now.Add(-silence)
		}, false, false, nil},
		"silence across a short pause": {func(s *session, g *bare, now time.Time) {
			s.healthAt, s.p.unansweredSince = now.Add(-silence/2), now.Add(-silence)
		}, false, false, errFailedStore},
		"an old outcome": {func(s *session, g *bare, now time.Time) { s.healthAt = now; stale(s, now) }, false, false, errResume},
		"an old outcome, stopped": {func(s *session, g *bare, now time.Time) {
			s.healthAt = now
			stale(s, now)
			s.p.stop(Full, "", now)
		}, false, false, nil},
	} {
		s, g, r, now := newUnit(t)
		asked := false
		g.info = func() (Info, error) { asked = true; return Info{}, nats.ErrTimeout }
		test.change(s, g, now)
		healthAt := s.healthAt
		s.watch(t.Context(), now)
		if s.saving != test.save || !errors.Is(s.result, test.end) || s.ended != (test.end != nil) {
			t.Errorf("%s: saving %v, ended %v: %v", name, s.saving, s.ended, s.result)
		}
		if due := !now.Before(healthAt); due != s.healthAt.Equal(now.Add(r.f.timing.health)) {
			t.Errorf("%s: the next check is in %s", name, s.healthAt.Sub(now))
		}
		s.finishWork(now)
		if asked != test.ask {
			t.Errorf("%s: asked %v", name, asked)
		}
	}
}

// TestSessionDue shows which time comes next: the first one that is not past. Where the
// next checkpoint or check is past, its result is awaited.
func TestSessionDue(t *testing.T) {
	t.Parallel()
	const never = time.Hour
	for name, test := range map[string]struct{ save, look, check, until, probe, want time.Duration }{
		"a checkpoint":              {10, 20, 30, 0, never, 10},
		"a look":                    {10, 5, 30, 0, never, 5},
		"a look that is past":       {10, -5, 30, 0, never, 10},
		"a look that is being done": {10, 0, 30, 0, never, 10},
		"a check":                   {10, 20, 2, 0, never, 2},
		"the end":                   {10, 20, 30, 3, never, 3},
		"a probe":                   {10, 20, 30, 0, 4, 4},
		"at once":                   {0, 20, 30, 0, never, 0},
		"a checkpoint is written":   {-1, 20, 30, 0, never, 20 * time.Millisecond},
		"a check that is past":      {10, 20, -1, 0, never, 20 * time.Millisecond},
	} {
		s, _, _, now := newUnit(t)
		s.saveAt, s.inspectAt, s.healthAt = now.Add(test.save), now.Add(test.look), now.Add(test.check)
		if test.until != 0 {
			s.until = now.Add(test.until)
		}
		s.p.kind, s.p.probeAt = Full, now.Add(test.probe)
		if got := s.due(now).Sub(now); got != test.want {
			t.Errorf("%s: in %d ns, want %d", name, got, test.want)
		}
	}
}

// TestSessionEnds shows for how long an ended session waits.
func TestSessionEnds(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err    error
		busy   phase
		saving bool
		over   time.Duration // from when on; -1: not within an hour
	}{
		"nothing is open":              {nil, finished, false, 0},
		"an answer is awaited":         {nil, inFlight, false, 2 * time.Second},
		"a duplicate is read back":     {errResume, readingBack, false, 2 * time.Second},
		"a record is being parked":     {errResume, parking, false, 2 * time.Second},
		"a record is delayed":          {nil, delayed, false, 0},
		"the store does not answer":    {errFailedStore, inFlight, false, 0},
		"a checkpoint is being stored": {nil, finished, true, -1},
	} {
		s, _, _, now := newUnit(t)
		s.p.counts[test.busy]++
		s.saving = test.saving
		if s.isDone(now.Add(time.Hour)) {
			t.Errorf("%s: over before it has ended", name)
		}
		s.end(test.err, now)
		s.end(errors.New("later"), now.Add(time.Minute))
		if !errors.Is(s.result, test.err) {
			t.Errorf("%s: %v", name, s.result)
		}
		if over := s.isDone(now.Add(time.Hour)); over != (test.over >= 0) {
			t.Errorf("%s: over %v after an hour", name, over)
		}
		if test.over >= 0 && (!s.isDone(now.Add(test.over)) || test.over > 0 && s.isDone(now.Add(test.over-1))) {
			t.Errorf("%s: not over after exactly %s", name, test.over)
		}
	}
}

// TestCompareStale compares a record whose outcome has been open for half of the
// duplicate window, once an hour while the prefix stays.
func TestCompareStale(t *testing.T) {
	t.Parallel()
	s, _, _, now := newUnit(t)
	s.p.admit(Record{Sequence: 1})
	s.p.items[1].unknown, s.p.items[1].first = 1, now.Add(-time.Minute)
	stale := func(at time.Time) bool {
		s.ended, s.result = false, nil
		s.compareStale(at)
		return errors.Is(s.result, errResume)
	}
	if stale(now.Add(time.Hour)) {
		t.Error("compared at a stream without a window")
	}
	s.plan.info.Duplicates = 2 * time.Minute
	begin := now.Add(1)
	for name, test := range map[string]struct {
		at   time.Time
		want bool
	}{"1: half of the window": {now, false}, "2: later": {begin, true}} {
		if got := stale(test.at); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	if stale(begin.Add(time.Hour - 1)) {
		t.Error("compared again within an hour")
	}
	if !stale(begin.Add(time.Hour)) {
		t.Error("not compared after an hour")
	}
	s.f.comparedAt = 7 // another prefix
	if !stale(begin.Add(time.Hour + 1)) {
		t.Error("not compared at another prefix")
	}
}

// TestCheckForLoss shows when a loss at the stream is believed.
func TestCheckForLoss(t *testing.T) {
	t.Parallel()
	for _, exact := range []bool{true, false} {
		s, g, r, now := newUnit(t)
		g.exact = exact
		confirm := r.f.timing.confirm
		created := now.Add(-time.Hour)
		well := Info{Created: created, LastSeq: 10, Lost: []uint64{1, 2}}
		short := Info{Created: created, LastSeq: 9, Lost: []uint64{1, 2}}
		s.checkForLoss(short, now)
		if s.ended {
			t.Error("there is no checkpoint to lose anything of")
		}
		s.f.saved = &checkpoint{Target: g.name, Journal: "journal-1", Created: created, StreamSequence: 10, Lost: 3}
		s.plan.info.Lost = []uint64{1, 2, 3}
		s.checkForLoss(well, now)
		if s.ended || len(s.plan.info.Lost) != 2 || s.f.saved.Lost != 2 {
			t.Errorf("one has expired: %v, %+v", s.plan.info.Lost, s.f.saved)
		}
		s.checkForLoss(short, now)
		if s.ended != exact {
			t.Errorf("exact %v: ended %v at the first look", exact, s.ended)
		}
		if exact {
			continue
		}
		if s.inspectAt != now.Add(confirm) {
			t.Errorf("the next look is in %s", s.inspectAt.Sub(now))
		}
		s.checkForLoss(well, now.Add(1)) // a leader was behind
		s.checkForLoss(short, now.Add(confirm))
		if s.ended {
			t.Error("the loss was seen once only")
		}
		s.checkForLoss(short, now.Add(2*confirm-1))
		if s.ended || s.inspectAt != now.Add(2*confirm) {
			t.Errorf("ended %v, the next look is in %s", s.ended, s.inspectAt.Sub(now))
		}
		s.checkForLoss(short, now.Add(2*confirm))
		if !errors.Is(s.result, errResume) {
			t.Errorf("%v", s.result)
		}
	}
}

// TestProbe shows what an answer about the stream means.
func TestProbe(t *testing.T) {
	t.Parallel()
	full := fmt.Errorf("%w: held", event.ErrFull)
	well := func() (Info, error) { return Info{HasLeader: true}, nil }
	crowded := func() (Info, error) { return Info{HasLeader: true, MaxMsgs: 5, Msgs: 5}, nil }
	silent := func() (Info, error) { return Info{}, nats.ErrTimeout }
	for name, test := range map[string]struct {
		exact, stopped bool
		info           func() (Info, error)
		room           error
		want           Kind
	}{
		"embedded, room":                  {true, true, well, nil, Forwarding},
		"embedded, no room":               {true, true, well, full, Full},
		"embedded, no answer":             {true, true, silent, nil, Unavailable},
		"embedded, publishing":            {true, false, well, full, Forwarding},
		"embedded, publishing, no answer": {true, false, silent, nil, Forwarding},
		"remote, well":                    {false, true, well, full, Forwarding},
		"remote, full":                    {false, true, crowded, nil, Full},
		"remote, full, publishing":        {false, false, crowded, nil, Forwarding},
	} {
		s, g, r, now := newUnit(t)
		var bytes []int64
		g.exact, g.info, g.room = test.exact, test.info, func(n int64) error { bytes = append(bytes, n); return test.room }
		s.p.admit(Record{Sequence: 1, Payload: make([]byte, 300)})
		if test.stopped {
			s.p.stop(Misconfigured, "before", now)
		}
		s.requestInfo(t.Context())
		if !s.infoRequested {
			t.Errorf("%s: it does not ask", name)
		}
		s.finishWork(now)
		if s.p.kind != test.want || (s.p.reason != "") != (test.want != Forwarding) || s.infoRequested ||
			s.inspectAt != now.Add(r.f.timing.inspect) {
			t.Errorf("%s: %v %q, infoRequested %v, the next look in %s", name, s.p.kind, s.p.reason, s.infoRequested, s.inspectAt.Sub(now))
		}
		if len(bytes) > 0 && bytes[0] != 500 {
			t.Errorf("%s: asked for %d bytes", name, bytes)
		}
	}
}

// TestSkips shows which records need not be published.
func TestSkips(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		record    Record
		age       time.Duration
		retention time.Duration
		want      bool
	}{
		"local":                          {Record{Sequence: 20, Local: true}, 0, 0, true},
		"in the stream":                  {Record{Sequence: 21, Digest: digestOf(21)}, 0, 0, true},
		"another one in the stream":      {Record{Sequence: 21, ID: "x"}, 0, 0, false},
		"settled":                        {Record{Sequence: 22}, 0, 0, true},
		"trimmed":                        {Record{Sequence: 5}, 0, 0, true},
		"lost":                           {Record{Sequence: 6}, 0, 0, false},
		"lost, as old as the retention":  {Record{Sequence: 6}, time.Hour, time.Hour, false},
		"lost, older than the retention": {Record{Sequence: 6}, time.Hour + 1, time.Hour, true},
		"lost, without a retention":      {Record{Sequence: 6}, 1000 * time.Hour, 0, false},
		"the last lost one":              {Record{Sequence: 10}, time.Hour + 1, time.Hour, true},
		"new and old":                    {Record{Sequence: 11}, time.Hour + 1, time.Hour, false},
	} {
		s, _, _, now := newUnit(t, func(o *Options) { o.Retention = test.retention })
		s.plan.refill, s.plan.trimmed, s.plan.present = 10, 5, map[uint64][sha256.Size]byte{21: digestOf(21)}
		s.f.finishedElsewhere[22] = struct{}{}
		test.record.Time = now.Add(-test.age)
		if got := s.skips(&test.record, now); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
		if got := s.f.total.Present; (got == 1) != (name == "in the stream") {
			t.Errorf("%s: %d present", name, got)
		}
	}
}

// TestHole passes what the journal has skipped once everything before it was read.
func TestHole(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		last, want uint64
		pending    int
	}{
		"before it":  {9, 9, 0},
		"at it":      {10, 20, 0},
		"within it":  {15, 20, 0},
		"behind it":  {20, 20, 0},
		"above it":   {21, 21, 0},
		"not all in": {10, 10, 1},
	} {
		s, _, _, now := newUnit(t)
		s.f.holeAfter, s.f.holeEnd = 10, 20
		s.p.last = test.last
		if test.pending > 0 {
			s.p.side = 0 // no room
			s.pending = make([]Record, test.pending)
		}
		s.admit(now)
		if s.p.last != test.want {
			t.Errorf("%s: passed %d, want %d", name, s.p.last, test.want)
		}
	}
}

// TestStep publishes only while there is a connection and the session has not ended.
func TestStep(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		ended, connected, connecting, want bool
	}{
		"connected":                       {false, true, false, true},
		"ended":                           {true, true, false, false},
		"not connected":                   {false, false, false, false},
		"connecting again":                {false, true, true, false},
		"ended, and connecting":           {true, true, true, false},
		"not connected, and not trying":   {false, false, true, false},
		"ended and not connected anymore": {true, false, false, false},
	} {
		s, g, _, now := newUnit(t)
		asked := false
		g.room = func(int64) error { asked = true; return event.ErrFull }
		s.ended, s.connecting = test.ended, test.connecting
		if test.connected {
			s.nc = new(nats.Conn)
		}
		s.p.admit(Record{Sequence: 1})
		s.step(t.Context(), now)
		if asked != test.want {
			t.Errorf("%s: published %v", name, asked)
		}
	}
}

// TestUseConnection uses a connection that is lost already.
func TestUseConnection(t *testing.T) {
	t.Parallel()
	g := newTarget(t)
	nc := g.conn()
	s, _, _, now := newUnit(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // another one does not come
	s.connecting = true
	s.useConnection(ctx, nc, now)
	inbox := s.inbox
	if s.connecting || s.nc != nc || s.status == nil || s.p.offline {
		t.Errorf("connecting %v, connection %v, offline %v", s.connecting, s.nc, s.p.offline)
	}
	s.listener <- nats.RECONNECTING
	s.useConnection(ctx, nc, now) // after a reconnect
	if s.inbox != inbox || len(s.status) != 0 {
		t.Errorf("inbox %s, was %s; %d old losses are believed", s.inbox, inbox, len(s.status))
	}
	nc.Close()
	s.useConnection(ctx, nc, now)
	if s.p.kind != Down || !s.connecting {
		t.Errorf("a closed connection is %v", s.p.kind)
	}
	s.disconnect()
	s.disconnect()
	s.p.kind, s.connecting = Forwarding, false
	s.useConnection(ctx, nc, now) // it cannot subscribe
	if s.p.kind != Down || s.nc != nil || !s.connecting {
		t.Errorf("a closed connection is %v", s.p.kind)
	}
	s.finishWork(now)
}

// broken is a journal that cannot be read.
type broken struct{ *memory }

func (b broken) NewReader(uint64) Reader { return b }

func (broken) Next(context.Context) (Record, error) { return Record{}, errors.New("bad block") }

// TestJournalFails ends Run with an error because the journal cannot be read.
func TestJournalFails(t *testing.T) {
	t.Parallel()
	r := newRig(t, newTarget(t))
	r.opts.Journal = broken{r.journal}
	if err := r.run().wait(); err == nil || !strings.Contains(err.Error(), "read the journal: bad block") {
		t.Errorf("Run returned %v", err)
	}
}

// TestRestart tries three times, with a pause that ends with the context.
func TestRestart(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, g, _, _ := newUnit(t)
		f := s.f
		set(&g.restartErr, "no space")
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Millisecond, cancel) // within the pause
		if err := f.restart(ctx, errFailedStore); err != nil || g.restarts.Load() != 1 || f.total.Restarts != 1 {
			t.Errorf("%v, %d restarts, %d counted", err, g.restarts.Load(), f.total.Restarts)
		}
		if err := f.restart(ctx, errFailedStore); err != nil || f.restarts != 2 {
			t.Errorf("the context has ended: %v", err)
		}
		f.restarts = 0
		begin := time.Now()
		if err := f.restart(t.Context(), errFailedStore); !errors.Is(err, errFailedStore) || f.total.Restarts != 5 {
			t.Errorf("%v, %d counted", err, f.total.Restarts)
		}
		if took := time.Since(begin); took < 7*minPause/2 || took > 7*minPause {
			t.Errorf("three pauses took %s", took)
		}
	})
}

// TestReadAhead hands small records over together and large ones one by one.
func TestReadAhead(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		size, records int
		want          string // records of each batch, when nothing is fetched in between
	}{
		"small":                {1000, 10, "[10]"},
		"half of a batch each": {batchBytes / 2, 3, "[1 1 1]"},
		"less than half":       {batchBytes/2 - 1, 4, "[2 2]"},
		"larger than a batch":  {2 * batchBytes, 3, "[1 1 1]"},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, _, r, _ := newUnit(t)
			empty := Record{}
			for range test.records {
				r.journal.add(Record{Payload: make([]byte, int64(test.size)-empty.size())})
			}
			ctx, cancel := context.WithCancel(t.Context())
			go s.read(ctx)
			var got []int
			next := uint64(1)
			for next <= uint64(test.records) {
				synctest.Wait()
				batch := <-s.records
				got = append(got, len(batch))
				for _, record := range batch {
					if record.Sequence != next {
						t.Errorf("%s: record %d, want %d", name, record.Sequence, next)
					}
					next++
				}
			}
			if fmt.Sprint(got) != test.want {
				t.Errorf("%s: batches of %d, want %s", name, got, test.want)
			}
			cancel()
			synctest.Wait()
		})
	}
}

// TestGather shows that records which come seldom are handed over at once, and that in
// a rush they come many at a time, none much later than the limit.
func TestGather(t *testing.T) {
	t.Parallel()
	for every, want := range map[time.Duration]struct {
		moments int
		late    time.Duration
	}{
		time.Millisecond:      {1000, 0},
		10 * time.Microsecond: {10, maxGather},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, _, r, _ := newUnit(t)
			ctx, cancel := context.WithCancel(t.Context())
			go s.read(ctx)
			go func() {
				for range 1000 {
					time.Sleep(every)
					r.journal.add(Record{Time: time.Now()})
				}
			}()
			moments, late := make(map[time.Duration]bool), time.Duration(0)
			begin := time.Now()
			for n := 0; n < 1000; {
				batch := <-s.records
				n += len(batch)
				moments[time.Since(begin)] = true
				late = max(late, time.Since(batch[0].Time))
			}
			if len(moments) > want.moments || late > want.late {
				t.Errorf("a record every %s: at %d moments, the latest after %s", every, len(moments), late)
			}
			cancel()
			synctest.Wait()
		})
	}
}

// TestAnswer shows which messages on a reply subject are answers.
func TestAnswer(t *testing.T) {
	t.Parallel()
	status := func(code string) nats.Header { return nats.Header{statusHeader: {code}} }
	for name, test := range map[string]struct {
		subject, data string
		header        nats.Header
		want          phase
		kind          Kind
	}{
		"an acknowledgement":       {"in.1", `{"stream":"JOBS","seq":4}`, nil, finished, Forwarding},
		"of another publish":       {"in.2", `{"stream":"JOBS","seq":4}`, nil, inFlight, Forwarding},
		"on another subject":       {"on.1", `{"stream":"JOBS","seq":4}`, nil, inFlight, Forwarding},
		"a duplicate":              {"in.1", `{"stream":"JOBS","seq":4,"duplicate":true}`, nil, readingBack, Forwarding},
		"a foreign one":            {"in.1", `{"stream":"X","seq":4}`, nil, queued, Misconfigured},
		"no responders":            {"in.1", "", status("503"), delayed, Forwarding},
		"another status":           {"in.1", "", status("408"), inFlight, Forwarding},
		"a delivery":               {"in.1", `{"stream":"JOBS","seq":4}`, nats.Header{}, inFlight, Forwarding},
		"a delivery that pretends": {"in.1", "x", status("503"), inFlight, Forwarding},
	} {
		s, _, _, now := newUnit(t)
		s.inbox, s.f.restarts = "in", 2
		s.p.admit(Record{Sequence: 1})
		i := s.p.next(now)
		s.answer(&nats.Msg{Subject: test.subject, Data: []byte(test.data), Header: test.header}, now)
		if i.phase != test.want || s.p.kind != test.kind {
			t.Errorf("%s: phase %d, %v", name, i.phase, s.p.kind)
		}
		if proven := s.f.restarts == 0; proven != (name == "an acknowledgement" || name == "of another publish") {
			t.Errorf("%s: it proves that the store works: %v", name, proven)
		}
	}
}

// TestFinish shows what is counted of a record that was forwarded.
func TestFinish(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		situation situation
		sequence  uint64
		conflict  bool
		want      Counters
	}{
		"new":                    {unchanged, 5, false, Counters{Forwarded: 1}},
		"a conflict":             {unchanged, 5, true, Counters{Forwarded: 1, Conflicts: 1}},
		"it was lost":            {gaps, 5, false, Counters{Forwarded: 1, Refilled: 1}},
		"behind what was lost":   {gaps, 6, false, Counters{Forwarded: 1}},
		"again, and nothing was": {otherTarget, 5, false, Counters{Forwarded: 1}},
	} {
		s, _, _, now := newUnit(t)
		s.plan.situation, s.plan.refill = test.situation, 5
		s.finish(&item{Record: Record{Sequence: test.sequence, Payload: make([]byte, 300)}, conflict: test.conflict}, now)
		if s.f.total != test.want || s.unsaved != 500 || s.refilled != test.want.Refilled {
			t.Errorf("%s: %+v, %d bytes, %d refilled", name, s.f.total, s.unsaved, s.refilled)
		}
	}
}

// TestParkFails hands a record to the quarantine until that succeeds, and logs the
// first failure.
func TestParkFails(t *testing.T) {
	t.Parallel()
	failures := 0
	s, _, r, now := newUnit(t, func(o *Options) {
		o.Park = func(_ context.Context, record Record, reason string) error {
			if record.Sequence != 1 || reason != "too large" {
				t.Errorf("record %d: %s", record.Sequence, reason)
			}
			if failures++; failures <= 3 {
				return errors.New("full")
			}
			return nil
		}
	})
	s.p.admit(Record{Sequence: 1})
	i := s.p.items[1]
	i.reason = "too large"
	for n := 1; n <= 4; n++ {
		s.p.move(i, parking)
		s.parkRecord(t.Context(), i)
		s.finishWork(now)
		said := r.logged("an event that the stream can never accept cannot be moved to the quarantine: it is tried again")
		_, settled := s.f.finishedElsewhere[1]
		if done := n == 4; said != 1 || settled != done || (s.f.total.Parked == 1) != done || (i.phase == finished) != done {
			t.Errorf("try %d: said %d times, settled %v, phase %d, %d parked", n, said, settled, i.phase, s.f.total.Parked)
		}
	}
}

// TestReadBack shows the verdict for each message that a duplicate answer can name.
func TestReadBack(t *testing.T) {
	t.Parallel()
	message := func(journal, sequence, data string) *nats.Msg {
		m := nats.NewMsg("job.x")
		m.Header.Set(event.JournalHeader, journal)
		m.Header.Set(event.SequenceHeader, sequence)
		m.Data = []byte(data)
		return m
	}
	for name, test := range map[string]struct {
		m       *nats.Msg
		err     error
		want    phase
		settled bool // it is remembered, because the stream has it under another origin
	}{
		"it":                 {message("journal-1", "1", "payload"), nil, finished, false},
		"equal bytes":        {message("journal-2", "1", "payload"), nil, finished, true},
		"a header that lies": {message("journal-1", "1", "x"), nil, queued, false},
		"an earlier copy":    {message("journal-1", "9", "payload"), nil, finished, true},
		"another event":      {message("journal-2", "1", "x"), nil, queued, false},
		"it is gone":         {nil, jetstream.ErrMsgNotFound, queued, false},
		"it is denied":       {nil, nats.ErrPermissionViolation, queued, false},
		"no answer":          {nil, nats.ErrTimeout, delayed, false},
	} {
		s, g, _, now := newUnit(t)
		s.p.admit(Record{Sequence: 1, Payload: []byte("payload")})
		i := s.p.items[1]
		i.found = 7
		s.p.move(i, readingBack)
		g.get = func(n uint64) (*nats.Msg, error) {
			if n != 7 {
				t.Errorf("%s: message %d", name, n)
			}
			return test.m, test.err
		}
		s.readBack(t.Context(), i)
		s.finishWork(now)
		_, settled := s.f.finishedElsewhere[1]
		if i.phase != test.want || settled != test.settled || i.conflict != (test.want == queued) ||
			(s.f.total.Forwarded == 1) != (test.want == finished) {
			t.Errorf("%s: phase %d, conflict %v, settled %v, %d forwarded", name, i.phase, i.conflict, settled, s.f.total.Forwarded)
		}
	}
}
