// Package bridge is jobbridge as a library. A [Bridge] receives signed webhooks, proves that they are authentic, stores
// each job-status event durably, and publishes it to NATS. The command jobbridge and the package bridgetest run the
// same Bridge.
//
//	b, err := bridge.New(bridge.Options{DataDir: "data", Secrets: bridge.Value([]string{secret})})
//	if err != nil {
//		return err
//	}
//	return b.Run(ctx)
//
// The package makes these promises:
//
//   - A delivery is answered with 2xx only after package publisher has stored its event.
//   - Every other answer is an error that the sender can act on. It comes within five
//     seconds of the last byte of the body.
//   - A bridge whose listener has closed accepts no new connection, but it refuses no delivery
//     of a sender that had connected before.
//   - When the context of [Bridge.Run] ends, Run returns within
//     [ShutdownOptions.Timeout], even if the disk hangs.
//
// It leaves the check of signatures to package verify, and storing and publishing to package publisher. Package
// operator has the types of the operator's API.
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

// Bridge receives webhooks and publishes their events. Its methods may be called concurrently.
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

	// Run sets these before it calls OnReady.
	publisher       atomic.Pointer[publisher.Publisher]
	quarantine      atomic.Pointer[quarantine.Store] // nil without a quarantine
	quarantineReady chan struct{}                    // closed when quarantine is set
	stopIngress     context.CancelFunc

	served    chan struct{} // closed when the ingress has ended, with servedErr
	servedErr error         // what the ingress has returned
}

// New checks the options, reads the settings, and binds the two listeners. It does not open the data folder, and it
// does not connect to NATS. If you do not need the Bridge after all, call [Bridge.Run] with a context that has ended: Run
// closes the listeners.
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

// listen binds the listeners. This happens before the journal is opened, so that New fails at once if a port is taken,
// and so that a delivery which arrives while the journal is opened waits instead of failing.
func (b *Bridge) listen() (err error) {
	bind := func(given net.Listener, addr, field string) (net.Listener, error) {
		if given != nil {
			return given, nil
		}
		ln, err := net.Listen("tcp", addr) //nolint:noctx // net.Listen does not block
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

// Addrs holds the URLs of a bridge.
type Addrs struct {
	// Webhook is the URL for deliveries, with the path.
	Webhook string
	// Admin is the URL of the admin listener.
	Admin string
	// NATS is the URL for workers. It is empty before the bridge is ready, and while the bridge is not connected to
	// your NATS.
	NATS string
}

// Addrs returns the URLs of the bridge. If an address was given with port 0, its URL has the port that the system
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

// Publisher returns the publisher that stores the events, for example to look an event up. It is nil before the bridge
// is ready.
func (b *Bridge) Publisher() *publisher.Publisher { return b.publisher.Load() }

// Quarantine returns the quarantine. It is nil before the bridge is ready, and if the bridge has no quarantine.
func (b *Bridge) Quarantine() operator.Quarantine {
	if q := b.quarantine.Load(); q != nil {
		return q
	}
	return nil
}

// Verifier returns the verifier of the deliveries. Its secrets can be replaced while the bridge runs.
func (b *Bridge) Verifier() *verify.Verifier { return b.settings.verifier }

// Report returns the present state of the bridge, as the path /readyz of the admin listener reports it.
func (b *Bridge) Report() operator.Report { return b.health.Report() }

// Reload makes the bridge read every setting whose files have changed. Without Reload the bridge notices a change by
// itself, about a second later. Reload does not wait.
func (b *Bridge) Reload() { b.reload.Trigger() }

// Run receives and publishes until ctx ends or the storage fails. Then it drains the bridge, in these steps:
//
//  1. The state becomes [operator.Draining], so that /readyz answers 503.
//  2. For [ShutdownOptions.Delay], deliveries are still accepted.
//  3. The webhook listener closes, and the deliveries in flight are answered.
//  4. For at most [ShutdownOptions.Forward], stored events are forwarded to NATS.
//  5. NATS, the journal and the admin listener are closed.
//
// Run returns nil if ctx has ended and every step was finished in time. Call it once.
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
	failed := b.Publisher().Failed() // then only a restart helps
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

// startIngress starts to accept deliveries.
func (b *Bridge) startIngress(ctx context.Context, secure *tls.Config) error {
	o := b.opts
	options := ingress.Options{
		Verifier: b.settings.verifier, Publisher: b.Publisher(), Path: o.Webhook.Path, MaxBody: o.Webhook.MaxBody,
		MaxBodyMemory: o.Webhook.MaxBodyMemory, MaxInFlight: o.Webhook.MaxInFlight, MaxConnections: o.Webhook.MaxConnections,
		DrainDelay: o.Shutdown.Delay, ReadTimeout: o.Webhook.ReadTimeout, IdleTimeout: o.Webhook.IdleTimeout,
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

// Drain closes the webhook listener, with steps 1 to 3 of [Bridge.Run], and returns when the deliveries in flight have been
// answered. Run continues, so that events are still forwarded and workers stay connected to NATS.
// The request [operator.PathDrain], which the command jobbridge drain sends, only changes the state that is reported.
// Do not call Drain before OnReady was called. It may be called more than once.
func (b *Bridge) Drain() error {
	b.stopIngress()
	<-b.served
	return b.servedErr
}

// reloadLimit is how long the shutdown waits for a file that is being read. The file may be on a file system that
// hangs.
const reloadLimit = 3 * time.Second

// startReload starts to read settings again when their files change.
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
			b.log.Warn("reading a file again takes too long: the shutdown does not wait for it")
		}
		return nil
	})
}
