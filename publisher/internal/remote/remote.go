// Package remote is the connection to an operator's NATS, and to the stream of
// events there.
//
// It promises that a connection which can come back does, however long that
// takes; that nothing is sent later than its caller was told; and that whatever
// is wrong with the stream, with the user's permissions or with the connection
// is known, in words that say what to change.
//
// It leaves to others what is published, and what an outcome means (package
// publisher).
package remote

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Inbox is the prefix of the subjects that answers come on: all that the
// bridge's user may subscribe to.
const Inbox = "_INBOX_BRIDGE"

// DefaultInbox is a [nats.Option] that makes answers come on [Inbox], unless
// one before it chose another prefix.
func DefaultInbox(o *nats.Options) error {
	if o.InboxPrefix == "" {
		o.InboxPrefix = Inbox
	}
	return nil
}

// Options configures a [Remote]. Connect and Stream are needed.
type Options struct {
	// Connect makes the connection, with the options given and with those for
	// servers and credentials; usually a closure over [nats.Connect]. It also
	// returns the JetStream domain, or "".
	Connect func(...nats.Option) (conn *nats.Conn, domain string, err error)
	// Stream is the stream's name.
	Stream string
	// Needs is what the stream is audited for.
	Needs Needs
	// Logger of the connection; nil means none.
	Logger *zap.Logger
}

// Remote is a connection that comes back by itself. It may be used concurrently.
type Remote struct {
	opts Options
	log  *zap.Logger

	mu                  sync.Mutex
	conn                *nats.Conn
	js                  jetstream.JetStream
	status              Status
	seen                bool     // a connection has been there
	connection, refusal reminder // bound the lines of the log
	closed              bool
	denied              map[string]time.Time // subject → when the server last refused it
	failures            failures
	up                  chan struct{} // closed while connected
	// link ends with the present connection.
	link     context.Context //nolint:containedctx // it stands for the connection, not for a call
	linkDown context.CancelCauseFunc

	tell  chan struct{} // a look at the stream is due
	stop  context.CancelFunc
	watch sync.WaitGroup
}

// The times of a connection. A stale one is noticed within two pings, and one
// that is lost is tried again without delay: the provider does not wait.
const (
	pingInterval  = time.Second
	maxPings      = 2
	dialTimeout   = 2 * time.Second
	reconnectWait = 200 * time.Millisecond
	reconnectTLS  = time.Second
	// tryTimeout is how long one publish waits for its PubAck before it is
	// sent again, under the same message id.
	tryTimeout = 1200 * time.Millisecond
	// deniedFor is how long a refused subject is not tried again: the refusal
	// does not name the message, so that each try costs its whole time.
	deniedFor = 5 * time.Second
)

// Open begins to connect, and does not wait for it: a server that is down now
// is found when it is up. Only options that can never work are an error.
func Open(o Options) (*Remote, error) {
	switch {
	case o.Connect == nil:
		return nil, errors.New("remote: Options.Connect is nil")
	case o.Stream == "":
		return nil, errors.New("remote: Options.Stream is empty")
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	r := &Remote{opts: o, log: o.Logger, denied: make(map[string]time.Time), up: make(chan struct{}), tell: make(chan struct{}, 1),
		connection: newReminder(), refusal: newReminder()}
	r.status.Problem = "not connected yet"
	r.link, r.linkDown = context.WithCancelCause(context.Background())
	ctx, stop := context.WithCancel(context.Background())
	r.stop = stop
	if _, _, err := r.connect(true); err != nil {
		stop()
		return nil, err
	}
	r.watch.Go(func() { r.run(ctx) })
	return r, nil
}

// connect makes a connection the present one, and returns the one before and
// what ends what is under way there. With retry, the connection may come later;
// without, one that cannot be made now changes nothing.
func (r *Remote) connect(retry bool) (old *nats.Conn, oldDown context.CancelCauseFunc, err error) {
	conn, domain, err := r.opts.Connect(
		nats.Name("jobbridge"), DefaultInbox, nats.RetryOnFailedConnect(retry), nats.MaxReconnects(-1),
		// Without a buffer, what is refused now is not sent later.
		nats.ReconnectBufSize(-1),
		nats.PingInterval(pingInterval), nats.MaxPingsOutstanding(maxPings), nats.Timeout(dialTimeout),
		nats.ReconnectWait(reconnectWait), nats.ReconnectJitter(reconnectWait, reconnectTLS), nats.IgnoreAuthErrorAbort(),
		nats.ConnectHandler(r.connected), nats.ReconnectHandler(r.connected), nats.DisconnectErrHandler(r.disconnected),
		nats.ReconnectErrHandler(r.disconnected), nats.ErrorHandler(r.asyncError),
	)
	if err != nil {
		return nil, nil, fmt.Errorf("remote NATS: %w", err)
	}
	js, err := jetstream.NewWithDomain(conn, domain)
	if domain == "" {
		js, err = jetstream.New(conn)
	}
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("remote NATS: %w", err)
	}
	r.mu.Lock()
	if r.closed || r.conn != nil && r.status.Connected && !conn.IsConnected() { // the old one came back meanwhile
		r.mu.Unlock()
		conn.Close()
		return nil, nil, fmt.Errorf("remote NATS: %w", cmp.Or(conn.LastError(), nats.ErrDisconnected))
	}
	old, oldDown = r.conn, r.linkDown
	r.conn, r.js = conn, js
	if r.status.Connected {
		r.link, r.linkDown = context.WithCancelCause(context.Background())
	}
	r.mu.Unlock()
	if conn.IsConnected() {
		r.connected(conn)
	} else if err := conn.LastError(); err != nil {
		r.disconnected(conn, err)
	}
	return old, oldDown, nil
}

