// Package relay copies the journal to a remote stream.
//
// It promises that every event of the journal reaches the remote stream once,
// in the journal's order for each job, however often either side or the process
// ends in between, as long as an interruption is shorter than the remote's
// duplicate window; that it never gives an event up; and that one which the
// remote will never take, because it is too large, is kept aside and holds up
// nobody.
//
// It leaves to others how an event is stored (package publisher) and what the
// connection is like (package remote).
package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

// Forwarder stores a message of the journal elsewhere; [publisher.Publisher] is
// one.
type Forwarder interface {
	Forward(ctx context.Context, m *nats.Msg) (publisher.Receipt, error)
}

// Options configures a [Relay]. Source, Remote, Park and Ledger are needed.
type Options struct {
	// Source is the journal's stream.
	Source jetstream.Stream
	// Consumer is how the names of the relay's consumers begin.
	Consumer string
	// Remote takes the events.
	Remote Forwarder
	// Await returns when it is worth while to try, or an error when ctx ends; nil
	// means always.
	Await func(ctx context.Context) error
	// Park keeps an event that the remote will never take, durably.
	Park func(ctx context.Context, m *nats.Msg, reason string) error
	// Parked returns how many events are kept so; nil means that nobody asks.
	Parked func(ctx context.Context) (uint64, error)
	// Ledger is the path of the file that says what has been relayed.
	Ledger string
	// InFlight is how many events are on their way at once; 0 means 256.
	InFlight int
	// Window is how many events are held in memory, those included that wait to
	// be tried again; 0 means 8192.
	Window int
	// Bytes bounds what is held in memory; 0 means 64 MiB. It is at least one
	// event.
	Bytes int64
	// DedupeWindow returns the duplicate window of the remote stream, 0 while
	// it is not known. It may be nil.
	DedupeWindow func() time.Duration
	// OnTrouble is called with the error when events have to be tried again,
	// and with nil when none has to any more. It must not block. It may be nil.
	OnTrouble func(error)
	// Tracer makes a span of the first attempt, and of the one that succeeds, in the trace that the event names; nil
	// means none.
	Tracer trace.TracerProvider
	// Logger of the relay; nil means none.
	Logger *zap.Logger
}

// Relay copies a stream to another one.
type Relay struct {
	opts   Options
	log    *zap.Logger
	tracer trace.Tracer
	ledger *ledger
	memory *semaphore.Weighted
	ready  chan *item // never blocks: it has room for the whole window

	mu       sync.Mutex
	held     map[uint64]*item   // by sequence, all that is in memory
	behind   map[string][]*item // by job, those that wait for the one before
	retrying int                // how many of held failed last time
	trouble  error

	relayed, parked, retries, late atomic.Uint64
}

// item is one event in memory.
type item struct {
	msg     jetstream.Msg
	seq     uint64
	job     string
	size    int64
	backoff backoff.BackOff
	// unknown is when it was first sent without an answer; zero if it never was.
	unknown  time.Time
	attempts int
	failed   bool // last time
	late     bool // a warning was given
}

const (
	defaultInFlight = 256
	defaultWindow   = 8192
	defaultBytes    = 64 << 20
	flushEvery      = time.Second
	// tryTimeout bounds one attempt; what a leader took with it is sent again
	// then.
	tryTimeout = 2 * time.Second
	maxBackoff = 2 * time.Second
	// ackWait is how long the server waits before it delivers an event again
	// that is held here; such a one is recognized.
	ackWait = time.Hour
)

