// Package forward publishes the journal to one JetStream stream, in this process or remote.
//
// It promises that every record of the journal is in the stream once, and that the records of each job are published in the
// journal's order, however often either side stops. It gives up no record. A record that the stream can never accept is stored in
// the quarantine, and delays only the records of its own job. A plain subscriber receives an event twice only after a crash or an
// unanswered publish.
//
// Records are ordered by their sequences, and not by a clock. To find out what the stream has, the package reads the stream,
// because an acknowledgement can be lost and the duplicate window can end.
//
//	state.go       decides what is published next and what each answer means; without I/O
//	session.go     the loop around it; publish.go has publishes and answers, watch.go the connection and the stream
//	resume.go      decides what is published after a start, a restart or a loss; with situation.go and scan.go
//	checkpoint.go  forward.json, which says how far the journal is forwarded
//
// It leaves storing events to package journal, and the connection and the stream to packages embedded and remote.
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
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// Options configures a [Forwarder]. Dir, Journal, Target, Park and Conflict are required.
type Options struct {
	// Dir is the folder of forward.json.
	Dir     string
	Journal Journal
	Target  Target
	// Park stores a record in the quarantine, because the target can never accept it. The record must be durable on return. After a
	// crash, Park can be called again for the same record.
	Park func(ctx context.Context, r Record, reason string) error
	// Conflict returns the conflict subject of a record, for a record whose message id belongs to another event in the stream.
	Conflict func(Record) string
	// Retention is how long the stream keeps an event. Older events are not published again after a loss. 0 means without limit.
	Retention time.Duration
	// Tracer receives a span for the first attempt of each record and for the successful one. nil means none.
	Tracer trace.TracerProvider
	// Logger may be nil.
	Logger *zap.Logger

	// The following options are for tests. nil means the defaults.
	timing  *timing
	limits  *limits
	onState func(State) // is called when the state changes
}

// timing contains the times that tests change.
type timing struct {
	timeout    time.Duration // of one attempt to publish and of one request
	connect    time.Duration // without a connection, until the target counts as down
	checkpoint time.Duration // between two checkpoints
	inspect    time.Duration // between two inspections of the stream
	confirm    time.Duration // between the first and the second sign of a loss in a remote stream
	health     time.Duration // between two health checks of an embedded store
	silence    time.Duration // without an answer, until an embedded store counts as failed
	summary    time.Duration // between two summaries in the log
}

var defaultTiming = timing{
	timeout: 2 * time.Second, connect: 2 * time.Second, checkpoint: 5 * time.Second, inspect: time.Minute,
	confirm: 10 * time.Second, health: time.Second, silence: 5 * time.Second, summary: time.Minute,
}

const (
	checkpointBytes = 256 << 20
	maxRestarts     = 3
	restartTimeout  = 30 * time.Second
)

// Forwarder publishes the journal to one stream.
type Forwarder struct {
	opts       Options
	log        *zap.Logger
	id         string // of the journal
	timing     timing
	limits     limits
	spans      *spans
	stateLines *rate.Limiter // limits the state changes in the log

	// Only the goroutine of Run uses the following fields.
	saved             *checkpoint         // the content of forward.json
	finishedElsewhere map[uint64]struct{} // records after saved that are finished but not in the stream
	header            nats.Header         // of the message that is being published
	restarts          int                 // restarts of the store since the last acknowledgement
	total             Counters
	prepared          *plan // what Prepare decided
	running           bool
	skipped           uint64 // the highest sequence that the journal is known to have lost
	// The journal has no record after holeAfter up to holeEnd, because Skip made it continue above.
	holeAfter, holeEnd uint64
	// The last comparison because of a stale record was at this time, with this prefix.
	compared   time.Time
	comparedAt uint64
	unsaved    bool // the last write of a checkpoint failed

	checkpoints chan chan error // calls of Checkpoint

	mu       sync.Mutex // guards the fields below
	stats    Stats
	last     uint64    // highest sequence that was read
	open     uint64    // records up to last without an outcome
	oldest   time.Time // of the oldest record without an outcome
	prefix   uint64    // every record up to here has its outcome
	waiters  []waiter
	unlogged int // state changes that were not logged
}

// waiter is a Wait in progress.
type waiter struct {
	through uint64
	done    chan struct{}
}

// errSync is returned by Run when the target could not make durable what it has acknowledged. What the stream has after the
// checkpoint does not count then.
var errSync = errors.New("sync of the stream failed")

