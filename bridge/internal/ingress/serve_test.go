package ingress_test

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/verify"
)

// failingListener accepts until fail is closed, and then fails for good.
type failingListener struct {
	net.Listener
	fail chan struct{}
}

var errAccept = errors.New("accept fails for good")

func (l failingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	select {
	case <-l.fail:
		return nil, errAccept
	default:
		return conn, err
	}
}

// TestAcceptFails: a listener that fails for good ends Serve with its error, but only
// after the deliveries in flight have been answered (case R8).
func TestAcceptFails(t *testing.T) {
	t.Parallel()
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln, p := failingListener{tcp, make(chan struct{})}, &held{entered: make(chan struct{}, 1), release: make(chan error)}
	draining := make(chan struct{})
	b := newIngress(t, ingress.Options{Publisher: p, OnDrain: func() { close(draining) }})
	served := make(chan error, 1)
	go func() { served <- b.Serve(t.Context(), ln) }()
	answered := make(chan int, 1)
	go func() {
		req, _ := http.NewRequest(http.MethodPost, "http://"+tcp.Addr().String()+ingress.DefaultPath, strings.NewReader(completed))
		req.Header.Set(verify.HeaderName, sign(completed))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		resp.Body.Close()
		answered <- resp.StatusCode
	}()
	<-p.entered
	close(ln.fail)
	tcp.Close()
	<-draining
	select {
	case err := <-served:
		t.Fatal("Serve did not wait for the delivery:", err)
	default:
	}
	p.release <- nil
	if code := <-answered; code != 200 {
		t.Errorf("the delivery in flight was answered %d", code)
	}
	if err := <-served; !errors.Is(err, errAccept) {
		t.Errorf("Serve returned %v", err)
	}
}
