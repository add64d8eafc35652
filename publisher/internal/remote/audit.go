package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// The time between two audits of the stream, while events cannot be stored and otherwise.
const (
	auditRetryInterval = 2 * time.Second
	auditInterval      = 30 * time.Second
)

// auditLoop audits the stream after each change of the connection and at regular intervals, until ctx ends.
func (r *Remote) auditLoop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var log auditLog
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.auditNow:
		case <-timer.C:
		}
		r.audit(ctx)
		if ctx.Err() != nil {
			return
		}
		s := r.Status()
		timer.Reset(s.auditPause())
		due, solved := log.due(s.Findings, time.Now())
		if solved {
			r.log.Info("audit of the stream: all problems are solved")
		}
		if due {
			for _, f := range s.Findings {
				r.log.Warn("audit of the stream", zap.String("problem", f.Problem), zap.String("fix", f.Fix), zap.Bool("fatal", f.Fatal))
			}
		}
	}
}

// auditLog decides when the log gets the findings: when they change, and fatal ones once a minute as well. A finding
// that only weakens the promise is no news when it is found again.
type auditLog struct {
	logged string // the findings that were logged last
	at     time.Time
}

// due reports whether the log gets the findings at now, and whether it says that there are none any more.
func (l *auditLog) due(findings []Finding, now time.Time) (log, solved bool) {
	fatal := slices.ContainsFunc(findings, func(f Finding) bool { return f.Fatal })
	text := ""
	if len(findings) > 0 {
		text = fmt.Sprintf("%+v", findings)
	}
	if text == l.logged && (!fatal || now.Sub(l.at) < reminderInterval) {
		return false, false
	}
	solved = text == ""
	l.logged, l.at = text, now
	return !solved, solved
}

// audit audits the stream once, and records the result.
func (r *Remote) audit(ctx context.Context) {
	if conn, _ := r.present(); !conn.IsConnected() {
		// The client reports an error that follows the TCP connection, such as one of TLS, to nobody.
		if err := conn.LastError(); err != nil {
			r.disconnected(conn, err)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	findings, window, err := r.findings(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state.audited(findings, window, err, time.Now())
}

// findings compares the stream with what the bridge needs, and returns the stream's duplicate window, 0 if there is no
// stream. A stream that does not exist is a finding. An error means that the stream cannot be inspected now.
func (r *Remote) findings(ctx context.Context) ([]Finding, time.Duration, error) {
	info, err := r.Info(ctx)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return []Finding{{
			Problem: "stream " + r.opts.Stream + ": it does not exist",
			Fix:     "create it with publisher.CreateStream and with credentials that allow it", Fatal: true,
		}}, 0, nil
	case errors.Is(err, event.ErrMisconfigured):
		return []Finding{{
			Problem: "JetStream is not enabled for this account", Fix: "enable it in the server's configuration", Fatal: true,
		}}, 0, nil
	case err != nil:
		return nil, 0, fmt.Errorf("the stream cannot be inspected: %w", err)
	}
	conn, _ := r.present()
	return append(Leaderless(info), r.opts.Needs.Audit(info.Config, conn.MaxPayload())...), info.Config.Duplicates, nil
}

// Info returns the stream's state and configuration. It returns [event.ErrMisconfigured] if the stream does not exist or
// the account has no JetStream, and [event.ErrUnavailable] for every other error.
func (r *Remote) Info(ctx context.Context) (*jetstream.StreamInfo, error) {
	_, js := r.present()
	stream, err := js.Stream(ctx, r.opts.Stream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound), errors.Is(err, jetstream.ErrJetStreamNotEnabled),
		errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return nil, fmt.Errorf("%w: stream %s: %w", event.ErrMisconfigured, r.opts.Stream, err)
	case err != nil:
		return nil, fmt.Errorf("%w: stream %s: %w", event.ErrUnavailable, r.opts.Stream, err)
	}
	return stream.CachedInfo(), nil
}
