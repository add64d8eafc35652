package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
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
type Admin struct {
	mux *http.ServeMux
	log *zap.Logger
}

// NewAdmin returns an Admin for one bridge's health and metrics.
func NewAdmin(health *Health, metrics prometheus.Gatherer, log *zap.Logger) *Admin {
	a := &Admin{mux: http.NewServeMux(), log: log}
	a.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	a.mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		report, code := health.Report(), http.StatusServiceUnavailable
		if report.State == Ready {
			code = http.StatusOK
		}
		writeJSON(w, code, report)
	})
	a.mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{ErrorLog: zap.NewStdLog(log), Timeout: 10 * time.Second}))
	return a
}

func writeJSON(w http.ResponseWriter, code int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

// Serve answers on ln until ctx ends. It closes ln.
func (a *Admin) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler: a.mux, ErrorLog: zap.NewStdLog(a.log), MaxHeaderBytes: maxHeader,
		ReadHeaderTimeout: headerTimeout, ReadTimeout: headerTimeout, WriteTimeout: 2 * writeTimeout, IdleTimeout: idleTimeout,
	}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // nothing of it is worth waiting for
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("admin listener: %w", err)
	}
	return nil
}
