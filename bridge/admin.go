package bridge

import (
	"context"
	"crypto/tls"

	"github.com/jobbridge/jobbridge/bridge/internal/admin"
	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/bridge/internal/logging"
	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/bridge/internal/reload"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"go.uber.org/zap"
)

// LogDelivery is the message of the line that is logged for each request.
const LogDelivery = ingress.LogDelivery

// The parts of the health that package bridge sets.
const (
	drainPart  = "drain"
	configPart = "configuration"
)

// startAdmin starts the admin listener. It serves before the journal is open, and until the last step of the shutdown.
func (b *Bridge) startAdmin(ctx context.Context) error {
	b.shutdown.add("listeners", func(context.Context) error {
		b.webhook.Close() // an error means that it is closed already
		b.adminListener.Close()
		return nil
	})
	b.admin = admin.New(b.health, b.opts.Metrics, logging.Sampled(b.log, b.opts.OnSampled))
	// The kubelet and Prometheus have no certificate, and need none.
	secure, err := b.useCertificate(
		"certificate of the admin listener", "admin", b.settings.admin, tls.VerifyClientCertIfGiven, overHTTP)
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
	b.start(ctx, "admin listener", func(ctx context.Context) error { return b.admin.Serve(ctx, b.adminListener, secure) })
	b.log.Info("starting", zap.String("admin", b.Addrs().Admin), zap.String("dir", b.opts.DataDir))
	return nil
}

// askedToDrain makes the bridge report the state draining or, with cancel, ends that.
func (b *Bridge) askedToDrain(cancel bool) {
	if cancel {
		b.log.Info("the drain was cancelled: readiness is as before")
		b.health.Set(drainPart, publisher.Ready)
		return
	}
	b.log.Info("drain was asked for: readiness says draining until the bridge is stopped, or the drain is cancelled")
	b.health.Set(drainPart, operator.Draining,
		"drain was asked for: deliveries are accepted until the bridge is stopped; to undo: "+operator.DoCancelDrain)
}

// refusals is the quarantine as the ingress sees it.
type refusals struct{ *quarantine.Store }

// Add implements [ingress.Quarantine].
func (q refusals) Add(r ingress.Refused) string { return q.Store.Add(quarantine.Refused(r)).String() }

// Stale implements [ingress.Quarantine].
func (q refusals) Stale() int { return q.Stats().Stale }

// forwarded returns how far the journal is forwarded.
func (b *Bridge) forwarded(ctx context.Context) operator.Forwarded {
	var answer operator.Forwarded
	if f := b.Publisher().Stats(ctx).Forward; f != nil {
		answer = operator.Forwarded{Lag: f.Lag, Forwarded: f.Forwarded, State: f.State.Kind.String(), Reason: f.State.Reason}
	}
	if q := b.quarantine.Load(); q != nil {
		answer.Quarantined = q.Stats().Entries[operator.Authentic]
	}
	return answer
}
