// Package listener limits the connections of an HTTP server, and closes its listener without resetting the connections
// that wait in the listener's queue.
//
// It leaves to its callers what is served, and TLS.
package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
)

// Connections is a listener that limits how many connections are open: in total, and to half of that from one source.
//
// When a source that has its half connects again, its connection that is idle for longest is closed. If none is idle,
// the new connection is closed. When the total is reached, a connection that is idle for a second or more is closed, of
// the source with the most connections. If there is none, the new connection waits.
type Connections struct {
	net.Listener
	limiter  *source.Limiter
	trusted  []*net.IPNet
	rejected func(at string)
	closed   atomic.Bool
	open     atomic.Int64

	mu      sync.Mutex
	sources map[netip.Prefix]map[*connection]struct{}
	drained []net.Conn // for Accept to return after the listener was closed
}

// Where a connection is rejected.
const (
	AtLimit     = "limit"     // its source has too many connections
	AtHandshake = "handshake" // the TLS handshake failed
	AtRequest   = "request"   // net/http could not read the request, and answered it by itself or not at all
)

const (
	// leastIdle is how long a connection must be idle before it is closed for another source: a sender that sends one
	// request after the other keeps its connection.
	leastIdle = time.Second
	// retryInterval is how often a new connection looks for an idle one while the total is reached.
	retryInterval = 50 * time.Millisecond
)

// New returns a listener that accepts at most limit connections from ln for server, which has not been started. The
// trusted networks stand for many clients and may use all connections. rejected is called for each connection that ended
// before a handler saw its request; it may be nil.
func New(server *http.Server, ln net.Listener, limit int, trusted []*net.IPNet, rejected func(at string)) *Connections {
	if rejected == nil {
		rejected = func(string) {}
	}
	l := &Connections{
		Listener: ln, limiter: source.NewLimiter(source.Limits{Total: limit, PerSource: (limit + 1) / 2}),
		trusted: trusted, rejected: rejected, sources: make(map[netip.Prefix]map[*connection]struct{}),
	}
	server.ConnState = l.connState
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connectionKey{}, connectionOf(conn))
	}
	handler := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, _ := r.Context().Value(connectionKey{}).(*connection); c != nil {
			c.unhandled.Store(false)
		}
		handler.ServeHTTP(w, r)
	})
	return l
}

// connectionKey is the key of a request's [connection] in its context.
type connectionKey struct{}

// Close implements [net.Listener]. A connection that waits because the total is reached is then returned by Accept.
func (l *Connections) Close() error {
	l.closed.Store(true)
	return l.Listener.Close()
}

// Drain closes the listener without resetting the connections in its queue: Accept returns them before it returns
// [net.ErrClosed]. They do not count against the limit.
func (l *Connections) Drain() {
	l.mu.Lock()
	l.drained = acceptAll(l.Listener)
	l.mu.Unlock()
	_ = l.Close() // acceptAll has shut it down already
}

// nextDrained returns the next connection that Drain has accepted, or err.
func (l *Connections) nextDrained(err error) (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.drained) == 0 {
		return nil, err
	}
	conn := l.drained[0]
	l.drained = l.drained[1:]
	return conn, nil
}

// connection is an accepted connection that counts against the limit.
type connection struct {
	net.Conn
	listener  *Connections
	source    netip.Prefix
	idleSince atomic.Int64 // in Unix nanoseconds; 0 while a request is read or handled
	unhandled atomic.Bool  // bytes arrived, and no handler has been called for them
	closing   sync.Once
}

// connectionOf returns the connection below TLS. It returns nil if conn does not count against the limit, because it was
// accepted when the listener was closed.
func connectionOf(conn net.Conn) *connection {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	c, _ := conn.(*connection)
	return c
}

// Close implements [net.Conn].
func (c *connection) Close() error {
	err := c.Conn.Close()
	c.closing.Do(func() { c.listener.remove(c) })
	return err
}

// Accept implements [net.Listener].
func (l *Connections) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return l.nextDrained(err)
		}
		c := &connection{Conn: conn, listener: l, source: l.sourceOf(conn.RemoteAddr())}
		switch err := l.admit(c); {
		case err == nil:
			l.add(c)
			return c, nil
		case l.closed.Load():
			return conn, nil // draining serves every connection that was made
		}
		l.rejected(AtLimit)
		_ = conn.Close() // nobody is left to tell
	}
}

