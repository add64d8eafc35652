package bridge

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

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// Admin is the operator's listener:
//
//	/healthz  200 while the process lives
//	/readyz   200 when deliveries are taken, else 503; state, durability and reasons in JSON
//	/metrics  Prometheus
//
// and what [Admin.Operate] adds. These three are for everybody who reaches the
// listener, but the reasons; those and the rest are for operators: who connects
// from this machine, shows the token, or has a certificate that the listener
// verified.
type Admin struct {
	mux   *http.ServeMux
	log   *zap.Logger
	token atomic.Pointer[string]
}

// NewAdmin returns an Admin for one bridge's health and metrics. Whoever reaches
// it can fill the log: give it one that is [Sampled].
func NewAdmin(health *Health, metrics prometheus.Gatherer, log *zap.Logger) *Admin {
	a := &Admin{mux: http.NewServeMux(), log: log}
	a.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	a.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		report, code := health.Report(), http.StatusServiceUnavailable
		if !a.trusts(r) {
			report.Reasons = []string{}
		}
		if report.State.Serving() {
			code = http.StatusOK
		}
		writeJSON(w, code, report)
	})
	a.mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorLog: errorLog(log), Timeout: 10 * time.Second}))
	return a
}

// SetToken lets operators in who connect from other machines and send
// "Authorization: Bearer <token>"; an empty one lets nobody in. It may be called
// while the Admin serves.
func (a *Admin) SetToken(token string) { a.token.Store(&token) }

// trusts reports whether a request is an operator's: it came over loopback,
// under a name of this machine (or a page could reach us by one that it made
// point here) and by no proxy that says so, or shows a certificate or the token.
func (a *Admin) trusts(r *http.Request) bool {
	if isLoopback(r.RemoteAddr) && isLoopback(r.Host) && !slices.ContainsFunc(proxyHeaders, func(name string) bool { return r.Header.Get(name) != "" }) {
		return true
	}
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		return true
	}
	want := a.token.Load()
	got, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return ok && want != nil && *want != "" && subtle.ConstantTimeCompare([]byte(got), []byte(*want)) == 1
}

// proxyHeaders are what a proxy adds for whom it stands.
var proxyHeaders = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-Ip", "Via"}

// Operate adds an endpoint that answers with what f returns, as JSON, for
// operators, and no page in a browser. It may be called while the Admin serves.
func (a *Admin) Operate(pattern string, f func(ctx context.Context, query url.Values) (any, error)) {
	a.guard(pattern, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), operateTimeout)
		defer cancel()
		answer, err := f(ctx, r.URL.Query())
		if err != nil {
			code := http.StatusInternalServerError
			if errors.Is(err, ErrNotQuarantined) {
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
func (a *Admin) Profile() {
	for path, handle := range map[string]http.HandlerFunc{
		"/debug/pprof/": pprof.Index, "/debug/pprof/profile": pprof.Profile, "/debug/pprof/trace": pprof.Trace, "/debug/pprof/symbol": pprof.Symbol,
	} {
		a.guard("GET "+path, handle)
	}
}

// guard adds an endpoint for operators.
func (a *Admin) guard(pattern string, handle http.HandlerFunc) {
	a.mux.Handle(pattern, http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The protection lets any page GET: it could not read a profile, but have it made.
		if site := r.Header.Get("Sec-Fetch-Site"); site == "cross-site" || site == "same-site" || !a.trusts(r) {
			writeJSON(w, http.StatusForbidden, map[string]string{"message": "this is for operators: connect over loopback, with the token of --admin-token-file, or with a certificate of --admin-tls-client-ca"})
			return
		}
		// A release and a profile take their time. An error means that the
		// connection is gone.
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(operateTimeout))
		handle(w, r)
	})))
}

// isLoopback reports whether a host, with or without a port, is this machine.
func isLoopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// maxAdminConnections is how many connections the operator's listener has open.
const maxAdminConnections = 128

// adminIdleTimeout is how long a connection to it stays open between two requests. A
// client may repeat a GET that got no answer, so it need not be long.
const adminIdleTimeout = 2 * time.Minute

// operateTimeout bounds what an operator asks for.
const operateTimeout = 5 * time.Minute

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// Serve answers on ln until ctx ends, over TLS unless that is nil. It closes ln.
func (a *Admin) Serve(ctx context.Context, ln net.Listener, secure *tls.Config) error {
	srv := &http.Server{
		Handler: a.mux, ErrorLog: errorLog(a.log), MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: 2 * writeTimeout, IdleTimeout: adminIdleTimeout,
	}
	ln = newConnections(srv, ln, maxAdminConnections, nil)
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
