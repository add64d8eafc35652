package bridge

import (
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"
)

// connections bounds how many are open on a listener, in all and from one
// source, and counts them. In all, what comes on top waits in the listener's
// queue; from one source, it is closed.
type connections struct {
	net.Listener // bounded in all
	most         int
	lane         *lane
	free         []*net.IPNet // sources that stand for many
	server       *http.Server

	open    atomic.Int64
	refused atomic.Uint64
}

// newConnections bounds those of ln, which server will serve.
func newConnections(server *http.Server, ln net.Listener, most int, free []*net.IPNet) *connections {
	c := &connections{Listener: netutil.LimitListener(ln, most), most: most, lane: newLane(most), free: free, server: server}
	server.ConnState = c.count
	return c
}

// Accept implements [net.Listener].
func (c *connections) Accept() (net.Conn, error) {
	for {
		conn, err := c.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, _ := net.SplitHostPort(conn.RemoteAddr().String()) // an address of no network is one source
		if c.isFree(net.ParseIP(host)) {
			return conn, nil
		}
		source := sourceOf(host)
		if c.lane.enter(source, 0) {
			return &counted{conn, sync.OnceFunc(func() { c.lane.leave(source) })}, nil
		}
		c.refused.Add(1)
		conn.Close()
	}
}

func (c *connections) isFree(ip net.IP) bool {
	for _, n := range c.free {
		if n.Contains(ip) {
			return true
		}
	}
	return false
}

// counted gives its place back when it is closed.
type counted struct {
	net.Conn
	leave func()
}

// Close implements [net.Conn].
func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// count counts, and when there is no room left, closes the connections that
// wait for nothing, and keeps none open after its answer until a quarter is free.
func (c *connections) count(_ net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
		if c.open.Add(1) == int64(c.most) {
			c.server.SetKeepAlivesEnabled(false)
		}
	case http.StateClosed, http.StateHijacked:
		if c.open.Add(-1) == int64(c.most-(c.most+3)/4) {
			c.server.SetKeepAlivesEnabled(true)
		}
	}
}

// linger waits until every connection has got an answer with "Connection:
// close", or lingerTimeout is over.
func (c *connections) linger() {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(lingerTimeout); c.open.Load() > 0 && time.Now().Before(end); {
		<-tick.C
	}
}