// sourceOf returns the source that a connection from addr counts for. All addresses without an IP address are one source.
func (l *Connections) sourceOf(addr net.Addr) netip.Prefix {
	host, _, _ := net.SplitHostPort(addr.String())
	if source.In(l.trusted, net.ParseIP(host)) {
		return source.Shared
	}
	return source.Of(host)
}

// admit waits until c may be open, and closes idle connections for that. It returns an error if the source of c has its
// share in use, or if the listener was closed meanwhile.
func (l *Connections) admit(c *connection) error {
	for {
		err := l.limiter.TryAcquire(c.source, 1)
		switch {
		case err == nil:
			return nil
		case errors.Is(err, source.ErrSource):
			if !l.closeIdle(0, func(s netip.Prefix) bool { return s == c.source }) {
				return err
			}
		case l.closed.Load():
			return err
		case l.closeIdle(leastIdle, func(netip.Prefix) bool { return true }):
		default:
			if l.limiter.Acquire(c.source, 1, retryInterval) == nil {
				return nil
			}
		}
	}
}

func (l *Connections) add(c *connection) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sources[c.source] == nil {
		l.sources[c.source] = make(map[*connection]struct{})
	}
	l.sources[c.source][c] = struct{}{}
}

// remove makes room for another connection.
func (l *Connections) remove(c *connection) {
	l.mu.Lock()
	if delete(l.sources[c.source], c); len(l.sources[c.source]) == 0 {
		delete(l.sources, c.source)
	}
	l.mu.Unlock()
	l.limiter.Release(c.source, 1)
}

// closeIdle closes a connection that has been idle for at least the given time, of a source that is eligible. It chooses
// the source with the most connections, and the connection that is idle for longest. It returns false if there is none.
func (l *Connections) closeIdle(least time.Duration, eligible func(netip.Prefix) bool) bool {
	now := time.Now().UnixNano()
	var oldest *connection
	var since int64
	most := 0
	l.mu.Lock()
	for s, connections := range l.sources {
		if len(connections) < most || !eligible(s) {
			continue
		}
		for c := range connections {
			at := c.idleSince.Load()
			if at != 0 && now-at >= int64(least) && (len(connections) > most || at < since) {
				oldest, since, most = c, at, len(connections)
			}
		}
	}
	l.mu.Unlock()
	if oldest == nil || oldest.idleSince.Load() != since {
		return false
	}
	_ = oldest.Close() // nobody is left to tell
	return true
}

// connState follows the state of each connection of the server.
func (l *Connections) connState(conn net.Conn, state http.ConnState) {
	c := connectionOf(conn)
	if c == nil {
		c = new(connection)
	}
	switch state {
	case http.StateNew:
		l.open.Add(1)
	case http.StateActive:
		c.idleSince.Store(0)
		c.unhandled.Store(true)
	case http.StateIdle: // over HTTP/2 also after the preface
		c.idleSince.Store(time.Now().UnixNano())
		c.unhandled.Store(false)
	case http.StateClosed, http.StateHijacked:
		l.open.Add(-1)
		if c.unhandled.Load() {
			l.rejected(AtRequest)
		}
		if secure, ok := conn.(*tls.Conn); ok && !secure.ConnectionState().HandshakeComplete {
			l.rejected(AtHandshake)
		}
	}
}

// Open returns the number of open connections.
func (l *Connections) Open() int { return int(l.open.Load()) }

// lingerTimeout is how long a stopping server goes on to serve open connections: a client that keeps its connection
// learns from an answer, and not from a reset, that it must connect again.
const lingerTimeout = 250 * time.Millisecond

// Linger waits until no connection is open, or until lingerTimeout has passed and no idle connection holds an unread
// request. It waits for at most limit.
func (l *Connections) Linger(limit time.Duration) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	for l.open.Load() > 0 && (time.Since(start) < lingerTimeout || time.Since(start) < limit && l.unread()) {
		<-tick.C
	}
}

// unread reports whether a request has arrived on a connection that is still idle.
func (l *Connections) unread() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, connections := range l.sources {
		for c := range connections {
			if c.idleSince.Load() != 0 && readable(c.Conn) {
				return true
			}
		}
	}
	return false
}
