package forward

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/backoff"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

// plan says from where the journal is read, and which of its records are not published.
type plan struct {
	situation situation
	info      Info
	after     uint64                       // the journal is read after this sequence
	below     uint64                       // the stream has no copy of a record after that up to this stream sequence
	refill    uint64                       // the records up to this one were acknowledged before; only lost ones are published
	trimmed   uint64                       // the records up to this one were removed from the stream on purpose, and are not published
	lost      uint64                       // how many messages the stream has lost, if that is known
	highest   uint64                       // highest sequence in the stream
	present   map[uint64][sha256.Size]byte // digests of the records in the stream
}

// resume waits for the target and compares it with the checkpoint and the journal. It returns an error if ctx ends or the target's
// files cannot be synced.
func (f *Forwarder) resume(ctx context.Context) (plan, error) {
	for failures := 1; ; failures++ {
		p, err := f.tryResume(ctx)
		if err == nil || ctx.Err() != nil || errors.Is(err, errSync) {
			return p, errors.Join(err, ctx.Err())
		}
		f.setState(stateOf(err))
		if err := backoff.Wait(ctx, f.pause(failures)); err != nil {
			return p, err
		}
	}
}

func (f *Forwarder) tryResume(ctx context.Context) (plan, error) {
	wait, cancel := context.WithTimeout(ctx, f.timing.connect)
	_, err := f.opts.Target.Conn(wait)
	cancel()
	if err != nil {
		return plan{}, fmt.Errorf("%w: %w", errDown, err)
	}
	if f.State().Kind != Comparing && f.State().Kind != Forwarding {
		f.setState(State{Comparing, "the stream is compared with the journal"})
	}
	if err := f.opts.Target.SyncAll(ctx); err != nil {
		f.recordDoubt()
		return plan{}, fmt.Errorf("%w: %w", errSync, err)
	}
	info, err := f.info(ctx)
	if err != nil {
		return plan{}, err
	}
	s := f.saved.compare(f.opts.Target.Name(), f.id, info)
	if s.lost() && s != unfinished && !f.opts.Target.Exact() {
		// A new leader may be behind for a moment.
		if err := backoff.Wait(ctx, f.timing.confirm); err != nil {
			return plan{}, err
		}
		if info, err = f.info(ctx); err != nil {
			return plan{}, err
		}
		s = f.saved.compare(f.opts.Target.Name(), f.id, info)
	}
	return f.plan(ctx, s, info)
}

// plan decides what is read and what is published in a situation.
func (f *Forwarder) plan(ctx context.Context, s situation, info Info) (plan, error) {
	journal, exact := f.opts.Journal, f.opts.Target.Exact()
	p := plan{situation: s, info: info, after: max(journal.First(), 1) - 1}
	from, to := uint64(0), info.LastSeq
	switch {
	case s == unchanged || s == doubtful:
		p.after, p.below, from = f.saved.Sequence, f.saved.CompareAfter, f.saved.CompareAfter
		if !exact { // others may have published millions of messages since
			to = min(to, f.saved.StreamSequence+remoteCompare)
		}
	case s == otherJournal && f.saved.Created.Equal(info.Created):
		from = f.saved.CompareAfter
	case s == fresh && !exact && journal.Durable() == 0:
		from = to // the stream has no record of this journal
	case s.lost():
		p.refill = f.saved.Sequence
	}
	if s == shortened {
		p.lost = f.saved.StreamSequence - info.LastSeq
	}
	if s == gaps {
		p.lost = uint64(len(info.Lost) - f.saved.Lost)
	}
	f.logSituation(ctx, p)
	found, err := f.scan(ctx, max(from+1, info.FirstSeq), to)
	if err != nil {
		return p, err
	}
	if s != doubtful {
		p.present, p.highest = found.sequences, found.highest
	}
	if s == fresh || s == otherTarget {
		p.refill = found.highest // records that expired in the stream are not published again
	}
	switch {
	case s == unfinished:
		p.trimmed = f.saved.RefillAfter
	case p.lost > 0:
		if p.trimmed, err = f.newestAbsent(ctx, p); err != nil {
			return p, err
		}
	case info.FirstSeq > 1:
		p.trimmed = found.first
	}
	f.skip(max(found.highest, f.acknowledged()), found.highest)
	if s.lost() {
		return p, f.markRefill(p)
	}
	return p, nil
}

// newestAbsent returns the sequence after which there are the newest p.lost records that are absent from the stream. Older absent
// records were not lost but trimmed.
func (f *Forwarder) newestAbsent(ctx context.Context, p plan) (uint64, error) {
	var absent []uint64
	reader := f.opts.Journal.NewReader(p.after)
	for n := p.after; n < min(p.refill, f.opts.Journal.Durable()); {
		r, err := nextSoon(ctx, reader)
		if errors.Is(err, context.DeadlineExceeded) {
			break // the other records were skipped or are damaged
		}
		if err != nil {
			return 0, fmt.Errorf("read the journal: %w", err)
		}
		if n = r.Sequence; n <= p.refill && !r.Local && !p.has(&r) {
			absent = append(absent, n)
		}
	}
	if uint64(len(absent)) <= p.lost {
		return p.after, nil
	}
	return absent[uint64(len(absent))-p.lost-1], nil
}

