package relay

import (
	"context"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// note keeps count of what has to be tried again. The caller holds mu.
func (r *Relay) note(i *item, err error) {
	before := r.trouble
	if failed := err != nil; failed != i.failed {
		i.failed = failed
		if failed {
			r.retrying++
		} else {
			r.retrying--
		}
	}
	switch {
	case err != nil:
		r.trouble = err
	case r.retrying == 0:
		r.trouble = nil
	}
	if text(before) != text(r.trouble) && r.opts.OnTrouble != nil {
		r.opts.OnTrouble(r.trouble)
	}
	if (before == nil) != (r.trouble == nil) {
		if r.trouble != nil {
			r.log.Warn("relay: events have to be tried again", zap.Error(r.trouble))
		} else {
			r.log.Info("relay: all that failed has been relayed")
		}
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// watch writes the ledger, and looks for events that the remote may store twice.
func (r *Relay) watch(ctx context.Context) {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if info, err := r.opts.Source.Info(ctx); err == nil && info.State.FirstSeq > 0 {
			r.ledger.raise(info.State.FirstSeq - 1) // past their retention
		}
		if err := r.ledger.write(); err != nil {
			r.log.Error("relay", zap.Error(err))
		}
		r.warnLate()
	}
}

// warnLate warns of events whose outcome has been unknown for so long that the
// remote has forgotten their message ids.
func (r *Relay) warnLate() {
	window := r.window()
	if window == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, i := range r.held {
		if !i.late && i.failed && !i.unknown.IsZero() && time.Since(i.unknown) > window {
			i.late = true
			r.late.Add(1)
			r.log.Warn("an event was sent without an answer for longer than the remote's duplicate window: it may be stored twice",
				zap.Uint64("seq", i.seq), zap.String("id", i.msg.Headers().Get(jetstream.MsgIDHeader)), zap.Duration("window", window))
		}
	}
}

func (r *Relay) window() time.Duration {
	if r.opts.DedupeWindow == nil {
		return 0
	}
	return r.opts.DedupeWindow()
}
