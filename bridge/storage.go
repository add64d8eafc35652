package bridge

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/bridge/internal/reload"
	"github.com/jobbridge/jobbridge/publisher"
)

// openStorage opens the publisher and the quarantine. They stay open after ctx has ended.
func (b *Bridge) openStorage(ctx context.Context) error {
	o, err := b.publisherOptions()
	if err != nil {
		return err
	}
	b.shutdown.add("quarantine", func(context.Context) error { // after the publisher, which parks events until it is closed
		if q := b.quarantine.Load(); q != nil {
			return q.Close()
		}
		return nil
	})
	p, err := publisher.Open(ctx, o)
	if err != nil {
		if strings.Contains(err.Error(), "Error listening on port") { // nats-server has no error value for it
			err = fmt.Errorf("bridge: Options.NATS.Listen: %w", err)
		}
		return err
	}
	b.publisher.Store(p)
	b.shutdown.add("publisher", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, b.opts.Shutdown.Forward)
		defer cancel()
		return errors.Join(p.Close(ctx), p.Err())
	})
	if err := b.openQuarantine(ctx); err != nil {
		return err
	}
	b.health.Watch(func() (publisher.State, []string) {
		status := p.Status()
		return status.State, status.Reasons
	})
	if b.opts.NATS.Listen != "" {
		reload.Add(b.reload, "workers", b.settings.workers, p.SetWorkers)
	}
	reload.Add(b.reload, "NATS credentials", b.settings.remote, func(struct{}) error { return p.Reconnect() })
	b.admin.ServeForwarded(b.forwarded)
	return b.opts.Metrics.Register(publisherCollector{p})
}

// publisherOptions are the options of the publisher.
func (b *Bridge) publisherOptions() (p publisher.Options, err error) {
	o := b.opts
	p = publisher.Options{
		Dir: o.DataDir, Connect: o.NATS.Connect, Direct: o.Journal.Off, Stream: o.Stream,
		Durability: o.Journal.Durability, JournalMaxBytes: o.Journal.MaxBytes, AcceptClock: o.Journal.AcceptClock,
		MaxPayload: o.Webhook.MaxBody, Tolerance: o.Tolerance, Logger: o.Logger, Tracer: o.Tracer, Sync: o.Sync,
	}
	if !o.Quarantine.Off {
		p.Park = func(ctx context.Context, e publisher.Parked, reason string) error {
			select {
			case <-b.quarantineReady:
				return b.quarantine.Load().Park(ctx, e, reason)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	if !o.Journal.Off {
		m := newCommitMetrics()
		o.Metrics.MustRegister(m.group, m.duration, m.sync)
		p.OnCommit = m.observe
	}
	if o.NATS.Connect != nil {
		return p, nil
	}
	p.Server = publisher.ServerOptions{
		Listen: o.NATS.Listen, Workers: b.settings.workers.Value, MaxConnections: o.NATS.MaxConnections, OnSampled: o.OnSampled,
	}
	if o.NATS.Listen != "" {
		p.Server.TLS, err = b.useCertificate("certificate of NATS", "nats", b.settings.nats, tls.RequireAndVerifyClientCert, nil)
		if err != nil {
			return p, wrong("Options.NATS.TLS: %w", err)
		}
	}
	return p, nil
}

// openQuarantine opens the quarantine. Without a journal, the quarantine locks the data folder.
func (b *Bridge) openQuarantine(ctx context.Context) error {
	o := b.opts
	if o.Quarantine.Off {
		return nil
	}
	window := func() time.Duration { return o.Stream.Dedupe }
	if o.Journal.Off {
		window = b.Publisher().DuplicateWindow
	}
	q, err := quarantine.Open(quarantine.Options{
		Dir: filepath.Join(o.DataDir, "quarantine"), Lock: o.Journal.Off,
		MaxBytes: o.Quarantine.MaxBytes, MaxAge: o.Quarantine.MaxAge, MaxBody: o.Quarantine.MaxBody,
		Verifier: b.settings.verifier, Publisher: b.Publisher(), Decode: ingress.DecodeReleased, Tolerance: o.Tolerance, DedupeWindow: window,
		Logger: o.Logger, Now: o.Now, Sync: o.Sync, SyncAll: o.Sync,
	})
	if err != nil {
		return err
	}
	b.quarantine.Store(q)
	close(b.quarantineReady)
	b.admin.ServeQuarantine(q)
	b.start(ctx, "refused requests", func(ctx context.Context) error { q.Run(ctx); return nil })
	return o.Metrics.Register(q)
}
