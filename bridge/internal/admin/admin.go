// Package admin is the admin listener of a bridge. It serves three paths to everybody who reaches it:
//
//	/healthz  200 while the process lives
//	/readyz   200 while deliveries are accepted, else 503; state, durability and reasons in JSON
//	/metrics  the metrics for Prometheus
//
// It serves the reasons on /readyz, and the paths of the operator's API, only to operators. An operator is a client
// that connects from this machine, sends the token, or has a certificate that the listener has verified.
//
// The package leaves to package bridge what the requests of the API do.
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

// Server is the admin listener of one bridge.
type Server struct {
	mux   *http.ServeMux
	log   *zap.Logger
	token atomic.Pointer[string]
}

// New returns a Server that answers with the health and the metrics of one bridge. log must be sampled, because
// everybody who reaches the listener can cause lines.
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
	a.mux.Handle("GET "+operator.PathMetrics,
		promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorLog: logging.ErrorLog(log), Timeout: 10 * time.Second}))
	return a
}

// SetToken sets the token. A client on another machine that sends "Authorization: Bearer <token>" is an operator. With
// an empty token there is no such client. SetToken may be called while the Server serves.
func (a *Server) SetToken(token string) { a.token.Store(&token) }

// trusts reports whether a request comes from an operator. A request that came over loopback counts only if its Host is
// a name of this machine, because a page in a browser can reach us by a name that its author made point here. It must
// not have passed a proxy either. Any other request needs a certificate or the token.
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

// proxied reports whether a proxy has added a header to a request. The value of the header does not count, because a
// client may send the header itself, with an empty value.
func proxied(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, "X-Forwarded-") || slices.Contains(proxyHeaders, name) {
			return true
		}
	}
	return false
}

// proxyHeaders are the headers that proxies add, besides the X-Forwarded headers.
var proxyHeaders = []string{
	"Forwarded", "Via", "X-Real-Ip", "X-Client-Ip", "X-Cluster-Client-Ip", "X-Original-Forwarded-For", "X-Envoy-External-Address",
	"Cf-Connecting-Ip", "True-Client-Ip", "Fastly-Client-Ip",
}

// operate adds an endpoint for operators that answers with the result of f as JSON. It refuses a query that has any other
// parameter than these, because f could do more than the sender wants: a purge without seq removes all entries.
func (a *Server) operate(pattern string, f func(ctx context.Context, query url.Values) (any, error), parameters ...string) {
	a.guard(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), operateTimeout)
		defer cancel()
		query, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			err = fmt.Errorf("%w: %w", operator.ErrQuery, err)
		}
		for name := range query {
			if !slices.Contains(parameters, name) {
				err = fmt.Errorf("%w: unknown parameter %q", operator.ErrQuery, name)
			}
		}
		var answer any
		if err == nil {
			answer, err = f(ctx, query)
		}
		if err != nil {
			code := http.StatusInternalServerError
			switch {
			case errors.Is(err, operator.ErrQuery):
				code = http.StatusBadRequest
			case errors.Is(err, operator.ErrNotFound):
				code = http.StatusNotFound
			}
			writeJSON(w, code, map[string]any{"message": err.Error(), "done": answer})
			return
		}
		writeJSON(w, http.StatusOK, answer)
	})
}

// Profile adds the profiles of net/http/pprof under /debug/pprof/, for operators.
func (a *Server) Profile() {
	for name, handle := range map[string]http.HandlerFunc{
		"": pprof.Index, "profile": pprof.Profile, "trace": pprof.Trace, "symbol": pprof.Symbol,
	} {
		a.guard("GET /debug/pprof/"+name, handle)
	}
}

// guard adds an endpoint for operators. It refuses requests that another page in an operator's browser has caused.
func (a *Server) guard(pattern string, handle http.HandlerFunc) {
	a.mux.Handle(pattern, http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The protection lets every page send a GET. The page could not read the profile, but it could have many
		// profiles made.
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" || !a.trusts(r) {
			writeJSON(w, http.StatusForbidden, map[string]string{"message": "this is for operators: connect over loopback, " +
				"with the token of the admin listener, or with a client certificate that it accepts"})
			return
		}
		// A release and a profile take longer than other answers. An error means that the connection is closed.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(operateTimeout))
		handle(w, r)
	})))
}

// The limits of the listener.
const (
	maxConnections = 128
	maxHeader      = 16 << 10 // bytes
	headerTimeout  = 5 * time.Second
	writeTimeout   = 20 * time.Second
	idleTimeout    = 2 * time.Minute
	operateTimeout = 5 * time.Minute // of a request of the operator's API
)

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // an error means that the connection is closed
}

// Serve answers on ln until ctx ends, and closes ln. It speaks TLS unless secure is nil.
func (a *Server) Serve(ctx context.Context, ln net.Listener, secure *tls.Config) error {
	srv := &http.Server{
		Handler: a.mux, ErrorLog: logging.ErrorLog(a.log), MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
	}
	ln = listener.New(srv, ln, maxConnections, nil, nil)
	if secure != nil {
		ln = tls.NewListener(ln, secure)
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // no answer is worth waiting for
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}
