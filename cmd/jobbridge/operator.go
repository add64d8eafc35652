package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/url"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// operator is whom the parts report to, and who has their files read again.
type operator struct {
	health   *bridge.Health
	admin    *bridge.Admin
	registry *prometheus.Registry
	reload   *reloader
	log      *zap.Logger
	traces   trace.TracerProvider
	sampled  func() // is told of each line that is left out of a flood
}

// openOperator serves the admin listener until the function that it returns is
// called: it is there before the journal is open and after the last delivery.
func (c *serveCmd) openOperator(ctx context.Context, ln net.Listener, log *zap.Logger, traces trace.TracerProvider, dropped *prometheus.CounterVec) (operator, func() error, error) {
	o := operator{sampled: dropped.WithLabelValues(whySampled).Inc, health: bridge.NewHealth(), registry: prometheus.NewRegistry(), log: log, traces: traces}
	o.reload = newReloader(log, o.health, o.registry)
	o.registry.MustRegister(o.health, buildInfo(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(), dropped)
	o.admin = bridge.NewAdmin(o.health, o.registry, bridge.Sampled(log, o.sampled))
	var secure *tls.Config
	where := urlOf(c.AdminTLS.given(), ln)
	if c.AdminTLS.given() {
		// Kubelet and Prometheus have no certificate, and need none.
		certs, err := newCertificates("admin-", c.AdminTLS, tls.VerifyClientCertIfGiven, overHTTP)
		if err != nil {
			return o, nil, errors.Join(err, ln.Close())
		}
		o.use(certs, "admin", "certificate of the admin listener")
		secure = certs.config()
	}
	if c.AdminTokenFile != "" {
		token, err := readToken(c.AdminTokenFile)
		if err != nil {
			return o, nil, errors.Join(usageError{err}, ln.Close())
		}
		o.admin.SetToken(token)
		o.reload.add(c.reloadedToken(o.admin, token))
	}
	if c.Pprof {
		o.admin.Profile()
	}
	o.admin.Operate("POST /drain", func(_ context.Context, query url.Values) (any, error) {
		if query.Get("cancel") == "true" {
			log.Info("the drain was cancelled: readiness is as before")
			o.health.Set(drainPart, publisher.Ready)
			return forwarded{}, nil
		}
		log.Info("drain was asked for: readiness says draining until the bridge is stopped, or until jobbridge drain --cancel")
		o.health.Set(drainPart, bridge.Draining, "drain was asked for: deliveries are accepted until the bridge is stopped; to undo: jobbridge drain --cancel")
		return forwarded{}, nil
	})
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- o.admin.Serve(ctx, ln, secure) }()
	log.Info("starting", zap.String("admin", where), zap.String("dir", c.DataDir))
	return o, func() error { stop(); return <-done }, nil
}
