package bridge

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are kept per bridge, so that several can live in one process.
type metrics struct {
	deliveries              *prometheus.CounterVec
	duration                *prometheus.HistogramVec
	stages                  *prometheus.HistogramVec
	verify, publish, commit prometheus.Observer // of stages
	body                    prometheus.Histogram
	secrets                 *prometheus.CounterVec
}

// durationBuckets are for what takes from a tenth of a millisecond to five
// seconds.
var durationBuckets = []float64{.0001, .0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5}

func newMetrics(b *Bridge, reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobbridge_deliveries_total",
			Help: "Requests to the webhook listener by outcome (stored, duplicate, conflict, refused, failed) and, if it was not stored, reason.",
		}, []string{"outcome", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "jobbridge_delivery_duration_seconds",
			Help:                        "Time from a request's header to its answer, by outcome.",
			Buckets:                     durationBuckets,
			NativeHistogramBucketFactor: 1.1,
		}, []string{"outcome"}),
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "jobbridge_stage_duration_seconds",
			Help:                        "Time that stored deliveries took in each stage: verify, publish (to the PubAck), commit (to the fsync).",
			Buckets:                     durationBuckets,
			NativeHistogramBucketFactor: 1.1,
		}, []string{"stage"}),
		secrets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobbridge_secret_deliveries_total",
			Help: "Authentic deliveries by the fingerprint of the secret that signed them; a secret that does not count any more can go.",
		}, []string{"secret"}),
		body: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "jobbridge_body_bytes",
			Help:    "Size of the bodies received, inflated.",
			Buckets: prometheus.ExponentialBuckets(256, 4, 8),
		}),
	}
	m.verify, m.publish, m.commit = m.stages.WithLabelValues("verify"), m.stages.WithLabelValues("publish"), m.stages.WithLabelValues("commit")
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobbridge_deliveries_in_flight", Help: "Deliveries being worked on.",
	}, func() float64 { return float64(len(b.slots)) })
	conns := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobbridge_connections", Help: "Open connections of the webhook listener.",
	}, func() float64 {
		if c := b.conns.Load(); c != nil {
			return float64(c.open.Load())
		}
		return 0
	})
	var errs []error
	for _, c := range []prometheus.Collector{m.deliveries, m.duration, m.stages, m.body, m.secrets, inFlight, conns, b.skew} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
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
	if d.reason == "" && d.receipt.Stream != "" {
		m.verify.Observe(d.verified.Seconds())
		m.publish.Observe(d.receipt.Published.Seconds())
		m.commit.Observe(d.receipt.Committed.Seconds())
	}
}
