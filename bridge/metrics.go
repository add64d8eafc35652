package bridge

import (
	"context"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/prometheus/client_golang/prometheus"
)

// commitMetrics measures the commits of the journal.
type commitMetrics struct{ group, duration, sync prometheus.Histogram }

// commitBuckets reach from a disk that is idle to a disk that hangs.
var commitBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

func newCommitMetrics() *commitMetrics {
	return &commitMetrics{
		group: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "jobbridge_commit_group_size",
			Help:    "Events made durable by one commit.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "jobbridge_commit_duration_seconds",
			Help:                        "Time of one commit: the write and the fdatasync.",
			Buckets:                     commitBuckets,
			NativeHistogramBucketFactor: 1.1,
		}),
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "jobbridge_fsync_duration_seconds",
			Help:                        "Time of the fdatasync of one commit: the disk alone. With the durability os nothing is counted.",
			Buckets:                     commitBuckets,
			NativeHistogramBucketFactor: 1.1,
		}),
	}
}

func (m *commitMetrics) observe(s publisher.CommitStats) {
	if s.Records > 0 {
		m.group.Observe(float64(s.Records))
	}
	if s.Sync > 0 {
		m.sync.Observe(s.Sync.Seconds())
	}
	m.duration.Observe(s.Duration.Seconds())
}

// publisherCollector asks the publisher for its figures at each scrape.
type publisherCollector struct{ publisher *publisher.Publisher }

// Describe implements [prometheus.Collector]. It describes nothing, because each mode has other figures.
func (publisherCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c publisherCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // a scrape has no context
	defer cancel()
	metric := func(kind prometheus.ValueType, name, help string, v float64, label []string) {
		var names, values []string
		if len(label) > 0 {
			names, values = label[:1], label[1:]
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("jobbridge_"+name, help, names, nil), kind, v, values...)
	}
	gauge := func(name, help string, v float64, label ...string) {
		metric(prometheus.GaugeValue, name, help, v, label)
	}
	counter := func(name, help string, n uint64) { metric(prometheus.CounterValue, name, help, float64(n), nil) }
	stats := c.publisher.Stats(ctx)
	if j := stats.Journal; j != nil {
		gauge("journal_bytes", "Bytes of the journal's segments.", float64(j.Bytes))
		gauge("journal_max_bytes", "Bound of the journal in bytes.", float64(j.MaxBytes))
		gauge("journal_segments", "Segments of the journal.", float64(j.Segments))
		gauge("journal_ids", "Message ids that the journal remembers.", float64(j.IDs))
		counter("journal_dropped_ids_total",
			"Message ids that the journal forgot before the duplicate window ended, because there were too many.", j.DroppedIDs)
		gauge("journal_disk_free_bytes", "Bytes that the disk of the journal has left.", float64(j.Free))
		gauge("journal_full", "1 if deliveries are refused because the journal or its disk is full.", oneIf(c.publisher.Full() != ""))
		gauge("journal_failed", "1 if the storage failed and nothing is acknowledged any more.", oneIf(c.publisher.Err() != nil))
		gauge("journal_info", "1, with what a 2xx survives.", 1, "durability", string(c.publisher.Durability()))
	}
	if f := stats.Forward; f != nil {
		gauge("forward_lag_events", "Durable events that the stream has not acknowledged.", float64(f.Lag))
		gauge("forward_lag_seconds", "Age of the oldest of them; 0 if there is none.", f.OldestAge.Seconds())
		gauge("forward_checkpoint_sequence", "Journal sequence up to which everything is in the stream, durably.", float64(f.Checkpoint))
		counter("forward_forwarded_total", "Events that the stream acknowledged.", f.Forwarded)
		counter("forward_parked_total", "Events moved to the quarantine because the stream can never accept them.", f.Parked)
		counter("forward_retries_total", "Attempts that failed and were repeated.", f.Retries)
		counter("forward_conflicts_total",
			"Events published on the conflict subject because the stream held another payload under their message id.", f.Conflicts)
		counter("forward_resent_total",
			"Events published again after an attempt without an answer: a plain subscriber may have seen them twice.", f.Resent)
		counter("forward_refilled_total", "Events published again because the stream had lost them.", f.Refilled)
		counter("forward_missing_total", "Events that the stream has lost and the journal does not have any more.", f.Missing)
		counter("forward_journal_lost_total", "Acknowledged events that the journal has lost, as checkpoint and stream show.", f.JournalLost)
		counter("forward_store_restarts_total", "Restarts of the embedded NATS server after its store failed.", f.Restarts)
	}
	if s := stats.Server; s != nil {
		gauge("stream_bytes", "Bytes in the embedded stream.", float64(s.Bytes))
		gauge("stream_max_bytes", "Bound of the embedded stream in bytes.", float64(s.MaxBytes))
		gauge("stream_messages", "Events in the embedded stream.", float64(s.Messages))
		gauge("stream_connections", "Connections of workers to the embedded NATS server.", float64(s.Connections))
		gauge("stream_consumers", "Consumers of the embedded stream.", float64(s.Consumers))
		gauge("stream_max_consumers", "Bound of the number of consumers.", float64(s.MaxConsumers))
		gauge("stream_held_bytes", "Bytes that cannot be trimmed because a durable consumer has not acknowledged them, about.", float64(s.Held))
		gauge("stream_disk_free_bytes", "Bytes that the disk of the embedded stream has left.", float64(s.Free))
		counter("stream_trimmed_bytes_total", "Bytes of acknowledged events that were removed before their retention ended.", s.Trimmed)
	}
	if r := stats.Remote; r != nil {
		gauge("remote_connected", "1 if there is a connection to the remote NATS.", oneIf(r.Connected))
		const findings = "Findings of the audit of the remote stream, by whether they keep events from being stored."
		gauge("remote_findings", findings, float64(len(r.Misconfigured())), "fatal", "true")
		gauge("remote_findings", findings, float64(len(r.Warnings())), "fatal", "false")
		counter("remote_reconnects_total", "Reconnects to the remote NATS.", r.Reconnects)
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
