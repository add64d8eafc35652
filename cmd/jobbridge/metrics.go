package main

import (
	"context"
	"time"

	"github.com/jobbridge/jobbridge/publisher/journal"
	"github.com/prometheus/client_golang/prometheus"
)

// commitMetrics count the journal's commits.
type commitMetrics struct {
	group    prometheus.Histogram
	duration prometheus.Histogram
}

func newCommitMetrics(reg prometheus.Registerer) *commitMetrics {
	m := &commitMetrics{
		group: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "jobbridge_commit_group_size",
			Help:    "Deliveries made durable by one commit.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "jobbridge_commit_duration_seconds",
			Help:                        "Time of one commit, from its first stat to its last fsync; the count is the number of commits.",
			Buckets:                     prometheus.ExponentialBuckets(.0001, 2.5, 10),
			NativeHistogramBucketFactor: 1.1,
		}),
	}
	reg.MustRegister(m.group, m.duration)
	return m
}

func (m *commitMetrics) observe(s journal.CommitStats) {
	m.group.Observe(float64(s.Group))
	m.duration.Observe(s.Duration.Seconds())
}

// journalCollector asks the journal for its state at each scrape.
type journalCollector struct{ journal *journal.Journal }

var (
	journalBytes     = prometheus.NewDesc("jobbridge_journal_bytes", "Bytes in the stream.", nil, nil)
	journalMaxBytes  = prometheus.NewDesc("jobbridge_journal_max_bytes", "Bound of the stream in bytes.", nil, nil)
	journalMessages  = prometheus.NewDesc("jobbridge_journal_messages", "Events in the stream.", nil, nil)
	journalConsumers = prometheus.NewDesc("jobbridge_journal_consumers", "Consumers of the stream.", nil, nil)
	journalFailed    = prometheus.NewDesc("jobbridge_journal_failed", "1 if the storage failed and nothing is acknowledged any more.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (journalCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{journalBytes, journalMaxBytes, journalMessages, journalConsumers, journalFailed} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c journalCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	failed := 0.0
	if c.journal.Err() != nil {
		failed = 1
	}
	gauge(journalFailed, failed)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // a scrape has no context
	defer cancel()
	stats, err := c.journal.Stats(ctx)
	if err != nil {
		return // the journal is closing or has failed: its gauges are missing, not wrong
	}
	gauge(journalBytes, float64(stats.Bytes))
	gauge(journalMaxBytes, float64(stats.MaxBytes))
	gauge(journalMessages, float64(stats.Messages))
	gauge(journalConsumers, float64(stats.Consumers))
}