// New returns a Relay that goes on where the ledger ends.
func New(o Options) (*Relay, error) {
	switch {
	case o.Source == nil:
		return nil, errors.New("relay: Options.Source is nil")
	case o.Remote == nil:
		return nil, errors.New("relay: Options.Remote is nil")
	case o.Park == nil:
		return nil, errors.New("relay: Options.Park is nil")
	case o.Ledger == "":
		return nil, errors.New("relay: Options.Ledger is empty")
	}
	o.Consumer = cmp.Or(o.Consumer, "relay")
	o.InFlight, o.Window, o.Bytes = cmp.Or(o.InFlight, defaultInFlight), cmp.Or(o.Window, defaultWindow), cmp.Or(o.Bytes, defaultBytes)
	if o.Tracer == nil {
		o.Tracer = noop.NewTracerProvider()
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	l, err := openLedger(o.Ledger)
	if err != nil {
		return nil, err
	}
	return &Relay{
		opts: o, log: o.Logger, tracer: o.Tracer.Tracer("github.com/jobbridge/jobbridge/publisher/relay"), ledger: l, memory: semaphore.NewWeighted(o.Bytes), ready: make(chan *item, o.Window),
		held: make(map[uint64]*item), behind: make(map[string][]*item),
	}, nil
}

// Run relays until ctx ends. What is on its way then is finished, within the
// time of one attempt.
func (r *Relay) Run(ctx context.Context) error {
	consumer, err := r.begin(ctx)
	if ctx.Err() != nil {
		return nil // it was told to end before it had begun
	}
	if err != nil {
		return err
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(1024, int(min(r.opts.Bytes, 16<<20))), jetstream.PullHeartbeat(5*time.Second), jetstream.PullExpiry(30*time.Second))
	if err != nil {
		return fmt.Errorf("relay: consume: %w", err)
	}
	stopped := context.AfterFunc(ctx, messages.Stop)
	defer stopped()
	var work sync.WaitGroup
	for range r.opts.InFlight {
		work.Go(func() { r.work(ctx) })
	}
	work.Go(func() { r.watch(ctx) })
	for ctx.Err() == nil {
		msg, err := messages.Next()
		switch {
		case err == nil:
			r.take(ctx, msg)
		case errors.Is(err, jetstream.ErrMsgIteratorClosed):
			if ctx.Err() == nil {
				err = fmt.Errorf("relay: the journal's consumer is gone: %w", err)
			} else {
				err = nil
			}
			work.Wait()
			return errors.Join(err, r.ledger.write())
		default:
			r.log.Debug("relay: next", zap.Error(err)) // a heartbeat that was late
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	work.Wait()
	return r.ledger.write()
}

// begin makes a consumer that starts after the ledger's floor, and only then
// removes the one before: there is always one that the journal's owner can see
// owes the rest.
func (r *Relay) begin(ctx context.Context) (jetstream.Consumer, error) {
	info, err := r.opts.Source.Info(ctx)
	if err != nil {
		return nil, fmt.Errorf("relay: journal: %w", err)
	}
	floor, _ := r.ledger.floor()
	if floor > info.State.LastSeq {
		r.log.Warn("the journal is younger than the relay's ledger: all of it is relayed", zap.Uint64("ledger", floor), zap.Uint64("journal", info.State.LastSeq))
		r.ledger.mu.Lock()
		r.ledger.Floor, r.ledger.Done, r.ledger.dirty = 0, nil, true
		r.ledger.mu.Unlock()
	}
	if info.State.FirstSeq > 0 {
		r.ledger.raise(info.State.FirstSeq - 1) // those are gone
	}
	floor, _ = r.ledger.floor()
	if window := r.window(); window > 0 && !r.ledger.Written.IsZero() && time.Since(r.ledger.Written) > window && floor < info.State.LastSeq {
		r.log.Warn("the relay was away for longer than the remote's duplicate window: events that it was sending when it ended may be stored twice",
			zap.Duration("away", time.Since(r.ledger.Written).Round(time.Second)), zap.Duration("window", window))
	}
	name := r.opts.Consumer + "-" + nuid.Next()
	consumer, err := r.opts.Source.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: name, Description: "copies the journal to the remote stream", DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: floor + 1,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait, MaxAckPending: r.opts.Window, MaxDeliver: -1,
	})
	if err != nil {
		return nil, fmt.Errorf("relay: create consumer: %w", err)
	}
	names := r.opts.Source.ConsumerNames(ctx)
	for old := range names.Name() {
		if strings.HasPrefix(old, r.opts.Consumer) && old != name {
			if err := r.opts.Source.DeleteConsumer(ctx, old); err != nil {
				return nil, fmt.Errorf("relay: remove the consumer before: %w", err)
			}
		}
	}
	r.log.Info("relay begins", zap.Uint64("after", floor), zap.Uint64("last", info.State.LastSeq))
	return consumer, names.Err()
}

// take brings one event into memory and lets it go, unless one of the same job
// is before it.
func (r *Relay) take(ctx context.Context, msg jetstream.Msg) {
	meta, err := msg.Metadata()
	if err != nil {
		r.log.Error("relay: metadata", zap.Error(err))
		return
	}
	seq := meta.Sequence.Stream
	if r.ledger.has(seq) {
		r.ack(msg)
		return
	}
	i := &item{msg: msg, seq: seq, size: min(int64(len(msg.Data()))+1024, r.opts.Bytes)}
	i.job = cmp.Or(msg.Headers().Get(event.JobIDHeader), msg.Headers().Get(jetstream.MsgIDHeader))
	if r.memory.Acquire(ctx, i.size) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held[seq] != nil {
		r.memory.Release(i.size) // delivered again, while it is being tried
		return
	}
	r.held[seq] = i
	if queue, busy := r.behind[i.job]; busy {
		r.behind[i.job] = append(queue, i)
		return
	}
	r.behind[i.job] = nil
	r.ready <- i
}

// work sends one event after the other until ctx ends.
func (r *Relay) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case i := <-r.ready:
			if r.opts.Await == nil || r.opts.Await(ctx) == nil {
				r.send(ctx, i)
			}
		}
	}
}

