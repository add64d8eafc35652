package publisher

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/embedded"
	"github.com/jobbridge/jobbridge/publisher/internal/forward"
	"github.com/jobbridge/jobbridge/publisher/internal/journal"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
)

const (
	// recordRoom is the size in bytes that a record of the journal may need besides payload and headers: for its fixed
	// part, job key, message id and subject.
	recordRoom = 4 << 10
	// duplicateWindow is the duplicate window of the embedded stream. It must cover only what is in flight, because the
	// forwarder compares the stream with the journal.
	duplicateWindow = 2 * time.Minute
	// prepareTimeout is how long Open waits for a remote stream, which may know sequences that the journal has lost.
	prepareTimeout = time.Second
)

// Open locks the data folder, recovers the journal, starts the embedded server or begins to connect to the operator's
// NATS, and starts to forward. It does not wait for the operator's NATS longer than a second. ctx limits the time of Open
// only. Errors: [ErrLocked], [ErrClock], [ErrOldFolder], a wrong option, and those of the disk and the embedded server.
func Open(ctx context.Context, o Options) (_ *Publisher, err error) {
	if o, err = o.check(); err != nil {
		return nil, err
	}
	p := &Publisher{opts: o, log: o.Logger, subject: o.Stream.Subject, failed: make(chan struct{}), forwarding: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.closeAll())
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
		Window: o.Stream.Dedupe, Retention: o.Stream.Retention, AcceptClock: o.AcceptClock, OnCommit: o.OnCommit,
		MakeRoom: p.checkpoint, Logger: o.Logger.Named("journal"), Sync: o.Sync, Now: o.Now, SegmentBytes: o.SegmentBytes,
	})
	return err
}

// checkpoint allows the journal to delete what is forwarded. It waits until the forwarder exists.
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
		Dir: filepath.Join(o.Dir, "nats"), Listen: o.Server.Listen, Workers: o.Server.Workers, MaxConnections: o.Server.MaxConnections,
		TLS: o.Server.TLS, Stream: stream, MaxPayload: o.MaxPayload + HeaderRoom, Logger: o.Logger, OnSampled: o.Server.OnSampled, Sync: o.Sync,
	})
	return err
}

func (p *Publisher) openRemote() (err error) {
	o := p.opts
	audit := AuditOptions{Subject: o.Stream.Subject, Tolerance: o.Tolerance, MaxBody: o.MaxPayload}
	p.remote, err = remote.Open(remote.Options{
		Connect: o.Connect, Stream: o.Stream.Name, Needs: audit.needs(), Logger: o.Logger.Named("remote"),
	})
	return err
}

// startForwarder compares the stream with the journal, starts to forward, and waits in the background for a failure of the
// storage.
func (p *Publisher) startForwarder(ctx context.Context) (err error) {
	o := p.opts
	var target forward.Target = remoteTarget{p.remote, o.Stream.Name}
	if p.server != nil {
		target = embeddedTarget{p.server, o.Stream.Name}
	}
	park := func(ctx context.Context, r forward.Record, reason string) error {
		if o.Park == nil {
			return errors.New("there is no quarantine")
		}
		return o.Park(ctx, Parked(r), reason)
	}
	p.forwarder, err = forward.New(forward.Options{
		Dir: o.Dir, Journal: source{p.journal}, Target: target, Retention: o.Stream.Retention,
		Park: park, Conflict: p.conflictSubject, Logger: o.Logger.Named("forward"), Tracer: o.Tracer,
	})
	if err != nil {
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
			p.setFailed(err)
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

// prepare compares the stream with the journal before the first event is stored. The embedded stream must answer. A remote
// stream may be down, and is compared later.
func (p *Publisher) prepare(ctx context.Context) error {
	if p.server != nil {
		return p.forwarder.Prepare(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	if err := p.forwarder.Prepare(ctx); err != nil {
		p.log.Info("the remote stream will be compared with the journal later", zap.Error(err))
	}
	return nil
}

// conflictSubject returns the conflict subject of a record.
func (p *Publisher) conflictSubject(r forward.Record) string {
	h := nats.Header(event.ParseHeader(r.Header))
	e := event.Event{Kind: h.Get(event.JobKindHeader), Status: h.Get(event.JobStatusHeader), ID: h.Get(event.JobIDHeader)}
	return p.subject.Conflict(e)
}

// Flush returns when every event that is durable now has been forwarded. If ctx ends before, Flush returns an error. In
// direct mode it returns nil at once.
func (p *Publisher) Flush(ctx context.Context) error {
	if p.forwarder == nil {
		return nil
	}
	return p.forwarder.Drain(ctx)
}

// Close forwards what is durable, and waits for workers to acknowledge the events that they have fetched, both until ctx
// ends. So give it a context of its own, with a deadline. Then it closes everything. What was not forwarded is forwarded
// after the next [Open]. Close may be called again.
func (p *Publisher) Close(ctx context.Context) error {
	p.close.Do(func() {
		if p.Err() == nil {
			if err := p.Flush(ctx); err != nil {
				p.log.Info("not every event was forwarded; the others are forwarded after the next start", zap.Error(err))
			}
		}
		if p.server != nil && p.Err() == nil {
			if err := p.server.WaitUnacknowledged(ctx); err != nil {
				p.log.Warn("the NATS server stops before workers have acknowledged every event", zap.Error(err))
			}
		}
		p.closed = p.closeAll()
	})
	return p.closed
}

// closeAll closes what is open, in the reverse order of Open.
func (p *Publisher) closeAll() error {
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

// SetWorkers replaces the workers of the embedded server. It disconnects the workers that are not in the list any more, or
// have another password there, and nobody else. The list must not be empty.
func (p *Publisher) SetWorkers(workers []Worker) error {
	if p.server == nil {
		return errors.New("publisher: there is no embedded server")
	}
	return p.server.SetWorkers(workers)
}

// DuplicateWindow returns for how long the operator's stream remembers message ids. It is 0 until the stream has been
// audited, and without an operator's stream.
func (p *Publisher) DuplicateWindow() time.Duration {
	if p.remote == nil {
		return 0
	}
	return p.remote.Status().Window
}

// Reconnect calls Options.Connect again, for example to use new credentials, and returns when the previous connection is
// closed. If there is a connection and a new one cannot be made, Reconnect returns an error and the connection stays.
func (p *Publisher) Reconnect() error {
	if p.remote == nil {
		return errors.New("publisher: there is no remote NATS")
	}
	return p.remote.Reconnect()
}

// StopServer stops the embedded server, as an outage would. It is for tests.
func (p *Publisher) StopServer() { p.server.Stop() }

// StartServer starts the embedded server that StopServer stopped. It is for tests.
func (p *Publisher) StartServer(ctx context.Context) error { return p.server.Restart(ctx) }
