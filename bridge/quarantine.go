package bridge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// The defaults of [QuarantineOptions].
const (
	DefaultQuarantineBytes   = 64 << 20
	DefaultQuarantineAge     = 7 * 24 * time.Hour
	DefaultQuarantineMaxBody = 64 << 10
)

// QuarantineStream is the stream that a [Quarantine] keeps requests in: bounded
// in bytes and age, the oldest dropped first. 0 means the default.
func QuarantineStream(maxBytes int64, maxAge time.Duration) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: "QUARANTINE", Description: "Requests that were refused for their signature or their clock", Subjects: []string{quarantineSubject},
		Storage: jetstream.FileStorage, Discard: jetstream.DiscardOld, MaxBytes: cmp.Or(maxBytes, DefaultQuarantineBytes),
		MaxAge: cmp.Or(maxAge, DefaultQuarantineAge), Duplicates: time.Second, AllowDirect: true,
	}
}

const quarantineSubject = "quarantine"

// QuarantineOptions configures a [Quarantine]. JetStream, Stream, Verifier and
// Publisher are needed.
type QuarantineOptions struct {
	JetStream jetstream.JetStream
	// Stream is one of [QuarantineStream]'s form.
	Stream jetstream.Stream
	// Verifier has the present secrets, for a release.
	Verifier Verifier
	// Publisher takes what is released.
	Publisher Publisher
	// Tolerance of the time of signing; 0 means [verify.DefaultTolerance].
	Tolerance time.Duration
	// MaxBody is the largest body that is kept; 0 means
	// [DefaultQuarantineMaxBody].
	MaxBody int
	// Logger; nil means none.
	Logger *zap.Logger
}

// Quarantine keeps requests that may be authentic although they were refused: a
// secret was rotated, a clock is wrong. One source can fill a quarter of it,
// and then a quarter an hour; all together half of it, and then a half an hour.
// So whoever sends forgeries cannot push out at once what others sent.
type Quarantine struct {
	opts    QuarantineOptions
	log     *zap.Logger
	queue   chan refused
	all     *rate.Limiter // in bytes
	sources *source.Limiters
	kept    [len(keepResults)]atomic.Uint64
}

// refused is a request on its way into the quarantine.
type refused struct {
	reason string
	remote string
	at     time.Time
	header http.Header
	body   []byte
}

// Kept is what became of a refused request.
type Kept int

// What becomes of a refused request.
const (
	KeptSafe       Kept = iota // it is in the quarantine, or about to be
	KeptNotSource              // its source has sent too many
	KeptNotAll                 // all sources together have sent too many
	KeptNotSize                // its body is too large
	KeptNotBusy                // too many came at once
	KeptNotWritten             // the storage failed
)

var keepResults = [...]string{"kept", "source_limit", "limit", "size", "busy", "error"}

func (k Kept) String() string { return keepResults[k] }

// The sizes of what a quarantine holds besides its stream.
const (
	quarantineQueue = 256
	quarantineEntry = 1 << 10 // what an entry costs on top of its body, about
	// keptHeader bounds one header of a kept request.
	keptHeader = 4 << 10
)

// NewQuarantine returns a Quarantine. It does no I/O.
func NewQuarantine(o QuarantineOptions) (*Quarantine, error) {
	switch {
	case o.JetStream == nil:
		return nil, errors.New("bridge: QuarantineOptions.JetStream is nil")
	case o.Stream == nil:
		return nil, errors.New("bridge: QuarantineOptions.Stream is nil")
	case o.Verifier == nil:
		return nil, errors.New("bridge: QuarantineOptions.Verifier is nil")
	case o.Publisher == nil:
		return nil, errors.New("bridge: QuarantineOptions.Publisher is nil")
	}
	o.Tolerance, o.MaxBody = cmp.Or(o.Tolerance, verify.DefaultTolerance), cmp.Or(o.MaxBody, DefaultQuarantineMaxBody)
	o.Logger = cmp.Or(o.Logger, zap.NewNop())
	size := int(o.Stream.CachedInfo().Config.MaxBytes)
	sources, err := source.NewLimiters(hourly(size/4), size/4)
	if err != nil {
		return nil, fmt.Errorf("bridge: quarantine: %w", err)
	}
	return &Quarantine{
		opts: o, log: o.Logger, queue: make(chan refused, quarantineQueue), sources: sources,
		all: rate.NewLimiter(hourly(size/2), size/2),
	}, nil
}

func hourly(bytes int) rate.Limit { return rate.Limit(float64(bytes) / time.Hour.Seconds()) }

// keep puts a request into the quarantine, or says why not. It never waits.
func (q *Quarantine) keep(r refused) Kept {
	result := q.offer(r)
	if result != KeptSafe { // that counts when it is written
		q.kept[result].Add(1)
	}
	return result
}

func (q *Quarantine) offer(r refused) Kept {
	if len(r.body) > q.opts.MaxBody {
		return KeptNotSize
	}
	cost := len(r.body) + quarantineEntry
	switch {
	case !q.sources.Of(source.Of(r.remote)).AllowN(time.Now(), cost):
		return KeptNotSource
	case !q.all.AllowN(time.Now(), cost):
		return KeptNotAll
	}
	select {
	case q.queue <- r:
		return KeptSafe
	default:
		return KeptNotBusy
	}
}

// Run writes what was refused until ctx ends, and then what is left.
func (q *Quarantine) Run(ctx context.Context) {
	for {
		select {
		case r := <-q.queue:
			q.write(r)
		case <-ctx.Done():
			for {
				select {
				case r := <-q.queue:
					q.write(r)
				default:
					return
				}
			}
		}
	}
}

// The headers of a kept request, beside those of the request itself.
const (
	quarantineReason   = "Quarantine-Reason"
	quarantineRemote   = "Quarantine-Remote"
	quarantineReceived = "Quarantine-Received-At"
)

// keptHeaders are those of the request that are of use later.
var keptHeaders = []string{verify.HeaderName, "Content-Type", "Content-Encoding", "User-Agent", "X-Forwarded-For", "Traceparent", "Tracestate"}

func (q *Quarantine) write(r refused) {
	h := nats.Header{quarantineReason: {r.reason}, quarantineRemote: {r.remote}, quarantineReceived: {r.at.UTC().Format(time.RFC3339Nano)}}
	for _, name := range keptHeaders {
		if v := strings.Join(r.header.Values(name), ","); v != "" && len(v) <= keptHeader {
			h[name] = []string{v}
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), answerTimeout) // of Run, which outlives its context
	defer cancel()
	if _, err := q.opts.JetStream.PublishMsg(ctx, &nats.Msg{Subject: quarantineSubject, Header: h, Data: r.body}); err != nil {
		q.kept[KeptNotWritten].Add(1)
		q.log.Error("quarantine", zap.Error(err))
		return
	}
	q.kept[KeptSafe].Add(1)
}

// Kept returns how many requests had each result, by its name, since the start;
// one that waits to be written has none yet.
func (q *Quarantine) Kept() map[string]uint64 {
	counts := make(map[string]uint64, len(keepResults))
	for i := range q.kept {
		counts[keepResults[i]] = q.kept[i].Load()
	}
	return counts
}

// Size returns how many requests the quarantine holds, and how many bytes.
func (q *Quarantine) Size(ctx context.Context) (messages, bytes uint64, err error) {
	info, err := q.opts.Stream.Info(ctx)
	if err != nil {
		return 0, 0, fmt.Errorf("quarantine: %w", err)
	}
	return info.State.Msgs, info.State.Bytes, nil
}
