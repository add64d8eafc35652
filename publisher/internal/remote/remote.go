// Package remote connects to an operator's NATS and to the stream of events there.
//
// It promises three things. A lost connection is made again, however long that takes. A publish that was
// reported as failed is not sent later. Whatever is wrong with the stream, with the user's permissions or with
// the connection is reported in words that say what to change.
//
// It leaves to package publisher what is published and what a failure means for the sender.
package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Inbox is the prefix of the subjects on which the bridge receives answers. The bridge's user needs no other
// permission to subscribe.
const Inbox = "_INBOX_BRIDGE"

// DefaultInbox is a [nats.Option] that sets the inbox prefix to [Inbox], unless an earlier option has set one.
func DefaultInbox(o *nats.Options) error {
	o.InboxPrefix = cmp.Or(o.InboxPrefix, Inbox)
	return nil
}

// Options configures a [Remote]. Connect and Stream are required.
type Options struct {
	// Connect connects to NATS with the given options, and with those for servers and credentials. It is usually a
	// closure over [nats.Connect]. It also returns the JetStream domain, or "".
	Connect func(...nats.Option) (conn *nats.Conn, domain string, err error)
	// Stream is the name of the stream.
	Stream string
	// Needs is what the stream is audited for.
	Needs Needs
	// Logger may be nil.
	Logger *zap.Logger
}

// Remote is a connection that is made again after each loss. Its methods may be called concurrently.
type Remote struct {
	opts Options
	log  *zap.Logger

	mu     sync.Mutex // guards the fields up to the blank line
	conn   *nats.Conn
	js     jetstream.JetStream
	state  state
	closed bool
	up     chan struct{} // closed while there is a connection
	// link ends when the present connection is lost.
	link     context.Context //nolint:containedctx // it stands for the connection, not for a call
	linkDown context.CancelCauseFunc

	auditNow chan struct{} // requests an audit of the stream
	stop     context.CancelFunc
	work     sync.WaitGroup
}

// A dead connection is noticed after two pings, and a lost one is made again soon, because the provider does not
// retry a delivery.
const (
	pingInterval  = time.Second
	maxPings      = 2
	dialTimeout   = 2 * time.Second
	reconnectWait = 200 * time.Millisecond
	reconnectTLS  = time.Second
	// attemptTimeout is how long one attempt to publish waits for its acknowledgement, before the message is sent
	// again under the same message id.
	attemptTimeout = 1200 * time.Millisecond
)

// Open begins to connect and does not wait for the connection: the server may start later. It returns an error
// only for options that can never work.
func Open(o Options) (*Remote, error) {
	r := &Remote{opts: o, log: cmp.Or(o.Logger, zap.NewNop()), up: make(chan struct{}), auditNow: make(chan struct{}, 1)}
	r.state = newState(o.Needs.Subject)
	r.link, r.linkDown = context.WithCancelCause(context.Background())
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	if _, _, err := r.connect(true); err != nil {
		stop()
		return nil, err
	}
	r.work.Go(func() { r.auditLoop(ctx) })
	return r, nil
}

// connect replaces the present connection. It returns the previous one, and the function that ends the attempts to
// publish on it. If retry is true, the connection may come later. If retry is false, a connection that cannot be
// made now is an error, and the present one stays.
func (r *Remote) connect(retry bool) (previous *nats.Conn, previousDown context.CancelCauseFunc, err error) {
	conn, domain, err := r.opts.Connect(
		nats.Name("jobbridge"), DefaultInbox, nats.RetryOnFailedConnect(retry), nats.MaxReconnects(-1),
		nats.ReconnectBufSize(-1), // without a buffer, a publish that fails now is not sent later
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(maxPings), nats.Timeout(dialTimeout),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait, reconnectTLS), nats.IgnoreAuthErrorAbort(),
		nats.ConnectHandler(r.connected), nats.ReconnectHandler(r.connected), nats.DisconnectErrHandler(r.disconnected),
		nats.ReconnectErrHandler(r.disconnected), nats.ErrorHandler(r.asyncError),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("remote NATS: %w", err)
	}
	js, err := JetStream(conn, domain)
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("remote NATS: %w", err)
	}
	r.mu.Lock()
	if r.closed || r.conn != nil && r.state.status.Connected && !conn.IsConnected() { // the previous one is connected again
		r.mu.Unlock()
		conn.Close()
		return nil, nil, fmt.Errorf("remote NATS: %w", cmp.Or(conn.LastError(), nats.ErrDisconnected))
	}
	previous, previousDown = r.conn, r.linkDown
	r.conn, r.js = conn, js
	if r.state.status.Connected {
		r.link, r.linkDown = context.WithCancelCause(context.Background())
	}
	r.mu.Unlock()
	if conn.IsConnected() {
		r.connected(conn)
	} else if err := conn.LastError(); err != nil {
		r.disconnected(conn, err)
	}
	return previous, previousDown, nil
}

