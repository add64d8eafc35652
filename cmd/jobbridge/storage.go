package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/journal"
	"github.com/jobbridge/jobbridge/publisher/relay"
	"github.com/jobbridge/jobbridge/publisher/remote"
	"github.com/jobbridge/jobbridge/verify"
)

// defaultDataDir is where the journal is, if no other folder is given.
const defaultDataDir = "./jobbridge-data"

// storage is what stands behind the bridge. Standalone, that is the journal; as
// a relay, the journal and what copies it to a remote stream; direct, the remote
// stream alone. The quarantine is beside each. Any of them may be nil but the publisher.
type storage struct {
	publisher  *publisher.Publisher
	durability event.Durability
	journal    *journal.Journal
	remote     *remote.Remote
	relay      *relay.Relay
	quarantine *bridge.QuarantineStore

	// failed is closed when only a restart helps; cause is then set.
	failed chan struct{}
	cause  error
	once   sync.Once

	stop context.CancelFunc
	run  sync.WaitGroup
}

// The parts of the bridge's health that are decided here.
const (
	journalPart   = "journal"
	roomPart      = "room"
	consumersPart = "consumers"
	diskPart      = "disk"
	remotePart    = "remote"
	relayPart     = "relay"
	drainPart     = "drain"
	configPart    = "configuration"
)

// direct reports whether a 2xx waits for the remote stream.
func (c *serveCmd) direct() bool { return c.Journal == "off" }

// relays reports whether the journal is copied to a remote stream.
func (c *serveCmd) relays() bool { return c.given() && !c.direct() }

