package ingress

import (
	"errors"
	"net/http"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/listener"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are kept per bridge, so that several can live in one process.
type metrics struct {
	deliveries    *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	stages        *prometheus.HistogramVec
	verify, store prometheus.Observer // of stages
	body          prometheus.Histogram
	secrets       *prometheus.CounterVec
	rejected      *prometheus.CounterVec
}

// durationBuckets are for what takes from a tenth of a millisecond to five
// seconds.
var durationBuckets = []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}

func newMetrics(in *Ingress, reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobbridge_deliveries_total",
			Help: "Requests to the webhook listener, by outcome (stored, duplicate, conflict, refused, failed) and, if the event was not stored, reason. Requests that no handler could read are counted in jobbridge_connections_rejected_total.",
		}, []string{"outcome", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "jobbridge_delivery_duration_seconds",
			Help:                        "Time from a request's header to its answer, by outcome.",
			Buckets:                     durationBuckets,
			NativeHistogramBucketFactor: 1.1,
		}, []string{"outcome"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "jobbridge_stage_duration_seconds",
			Help:                        "Time that stored deliveries took in each stage: verify, and store (until the event is durable; in direct mode, until the PubAck).",
			Buckets:                     durationBuckets,
			NativeHistogramBucketFactor: 1.1,
		}, []string{"stage"}),
		secrets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobbridge_secret_deliveries_total",
			Help: "Authentic deliveries by the fingerprint of the secret that signed them; a secret that does not count any more can go.",
		}, []string{"secret"}),
		rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobbridge_connections_rejected_total",
			Help: "Connections that ended before a handler saw what they asked for: at once, because their source had too many (limit); at the TLS handshake; at a request whose header was too large, too slow, cut off or no HTTP/1.",
		}, []string{"at"}),
		body: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "jobbridge_body_bytes",
			Help:    "Size of the bodies received, inflated.",
			Buckets: prometheus.ExponentialBuckets(256, 4, 8),
		}),
	}
	// A counter that begins with its first failure has not increased yet, for
	// Prometheus: what can happen is there from the start.
	for _, k := range outcomes() {
		m.deliveries.WithLabelValues(k.outcome, k.reason)
		m.duration.WithLabelValues(k.outcome)
	}
	for _, at := range []string{listener.AtLimit, listener.AtHandshake, listener.AtRequest} {
		m.rejected.WithLabelValues(at)
	}
	m.verify, m.store = m.stages.WithLabelValues("verify"), m.stages.WithLabelValues("store")
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobbridge_deliveries_in_flight", Help: "Authentic deliveries that are being stored.",
	}, func() float64 { return float64(len(in.slots)) })
	conns := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobbridge_connections", Help: "Open connections of the webhook listener.",
	}, func() float64 {
		if c := in.conns.Load(); c != nil {
			return float64(c.Open())
		}
		return 0
	})
	limits := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "jobbridge_limit", Help: "Bounds of what is taken: deliveries in flight, connections, bytes of a body and of all bodies together.",
	}, []string{"what"})
	for what, n := range map[string]int{"in_flight": in.cfg.MaxInFlight, "connections": in.cfg.MaxConnections, "body_bytes": in.cfg.MaxBody, "body_memory_bytes": in.cfg.MaxBodyMemory} {
		limits.WithLabelValues(what).Set(float64(n))
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.deliveries, m.duration, m.stages, m.body, secretCounter{m.secrets, in.cfg.Verifier}, inFlight, conns, limits, m.rejected, in.skew, in.silence} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// outcomes returns every pair that a delivery is counted under: what the table of
// refusals has, and what comes from elsewhere.
func outcomes() (all []struct{ outcome, reason string }) {
	add := func(status int, reason string) {
		all = append(all, struct{ outcome, reason string }{(&delivery{}).outcome(status), reason})
	}
	for _, stored := range []string{"stored", "duplicate", "conflict"} {
		all = append(all, struct{ outcome, reason string }{stored, ""})
	}
	for _, r := range refusals {
		add(r.status, r.reason)
	}
	for _, reason := range []string{"internal", "panic"} {
		add(http.StatusInternalServerError, reason)
	}
	add(http.StatusNotFound, wrongPath)
	for _, status := range []int{http.StatusNotFound, http.StatusMethodNotAllowed} { // the router's
		add(status, reasonOf(status))
	}
	return all
}

// secretCounter has a counter for each secret that is in force, from before its
// first delivery on. One that was taken away keeps its own.
type secretCounter struct {
	*prometheus.CounterVec
	verifier Verifier
}

// Collect implements [prometheus.Collector].
func (c secretCounter) Collect(ch chan<- prometheus.Metric) {
	if v, ok := c.verifier.(interface{ Fingerprints() []string }); ok {
		for _, f := range v.Fingerprints() {
			c.WithLabelValues(f)
		}
	}
	c.CounterVec.Collect(ch)
}

func (m *metrics) observe(d *delivery, outcome string, took time.Duration) {
	m.deliveries.WithLabelValues(outcome, d.reason).Inc()
	m.duration.WithLabelValues(outcome).Observe(took.Seconds())
	if d.bytes > 0 {
		m.body.Observe(float64(d.bytes))
	}
	if d.secret != "" {
		m.secrets.WithLabelValues(d.secret).Inc()
	}
	if d.reason == "" && d.receipt.Durability != "" {
		m.verify.Observe(d.verified.Seconds())
		m.store.Observe(d.receipt.Duration.Seconds())
	}
}
