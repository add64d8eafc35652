package publisher

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/jobbridge/jobbridge/publisher/internal/forward"
	"github.com/jobbridge/jobbridge/publisher/internal/journal"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"go.uber.org/zap"
)

// recordRoom is what a record of the journal may need besides payload and headers,
// in bytes: its fixed part, key, message id and subject.
const recordRoom = 4 << 10

// duplicateWindow is the duplicate window of the embedded stream. The forwarder
// compares the stream with the journal, so the window covers only what is in flight.
const duplicateWindow = 2 * time.Minute

// Open opens what the options ask for: it locks the data folder, recovers the
// journal, starts the embedded server or begins to connect to the operator's NATS,
// and starts to forward. ctx bounds the opening only.
func Open(ctx context.Context, o Options) (_ *Publisher, err error) {
	if o, err = o.check(); err != nil {
		return nil, err
	}
	p := &Publisher{opts: o, log: o.Logger, subject: o.Stream.Subject, failed: make(chan struct{}), forwarding: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.shut())
		}
	}()
	if !o.Direct {
		if err := p.openJournal(ctx); err != nil {
			return nil, err
		}
	}
	if o.Connect != nil {
		err = p.openRemote()
	} else {
		err = p.openServer(ctx)
	}
	if err != nil || o.Direct {
		return p, err
	}
	return p, p.startForwarder(ctx)
}

func (p *Publisher) openJournal(ctx context.Context) (err error) {
	o := p.opts
	p.journal, err = journal.Open(ctx, journal.Options{
		Dir: o.Dir, Durability: o.Durability, MaxBytes: o.JournalMaxBytes, MaxRecord: o.MaxPayload + HeaderRoom + recordRoom,
		Window: o.Stream.Dedupe, Retention: o.Stream.Retention, AcceptClock: o.AcceptClock, OnCommit: o.OnCommit, Logger: o.Logger.Named("journal"),
		MakeRoom: p.checkpoint, Sync: o.Sync, Now: o.Now, SegmentBytes: o.SegmentBytes,
	})
	return err
}