// openStorage opens what the flags ask for. ctx bounds the opening only.
func (c *serveCmd) openStorage(ctx context.Context, verifier *verify.Verifier, o operator) (_ *storage, err error) {
	stream, err := c.streamOptions()
	if err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &storage{failed: make(chan struct{}), stop: stop}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if !c.direct() {
		if err := c.openJournal(ctx, s, stream, o); err != nil {
			return nil, err
		}
		s.run.Go(func() {
			select {
			case <-s.journal.Failed():
				o.health.Set(journalPart, bridge.Failed, s.journal.Err().Error())
				s.fail(s.journal.Err())
			case <-run.Done():
			}
		})
	}
	if c.given() {
		if err := c.openRemote(s, o); err != nil {
			return nil, err
		}
	}
	options := publisher.Options{Stream: c.Stream, Subject: stream.Subject}
	if c.direct() {
		options.JetStream, options.Stored, options.Commit = s.remote.Patient(), s.remote, s.remote
	} else {
		options.JetStream, options.Stored, options.Commit, options.Room = s.journal.JetStream(), s.journal.Stream(), s.journal, s.journal.Room
	}
	if s.publisher, err = publisher.New(options); err != nil {
		return nil, err
	}
	s.durability = options.Commit.Durability()
	if c.relays() {
		if err := c.openRelay(ctx, run, s, stream, o); err != nil {
			return nil, err
		}
	}
	if c.DataDir != "" && c.Quarantine {
		if err := c.openQuarantine(run, s, verifier, o); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (c *serveCmd) openJournal(ctx context.Context, s *storage, stream publisher.StreamOptions, o operator) error {
	workers, err := readWorkers(c.NatsAuthFile)
	if err != nil {
		return err
	}
	options := journal.Options{
		Dir: c.DataDir, Listen: c.NatsListen, Workers: workers, MaxConnections: c.MaxWorkers, OnSampled: o.sampled, Durability: event.Durability(c.Durability), Stream: stream,
		MaxPayload: int(c.MaxBody), AcceptClock: c.AcceptClock, Relay: c.relays(), Logger: o.log,
	}
	options.OnCommit = newCommitMetrics(o.registry).observe
	options.OnFull = func(why string) { setReason(o.health, roomPart, bridge.Full, why) }
	options.OnCrowded = func(why string) { setReason(o.health, consumersPart, bridge.Ready, why) }
	if c.CommitMethod != "auto" {
		options.Method = journal.Method(c.CommitMethod)
	}
	if c.given() {
		options.Listen = "" // workers are at the remote
	}
	if c.NatsTLS.given() && options.Listen != "" {
		certs, err := newCertificates("nats-", c.NatsTLS, tls.RequireAndVerifyClientCert, nil)
		if err != nil {
			return err
		}
		options.TLS = certs.config()
		o.use(certs, "nats", "certificate of NATS")
	}
	if c.relays() {
		options.Private = append(options.Private, journal.PrivateStream{Config: relay.ParkedStream(), Commit: true})
	}
	if s.journal, err = journal.Open(ctx, options); err != nil {
		return err
	}
	if options.Listen != "" && len(workers) > 0 {
		o.reload.add(c.reloadedWorkers(s.journal, workers))
	}
	o.health.Set(diskPart, bridge.Ready, s.journal.Warnings()...)
	return o.registry.Register(journalCollector{s.journal})
}

// setReason sets a part's state with the reason, or clears it if there is none.
func setReason(h *bridge.Health, part string, state bridge.State, reason string) {
	if reason == "" {
		h.Set(part, bridge.Ready)
		return
	}
	h.Set(part, state, reason)
}

func (c *serveCmd) openRemote(s *storage, o operator) error {
	connect, err := c.connector()
	if err != nil {
		return err
	}
	needs, err := c.needs()
	if err != nil {
		return err
	}
	o.health.Set(remotePart, c.unreachable(), "the remote stream was not seen yet")
	s.remote, err = remote.Open(remote.Options{
		Connect: connect, Stream: c.Stream, Needs: needs, Logger: o.log.Named("remote"),
		OnStatus: func(status remote.Status) { c.judge(o.health, status) },
	})
	if err != nil {
		return usageError{err}
	}
	if len(c.files()) > 0 {
		o.reload.add(c.reloadedNATS(s.remote))
	}
	return o.registry.Register(remoteCollector{s.remote})
}

// needs is what the stream is audited for.
func (c *serveCmd) needs() (publisher.Needs, error) {
	subject, err := event.ParseTemplate(c.Subject)
	if err != nil {
		return publisher.Needs{}, usage("--subject: %w", err)
	}
	return publisher.Needs{Subject: subject, Tolerance: c.Tolerance, MaxBody: int(c.MaxBody)}, nil
}

// unreachable is the state without the remote stream: with a journal,
// deliveries are taken as ever.
func (c *serveCmd) unreachable() bridge.State {
	if c.relays() {
		return bridge.Journaling
	}
	return bridge.Unavailable
}

// judge turns what is known of the remote stream into a state. With a journal,
// none of it is a reason to turn deliveries away.
func (c *serveCmd) judge(h *bridge.Health, status remote.Status) {
	reasons := status.Misconfigured()
	switch {
	case len(reasons) > 0 && c.relays():
		for i := range reasons {
			reasons[i] = "misconfigured: " + reasons[i]
		}
		h.Set(remotePart, bridge.Journaling, reasons...)
	case len(reasons) > 0:
		h.Set(remotePart, bridge.Misconfigured, reasons...)
	case !status.Connected:
		h.Set(remotePart, c.unreachable(), status.Problem)
	default:
		h.Set(remotePart, bridge.Ready, status.Warnings()...)
	}
}

func (c *serveCmd) openRelay(ctx, run context.Context, s *storage, stream publisher.StreamOptions, o operator) error {
	forward, err := publisher.New(publisher.Options{JetStream: s.remote, Stored: s.remote, Stream: c.Stream, Commit: s.remote, Subject: stream.Subject})
	if err != nil {
		return err
	}
	parked, err := s.journal.Private().Stream(ctx, relay.ParkedStream().Name)
	if err != nil {
		return fmt.Errorf("stream of parked events: %w", err)
	}
	parking := relay.NewParking(s.journal.Private(), parked, s.journal.Commit, forward)
	s.relay, err = relay.New(relay.Options{
		Source: s.journal.Stream(), Consumer: journal.RelayConsumer, Remote: forward, Await: s.remote.Await, Park: parking.Park, Parked: parking.Count,
		Ledger: filepath.Join(s.journal.Dir(), "relay.json"), DedupeWindow: func() time.Duration { return s.remote.Status().Window },
		OnTrouble: func(err error) { setReason(o.health, relayPart, bridge.Journaling, relayTrouble(err)) }, Logger: o.log.Named("relay"), Tracer: o.traces,
	})
	if err != nil {
		return err
	}
	o.admin.Operate("GET /parked", func(ctx context.Context, _ url.Values) (any, error) { return parking.List(ctx) })
	o.admin.Operate("POST /parked/retry", func(ctx context.Context, _ url.Values) (any, error) { return parking.Retry(ctx) })
	o.admin.Operate("GET /relay", func(ctx context.Context, _ url.Values) (any, error) { return s.relay.Stats(ctx) })
	s.run.Go(func() {
		if err := s.relay.Run(run); err != nil && s.journal.Err() == nil {
			o.health.Set(relayPart, bridge.Failed, err.Error())
			s.fail(err)
		}
	})
	return o.registry.Register(relayCollector{s.relay})
}

// relayTrouble says in words why events have to be tried again.
func relayTrouble(err error) string {
	switch {
	case err == nil:
		return ""
	case errors.Is(err, event.ErrFull):
		return "relay: the remote stream is full"
	case errors.Is(err, event.ErrMisconfigured):
		return "relay: misconfigured: " + err.Error()
	}
	return "relay: events are tried again: " + err.Error()
}

// fail makes the bridge drain and end.
func (s *storage) fail(err error) {
	s.once.Do(func() { s.cause = err; close(s.failed) })
}

// natsURL is where workers connect.
func (s *storage) natsURL() string {
	if s.remote != nil {
		return s.remote.Status().URL
	}
	return s.journal.URL()
}

// close ends what runs, the relay first, the journal last.
func (s *storage) close() error {
	s.stop()
	s.run.Wait()
	var err error
	if s.quarantine != nil {
		err = s.quarantine.Close()
	}
	if s.remote != nil {
		s.remote.Close()
	}
	if s.journal != nil {
		err = errors.Join(err, s.journal.Close())
	}
	return errors.Join(err, s.cause)
}
