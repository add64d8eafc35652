package listener

import (
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestLinger has a server that gets no processor: Linger waits until the server has read a request that arrived on an
// idle connection.
func TestLinger(t *testing.T) {
	t.Parallel()
	const limit = 4500 * time.Millisecond
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns := New(&http.Server{ReadHeaderTimeout: time.Second}, ln, 10, nil, nil)
	defer conns.Close()
	sender, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer sender.Close()
	conn, err := conns.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conns.connState(conn, http.StateNew)
	conns.connState(conn, http.StateIdle)
	start := time.Now()
	conns.Linger(limit)
	if took := time.Since(start); took < lingerTimeout || took >= limit {
		t.Errorf("an idle connection was waited for: %s", took)
	}
	if _, err := io.WriteString(sender, "P"); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); conns.Linger(limit) }()
	select {
	case <-done:
		t.Error("a request was left unread")
	case <-time.After(4 * lingerTimeout):
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	start = time.Now()
	<-done
	if took := time.Since(start); took > limit/2 {
		t.Errorf("it goes on to wait: %s", took)
	}
}