// send tries one event once.
func (r *Relay) send(ctx context.Context, i *item) {
	// What is on its way is not cut off: its outcome would be unknown.
	try, cancel := context.WithTimeout(context.WithoutCancel(ctx), tryTimeout)
	defer cancel()
	began := time.Now()
	// An event can be tried a thousand times: there is a span of the first
	// attempt and of the last.
	i.attempts++
	span := trace.SpanFromContext(try)
	if i.attempts == 1 {
		try, span = r.span(try, i, began)
	}
	msg := &nats.Msg{Subject: i.msg.Subject(), Header: i.msg.Headers(), Data: i.msg.Data()}
	_, err := r.opts.Remote.Forward(try, msg)
	if errors.Is(err, event.ErrTooLarge) {
		reason := err.Error()
		if err = r.opts.Park(try, msg, reason); err == nil {
			r.parked.Add(1)
			r.log.Error("event parked: the remote will never take it; see jobbridge parked list", zap.Uint64("seq", i.seq), zap.String("subject", i.msg.Subject()), zap.String("reason", reason))
		}
	}
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, publisher.Class(err).Error())
		span.End()
		if i.unknown.IsZero() && errors.Is(err, event.ErrUnknown) {
			i.unknown = began
		}
		r.retry(ctx, i, err)
		return
	}
	if i.attempts > 1 {
		_, span = r.span(try, i, began)
	}
	span.SetAttributes(attribute.Int("jobbridge.attempts", i.attempts))
	span.End()
	r.relayed.Add(1)
	r.ledger.add(i.seq)
	r.ack(i.msg)
	r.done(i)
}

// span starts the span of an attempt, in the trace that the event names.
func (r *Relay) span(ctx context.Context, i *item, began time.Time) (context.Context, trace.Span) {
	h := i.msg.Headers()
	sender := propagation.MapCarrier{event.TraceparentHeader: h.Get(event.TraceparentHeader), event.TracestateHeader: h.Get(event.TracestateHeader)}
	return r.tracer.Start(propagation.TraceContext{}.Extract(ctx, sender), "relay", trace.WithSpanKind(trace.SpanKindConsumer), trace.WithTimestamp(began))
}

// ack is worth no wait: the ledger knows, and an event that is delivered again
// is acknowledged again.
func (r *Relay) ack(msg jetstream.Msg) {
	if err := msg.Ack(); err != nil {
		r.log.Debug("relay: ack", zap.Error(err))
	}
}

// done forgets an event and lets the next one of its job go.
func (r *Relay) done(i *item) {
	r.memory.Release(i.size)
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, i.seq)
	r.note(i, nil)
	queue := r.behind[i.job]
	if len(queue) == 0 {
		delete(r.behind, i.job)
		return
	}
	r.behind[i.job] = queue[1:]
	r.ready <- queue[0]
}

// retry lets an event go again after a pause.
func (r *Relay) retry(ctx context.Context, i *item, err error) {
	r.retries.Add(1)
	if i.backoff == nil {
		b := backoff.NewExponentialBackOff()
		b.InitialInterval, b.MaxInterval = 50*time.Millisecond, maxBackoff
		i.backoff = b
	}
	r.mu.Lock()
	r.note(i, err)
	r.mu.Unlock()
	pause := i.backoff.NextBackOff()
	time.AfterFunc(pause, func() {
		if ctx.Err() == nil {
			r.ready <- i
		}
	})
}