// Reconnect replaces the connection by a new one, for which Options.Connect is called again. It returns when the
// previous connection is closed. If there is a connection and a new one cannot be made, Reconnect returns an error
// and the connection stays.
func (r *Remote) Reconnect() error {
	connected := r.Status().Connected
	previous, previousDown, err := r.connect(!connected)
	if err != nil {
		return err
	}
	if connected {
		time.Sleep(attemptTimeout) // for the acknowledgements that are still to come on the previous connection
	}
	previousDown(nats.ErrDisconnected)
	previous.Close()
	return nil
}

// JetStream returns a JetStream handle for a domain. "" means the domain of the connection.
func JetStream(conn *nats.Conn, domain string) (jetstream.JetStream, error) {
	if domain == "" {
		return jetstream.New(conn)
	}
	return jetstream.NewWithDomain(conn, domain)
}

// present returns the present connection, and the JetStream handle on it.
func (r *Remote) present() (*nats.Conn, jetstream.JetStream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conn, r.js
}

// Close closes the connection. Publishes in flight fail.
func (r *Remote) Close() {
	r.stop()
	r.work.Wait()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	conn, _ := r.present()
	conn.Close()
}

// Status returns what is known now.
func (r *Remote) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.statusAt(time.Now())
}

// Get returns the message at a stream sequence, or [jetstream.ErrMsgNotFound] if there is none. It asks the stream's
// leader. Only the older of the client's two packages always does so: any replica answers a direct get, and a replica
// that is behind may not have the message yet that the leader calls a duplicate.
func (r *Remote) Get(ctx context.Context, seq uint64) (*nats.Msg, error) {
	if err := r.checkPermission("$JS.API.STREAM.MSG.GET." + r.opts.Stream); err != nil {
		return nil, err
	}
	conn, js := r.present()
	older, err := conn.JetStream(nats.Domain(js.Options().Domain))
	if err != nil {
		return nil, fmt.Errorf("remote NATS: %w", err)
	}
	msg, err := older.GetMsg(r.opts.Stream, seq, nats.Context(ctx))
	switch {
	case errors.Is(err, nats.ErrMsgNotFound):
		return nil, fmt.Errorf("sequence %d: %w", seq, jetstream.ErrMsgNotFound)
	case err != nil:
		return nil, fmt.Errorf("read message %d: %w", seq, err)
	}
	return &nats.Msg{Subject: msg.Subject, Header: msg.Header, Data: msg.Data}, nil
}

// Conn returns the connection. It waits for one until ctx ends.
func (r *Remote) Conn(ctx context.Context) (*nats.Conn, error) {
	r.mu.Lock()
	up := r.up
	r.mu.Unlock()
	select {
	case <-up:
		conn, _ := r.present()
		return conn, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// isPresent reports whether c is the present connection, or the first one. The caller holds mu.
func (r *Remote) isPresent(c *nats.Conn) bool { return r.conn == nil || r.conn == c }

// connected handles a new connection to a server.
func (r *Remote) connected(c *nats.Conn) {
	r.mu.Lock()
	if !r.isPresent(c) {
		r.mu.Unlock()
		return
	}
	if !r.state.status.Connected {
		close(r.up)
		r.link, r.linkDown = context.WithCancelCause(context.Background())
	}
	log := r.state.connected(c.ConnectedUrlRedacted(), time.Now())
	r.mu.Unlock()
	if log {
		r.log.Info("connected to NATS", zap.String("url", c.ConnectedUrlRedacted()))
	}
	r.requestAudit()
}

// disconnected handles the loss of the connection, and a failed attempt to connect.
func (r *Remote) disconnected(c *nats.Conn, err error) {
	if err == nil {
		return // Close or Reconnect closed the connection
	}
	r.mu.Lock()
	if !r.isPresent(c) {
		r.mu.Unlock()
		return
	}
	if r.state.status.Connected {
		r.up = make(chan struct{})
		r.linkDown(nats.ErrDisconnected)
	}
	log, audit := r.state.disconnected(err, time.Now())
	problem := r.state.status.Problem
	r.mu.Unlock()
	if log {
		r.log.Warn("cannot reach NATS", zap.String("problem", problem))
	}
	if audit {
		r.requestAudit()
	}
}

// asyncError handles an error that the server does not report to the caller that caused it.
func (r *Remote) asyncError(c *nats.Conn, _ *nats.Subscription, err error) {
	if isAuthError(err) {
		if !c.IsConnected() {
			r.disconnected(c, err)
		}
		return
	}
	r.mu.Lock()
	log := r.state.refused(err, r.isPresent(c), time.Now())
	r.mu.Unlock()
	if log {
		r.log.Warn("NATS reports an error", zap.Error(err))
	}
	if errors.Is(err, nats.ErrPermissionViolation) {
		r.requestAudit()
	}
}

// checkPermission returns an error if the server has just refused a publish to subject.
func (r *Remote) checkPermission(subject string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.refusals.check(subject, time.Now())
}

// requestAudit makes auditLoop audit the stream soon.
func (r *Remote) requestAudit() {
	select {
	case r.auditNow <- struct{}{}:
	default:
	}
}