// has reports whether the stream has the record. If the journal has lost its end, another event in the stream can have the same
// sequence.
func (p *plan) has(r *Record) bool {
	digest, ok := p.present[r.Sequence]
	return ok && digest == r.Digest
}

// markRefill writes a checkpoint that says that a refill has begun.
func (f *Forwarder) markRefill(p plan) error {
	c := *f.saved
	c.Created, c.StreamSequence, c.Lost = p.info.Created, p.info.LastSeq, len(p.info.Lost)
	c.CompareAfter, c.Refill, c.RefillAfter = 0, true, p.trimmed
	if err := c.write(f.opts.Dir); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	f.saved = &c
	return nil
}

// recordDoubt writes a checkpoint, if possible, that says that what the stream has after the checkpoint may not be on its disk.
func (f *Forwarder) recordDoubt() {
	f.mu.Lock()
	f.stats.Frozen = true
	f.mu.Unlock()
	if f.saved == nil {
		return
	}
	c := *f.saved
	c.Doubt = true
	if err := c.write(f.opts.Dir); err != nil {
		f.log.Error("the checkpoint cannot be written", zap.Error(err))
	}
}

const shortWindow = "the stream's duplicate window is shorter than the journal: an event that cannot be compared may be stored twice"

// logSituation logs the situation.
func (f *Forwarder) logSituation(ctx context.Context, p plan) {
	level := zap.InfoLevel
	switch {
	case p.situation.lost(), p.situation == doubtful:
		level = zap.ErrorLevel
	case p.situation == otherTarget, p.situation == otherJournal:
		level = zap.WarnLevel
	}
	f.log.Log(level, p.situation.String(), zap.String("target", f.opts.Target.Name()),
		zap.String("journal", f.id), zap.Uint64("after", p.after),
		zap.Uint64("journal_last", f.opts.Journal.Durable()), zap.Uint64("stream_last", p.info.LastSeq))
	if p.situation == gaps {
		f.log.Error("lost stream sequences", zap.String("sequences", ranges(p.info.Lost)))
	}
	if !p.situation.lost() || f.opts.Target.Exact() {
		return
	}
	if first, ok := f.firstTime(ctx); ok && p.info.Duplicates < time.Since(first) {
		f.log.Warn(shortWindow,
			zap.Duration("window", p.info.Duplicates), zap.Time("journal_begins", first))
	}
}

// acknowledged returns the sequence in the checkpoint, or 0 if the checkpoint is of another journal.
func (f *Forwarder) acknowledged() uint64 {
	if f.saved == nil || f.saved.Journal != f.id {
		return 0
	}
	return f.saved.Sequence
}

// skip makes the journal continue above a sequence that it has assigned before and has lost. After Run has begun, it only reports
// the loss, because the journal may have assigned the sequence again.
func (f *Forwarder) skip(above, inStream uint64) {
	durable := f.opts.Journal.Durable()
	if above <= max(durable, f.skipped) {
		return
	}
	f.skipped = above
	f.total.JournalLost += above - durable
	f.log.Error("the journal has lost acknowledged events", zap.Uint64("journal_last", durable),
		zap.Uint64("checkpoint", f.acknowledged()), zap.Uint64("stream", inStream), zap.Uint64("lost", above-durable))
	if !f.running {
		f.opts.Journal.Skip(above)
		f.holeAfter, f.holeEnd = durable, above
	}
}

// firstTime returns the wall time of the journal's first record.
func (f *Forwarder) firstTime(ctx context.Context) (time.Time, bool) {
	journal := f.opts.Journal
	if journal.Durable() == 0 || journal.Durable() < journal.First() {
		return time.Time{}, false
	}
	r, err := nextSoon(ctx, journal.NewReader(max(journal.First(), 1)-1))
	return r.Time, err == nil
}

// nextSoon reads a record that should exist, and waits at most a second.
func nextSoon(ctx context.Context, r Reader) (Record, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return r.Next(ctx)
}

// info asks for the stream's state. An error says why no events can be published.
func (f *Forwarder) info(ctx context.Context) (Info, error) {
	ctx, cancel := context.WithTimeout(ctx, f.timing.timeout)
	defer cancel()
	info, err := f.opts.Target.Info(ctx)
	if err != nil {
		return info, err
	}
	f.mu.Lock()
	f.stats.Window = info.Duplicates
	f.mu.Unlock()
	if !info.HasLeader {
		return info, errNoLeader
	}
	return info, nil
}

var (
	errDown     = errors.New("no connection")
	errNoLeader = errors.New("the stream has no leader")
)

// stateOf returns the state for an error of the target.
func stateOf(err error) State {
	k := Unavailable
	switch {
	case errors.Is(err, errDown):
		k = Down
	case errors.Is(err, errNoLeader):
		k = NoLeader
	case errors.Is(err, event.ErrFull):
		k = Full
	case errors.Is(err, event.ErrMisconfigured), errors.Is(err, nats.ErrPermissionViolation):
		k = Misconfigured
	}
	return State{k, err.Error()}
}
