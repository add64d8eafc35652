package forward

import (
	"context"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Kind is what the forwarder is doing.
type Kind uint8

// The kinds of state.
const (
	// Starting means that nothing is known of the target yet.
	Starting Kind = iota
	// Forwarding means that the target takes what it gets.
	Forwarding
	// Comparing means that the stream is compared with the journal.
	Comparing
	// Down means that there is no connection.
	Down
	// Unavailable means that the target does not answer, or answers errors.
	Unavailable
	// NoLeader means that the stream has no leader.
	NoLeader
	// Full means that the stream takes no more messages.
	Full
	// Misconfigured means that an operator has to change stream or credentials.
	Misconfigured
	// Failed means that the embedded store has failed and is being restarted.
	Failed
)

var kindNames = [...]string{"starting", "forwarding", "comparing", "down", "unavailable", "no leader", "full", "misconfigured", "failed"}

func (k Kind) String() string { return kindNames[k] }

// State is what the forwarder is doing, and why it is not forwarding.
type State struct {
	Kind   Kind
	Reason string
}

// Stats is how far the forwarder is, and what it has done since the start.
type Stats struct {
	State State
	// Lag is the number of durable records that the target does not have.
	Lag uint64
	// OldestAge is the age of the oldest of them, zero if there is none.
	OldestAge time.Duration
	// Checkpoint is the journal sequence up to which everything is forwarded and
	// checkpointed.
	Checkpoint uint64
	// Frozen tells that a sync of the target failed: the checkpoint stays.
	Frozen bool

	Counters
	// Window is the duplicate window of the stream, zero if it is unknown.
	Window time.Duration
}

// Counters are the totals of Stats, since the start.
type Counters struct {
	Forwarded uint64 // records that the target acknowledged
	Parked    uint64 // records handed to the quarantine
	Retries   uint64 // attempts that failed and are repeated
	Conflicts uint64 // records published on the conflict subject
	Resent    uint64 // publishes after an unanswered one: a plain subscriber may see the event twice
	Present   uint64 // records that the comparison found in the stream
	Refilled  uint64 // records published again because the stream had lost them
	Missing   uint64 // records that the stream has lost and the journal does not have
	Restarts  uint64 // restarts of the embedded store
	// JournalLost is the number of records that the journal had acknowledged and
	// does not have any more.
	JournalLost uint64
}

// State returns what the forwarder is doing.
func (f *Forwarder) State() State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats.State
}

// Stats returns how far the forwarder is.
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

// setState publishes a state. A change of its kind is one line in the log, as
// long as there are not too many of them.
func (f *Forwarder) setState(s State) {
	f.mu.Lock()
	before := f.stats.State
	f.stats.State = s
	f.mu.Unlock()
	if s == before {
		return
	}
	if f.opts.OnState != nil {
		f.opts.OnState(s)
	}
	if s.Kind == before.Kind {
		return
	}
	if !f.lines.Allow() {
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

// summarize logs one line a minute if something happened or is wrong.
func (f *Forwarder) summarize(ctx context.Context) {
	var last Counters
	for sleep(ctx, f.timing.summary) == nil {
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
