package forward

import (
	"context"
	"time"

	"github.com/jobbridge/jobbridge/publisher/internal/backoff"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Kind says what the forwarder is doing.
type Kind uint8

// The kinds of state.
const (
	// Starting means that the state of the target is not known yet.
	Starting Kind = iota
	// Forwarding means that the target accepts messages.
	Forwarding
	// Comparing means that the stream is compared with the journal.
	Comparing
	// Down means that there is no connection.
	Down
	// Unavailable means that the target does not answer, or answers with errors.
	Unavailable
	// NoLeader means that the stream has no leader.
	NoLeader
	// Full means that the stream has no room for another message.
	Full
	// Misconfigured means that an operator must change the stream or the credentials.
	Misconfigured
	// Failed means that the embedded store has failed and is being restarted.
	Failed
)

var kindNames = [...]string{"starting", "forwarding", "comparing", "down", "unavailable", "no leader", "full", "misconfigured", "failed"}

func (k Kind) String() string { return kindNames[k] }

// State says what the forwarder is doing, and if it is not forwarding, why.
type State struct {
	Kind   Kind
	Reason string
}

// Stats are the figures of a forwarder.
type Stats struct {
	State State
	// Lag is the number of durable records that the target does not have.
	Lag uint64
	// OldestAge is the age of the oldest of those records, 0 if there is none.
	OldestAge time.Duration
	// Checkpoint is the journal sequence up to which every record is forwarded, according to forward.json.
	Checkpoint uint64
	// Frozen reports whether a sync of the target has failed, so that the checkpoint does not change any more.
	Frozen bool

	Counters
	// Window is the duplicate window of the stream, 0 if it is unknown.
	Window time.Duration
}

// Counters are totals since the start.
type Counters struct {
	Forwarded uint64 // records that the target acknowledged
	Parked    uint64 // records stored in the quarantine
	Retries   uint64 // attempts after a failed one
	Conflicts uint64 // records published on the conflict subject
	Resent    uint64 // publishes after an unanswered one, so that a plain subscriber may receive the event twice
	Present   uint64 // records that the comparison found in the stream
	Refilled  uint64 // records published again because the stream had lost them
	Missing   uint64 // records that the stream has lost and the journal does not have
	Restarts  uint64 // restarts of the embedded store
	// JournalLost is the number of records that the journal had acknowledged and has lost.
	JournalLost uint64
}

// State returns what the forwarder is doing.
func (f *Forwarder) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats.State
}

// Stats returns the present figures.
func (f *Forwarder) Stats() Stats {
	durable := f.opts.Journal.Durable()
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Lag = f.open
	if durable > f.last {
		s.Lag += durable - f.last
	}
	if s.Lag > 0 && !f.oldest.IsZero() {
		s.OldestAge = max(time.Since(f.oldest), 0)
	}
	return s
}

// setState sets the state that is reported. It logs a change of the kind, unless there were too many.
func (f *Forwarder) setState(s State) {
	f.mu.Lock()
	before := f.stats.State
	f.stats.State = s
	f.mu.Unlock()
	if s == before {
		return
	}
	if f.opts.onState != nil {
		f.opts.onState(s)
	}
	if s.Kind == before.Kind {
		return
	}
	if !f.stateLines.Allow() {
		f.mu.Lock()
		f.unlogged++
		f.mu.Unlock()
		return
	}
	fields := []zap.Field{zap.Stringer("state", s.Kind), zap.Stringer("before", before.Kind), zap.String("target", f.opts.Target.Name())}
	if s.Reason != "" {
		fields = append(fields, zap.String("reason", s.Reason))
	}
	f.log.Log(levelOf(s.Kind), "forwarder: state changed", fields...)
}

func levelOf(k Kind) zapcore.Level {
	if k <= Comparing {
		return zap.InfoLevel
	}
	return zap.WarnLevel
}

// summarize logs one line a minute if something was forwarded or is wrong.
func (f *Forwarder) summarize(ctx context.Context) {
	var last Counters
	for backoff.Wait(ctx, f.timing.summary) == nil {
		s := f.Stats()
		f.mu.Lock()
		unlogged := f.unlogged
		f.unlogged = 0
		f.mu.Unlock()
		if s.Counters == last && s.State.Kind == Forwarding && s.Lag == 0 {
			continue
		}
		f.log.Log(levelOf(s.State.Kind), "forwarder: summary", zap.Stringer("state", s.State.Kind), zap.String("reason", s.State.Reason),
			zap.Uint64("lag", s.Lag),
			zap.Duration("oldest", s.OldestAge.Round(time.Second)), zap.Uint64("forwarded", s.Forwarded-last.Forwarded),
			zap.Uint64("parked", s.Parked-last.Parked),
			zap.Uint64("retries", s.Retries-last.Retries), zap.Uint64("conflicts", s.Conflicts-last.Conflicts),
			zap.Uint64("resent", s.Resent-last.Resent),
			zap.Uint64("refilled", s.Refilled-last.Refilled), zap.Int("more_state_changes", unlogged))
		last = s.Counters
	}
}
