// Package bridge is the product as a library: it receives signed webhooks, proves
// that they are authentic, stores each job-status event durably, and publishes it to
// NATS. The command jobbridge, the package bridgetest and other programs run it the
// same way.
//
//	b, err := bridge.New(bridge.Options{DataDir: "data", Secrets: bridge.Value([]string{secret})})
//	if err != nil {
//		return err
//	}
//	return b.Run(ctx)
//
// It promises that a 2xx answer follows a receipt of package publisher, that every
// other answer says so with an error the sender can act on, within five seconds of
// the body's last byte, that draining refuses no delivery whose sender had connected,
// and that Run returns within a deadline when its context ends, whatever the disk
// does.
//
// It leaves the signature to package verify, and storage and its durability to
// package publisher. What is between them has a room each below internal: the
// ingress, the operator's listener, the quarantine and the reading of files. The
// rooms do not know each other; this package connects them.
package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/admin"
	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/bridge/internal/reload"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/verify"
	"go.uber.org/zap"
)

// Bridge receives webhooks and publishes them. Its methods may be used concurrently.
type Bridge struct {
	opts     Options
	settings settings
	log      *zap.Logger
	health   *admin.Health
	reload   *reload.Reloader
	shutdown shutdown

	admin         *admin.Server
	webhook       net.Listener
	adminListener net.Listener

	// Set by Run, before OnReady is called.
	publisher       atomic.Pointer[publisher.Publisher]
	quarantine      atomic.Pointer[quarantine.Store] // nil without a quarantine
	quarantineReady chan struct{}                    // closed when quarantine is set
	stopIngress     context.CancelFunc

	served    chan struct{} // closed when the ingress has ended, with servedErr
	servedErr error
}

// New checks the options, reads the files that they name, and binds the listeners. It
// opens no data folder and no connection. [Bridge.Run] closes what New has opened.
func New(o Options) (*Bridge, error) {
	o = o.withDefaults()
	settings, err := o.read()
	if err := errors.Join(o.check(), err); err != nil {
		return nil, err
	}
	if err := o.limitConnections(); err != nil {
		return nil, err
	}
	b := &Bridge{
		opts: o, settings: settings, log: o.Logger, health: admin.NewHealth(o.Translate), shutdown: shutdown{log: o.Logger},
		quarantineReady: make(chan struct{}), served: make(chan struct{}),
	}
	b.reload, err = reload.New(o.Logger, b.health, o.Metrics)
	if err = errors.Join(err, o.Metrics.Register(b.health)); err != nil {
		return nil, wrong("Options.Metrics: %w", err)
	}
	warnings := o.Warnings()
	for _, warning := range warnings {
		b.log.Warn(warning)
	}
	b.health.Set(configPart, publisher.Ready, warnings...)
	if err := b.listen(); err != nil {
		return nil, err
	}
	return b, nil
}

// listen binds the listeners. They come before the journal: a taken port fails before
// anything has begun, and a delivery that comes while the journal opens waits instead
// of failing.
func (b *Bridge) listen() (err error) {
	bind := func(given net.Listener, addr, field string) (net.Listener, error) {
		if given != nil {
			return given, nil
		}
		ln, err := net.Listen("tcp", addr) //nolint:noctx // it waits for nobody
		if err != nil {
			return nil, fmt.Errorf("bridge: %s: %w", field, err)
		}
		return ln, nil
	}
	if b.adminListener, err = bind(b.opts.Admin.Listener, b.opts.Admin.Listen, "Options.Admin.Listen"); err != nil {
		return err
	}
	if b.webhook, err = bind(b.opts.Webhook.Listener, b.opts.Webhook.Listen, "Options.Webhook.Listen"); err != nil {
		return errors.Join(err, b.adminListener.Close())
	}
	return nil
}

// Addrs are where a bridge is reached.
type Addrs struct {
	// Webhook is the URL for deliveries, and Admin that of the operator's listener.
	Webhook, Admin string
	// NATS is the URL for workers. It is empty before the bridge is ready, and while
	// there is no connection to the operator's NATS.
	NATS string
}

// Addrs returns where the bridge is reached: with port 0, the port that the system
// chose.
func (b *Bridge) Addrs() Addrs {
	url := func(ln net.Listener, secure bool) string {
		if secure {
			return "https://" + ln.Addr().String()
		}
		return "http://" + ln.Addr().String()
	}
	a := Addrs{
		Webhook: url(b.webhook, !b.opts.Webhook.TLS.IsZero() || len(b.opts.Webhook.ACME.Domains) > 0) + b.opts.Webhook.Path,
		Admin:   url(b.adminListener, !b.opts.Admin.TLS.IsZero()),
	}
	if p := b.Publisher(); p != nil {
		a.NATS = p.URL()
	}
	return a
}

// Publisher returns what stores the events, for questions about them. It is nil
// before the bridge is ready.
func (b *Bridge) Publisher() *publisher.Publisher { return b.publisher.Load() }

// Quarantine returns the quarantine. It is nil before the bridge is ready, and if the
// bridge has no quarantine.
func (b *Bridge) Quarantine() operator.Quarantine {
	if q := b.quarantine.Load(); q != nil {
		return q
	}
	return nil
}

