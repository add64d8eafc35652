package bridge

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are kept per bridge, so that several can live in one process.
type metrics struct {
	deliveries *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	body       prometheus.Histogram
}

func newMetrics(b *Bridge, reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		deliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "jobbridge_deliveries_total",
			Help: "Requests to the webhook listener by outcome (stored, duplicate, conflict, refused, failed) and, if it was not stored, reason.",
		}, []string{"outcome", "reason"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:                        "jobbridge_delivery_duration_seconds",
			Help:                        "Time from a request's header to its answer, by outcome.",
			Buckets:                     []float64{.0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5},
			NativeHistogramBucketFactor: 1.1,
		}, []string{"outcome"}),
		body: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "jobbridge_body_bytes",
			Help:    "Size of the bodies received, inflated.",
			Buckets: prometheus.ExponentialBuckets(256, 4, 8),
		}),
	}
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobbridge_deliveries_in_flight", Help: "Deliveries being worked on.",
	}, func() float64 { return float64(len(b.slots)) })
	conns := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobbridge_connections", Help: "Open connections of the webhook listener.",
	}, func() float64 { return float64(b.conns.Load()) })
	skew := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobbridge_clock_skew_seconds", Help: "By how much this clock is ahead of the time that deliveries are signed with; the median of the last ones.",
	}, func() float64 { return b.skew.offset().Seconds() })
	var errs []error
	for _, c := range []prometheus.Collector{m.deliveries, m.duration, m.body, inFlight, conns, skew} {
		errs = append(errs, reg.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) observe(outcome, reason string, bytes int, took time.Duration) {
	m.deliveries.WithLabelValues(outcome, reason).Inc()
	m.duration.WithLabelValues(outcome).Observe(took.Seconds())
	if bytes > 0 {
		m.body.Observe(float64(bytes))
	}
}
