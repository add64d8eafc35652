package bridge

import (
	"context"
	"crypto/tls"
	"errors"

	"github.com/jobbridge/jobbridge/bridge/internal/admin"
	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/bridge/internal/logging"
	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/bridge/internal/reload"
	"github.com/jobbridge/jobbridge/publisher"
	"go.uber.org/zap"
)

// The names of the rooms below for users of this package.
type (
	// State is what the bridge can do for a sender now: a state of its publisher,
	// [Starting] or [Draining].
	State = publisher.State
	// Report is the state of a bridge at one moment, with the reasons for it.
	Report = admin.Report
	// Forwarded says how far a bridge has forwarded its journal.
	Forwarded = admin.Forwarded

	// Quarantine is the quarantine of a bridge.
	Quarantine = quarantine.Store
	// Quarantined is one entry of the quarantine.
	Quarantined = quarantine.Entry
	// Parked is an authentic event that the stream can never accept.
	Parked = quarantine.Parked
	// ReleaseOptions say what a release accepts.
	ReleaseOptions = quarantine.ReleaseOptions
)

// The states of the process, and the kinds of entries.
const (
	Starting = admin.Starting
	Draining = admin.Draining

	QuarantineRefused   = quarantine.RefusedKind
	QuarantineAuthentic = quarantine.AuthenticKind
)

// The paths of the admin listener, for those who call the operator's API.
const (
	PathLive       = admin.PathLive
	PathReady      = admin.PathReady
	PathMetrics    = admin.PathMetrics
	PathConfig     = admin.PathConfig
	PathDrain      = admin.PathDrain
	PathForward    = admin.PathForward
	PathQuarantine = admin.PathQuarantine
	PathEntry      = admin.PathEntry
	PathRelease    = admin.PathRelease
	PathPurge      = admin.PathPurge
)

// LogDelivery is the message of the line that is logged for each request.
const LogDelivery = ingress.LogDelivery

// ErrNotQuarantined is returned when no entry of the quarantine has the sequence.
var ErrNotQuarantined = quarantine.ErrNotFound

// The parts of the health that are decided here.
const (
	drainPart  = "drain"
	configPart = "configuration"
)

// startAdmin serves the operator: before the journal is open, and after the last
// delivery.
func (b *Bridge) startAdmin(ctx context.Context) error {
	b.shutdown.add("listeners", func(context.Context) error {
		b.webhook.Close() // both are closed already, unless they were never served
		b.adminListener.Close()
		return nil
	})
	b.admin = admin.New(b.health, b.opts.Metrics, logging.Sampled(b.log, b.opts.OnSampled))
	// Kubelet and Prometheus have no certificate, and need none.
	secure, err := b.useCertificate("certificate of the admin listener", "admin", b.settings.admin, tls.VerifyClientCertIfGiven, overHTTP)
	if err != nil {
		return wrong("Options.Admin.TLS: %w", err)
	}
	b.admin.SetToken(b.settings.token.Value)
	reload.Add(b.reload, "admin token", b.settings.token, func(token string) error {
		err := checkToken(token)
		if err == nil {
			b.admin.SetToken(token)
		}
		return err
	})
	if b.opts.Admin.Profile {
		b.admin.Profile()
	}
	b.admin.ServeDrain(b.askedToDrain)
	if b.opts.Admin.Settings != nil {
		b.admin.ServeSettings(func() any { return b.opts.Admin.Settings(b.settings.verifier.Fingerprints()) })
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- b.admin.Serve(serving, b.adminListener, secure) }()
	b.shutdown.add("admin listener", func(context.Context) error {
		stop()
		return <-done
	})
	b.log.Info("starting", zap.String("admin", b.Addrs().Admin), zap.String("dir", b.opts.DataDir))
	return nil
}

// askedToDrain makes the bridge unready, or undoes that.
func (b *Bridge) askedToDrain(cancel bool) {
	if cancel {
		b.log.Info("the drain was cancelled: readiness is as before")
		b.health.Set(drainPart, publisher.Ready)
		return
	}
	b.log.Info("drain was asked for: readiness says draining until the bridge is stopped, or until jobbridge drain --cancel")
	b.health.Set(drainPart, Draining, "drain was asked for: deliveries are accepted until the bridge is stopped; to undo: jobbridge drain --cancel")
}

// refusals is the quarantine as the ingress sees it.
type refusals struct{ *quarantine.Store }

// Add implements [ingress.Quarantine].
func (q refusals) Add(r ingress.Refused) string { return q.Store.Add(quarantine.Refused(r)).String() }

// Stale implements [ingress.Quarantine].
func (q refusals) Stale() int { return q.Stats().Stale }

// operated is the quarantine as the operator's API sees it.
type operated struct{ store *quarantine.Store }

// found has the API answer 404 if there is no such entry.
func found(err error) error {
	if errors.Is(err, quarantine.ErrNotFound) {
		return admin.NotFound(err)
	}
	return err
}

// List implements [admin.Quarantine].
func (q operated) List(ctx context.Context) (any, error) { return q.store.List(ctx) }

// Show implements [admin.Quarantine].
func (q operated) Show(ctx context.Context, sequence uint64) (any, error) {
	e, err := q.store.Show(ctx, sequence)
	return e, found(err)
}

// Release implements [admin.Quarantine].
func (q operated) Release(ctx context.Context, r admin.Release) (any, error) {
	list, err := q.store.Release(ctx, ReleaseOptions{Stale: r.Stale, Force: r.Force, DryRun: r.DryRun}, r.Sequences...)
	return list, found(err)
}

// Purge implements [admin.Quarantine].
func (q operated) Purge(ctx context.Context, sequences ...uint64) (int, error) {
	n, err := q.store.Purge(ctx, sequences...)
	return n, found(err)
}

// forwarded says how far the journal is forwarded.
func (b *Bridge) forwarded(ctx context.Context) Forwarded {
	var answer Forwarded
	if f := b.Publisher().Stats(ctx).Forward; f != nil {
		answer = Forwarded{Lag: f.Lag, Forwarded: f.Forwarded, State: f.State.Kind.String(), Reason: f.State.Reason}
	}
	if q := b.Quarantine(); q != nil {
		answer.Quarantined = q.Stats().Entries[QuarantineAuthentic]
	}
	return answer
}
