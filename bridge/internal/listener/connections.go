// Package listener bounds the connections of an HTTP server, and closes its listener
// without resetting the connections that wait in the queue.
//
// It leaves to its callers what is served, and TLS.
package listener

import (
	"context"
	"crypto/tls"
	"math"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
)

// Connections is a listener that bounds how many connections are open: in all, and half of that
// from one source. When the last place is taken, the one that has waited longest
// for a request is closed, the greediest source's first, so that there is room
// for the next; without any, what comes waits in the listener's queue. Of a source
// that has its half in use, what comes is closed.
type Connections struct {
	net.Listener
	most     int
	places   chan struct{} // one token for each that is open
	closed   chan struct{}
	close    sync.Once
	free     []*net.IPNet // sources that stand for many
	open     atomic.Int64
	rejected func(at string)

	mu      sync.Mutex
	sources map[netip.Prefix]map[*counted]struct{}
	later   *time.Timer // looks again for one to close
}

// leastIdle is how long a connection must have waited for a request before it
// makes room: whoever sends one after the other is not disturbed.
const leastIdle = time.Second

// New bounds the connections of ln, which server will serve, to most. The sources in
// free stand for many clients and may use all of them. rejected is called for each
// connection that ended before a handler saw its request; it may be nil.
func New(server *http.Server, ln net.Listener, most int, free []*net.IPNet, rejected func(at string)) *Connections {
	if rejected == nil {
		rejected = func(string) {}
	}
	c := &Connections{Listener: ln, most: most, places: make(chan struct{}, most), closed: make(chan struct{}), free: free, sources: make(map[netip.Prefix]map[*counted]struct{}), rejected: rejected}
	c.later = time.AfterFunc(math.MaxInt64, c.makeRoom)
	server.ConnState = c.observe
	server.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, countedOf(conn))
	}
	handler := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if conn, _ := r.Context().Value(connKey{}).(*counted); conn != nil {
			conn.asking.Store(false)
		}
		handler.ServeHTTP(w, r)
	})
	return c
}

// Where a connection is rejected.
const (
	AtLimit     = "limit"     // its source has too many
	AtHandshake = "handshake" // of TLS
	AtRequest   = "request"   // which net/http answered by itself, or not at all
)

type connKey struct{}

// Close implements [net.Listener].
func (l *Connections) Close() error {
	l.later.Stop()
	l.close.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

// counted is a connection of a source.
type counted struct {
	net.Conn
	all    *Connections
	source netip.Prefix
	idle   atomic.Int64 // since when, in nanoseconds; 0 while it is in use
	asking atomic.Bool  // bytes came, and no handler has seen a request yet
	close  sync.Once
}

// countedOf returns the connection under TLS, or nil if it was not counted: one
// that was left in the queue of a listener that has closed.
func countedOf(conn net.Conn) *counted {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	c, _ := conn.(*counted)
	return c
}

// Close implements [net.Conn].
func (c *counted) Close() error {
	err := c.Conn.Close()
	c.close.Do(func() {
		c.all.mu.Lock()
		c.all.forget(c)
		c.all.mu.Unlock()
		<-c.all.places
	})
	return err
}

// Accept implements [net.Listener].
func (l *Connections) Accept() (net.Conn, error) {
	for {
		select {
		case l.places <- struct{}{}:
		case <-l.closed:
			return nil, net.ErrClosed
		}
		conn, err := l.Listener.Accept()
		if err != nil {
			<-l.places
			return nil, err
		}
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String()) // an address of no network is one source
		c := &counted{Conn: conn, all: l, source: source.Of(host)}
		if l.admit(c, l.isFree(net.ParseIP(host))) {
			return c, nil
		}
		l.rejected(AtLimit)
		_ = c.Close() // nobody is left to tell
	}
}

func (l *Connections) isFree(ip net.IP) bool {
	for _, n := range l.free {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// admit takes a connection in, unless its source has its half already and all of
// that is in use.
func (l *Connections) admit(c *counted, free bool) bool {
	l.mu.Lock()
	own := l.sources[c.source]
	var old *counted
	if !free && len(own) >= (l.most+1)/2 {
		if old, _ = longestIdle(own); old == nil {
			l.mu.Unlock()
			return false
		}
		l.forget(old)
	}
	if own = l.sources[c.source]; own == nil {
		own = make(map[*counted]struct{})
		l.sources[c.source] = own
	}
	own[c] = struct{}{}
	l.mu.Unlock()
	if old != nil {
		_ = old.Close() // nobody is left to tell
	}
	return true
}

// forget takes a connection out; once more does no harm. The caller holds mu.
func (l *Connections) forget(c *counted) {
	own := l.sources[c.source]
	if delete(own, c); len(own) == 0 {
		delete(l.sources, c.source)
	}
}

// longestIdle returns the one that waits longest for a request, and since when;
// nil if all are in use.
func longestIdle(conns map[*counted]struct{}) (longest *counted, since int64) {
	since = math.MaxInt64
	for c := range conns {
		if at := c.idle.Load(); at != 0 && at < since {
			longest, since = c, at
		}
	}
	return longest, since
}

// makeRoom closes a connection that waits for nothing, if the last place is taken.
func (l *Connections) makeRoom() {
	if l.open.Load() < int64(l.most) {
		return
	}
	l.mu.Lock()
	var idle *counted
	var since int64
	most := 0
	for _, own := range l.sources {
		if len(own) < most {
			continue
		}
		c, at := longestIdle(own)
		if c == nil || time.Since(time.Unix(0, at)) < leastIdle {
			continue
		}
		if len(own) > most || at < since {
			idle, since, most = c, at, len(own)
		}
	}
	l.mu.Unlock()
	if idle != nil && idle.idle.Load() == since {
		_ = idle.Close() // nobody is left to tell
		return
	}
	l.later.Reset(leastIdle)
}

// observe is told by the server what becomes of each connection.
func (l *Connections) observe(conn net.Conn, s http.ConnState) {
	c := countedOf(conn)
	if c == nil {
		c = new(counted)
	}
	switch s {
	case http.StateNew:
		l.open.Add(1)
		l.makeRoom()
	case http.StateActive:
		c.idle.Store(0)
		c.asking.Store(true)
	case http.StateIdle: // of HTTP/2 also after the preface
		c.idle.Store(time.Now().UnixNano())
		c.asking.Store(false)
	case http.StateClosed, http.StateHijacked:
		l.open.Add(-1)
		if c.asking.Load() {
			l.rejected(AtRequest)
		}
		if secure, ok := conn.(*tls.Conn); ok && !secure.ConnectionState().HandshakeComplete {
			l.rejected(AtHandshake)
		}
	}
}

// Open returns the number of open connections.
func (l *Connections) Open() int { return int(l.open.Load()) }

// lingerTimeout is how long a stopping server serves the connections that are still
// open, so that a keep-alive client learns from an answer, not from a reset, that it
// must connect again.
const lingerTimeout = 250 * time.Millisecond

// Linger waits until every connection has received an answer with "Connection:
// close", or until lingerTimeout has passed and no connection that the server takes
// for idle holds an unread request. It waits for at most limit.
func (l *Connections) Linger(limit time.Duration) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	start := time.Now()
	for l.open.Load() > 0 && (time.Since(start) < lingerTimeout || time.Since(start) < limit && l.unread()) {
		<-tick.C
	}
}

// unread reports whether something has come for a connection that waits for it.
func (l *Connections) unread() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, own := range l.sources {
		for c := range own {
			if c.idle.Load() != 0 && readable(c.Conn) {
				return true
			}
		}
	}
	return false
}
