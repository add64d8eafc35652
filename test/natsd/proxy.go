package natsd

import (
	"errors"
	"net"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"
)

// Proxy listens on loopback in front of a server and fails like a network. Any goroutine may call its methods at any time. When a method
// returns, its mode is in force. A new Proxy is in the mode of [Proxy.Pass].
type Proxy struct {
	// URL of the proxy, with the credentials of the URL it was made from.
	URL string
	// Addr is its host:port.
	Addr string

	target string
	wg     sync.WaitGroup
	modes  sync.Mutex // held while the mode changes

	mu       sync.Mutex
	mode     mode
	delay    time.Duration
	changed  chan struct{} // closed when the mode changes
	listener net.Listener
	pipes    map[*pipe]bool
	accepted int
	closed   bool
}

type mode int

const (
	pass mode = iota
	stall
	reset
	down
)

// pipe is the connection of one client, and the connection to the server behind it.
type pipe struct {
	mu     sync.Mutex // guards conns while the server is dialled
	conns  []*net.TCPConn
	gone   bool
	closed chan struct{}
	lost   bool    // black-holed; guarded by Proxy.mu
	ways   [2]*way // both directions; guarded by Proxy.mu
}

// way is one direction of a pipe.
type way struct {
	mu  sync.Mutex // held during a write
	dst *net.TCPConn
}

// chunk is a piece of data, and the time at which the other side must get it.
type chunk struct {
	data []byte
	due  time.Time
}

// NewProxy starts a proxy in front of a URL or host:port. The proxy ends with the test. The server may be down: then a client's connection
// is accepted and closed. A node of a cluster behind the proxy must run with --no_advertise, because clients would otherwise learn of ways
// around the proxy.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	p := &Proxy{target: target, changed: make(chan struct{}), pipes: make(map[*pipe]bool)}
	p.Addr = loopback(FreePort(t))
	p.URL = "nats://" + p.Addr
	if u, err := url.Parse(target); err == nil && u.Host != "" {
		p.target, u.Host = u.Host, p.Addr
		p.URL = u.String()
	}
	if err := p.listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.close)
	return p
}

// Pass forwards everything at once. Data that Stall held back is forwarded too. Connections that HalfOpen lost stay lost.
func (p *Proxy) Pass() { p.set(pass, 0, nil) }

// Delay forwards everything d after it arrived, in both directions.
func (p *Proxy) Delay(d time.Duration) { p.set(pass, d, nil) }

// Stall accepts connections and keeps all connections open, but reads and forwards nothing.
func (p *Proxy) Stall() { p.set(stall, 0, nil) }

// HalfOpen loses the present connections without telling either side. They stay open, but no mode forwards their data again. New
// connections pass.
func (p *Proxy) HalfOpen() { p.set(pass, 0, func(c *pipe) { c.lost = true }) }

// Reset resets the present connections, except the lost ones, and each new connection.
func (p *Proxy) Reset() { p.set(reset, 0, func(c *pipe) { c.end(true) }) }

// Down closes the port and the present connections, except the lost ones, so new connections are refused. Another mode opens the port
// again.
func (p *Proxy) Down() { p.set(down, 0, func(c *pipe) { c.end(false) }) }

// Accepted returns how many connections were accepted so far, including those that Reset reset.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// set changes the mode and calls each for the connections that are not lost. It panics if the port cannot be opened again.
func (p *Proxy) set(m mode, delay time.Duration, each func(*pipe)) {
	p.modes.Lock()
	defer p.modes.Unlock()
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.mode, p.delay = m, delay
	close(p.changed)
	p.changed = make(chan struct{})
	var ways []*way
	for c := range p.pipes {
		if each != nil && !c.lost {
			each(c)
		}
		ways = append(ways, c.ways[:]...)
	}
	listener := p.listener
	if m == down {
		p.listener = nil
	}
	p.mu.Unlock()
	// A write under the old mode may be under way, even blocked; it must be over
	// before the new mode is in force.
	for _, w := range ways {
		if w != nil {
			w.interrupt()
		}
	}
	switch {
	case m == down && listener != nil:
		listener.Close()
	case m != down && listener == nil:
		if err := p.listen(); err != nil {
			panic(err)
		}
	}
}

