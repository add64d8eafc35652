// Package forward publishes the journal to one JetStream stream, in this process
// or remote.
//
// It promises that every record of the journal reaches the stream once, in the
// journal's order for each job, however often either side ends in between; that
// it gives up no record; and that a record which the stream will never take is
// handed to the quarantine and delays only its own job. A plain subscriber sees
// an event a second time only after a crash or an unanswered publish.
//
// The order of events is the order of sequences, never that of a clock. What the
// stream has is proven by reading it, because an acknowledgement that was lost
// and a duplicate window that has ended prove nothing:
//
//	state.go       what is published next, and what each answer means; no I/O
//	session.go     the loop around it; publish.go: publishes and answers; watch.go: connection and stream
//	resume.go      what is published after a start, a restart or a loss; situation.go, scan.go
//	checkpoint.go  forward.json: how far the journal is forwarded
//
// It leaves storing the event to package journal, and the connection and the
// stream to packages embedded and remote.
package forward

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// Options configures a [Forwarder]. Dir, Journal, Target, Park and Conflict are
// needed.
type Options struct {
	// Dir is the folder of forward.json.
	Dir     string
	Journal Journal
	Target  Target
	// Park hands a record to the quarantine because the target will never accept
	// it. The record is durable there on return. After a crash the same record can
	// be handed over again.
	Park func(ctx context.Context, r Record, reason string) error
	// Conflict returns the subject of a record whose message id stands for another
	// event.
	Conflict func(Record) string
	// Retention is how long the stream holds an event; older ones are not published
	// again after a loss. Zero means without limit.
	Retention time.Duration
	// OnState is called when the state changes. It must not block. It may be nil.
	OnState func(State)
	// Tracer makes spans of the first attempt and the successful one; nil means
	// none.
	Tracer trace.TracerProvider
	// Logger may be nil.
	Logger *zap.Logger

	timing *timing // of tests; nil means defaults
	limits *limits
}

// timing holds the times that tests shorten.
type timing struct {
	timeout    time.Duration // of one attempt and of one request
	connect    time.Duration // after which a connection counts as down
	checkpoint time.Duration // between two checkpoints
	look       time.Duration // between two looks at the stream
	confirm    time.Duration // until a loss at a remote is believed
	check      time.Duration // between two looks at the health of an embedded store
	silence    time.Duration // without an answer, until an embedded store counts as failed
	summary    time.Duration // between two summaries in the log
}

var defaultTiming = timing{
	timeout: 2 * time.Second, connect: 2 * time.Second, checkpoint: 5 * time.Second, look: time.Minute,
	confirm: 10 * time.Second, check: time.Second, silence: 5 * time.Second, summary: time.Minute,
}

const (
	checkpointBytes = 256 << 20
	maxRestarts     = 3
	restartTimeout  = 30 * time.Second
)

// Forwarder publishes the journal to one stream.
type Forwarder struct {
	opts   Options
	log    *zap.Logger
	id     string // of the journal
	timing timing
	limits limits
	spans  *spans
	lines  *rate.Limiter // of state changes in the log

	// Of the goroutine in Run.
	saved    *checkpoint         // what forward.json says
	settled  map[uint64]struct{} // finished records behind saved that the stream does not have
	header   nats.Header         // of the message that is published now
	restarts int                 // restarts of the store since the last acknowledgement
	total    Counters
	prepared *plan // by Prepare
	running  bool
	skipped  uint64 // the highest sequence that the journal is known to have lost
	// The journal has no record behind holeAfter up to holeEnd: it was made to
	// continue above.
	holeAfter, holeEnd uint64
	// A stale outcome was compared at this time, when this was the prefix.
	compared   time.Time
	comparedAt uint64
	unsaved    bool // the last checkpoint could not be written

	saves chan chan error // requests of Checkpoint

	mu       sync.Mutex // guards what follows
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

// errSync is returned by Run when the target could not make durable what it has
// acknowledged. Nothing behind the checkpoint is trusted then.
var errSync = errors.New("sync of the stream failed")

// New returns a Forwarder that continues where forward.json ends. If the journal
// has lost records that forward.json names, New makes it continue above them.
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
		opts: o, log: o.Logger, id: o.Journal.ID(), spans: newSpans(o.Tracer), saves: make(chan chan error),
		settled: make(map[uint64]struct{}), header: make(nats.Header),
		lines:  rate.NewLimiter(rate.Every(2*time.Minute), 8),
		timing: defaultTiming, limits: limits{window: 1024, side: 8192, sideBytes: 64 << 20, timeout: defaultTiming.timeout},
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
		f.skip(f.saved.Sequence, 0) // a new journal: no sequence is assigned twice
	}
	if f.saved != nil && f.saved.Target == o.Target.Name() {
		f.prefix = f.acknowledged()
		o.Journal.Release(f.prefix)
	}
	f.last = f.prefix
	return f, nil
}

// Prepare compares the target with the journal before the first append, so that a
// journal which has lost records continues above every sequence that the stream
// knows. It returns an error if the target does not answer until ctx ends: Run
// compares then. A sync that fails is reported by Run too.
func (f *Forwarder) Prepare(ctx context.Context) error {
	p, err := f.resume(ctx)
	if err != nil {
		return fmt.Errorf("forward: %w", err)
	}
	f.prepared = &p
	return nil
}

// Run forwards until ctx ends, and then waits for the answers to what is in
// flight. An error means that the process should end: the embedded target could
// not be synced, its store failed again after three restarts, or the journal
// cannot be read.
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

// next returns what Prepare decided, once, and then what resume decides.
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
		if sleep(ctx, f.pause(f.restarts)) != nil {
			return nil //nolint:nilerr // Run was told to end
		}
	}
}

// pause returns how long to wait after the n-th failure in a row.
func (f *Forwarder) pause(n int) time.Duration {
	return (&pipeline{jitter: rand.Float64}).pause(n, maxProbe)
}

// Checkpoint writes forward.json now, so that the journal can delete what is
// forwarded. It does not wait for records that are not. While there is no target to
// compare the journal with, it waits until ctx ends.
func (f *Forwarder) Checkpoint(ctx context.Context) error {
	done := make(chan error, 1)
	select {
	case f.saves <- done:
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

// Drain returns when everything that is durable now has been forwarded, or with
// ctx's error.
func (f *Forwarder) Drain(ctx context.Context) error { return f.Wait(ctx, f.opts.Journal.Durable()) }

// Wait returns when every record up to the sequence through has been forwarded, or
// with ctx's error.
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
