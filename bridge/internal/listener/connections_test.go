package listener

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// queue is a listener whose connections a test makes.
type queue struct {
	conns chan net.Conn
}

func (q queue) Accept() (net.Conn, error) {
	conn, ok := <-q.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (q queue) Close() error   { close(q.conns); return nil }
func (q queue) Addr() net.Addr { return nil }

// peer is a connection from an address.
type peer struct {
	net.Conn
	from   string
	closed bool
}

func (p *peer) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.ParseIP(p.from), Port: 4711} }
func (p *peer) Close() error         { p.closed = true; return nil }

// TestLimit connects from several sources to a listener with four places, and has connections in each state.
func TestLimit(t *testing.T) {
	t.Parallel()
	const a, b, c, proxy = "192.0.2.1", "192.0.2.2", "192.0.2.3", "10.0.0.1"
	type open struct {
		from string
		idle time.Duration // 0: a request is being read or handled
	}
	for name, r := range map[string]struct {
		open     []open
		from     string
		accepted time.Duration // after which the new connection is accepted; -1: it is rejected, -2: it waits
		closed   int           // the open connection that is closed for it; -1: none
	}{
		"the first":                               {nil, a, 0, -1},
		"half":                                    {[]open{{a, 0}}, a, 0, -1},
		"more than half":                          {[]open{{a, 0}, {a, 0}}, a, -1, -1},
		"more than half, one is idle":             {[]open{{a, 0}, {a, time.Millisecond}}, a, 0, 1},
		"more than half, both are idle":           {[]open{{a, time.Second}, {a, 2 * time.Second}}, a, 0, 1},
		"more than half, another's is idle":       {[]open{{a, 0}, {a, 0}, {b, time.Hour}}, a, -1, -1},
		"another source":                          {[]open{{a, 0}, {a, 0}}, b, 0, -1},
		"a trusted proxy":                         {[]open{{proxy, 0}, {proxy, 0}, {proxy, 0}}, proxy, 0, -1},
		"total":                                   {[]open{{a, 0}, {a, 0}, {b, 0}, {b, 0}}, c, -2, -1},
		"total, one is idle":                      {[]open{{a, 0}, {a, 0}, {b, 0}, {b, time.Second}}, c, 0, 3},
		"total, one is idle for a moment":         {[]open{{a, 0}, {a, 0}, {b, 0}, {b, 900 * time.Millisecond}}, c, 100 * time.Millisecond, 3},
		"total, the source with most loses one":   {[]open{{b, time.Hour}, {proxy, 0}, {a, time.Second}, {a, 0}}, c, 0, 2},
		"total, the one that is idle for longest": {[]open{{a, 2 * time.Second}, {a, time.Second}, {b, time.Hour}, {proxy, 0}}, c, 0, 0},
		"total, of a trusted proxy":               {[]open{{proxy, time.Second}, {proxy, 0}, {proxy, 0}, {proxy, 0}}, proxy, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				q := queue{make(chan net.Conn, 8)}
				_, trusted, _ := net.ParseCIDR("10.0.0.0/8")
				rejected := 0
				l := New(new(http.Server), q, 4, []*net.IPNet{trusted}, func(at string) {
					if rejected++; at != AtLimit {
						t.Error(at)
					}
				})
				var peers []*peer
				for _, o := range r.open {
					p := &peer{from: o.from}
					q.conns <- p
					conn, err := l.Accept()
					if err != nil {
						t.Fatal(err)
					}
					peers = append(peers, p)
					l.connState(conn, http.StateNew)
					if l.connState(conn, http.StateActive); o.idle != 0 {
						l.connState(conn, http.StateIdle)
						connectionOf(conn).idleSince.Store(time.Now().Add(-o.idle).UnixNano())
					}
				}
				p := &peer{from: r.from}
				q.conns <- p
				start := time.Now()
				accepted := make(chan time.Duration, 1)
				go func() {
					if _, err := l.Accept(); err == nil {
						accepted <- time.Since(start)
					}
				}()
				time.Sleep(10 * time.Second)
				synctest.Wait()
				select {
				case after := <-accepted:
					if after != r.accepted {
						t.Errorf("accepted after %s", after)
					}
				default:
					if r.accepted >= 0 {
						t.Error("not accepted")
					}
				}
				if (rejected == 1) != (r.accepted == -1) || p.closed != (r.accepted == -1) {
					t.Errorf("rejected: %d, closed: %v", rejected, p.closed)
				}
				for i, p := range peers {
					if p.closed != (i == r.closed) {
						t.Errorf("connection %d closed: %v", i, p.closed)
					}
				}
				l.Close()
				if r.accepted == -2 { // draining: a connection that was made is served
					if after := <-accepted; after > 10*time.Second+retryInterval {
						t.Errorf("accepted after %s", after)
					}
				}
			})
		})
	}
}

// TestPlaceIsReleased closes connections, some of them twice: as many can be accepted again.
func TestPlaceIsReleased(t *testing.T) {
	t.Parallel()
	q := queue{make(chan net.Conn, 8)}
	l := New(new(http.Server), q, 2, nil, nil)
	for i := range 20 {
		q.conns <- &peer{from: fmt.Sprint("192.0.2.", i%3)}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
		conn.Close()
	}
	if len(l.sources) != 0 || l.limiter.TryAcquire(l.sourceOf((&peer{from: "192.0.2.1"}).RemoteAddr()), 1) != nil {
		t.Error("a place stays in use")
	}
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// TestRejected counts the connections that no handler saw a request of.
func TestRejected(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		states []http.ConnState
		handle bool // before the last state
		want   int
	}{
		"no byte arrived":          {[]http.ConnState{http.StateNew, http.StateClosed}, false, 0},
		"no request could be read": {[]http.ConnState{http.StateNew, http.StateActive, http.StateClosed}, false, 1},
		"a request was handled":    {[]http.ConnState{http.StateNew, http.StateActive, http.StateClosed}, true, 0},
		"idle":                     {[]http.ConnState{http.StateNew, http.StateActive, http.StateIdle, http.StateClosed}, false, 0},
		"the second cannot be read": {[]http.ConnState{
			http.StateNew, http.StateActive, http.StateIdle, http.StateActive, http.StateClosed,
		}, false, 1},
	} {
		q := queue{make(chan net.Conn, 1)}
		rejected := 0
		server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
		l := New(server, q, 2, nil, func(string) { rejected++ })
		q.conns <- &peer{from: "192.0.2.1"}
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for i, state := range r.states {
			if r.handle && i == len(r.states)-1 {
				request := new(http.Request).WithContext(server.ConnContext(t.Context(), conn))
				server.Handler.ServeHTTP(nil, request)
			}
			l.connState(conn, state)
		}
		if rejected != r.want || l.Open() != 0 {
			t.Errorf("%s: %d rejected, want %d; %d open", name, rejected, r.want, l.Open())
		}
	}
}

// TestDrain closes a listener with connections in its queue: Accept returns them, with what their senders have sent.
func TestDrain(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := New(new(http.Server), ln, 1, nil, nil)
	const n = 3 // more than the limit
	for range n {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, "P"); err != nil {
			t.Fatal(err)
		}
	}
	l.Drain()
	for range n {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Error(err)
		}
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the listener is open")
	}
}
