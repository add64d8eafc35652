// Package admin is the operator's listener:
//
//	/healthz  200 while the process lives
//	/readyz   200 when deliveries are accepted, else 503; state, durability and reasons in JSON
//	/metrics  Prometheus
//
// and the operator's API. Everybody who reaches the listener gets the answers of
// these three, except the reasons. The reasons and the API are for operators: who
// connects from this machine, shows the token, or has a certificate that the
// listener verified.
//
// It leaves to package bridge what the API does.
package admin

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/listener"
	"github.com/jobbridge/jobbridge/bridge/internal/logging"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// Server is the operator's listener of one bridge.
type Server struct {
	mux   *http.ServeMux
	log   *zap.Logger
	token atomic.Pointer[string]
}

// New returns a Server for one bridge's health and metrics. Anybody who reaches it
// can fill the log: give it one that is sampled.
func New(health *Health, metrics prometheus.Gatherer, log *zap.Logger) *Server {
	a := &Server{mux: http.NewServeMux(), log: log}
	a.mux.HandleFunc("GET "+operator.PathLive, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	a.mux.HandleFunc("GET "+operator.PathReady, func(w http.ResponseWriter, r *http.Request) {
		report, code := health.Report(), http.StatusServiceUnavailable
		if !a.trusts(r) {
			report.Reasons = []string{}
		}
		if report.State.Serving() {
			code = http.StatusOK
		}
		writeJSON(w, code, report)
	})
	a.mux.Handle("GET "+operator.PathMetrics, promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorLog: logging.ErrorLog(log), Timeout: 10 * time.Second}))
	return a
}

// SetToken lets operators in who connect from other machines and send
// "Authorization: Bearer <token>"; an empty one lets nobody in. It may be called
// while the Server serves.
func (a *Server) SetToken(token string) { a.token.Store(&token) }

// trusts reports whether a request is an operator's: it came over loopback,
// under a name of this machine (or a page could reach us by one that it made
// point here) and by no proxy that says so, or shows a certificate or the token.
func (a *Server) trusts(r *http.Request) bool {
	if publisher.IsLoopback(r.RemoteAddr) && publisher.IsLoopback(r.Host) && !proxied(r.Header) {
		return true
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return true
	}
	want := a.token.Load()
	got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && want != nil && *want != "" && subtle.ConstantTimeCompare([]byte(got), []byte(*want)) == 1
}

// proxied reports whether a proxy has added a header to a request. Its value does not
// count: a client may send the header first, and empty.
func proxied(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, "X-Forwarded-") || slices.Contains(proxyHeaders, name) {
			return true
		}
	}
	return false
}

// proxyHeaders are what proxies add, besides the X-Forwarded headers.
var proxyHeaders = []string{
	"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Original-Forwarded-For", "X-Envoy-External-Address",
	"Cf-Connecting-Ip", "True-Client-Ip", "Fastly-Client-Ip",
}

// operate adds an endpoint that answers with what f returns, as JSON, for
// operators, and for no page in a browser.
func (a *Server) operate(pattern string, f func(ctx context.Context, query url.Values) (any, error)) {
	a.guard(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), operateTimeout)
		defer cancel()
		answer, err := f(ctx, r.URL.Query())
		if err != nil {
			code := http.StatusInternalServerError
			if errors.Is(err, operator.ErrNotFound) {
				code = http.StatusNotFound
			}
			writeJSON(w, code, map[string]any{"message": err.Error(), "done": answer})
			return
		}
		writeJSON(w, http.StatusOK, answer)
	})
}

// Profile adds the profiles of net/http/pprof under /debug/pprof/, for
// operators.
func (a *Server) Profile() {
	for path, handle := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/profile": pprof.Profile, "/debug/pprof/trace": pprof.Trace, "/debug/pprof/symbol": pprof.Symbol,
	} {
		a.guard("GET "+path, handle)
	}
}

// guard adds an endpoint for operators.
func (a *Server) guard(pattern string, handle http.HandlerFunc) {
	a.mux.Handle(pattern, http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The protection lets any page GET: it could not read a profile, but have it made.
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" || !a.trusts(r) {
			writeJSON(w, http.StatusForbidden, map[string]string{"message": "this is for operators: connect over loopback, with the token of the admin listener, or with a client certificate that it accepts"})
			return
		}
		// A release and a profile take their time. An error means that the
		// connection is gone.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(operateTimeout))
		handle(w, r)
	})))
}

// maxAdminConnections is how many connections the operator's listener has open.
const maxAdminConnections = 128

// The bounds of time. operateTimeout bounds what an operator asks for.
const (
	headerTimeout  = 5 * time.Second
	writeTimeout   = 20 * time.Second
	idleTimeout    = 2 * time.Minute
	operateTimeout = 5 * time.Minute
	maxHeader      = 16 << 10
)

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// Serve answers on ln until ctx ends, over TLS unless that is nil. It closes ln.
func (a *Server) Serve(ctx context.Context, ln net.Listener, secure *tls.Config) error {
	srv := &http.Server{
		Handler: a.mux, ErrorLog: logging.ErrorLog(a.log), MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
	}
	ln = listener.New(srv, ln, maxAdminConnections, nil, nil)
	if secure != nil {
		ln = tls.NewListener(ln, secure)
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // nothing of it is worth waiting for
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}