// New returns a Forwarder that continues after the checkpoint in forward.json. If the journal has lost records up to that
// checkpoint, New makes the journal continue above them.
func New(o Options) (*Forwarder, error) {
	switch {
	case o.Dir == "":
		return nil, errors.New("forward: Options.Dir is empty")
	case o.Journal == nil:
		return nil, errors.New("forward: Options.Journal is nil")
	case o.Target == nil:
		return nil, errors.New("forward: Options.Target is nil")
	case o.Park == nil:
		return nil, errors.New("forward: Options.Park is nil")
	case o.Conflict == nil:
		return nil, errors.New("forward: Options.Conflict is nil")
	}
	f := &Forwarder{
		opts: o, log: o.Logger, id: o.Journal.ID(), spans: newSpans(o.Tracer), checkpoints: make(chan chan error),
		finishedElsewhere: make(map[uint64]struct{}), header: make(nats.Header),
		stateLines: rate.NewLimiter(rate.Every(2*time.Minute), 8),
		timing:     defaultTiming, limits: limits{window: 1024, side: 8192, sideBytes: 64 << 20, timeout: defaultTiming.timeout},
	}
	if o.timing != nil {
		f.timing = *o.timing
		f.limits.timeout = o.timing.timeout
	}
	if o.limits != nil {
		f.limits = *o.limits
	}
	if f.log == nil {
		f.log = zap.NewNop()
	}
	var err error
	if f.saved, err = readCheckpoint(o.Dir); errors.Is(err, errDamaged) {
		f.log.Error("the checkpoint is rebuilt from the stream", zap.Error(err), zap.String("kept", damagedName))
	} else if err != nil {
		return nil, fmt.Errorf("forward: read checkpoint: %w", err)
	}
	f.skip(f.acknowledged(), 0)
	if f.saved != nil && f.saved.Journal != f.id && o.Journal.Durable() == 0 {
		f.skip(f.saved.Sequence, 0) // the journal is new, and must not assign a sequence twice
	}
	if f.saved != nil && f.saved.Target == o.Target.Name() {
		f.prefix = f.acknowledged()
		o.Journal.Release(f.prefix)
	}
	f.last = f.prefix
	return f, nil
}

// Prepare compares the target with the journal. It must be called before the first append, so that a journal that has lost records
// continues above every sequence in the stream. It returns an error if the target does not answer until ctx ends. Then Run does
// the comparison. Run also reports a sync that fails.
func (f *Forwarder) Prepare(ctx context.Context) error {
	p, err := f.resume(ctx)
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	f.prepared = &p
	return nil
}

// Run forwards until ctx ends, and then waits for the answers to what is in flight. It returns an error if the process should end:
// the embedded target could not be synced, its store failed again after three restarts, or the journal cannot be read.
func (f *Forwarder) Run(ctx context.Context) error {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	work.Go(func() { f.summarize(ctx) })
	defer f.spans.end()
	f.running = true
	for {
		p, err := f.next(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("forward: %w", err)
		}
		switch err = newSession(f, p).run(ctx); {
		case errors.Is(err, errFailedStore):
			if err = f.restart(ctx, err); err != nil {
				return fmt.Errorf("forward: %w", err)
			}
		case errors.Is(err, errResume):
		case err != nil:
			return fmt.Errorf("forward: %w", err)
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// next returns the plan of Prepare the first time, and then the plans of resume.
func (f *Forwarder) next(ctx context.Context) (plan, error) {
	if p := f.prepared; p != nil {
		f.prepared = nil
		return *p, nil
	}
	return f.resume(ctx)
}

// restart restarts the store of an embedded target.
func (f *Forwarder) restart(ctx context.Context, cause error) error {
	for {
		if f.restarts++; f.restarts > maxRestarts {
			return fmt.Errorf("%w, after %d restarts", cause, maxRestarts)
		}
		f.setState(State{Failed, cause.Error()})
		f.total.Restarts++
		wait, cancel := context.WithTimeout(ctx, restartTimeout)
		err := f.opts.Target.Restart(wait)
		cancel()
		if err == nil {
			return nil
		}
		cause = fmt.Errorf("%w: restart: %w", errFailedStore, err)
		if backoff.Wait(ctx, f.pause(f.restarts)) != nil {
			return nil //nolint:nilerr // ctx has ended, and so does Run
		}
	}
}

// pause returns how long to wait after the n-th failure in succession.
func (f *Forwarder) pause(n int) time.Duration {
	return backoff.Exponential{Min: minPause, Max: maxProbe}.Pause(n, rand.Float64())
}

// Checkpoint writes forward.json now, so that the journal can delete what is forwarded. It does not wait for other records. While
// the target cannot be compared with the journal, it waits until ctx ends.
func (f *Forwarder) Checkpoint(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case f.checkpoints <- done:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Drain waits until every record that is durable now has been forwarded. If ctx ends before, it returns an error.
func (f *Forwarder) Drain(ctx context.Context) error { return f.Wait(ctx, f.opts.Journal.Durable()) }

// Wait waits until every record up to the sequence through has been forwarded. If ctx ends before, it returns an error.
func (f *Forwarder) Wait(ctx context.Context, through uint64) error {
	w := waiter{through, make(chan struct{})}
	f.mu.Lock()
	done := f.prefix >= w.through
	if !done {
		f.waiters = append(f.waiters, w)
	}
	f.mu.Unlock()
	if done {
		return nil
	}
	select {
	case <-w.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("forward: %d events are not forwarded: %w", f.Stats().Lag, ctx.Err())
	}
}