func (w *way) interrupt() {
	// A connection that was closed meanwhile needs no interruption.
	_ = w.dst.SetWriteDeadline(time.Unix(1, 0))
	w.mu.Lock()
	_ = w.dst.SetWriteDeadline(time.Time{})
	w.mu.Unlock()
}

func (p *Proxy) listen() error {
	l, err := net.Listen("tcp", p.Addr)
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); {
		time.Sleep(pause) // another program may hold the port for a moment
		l, err = net.Listen("tcp", p.Addr)
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.listener = l
	p.mu.Unlock()
	p.wg.Go(func() { p.accept(l) })
	return nil
}

func (p *Proxy) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		c := &pipe{conns: []*net.TCPConn{conn.(*net.TCPConn)}, closed: make(chan struct{})}
		p.mu.Lock()
		p.accepted++
		switch {
		case p.closed, p.mode == down:
			c.end(false)
		case p.mode == reset:
			c.end(true)
		default:
			p.pipes[c] = true
			p.wg.Go(func() { p.serve(c) })
		}
		p.mu.Unlock()
	}
}

// serve forwards a connection in both directions until either side ends it.
func (p *Proxy) serve(c *pipe) {
	defer func() {
		c.end(false)
		p.mu.Lock()
		delete(p.pipes, c)
		p.mu.Unlock()
	}()
	// A stalled connection is not even dialled: the server would give it up.
	if !p.await(c) {
		return
	}
	conn, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		return
	}
	client, server := c.conns[0], conn.(*net.TCPConn)
	if !c.add(server) {
		server.Close()
		return
	}
	up, back := &way{dst: server}, &way{dst: client}
	p.mu.Lock()
	c.ways = [2]*way{up, back}
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.forward(c, client, up) })
	both.Go(func() { p.forward(c, server, back) })
	both.Wait()
}

// forward copies one direction of a connection, and ends both directions when it ends.
func (p *Proxy) forward(c *pipe, src *net.TCPConn, w *way) {
	queue := make(chan chunk, 1024) // what is on its way while Delay is in force
	var writer sync.WaitGroup
	writer.Go(func() {
		defer c.end(false)
		for part := range queue {
			if !p.write(c, w, part) {
				return
			}
		}
	})
	defer writer.Wait()
	defer close(queue)
	for p.await(c) {
		buf := make([]byte, 32<<10)
		n, err := src.Read(buf)
		p.mu.Lock()
		due := time.Now().Add(p.delay)
		p.mu.Unlock()
		if n > 0 {
			select {
			case queue <- chunk{buf[:n], due}:
			case <-c.closed:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// write delivers one chunk when it is due and the mode allows it.
func (p *Proxy) write(c *pipe, w *way, part chunk) bool {
	if wait := time.Until(part.due); wait > 0 {
		select {
		case <-time.After(wait):
		case <-c.closed:
			return false
		}
	}
	for len(part.data) > 0 {
		if !p.await(c) {
			return false
		}
		w.mu.Lock()
		var n int
		var err error
		if !p.holds(c) {
			n, err = w.dst.Write(part.data)
		}
		w.mu.Unlock()
		part.data = part.data[n:]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return false
		}
	}
	return true
}

// await waits until the mode lets the connection continue. It returns false if the connection was closed.
func (p *Proxy) await(c *pipe) bool {
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if !p.holds(c) {
			return true
		}
		select {
		case <-changed:
		case <-c.closed:
			return false
		}
	}
}

// holds reports whether nothing of the connection may be forwarded now.
func (p *Proxy) holds(c *pipe) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mode == stall || c.lost
}

func (c *pipe) add(conn *net.TCPConn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.gone {
		c.conns = append(c.conns, conn)
	}
	return !c.gone
}

// end closes both connections, once; with a reset instead of a goodbye, if so
// told.
func (c *pipe) end(rst bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone {
		return
	}
	c.gone = true
	close(c.closed)
	for _, conn := range c.conns {
		if rst {
			_ = conn.SetLinger(0) // it is open
		}
		conn.Close()
	}
}

// close ends the proxy and every connection, and waits until they have ended.
func (p *Proxy) close() {
	p.modes.Lock()
	defer p.modes.Unlock()
	p.mu.Lock()
	p.closed = true
	if p.listener != nil {
		p.listener.Close()
	}
	for c := range p.pipes {
		c.end(false)
	}
	p.mu.Unlock()
	p.wg.Wait()
}