// Renew connects anew, with what Options.Connect reads now, and returns when the
// old connection is closed. While there is a connection, one that cannot be made
// anew is an error, and changes nothing.
func (r *Remote) Renew() error {
	connected := r.Status().Connected
	old, oldDown, err := r.connect(!connected)
	if err != nil {
		return err
	}
	if connected {
		time.Sleep(tryTimeout) // for the answers to what is under way on the old one
	}
	oldDown(nats.ErrDisconnected)
	old.Close()
	return nil
}

// present returns the connection, and the handle that publishes on it.
func (r *Remote) present() (*nats.Conn, jetstream.JetStream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conn, r.js
}

// Close ends the connection. What is in flight fails.
func (r *Remote) Close() {
	r.stop()
	r.watch.Wait()
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
	s := r.status
	s.Findings = slices.Clone(s.Findings)
	if f := r.failures; f.err != nil && time.Since(f.last) <= failureCounts {
		s.failing, s.failure = f.last.Sub(f.since), f.err
	}
	return s
}

// JetStream returns the handle of the present connection.
func (r *Remote) JetStream() jetstream.JetStream {
	_, js := r.present()
	return js
}

// Get returns the message with that sequence; [jetstream.ErrMsgNotFound] means that the
// stream has none. It asks the stream's leader, as
// only the older of the client's two packages always does: any replica answers a
// direct get, and a replica that is behind does not have yet what the leader calls
// a duplicate.
func (r *Remote) Get(ctx context.Context, seq uint64) (*nats.Msg, error) {
	if err := r.refused("$JS.API.STREAM.MSG.GET." + r.opts.Stream); err != nil {
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

// Conn waits until there is a connection, and returns it.
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

// current reports whether c is the present connection, or the first. The caller
// holds mu.
func (r *Remote) current(c *nats.Conn) bool { return r.conn == nil || r.conn == c }

func (r *Remote) connected(c *nats.Conn) {
	r.mu.Lock()
	if !r.current(c) {
		r.mu.Unlock()
		return
	}
	again := r.status.Connected
	if !again {
		close(r.up)
		r.link, r.linkDown = context.WithCancelCause(context.Background())
		if r.seen {
			r.status.Reconnects++
		}
		r.seen = true
	}
	clear(r.denied)
	r.status.Connected, r.status.Audited, r.status.Denied, r.status.Problem = true, false, false, "the stream was not looked at yet"
	r.status.URL = c.ConnectedUrlRedacted()
	due := !again && r.connection.due("up", time.Now())
	r.mu.Unlock()
	if due {
		r.log.Info("connected to NATS", zap.String("url", c.ConnectedUrlRedacted()))
	}
	r.look()
}

func (r *Remote) disconnected(c *nats.Conn, err error) {
	if err == nil {
		return // closed by ourselves
	}
	r.mu.Lock()
	if !r.current(c) {
		r.mu.Unlock()
		return
	}
	was := r.status
	problem := "no connection to NATS: " + err.Error()
	if !was.Connected || isAuthError(err) {
		problem += Hint(err)
	}
	if was.Connected {
		r.up = make(chan struct{})
		r.linkDown(nats.ErrDisconnected)
	}
	denied := isAuthError(err)
	r.status.Connected, r.status.URL, r.status.Problem, r.status.Denied = false, "", problem, denied
	// The text does not tell a change: it names the address of the last attempt.
	due := r.connection.due(fmt.Sprint("down ", denied), time.Now())
	r.mu.Unlock()
	if due {
		r.log.Warn("cannot reach NATS", zap.String("problem", problem))
	}
	if was.Connected || was.Denied != denied {
		r.look()
	}
}

// Hint returns what may help against an error of connecting, as the end of a message,
// or "".
func Hint(err error) string {
	var network *net.OpError
	var noTLS tls.RecordHeaderError
	switch {
	case isAuthError(err):
		return ": check the credentials"
	case errors.As(err, &network) && network.Op == "read" && network.Timeout(), errors.Is(err, io.EOF) && !errors.Is(err, nats.ErrTLS): // whichever side gives up first
		return ": the server sent nothing; if its configuration has handshake_first, set --nats-tls-first"
	case errors.As(err, &noTLS):
		return ": the server does not begin with TLS: unset --nats-tls-first"
	}
	return ""
}

// isAuthError reports whether the server knows the user no longer, or not yet.
func isAuthError(err error) bool {
	for _, auth := range []error{nats.ErrAuthorization, nats.ErrAuthExpired, nats.ErrAuthRevoked, nats.ErrAccountAuthExpired} {
		if errors.Is(err, auth) {
			return true
		}
	}
	return false
}

// asyncError learns of what the server refuses: it does not say so to whoever
// asked.
func (r *Remote) asyncError(c *nats.Conn, _ *nats.Subscription, err error) {
	if isAuthError(err) {
		if !c.IsConnected() {
			r.disconnected(c, err)
		}
		return
	}
	r.mu.Lock()
	subject, ok := refusedSubject(err)
	pattern := r.pattern(subject)
	if ok && r.current(c) { // what the old one may not do, the new one may
		r.deny(pattern, time.Now())
	}
	due := r.refusal.due(cmp.Or(pattern, err.Error()), time.Now())
	r.mu.Unlock()
	if due {
		r.log.Warn("NATS reports an error", zap.Error(err))
	}
	if errors.Is(err, nats.ErrPermissionViolation) {
		r.look()
	}
}

// look asks for an audit.
func (r *Remote) look() {
	select {
	case r.tell <- struct{}{}:
	default:
	}
}