// Verifier returns what verifies deliveries, whose secrets can be replaced.
func (b *Bridge) Verifier() *verify.Verifier { return b.settings.verifier }

// Report returns what /readyz of the admin listener says now.
func (b *Bridge) Report() operator.Report { return b.health.Report() }

// Reload has every file read again soon, whether it seems changed or not.
func (b *Bridge) Reload() { b.reload.Trigger() }

// Run receives and publishes until ctx ends or the storage fails, and then drains:
// readiness goes, deliveries are accepted for the delay, the listener closes, those
// in flight finish, what is stored is forwarded, and everything is closed. It returns
// nil if it was asked to end and everything ended in time. It may be called once.
func (b *Bridge) Run(ctx context.Context) (err error) {
	defer func() {
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), b.opts.Shutdown.Timeout)
		defer cancel()
		if err = errors.Join(err, b.shutdown.run(limit)); err == nil {
			b.log.Info("stopped")
		}
	}()
	if err := b.startAdmin(ctx); err != nil {
		return err
	}
	if err := b.openStorage(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // it was asked to end before it had begun
		}
		return err
	}
	secure, err := b.webhookTLS(ctx)
	if err != nil {
		return err
	}
	b.startReload(ctx)
	if err := b.startIngress(ctx, secure); err != nil {
		return err
	}
	failed := b.Publisher().Failed() // a supervisor is to start over
	select {
	case <-ctx.Done():
	case <-failed:
	case <-b.served:
		if b.servedErr == nil { // Drain was called
			select {
			case <-ctx.Done():
			case <-failed:
			}
		}
	}
	return nil
}

// start runs a part of the bridge until the shutdown ends it.
func (b *Bridge) start(ctx context.Context, name string, run func(context.Context) error) {
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- run(running) }()
	b.shutdown.add(name, func(context.Context) error {
		stop()
		return <-done
	})
}

// startIngress accepts deliveries.
func (b *Bridge) startIngress(ctx context.Context, secure *tls.Config) error {
	o := b.opts
	options := ingress.Options{
		Verifier: b.settings.verifier, Publisher: b.Publisher(), Path: o.Webhook.Path, MaxBody: o.Webhook.MaxBody, MaxBodyMemory: o.Webhook.MaxBodyMemory,
		MaxInFlight: o.Webhook.MaxInFlight, MaxConnections: o.Webhook.MaxConnections, DrainDelay: o.Shutdown.Delay, ReadTimeout: o.Webhook.ReadTimeout, IdleTimeout: o.Webhook.IdleTimeout,
		ForgeryRate: o.Webhook.ForgeryRate, TLS: secure, Tolerance: o.Tolerance, TrustedProxies: o.Webhook.TrustedProxies, Tracer: o.Tracer,
		Registerer: o.Metrics, Logger: o.Logger, OnSampled: o.OnSampled, Now: o.Now,
		OnDrain: func() { b.health.Set(admin.Process, operator.Draining); o.OnStopping() },
	}
	if q := b.quarantine.Load(); q != nil {
		options.Quarantine = refusals{q}
	}
	in, err := ingress.New(options)
	if err != nil {
		return err
	}
	b.health.Watch(func() (publisher.State, []string) { return publisher.Ready, in.Reasons() })
	var serving context.Context
	serving, b.stopIngress = context.WithCancel(context.WithoutCancel(ctx))
	b.shutdown.add("webhook listener", func(context.Context) error { return b.Drain() })
	durability, addrs := b.Publisher().Durability(), b.Addrs()
	b.health.Start(durability)
	b.log.Info("ready", zap.String("webhook", addrs.Webhook), zap.String("nats", addrs.NATS), zap.String("admin", addrs.Admin),
		zap.String("durability", string(durability)), zap.Strings("secrets", b.settings.verifier.Fingerprints()))
	o.OnReady()
	go func() {
		b.servedErr = in.Serve(serving, b.webhook)
		close(b.served)
	}()
	return nil
}

// Drain stops accepting deliveries, as Run does when its context ends, and returns
// when those in flight have been answered. Run goes on, so that NATS stays. It must
// not be called before OnReady was, and may be called again.
func (b *Bridge) Drain() error {
	b.stopIngress()
	<-b.served
	return b.servedErr
}

// reloadLimit is how long the shutdown waits for the reading of files: a file may be
// on a file system that hangs.
const reloadLimit = 3 * time.Second

// startReload reads settings again when their files change.
func (b *Bridge) startReload(ctx context.Context) {
	reload.Add(b.reload, "secrets", b.settings.secrets, func(secrets []string) error {
		err := b.settings.verifier.SetSecrets(secrets)
		if err == nil {
			b.log.Info("secrets", zap.Strings("secrets", b.settings.verifier.Fingerprints()))
		}
		return err
	})
	b.start(ctx, "reading of files", func(ctx context.Context) error {
		done := make(chan struct{})
		go func() { defer close(done); b.reload.Run(ctx) }()
		<-ctx.Done()
		select {
		case <-done:
		case <-time.After(reloadLimit):
			b.log.Warn("a file that is read again does not answer")
		}
		return nil
	})
}
