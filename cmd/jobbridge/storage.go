package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net/url"
	"sync"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
)

// defaultDataDir is the data folder unless another one is given.
const defaultDataDir = "./jobbridge-data"

// The parts of the bridge's health that are decided here.
const (
	drainPart  = "drain"
	configPart = "configuration"
)

// storage is what stands behind the bridge: the publisher and the quarantine,
// which is nil without --quarantine or a data folder.
type storage struct {
	publisher  *publisher.Publisher
	quarantine *bridge.QuarantineStore

	stop context.CancelFunc // ends what run waits for
	run  sync.WaitGroup
}

// direct reports whether a 2xx waits for the remote stream.
func (c *serveCmd) direct() bool { return c.Journal == "off" }

// openStorage opens what the flags ask for. ctx bounds the opening only.
func (c *serveCmd) openStorage(ctx context.Context, verifier *verify.Verifier, o operator) (_ *storage, err error) {
	s := new(storage)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close(ctx))
		}
	}()
	options, workers, err := c.publisherOptions(o)
	if err != nil {
		return nil, err
	}
	// The quarantine publishes what it releases, and stores what cannot be published.
	quarantined := make(chan struct{})
	if c.Quarantine && c.DataDir != "" {
		options.Park = func(ctx context.Context, e publisher.Parked, reason string) error {
			select {
			case <-quarantined:
				return s.quarantine.Park(ctx, e, reason)
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	s.publisher, err = publisher.Open(ctx, options)
	if errors.Is(err, publisher.ErrOldFolder) {
		return nil, usageError{err} // another folder is needed: --data-dir
	}
	if err != nil {
		return nil, err
	}
	if c.Quarantine && c.DataDir != "" {
		if err := c.openQuarantine(ctx, s, verifier, o); err != nil {
			return nil, err
		}
		close(quarantined)
	}
	o.health.Watch(func() (bridge.State, []string) {
		status := s.publisher.Status()
		return status.State, status.Reasons
	})
	if len(workers) > 0 && options.Server.Listen != "" {
		o.reload.add(c.reloadedWorkers(s.publisher, workers))
	}
	if len(c.files()) > 0 && c.given() {
		o.reload.add(c.reloadedNATS(s.publisher))
	}
	o.admin.Operate("GET /forward", func(ctx context.Context, _ url.Values) (any, error) { return s.forwarded(ctx), nil })
	return s, o.registry.Register(publisherCollector{s.publisher})
}

// publisherOptions turns the flags into options. It also returns the workers, who
// can change later.
func (c *serveCmd) publisherOptions(o operator) (options publisher.Options, workers []publisher.Worker, err error) {
	if options.Stream, err = c.streamOptions(); err != nil {
		return options, nil, err
	}
	options.Dir, options.Direct = c.DataDir, c.direct()
	options.Durability, options.JournalMaxBytes, options.AcceptClock = event.Durability(c.Durability), int64(c.JournalMaxBytes), c.AcceptClock
	options.MaxPayload, options.Tolerance = int(c.MaxBody), c.Tolerance
	options.Logger, options.Tracer = o.log, o.traces
	if !c.direct() {
		options.OnCommit = newCommitMetrics(o.registry).observe
	}
	if c.given() {
		options.Connect, err = c.connector()
		return options, nil, err
	}
	if workers, err = readWorkers(c.NatsAuthFile); err != nil {
		return options, nil, err
	}
	options.Server = publisher.ServerOptions{Listen: c.NatsListen, Workers: workers, MaxConnections: c.MaxWorkers, OnSampled: o.sampled}
	if c.NatsTLS.given() && c.NatsListen != "" {
		certs, err := newCertificates("nats-", c.NatsTLS, tls.RequireAndVerifyClientCert, nil)
		if err != nil {
			return options, nil, err
		}
		options.Server.TLS = certs.config()
		o.use(certs, "nats", "certificate of NATS")
	}
	return options, workers, nil
}

// forwarded says how far the journal is forwarded.
func (s *storage) forwarded(ctx context.Context) forwarded {
	var answer forwarded
	if f := s.publisher.Stats(ctx).Forward; f != nil {
		answer = forwarded{Lag: f.Lag, Forwarded: f.Forwarded, State: f.State.Kind.String(), Reason: f.State.Reason}
	}
	if s.quarantine != nil {
		answer.Quarantined = s.quarantine.Stats().Entries[bridge.QuarantineAuthentic]
	}
	return answer
}

// close forwards what is durable, within ctx, and closes everything. It returns
// why the storage failed, if it did.
func (s *storage) close(ctx context.Context) error {
	var errs []error
	if s.publisher != nil {
		errs = append(errs, s.publisher.Close(ctx), s.publisher.Err())
	}
	if s.quarantine != nil {
		s.stop()
		s.run.Wait()
		errs = append(errs, s.quarantine.Close())
	}
	return errors.Join(errs...)
}