// checkpoint lets the journal delete what is forwarded.
func (p *Publisher) checkpoint(ctx context.Context) error {
	select {
	case <-p.forwarding:
		return p.forwarder.Checkpoint(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (p *Publisher) openServer(ctx context.Context) (err error) {
	o := p.opts
	stream := o.Stream.Config()
	stream.MaxBytes, stream.Duplicates = o.Stream.MaxBytes, min(duplicateWindow, o.Stream.Retention)
	p.server, err = embedded.Open(ctx, embedded.Options{
		Dir: filepath.Join(o.Dir, "nats"), Listen: o.Server.Listen, Workers: o.Server.Workers, MaxConnections: o.Server.MaxConnections, TLS: o.Server.TLS,
		Stream: stream, MaxPayload: o.MaxPayload + HeaderRoom, Logger: o.Logger, OnSampled: o.Server.OnSampled, Sync: o.Sync,
	})
	return err
}

func (p *Publisher) openRemote() (err error) {
	o := p.opts
	audit := AuditOptions{Stream: o.Stream.Name, Subject: o.Stream.Subject, Tolerance: o.Tolerance, MaxBody: o.MaxPayload}
	p.remote, err = remote.Open(remote.Options{Connect: o.Connect, Stream: o.Stream.Name, Needs: audit.needs(), Logger: o.Logger.Named("remote")})
	return err
}

// startForwarder starts to forward the journal, and to watch for failures that only
// a restart ends.
func (p *Publisher) startForwarder(ctx context.Context) (err error) {
	o := p.opts
	var target forward.Target = distant{p.remote, o.Stream.Name}
	if p.server != nil {
		target = local{p.server, o.Stream.Name}
	}
	options := forward.Options{
		Dir: o.Dir, Journal: source{p.journal}, Target: target, Retention: o.Stream.Retention,
		Conflict: p.conflictSubject, Logger: o.Logger.Named("forward"), Tracer: o.Tracer,
	}
	options.Park = func(context.Context, forward.Record, string) error { return errors.New("there is no quarantine") }
	if o.Park != nil {
		options.Park = func(ctx context.Context, r forward.Record, reason string) error {
			return o.Park(ctx, Parked(r), reason)
		}
	}
	if p.forwarder, err = forward.New(options); err != nil {
		return err
	}
	if err := p.prepare(ctx); err != nil {
		return err
	}
	close(p.forwarding)
	var run context.Context
	run, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	p.work.Go(func() {
		if err := p.forwarder.Run(run); err != nil && run.Err() == nil {
			p.setFailed(fmt.Errorf("forward: %w", err))
		}
	})
	p.work.Go(func() {
		select {
		case <-p.journal.Failed():
			p.setFailed(p.journal.Err())
		case <-run.Done():
		}
	})
	return nil
}

// prepareTimeout is how long Open waits for a remote stream that may know sequences
// which the journal has lost.
const prepareTimeout = time.Second

// prepare compares the stream with the journal before the first event is stored. The
// embedded stream must answer; a remote one may be down.
func (p *Publisher) prepare(ctx context.Context) error {
	if p.server != nil {
		return p.forwarder.Prepare(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	if err := p.forwarder.Prepare(ctx); err != nil {
		p.log.Info("the remote stream is compared with the journal later", zap.Error(err))
	}
	return nil
}

// conflictSubject returns the subject for a record whose message id the stream holds
// with another payload.
func (p *Publisher) conflictSubject(r forward.Record) string {
	h := event.ParseHeader(r.Header)
	first := func(name string) string {
		if v := h[name]; len(v) > 0 {
			return v[0]
		}
		return ""
	}
	return p.subject.Conflict(event.Event{Kind: first(event.JobKindHeader), Status: first(event.JobStatusHeader), ID: first(event.JobIDHeader)})
}

// Flush returns when everything that is durable now has been forwarded, or with ctx's
// error.
func (p *Publisher) Flush(ctx context.Context) error {
	if p.forwarder == nil {
		return nil
	}
	return p.forwarder.Drain(ctx)
}

// Close forwards what is durable and waits for workers that have not acknowledged,
// until ctx ends, and then closes everything. What was not forwarded follows at the
// next Open. It may be called again.
func (p *Publisher) Close(ctx context.Context) error {
	p.close.Do(func() {
		if p.Err() == nil {
			if err := p.Flush(ctx); err != nil {
				p.log.Info("not everything is forwarded: the rest follows at the next start", zap.Error(err))
			}
		}
		if p.server != nil && p.Err() == nil {
			if err := p.server.WaitUnacknowledged(ctx); err != nil {
				p.log.Warn("the NATS server stops", zap.Error(err))
			}
		}
		p.closed = p.shut()
	})
	return p.closed
}

// shut closes what is open, in the reverse order of the opening.
func (p *Publisher) shut() error {
	var errs []error
	if p.stop != nil {
		p.stop()
		p.work.Wait()
	}
	if p.server != nil {
		errs = append(errs, p.server.Close())
	}
	if p.remote != nil {
		p.remote.Close()
	}
	if p.journal != nil {
		errs = append(errs, p.journal.Close())
	}
	return errors.Join(errs...)
}

// SetWorkers replaces the workers of the embedded server. A worker that is not in the
// list any more is disconnected; nobody else is.
func (p *Publisher) SetWorkers(workers []Worker) error {
	if p.server == nil {
		return errors.New("publisher: there is no embedded server")
	}
	return p.server.SetWorkers(workers)
}

// DuplicateWindow is how long the operator's stream remembers message ids, in direct
// mode; 0 while that is not known.
func (p *Publisher) DuplicateWindow() time.Duration {
	if p.remote == nil {
		return 0
	}
	return p.remote.Status().Window
}

// Reconnect connects to the operator's NATS again, with what Options.Connect reads
// now, and returns when the old connection is closed. If that is impossible, the old
// connection stays.
func (p *Publisher) Reconnect() error {
	if p.remote == nil {
		return errors.New("publisher: there is no remote NATS")
	}
	return p.remote.Reconnect()
}

// StopServer stops the embedded server as an outage would, and StartServer ends the
// outage. They are for tests.
func (p *Publisher) StopServer() { p.server.Stop() }

// StartServer starts the server that StopServer stopped.
func (p *Publisher) StartServer(ctx context.Context) error { return p.server.Restart(ctx) }
