package remote

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// The pace of audits: soon again while something is wrong.
const (
	auditSoon  = 2 * time.Second
	auditLater = 30 * time.Second
)

// run audits the stream on each change of the connection, and every 30 s. The log gets
// the findings when they change, and fatal ones once a minute.
func (r *Remote) run(ctx context.Context) {
	next := time.NewTimer(0)
	defer next.Stop()
	var logged string
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.tell:
		case <-next.C:
		}
		r.audit(ctx)
		s := r.Status()
		pace := auditSoon
		if s.Audited && len(s.Misconfigured())+len(s.Outages()) == 0 {
			pace = auditLater
		}
		next.Reset(pace)
		if ctx.Err() != nil {
			return
		}
		// A finding that only weakens the promise is no news when it is found again.
		fatal := slices.ContainsFunc(s.Findings, func(f Finding) bool { return f.Fatal })
		if now := fmt.Sprintf("%+v", s.Findings); now != logged || fatal && time.Since(last) >= remindEvery {
			if len(s.Findings) == 0 && logged != "" {
				r.log.Info("audit of the stream: nothing to change any more")
			}
			logged, last = now, time.Now()
			for _, f := range s.Findings {
				r.log.Warn("audit of the stream", zap.String("problem", f.Problem), zap.String("fix", f.Fix), zap.Bool("fatal", f.Fatal))
			}
		}
	}
}

// audit looks at the stream once.
func (r *Remote) audit(ctx context.Context) {
	if conn, _ := r.present(); !conn.IsConnected() {
		// Of what goes wrong after the TCP connection, nobody is told otherwise.
		if err := conn.LastError(); err != nil {
			r.disconnected(conn, err)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	findings, window, err := r.Audit(ctx)
	refused := r.refusals()
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.status.Connected {
		return
	}
	r.status.Problem, r.status.Denied = "", false
	switch {
	case len(refused) > 0:
		r.status.Problem = "the NATS user may not publish to " + strings.Join(refused, ", ") + ": grant it"
		// Without the API the stream cannot be looked at, but it takes events.
		r.status.Denied = slices.ContainsFunc(refused, func(s string) bool { return !strings.HasPrefix(s, "$JS.API.") })
	case err != nil:
		r.status.Problem = err.Error()
	}
	if err != nil {
		return
	}
	r.status.Audited, r.status.Findings = true, findings
	if window > 0 {
		r.status.Window = window
	}
}

// Audit compares the stream with what the bridge needs. An error means that it
// cannot be told now; a stream that is not there is a finding.
func (r *Remote) Audit(ctx context.Context) ([]Finding, time.Duration, error) {
	conn, js := r.present()
	s, err := js.Stream(ctx, r.opts.Stream)
	missing := ""
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		missing = "stream " + r.opts.Stream + ": it does not exist"
	case errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return []Finding{{Problem: "JetStream is not enabled for this account", Fix: "enable it in the server's configuration", Fatal: true}}, 0, nil
	case err != nil:
		return nil, 0, fmt.Errorf("stream %s cannot be looked at: %w", r.opts.Stream, err)
	}
	if missing != "" {
		return []Finding{{Problem: missing, Fix: "jobbridge stream create --stream " + r.opts.Stream + ", with credentials that may", Fatal: true}}, 0, nil
	}
	info := s.CachedInfo()
	return append(Leaderless(info), r.opts.Needs.Audit(info.Config, conn.MaxPayload())...), info.Config.Duplicates, nil
}
