package ingress

import (
	"errors"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/listener"
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the metrics of one Ingress, so that several can run in one process.
type metrics struct {
	deliveries    *prometheus.CounterVec
	duration      *prometheus.HistogramVec
	verify, store prometheus.Observer
	body          prometheus.Histogram
	secrets       *prometheus.CounterVec
	rejected      *prometheus.CounterVec
}

// durationBuckets are in seconds, from a tenth of a millisecond to the longest time that an answer takes.
var durationBuckets = []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}

func newCounter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "jobbridge_" + name, Help: help}, labels)
}

func newDurations(name, help, label string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "jobbridge_" + name, Help: help, Buckets: durationBuckets, NativeHistogramBucketFactor: 1.1,
	}, []string{label})
}

func newGauge(name, help string, value func() float64) prometheus.GaugeFunc {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "jobbridge_" + name, Help: help}, value)
}

func newMetrics(in *Ingress, reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		deliveries: newCounter("deliveries_total", "Requests to the webhook listener, by outcome "+
			"(stored, duplicate, conflict, refused, failed) and, if the event was not stored, reason. "+
			"Requests that no handler could read are counted in jobbridge_connections_rejected_total.", "outcome", "reason"),
		duration: newDurations("delivery_duration_seconds", "Time from a request's header to its answer, by outcome.", "outcome"),
		secrets: newCounter("secret_deliveries_total", "Authentic deliveries by the fingerprint of the secret that signed them. "+
			"A secret whose count no longer increases can be removed.", "secret"),
		rejected: newCounter("connections_rejected_total", "Connections that ended before a handler saw their request: "+
			"because their source had too many (limit); in the TLS handshake (handshake); "+
			"because the request's header was too large, too slow, incomplete or not HTTP/1 (request).", "at"),
		body: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "jobbridge_body_bytes", Help: "Size of the bodies received, decompressed.", Buckets: prometheus.ExponentialBuckets(256, 4, 8),
		}),
	}
	stages := newDurations("stage_duration_seconds", "Time that stored deliveries took in each stage: verify, and store "+
		"(until the event is durable; in direct mode, until the PubAck).", "stage")
	m.verify, m.store = stages.WithLabelValues("verify"), stages.WithLabelValues("store")
	limits := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "jobbridge_limit", Help: "Limits: deliveries in flight, connections, bytes of a body and of all bodies together.",
	}, []string{"what"})
	for what, n := range map[string]int{
		"in_flight": in.cfg.MaxInFlight, "connections": in.cfg.MaxConnections,
		"body_bytes": in.cfg.MaxBody, "body_memory_bytes": in.cfg.MaxBodyMemory,
	} {
		limits.WithLabelValues(what).Set(float64(n))
	}
	m.initialize()
	var errs []error
	for _, c := range []prometheus.Collector{
		m.deliveries, m.duration, stages, m.body, secretCounter{m.secrets, in.cfg.Verifier}, limits, m.rejected, skewCollector{in.clock},
		newGauge("deliveries_in_flight", "Authentic deliveries that are being stored.", func() float64 { return float64(len(in.slots)) }),
		newGauge("connections", "Open connections of the webhook listener.", func() float64 { return float64(in.openConnections()) }),
		newGauge("last_authentic_timestamp_seconds", "When the last request arrived whose signature matched a secret; before the first, "+
			"when the bridge started.", func() float64 { return float64(in.silence.authenticAt.Load()) / 1e9 }),
		newGauge("last_mismatch_timestamp_seconds", "When the last request arrived whose signature matched no secret; 0 before the first.",
			func() float64 { return float64(in.silence.mismatchAt.Load()) / 1e9 }),
	} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

// initialize creates the counters of everything that can happen. To Prometheus, a counter that appears with its first
// failure has not increased.
func (m *metrics) initialize() {
	for _, outcome := range []string{"stored", "duplicate", "conflict"} {
		m.deliveries.WithLabelValues(outcome, "")
		m.duration.WithLabelValues(outcome)
	}
	for _, r := range refusals {
		m.deliveries.WithLabelValues(r.outcome(), r.reason)
		m.duration.WithLabelValues(r.outcome())
	}
	for _, at := range []string{listener.AtLimit, listener.AtHandshake, listener.AtRequest} {
		m.rejected.WithLabelValues(at)
	}
}

// observe counts a delivery that was answered.
func (m *metrics) observe(d *delivery, took time.Duration) {
	outcome := d.outcome()
	m.deliveries.WithLabelValues(outcome, d.refusal.reason).Inc()
	m.duration.WithLabelValues(outcome).Observe(took.Seconds())
	if d.bytes > 0 {
		m.body.Observe(float64(d.bytes))
	}
	if d.signed.secret != "" {
		m.secrets.WithLabelValues(d.signed.secret).Inc()
	}
	if d.receipt.Durability != "" {
		m.verify.Observe(d.signed.took.Seconds())
		m.store.Observe(d.receipt.Duration.Seconds())
	}
}

// secretCounter has a counter for each secret in force, also before its first delivery. The counter of a secret that was
// removed stays.
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

// skewCollector reports the skew of the clock once it is known.
type skewCollector struct{ clock *clockCheck }

var skewDesc = prometheus.NewDesc("jobbridge_clock_skew_seconds", "By how much this clock is ahead of the time at which "+
	"deliveries are signed: the median of the newest deliveries. Absent while there are too few.", nil, nil)

// Describe implements [prometheus.Collector].
func (skewCollector) Describe(ch chan<- *prometheus.Desc) { ch <- skewDesc }

// Collect implements [prometheus.Collector].
func (c skewCollector) Collect(ch chan<- prometheus.Metric) {
	if skew, known := c.clock.skew(); known {
		ch <- prometheus.MustNewConstMetric(skewDesc, prometheus.GaugeValue, skew.Seconds())
	}
}
