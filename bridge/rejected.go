package bridge

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// rejections counts the connections that end before a handler has seen what they
// ask for, and which no other metric has: what net/http answers by itself, or not
// at all.
type rejections struct {
	asking sync.Map // by [net.Conn]: those whose last request no handler has seen
	total  *prometheus.CounterVec
}

// Where a connection is rejected.
const (
	atLimit     = "limit"
	atHandshake = "handshake"
	atRequest   = "request"
)

func newRejections() *rejections {
	r := &rejections{total: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "jobbridge_connections_rejected_total",
		Help: "Connections that ended before a handler saw what they asked for: at once, because their source had too many (limit); at the TLS handshake; at a request whose header was too large, too slow, cut off or no HTTP/1.",
	}, []string{"at"})}
	for _, at := range []string{atLimit, atHandshake, atRequest} {
		r.total.WithLabelValues(at)
	}
	return r
}

// limited counts one of a source that has too many.
func (r *rejections) limited() { r.total.WithLabelValues(atLimit).Inc() }

type connKey struct{}

// watch counts those of a server that does not serve yet.
func (r *rejections) watch(srv *http.Server) {
	observe, handler := srv.ConnState, srv.Handler
	srv.ConnState = func(conn net.Conn, s http.ConnState) {
		r.observe(conn, s)
		observe(conn, s)
	}
	srv.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		return context.WithValue(ctx, connKey{}, conn)
	}
	srv.Handler = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.asking.Delete(req.Context().Value(connKey{}))
		handler.ServeHTTP(w, req)
	})
}

func (r *rejections) observe(conn net.Conn, s http.ConnState) {
	switch s {
	case http.StateNew:
	case http.StateActive: // bytes came; whether they make a request is not known yet
		r.asking.Store(conn, nil)
	case http.StateIdle: // of HTTP/2 also after the preface
		r.asking.Delete(conn)
	case http.StateClosed, http.StateHijacked:
		if _, asked := r.asking.LoadAndDelete(conn); asked {
			r.total.WithLabelValues(atRequest).Inc()
		}
		if secure, ok := conn.(*tls.Conn); ok && !secure.ConnectionState().HandshakeComplete {
			r.total.WithLabelValues(atHandshake).Inc()
		}
	}
}
