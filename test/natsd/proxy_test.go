package natsd_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/natsd"
)

// short is how long a test checks that something does not happen.
const short = 60 * time.Millisecond

// echo starts a server that answers each line with the same line, and returns a proxy in front of it.
func echo(t *testing.T) *natsd.Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(conn, conn); conn.Close() }()
		}
	}()
	return natsd.NewProxy(t, l.Addr().String())
}

// peer is a client of the echo server.
type peer struct {
	*testing.T
	net.Conn
	lines *bufio.Reader
}

func dial(t *testing.T, p *natsd.Proxy) peer {
	t.Helper()
	conn, err := net.DialTimeout("tcp", p.Addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return peer{t, conn, bufio.NewReader(conn)}
}

// says sends a line.
func (c peer) says(line string) {
	c.Helper()
	if _, err := io.WriteString(c.Conn, line+"\n"); err != nil {
		c.Fatal(err)
	}
}

// hears waits for a line.
func (c peer) hears(line string) {
	c.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	if got, err := c.lines.ReadString('\n'); err != nil || got != line+"\n" {
		c.Fatalf("got %q, %v, want %q", got, err, line)
	}
}

// hearsNothing fails if anything comes, be it an end.
func (c peer) hearsNothing() {
	c.Helper()
	c.SetReadDeadline(time.Now().Add(short))
	if got, err := c.lines.ReadString('\n'); got != "" || !errors.Is(err, os.ErrDeadlineExceeded) {
		c.Fatalf("got %q, %v, want silence", got, err)
	}
}

// ends waits for the end of the connection and returns its error.
func (c peer) ends() error {
	c.Helper()
	c.SetReadDeadline(time.Now().Add(patience))
	_, err := c.lines.ReadString('\n')
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		c.Fatalf("%v, want an end", err)
	}
	return err
}

func TestProxyPasses(t *testing.T) {
	t.Parallel()
	c := dial(t, echo(t))
	c.says("a")
	c.hears("a")
	long := strings.Repeat("x", 1<<20)
	c.says(long)
	c.hears(long)
}

func TestProxyStalls(t *testing.T) {
	t.Parallel()
	p := echo(t)
	old := dial(t, p)
	old.says("a")
	old.hears("a")
	p.Stall()
	young := dial(t, p)
	old.says("b")
	young.says("c")
	old.hearsNothing()
	young.hearsNothing()
	p.Pass()
	old.hears("b")
	young.hears("c")
}

// TestProxyStallsABlockedWriter stalls a connection whose reader does not read, so that the proxy itself is blocked.
func TestProxyStallsABlockedWriter(t *testing.T) {
	t.Parallel()
	p := echo(t)
	c := dial(t, p)
	text := strings.Repeat(strings.Repeat("y", 1<<10)+"\n", 16<<10)
	sent := make(chan error, 1)
	go func() { _, err := io.WriteString(c.Conn, text); sent <- err }()
	c.SetReadDeadline(time.Now().Add(patience))
	if _, err := c.lines.Peek(1); err != nil {
		t.Fatal(err)
	}
	p.Stall()
	p.Pass()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c.lines, got); err != nil || string(got) != text {
		t.Errorf("the text is not whole: %v", err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func TestProxyResets(t *testing.T) {
	t.Parallel()
	p := echo(t)
	c := dial(t, p)
	c.says("a")
	c.hears("a")
	p.Reset()
	if err := c.ends(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it ended with %v, want a reset", err)
	}
	if conn, err := net.DialTimeout("tcp", p.Addr, patience); err == nil {
		err := peer{t, conn, bufio.NewReader(conn)}.ends()
		conn.Close()
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a new one ended with %v, want a reset", err)
		}
	}
	p.Pass()
	c = dial(t, p)
	c.says("b")
	c.hears("b")
}

func TestProxyHalfOpens(t *testing.T) {
	t.Parallel()
	p := echo(t)
	old := dial(t, p)
	old.says("a")
	old.hears("a")
	p.HalfOpen()
	old.says("b")
	old.hearsNothing()
	young := dial(t, p)
	young.says("c")
	young.hears("c")
	for _, mode := range []func(){p.Pass, p.Reset, p.Down, p.Pass} {
		mode()
		old.hearsNothing()
	}
	if n := p.Accepted(); n != 2 {
		t.Errorf("%d connections were accepted, want 2", n)
	}
}

func TestProxyDelays(t *testing.T) {
	t.Parallel()
	p := echo(t)
	c := dial(t, p)
	p.Delay(short)
	start := time.Now()
	for _, line := range []string{"a", "b", "c"} {
		c.says(line)
		time.Sleep(time.Millisecond) // so that they are three chunks, as a rule
	}
	for _, line := range []string{"a", "b", "c"} {
		c.hears(line)
	}
	if took := time.Since(start); took < 2*short {
		t.Errorf("there and back took %s, want at least %s", took, 2*short)
	}
	p.Pass()
	c.says("d")
	c.hears("d")
}

func TestProxyGoesDown(t *testing.T) {
	t.Parallel()
	p := echo(t)
	c := dial(t, p)
	c.says("a")
	c.hears("a")
	p.Down()
	if err := c.ends(); !errors.Is(err, io.EOF) {
		t.Errorf("it ended with %v, want EOF", err)
	}
	if _, err := net.DialTimeout("tcp", p.Addr, patience); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a new one got %v, want a refusal", err)
	}
	p.Pass()
	c = dial(t, p)
	c.says("b")
	c.hears("b")
}

// TestProxyOfAServer puts a proxy in front of NATS and takes the server away.
func TestProxyOfAServer(t *testing.T) {
	t.Parallel()
	s := natsd.Start(t, natsd.Options{
		Conf:      "jetstream: enabled\nauthorization { user: u, password: p }\n",
		Passwords: map[string]string{"u": "p"},
	})
	p := natsd.NewProxy(t, s.As("u"))
	if want := "nats://u:p@" + p.Addr; p.URL != want {
		t.Errorf("the URL is %s, want %s", p.URL, want)
	}
	c := dial(t, p)
	if line, err := c.lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, "INFO ") {
		t.Fatalf("got %q, %v", line, err)
	}
	s.Kill(t)
	c.ends()
	dial(t, p).ends()
	s.Restart(t)
	if line, err := dial(t, p).lines.ReadString('\n'); err != nil || !strings.HasPrefix(line, "INFO ") {
		t.Fatalf("got %q, %v", line, err)
	}
}
