package bridge

import (
	"context"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/prometheus/client_golang/prometheus"
)

// commitMetrics count the journal's commits.
type commitMetrics struct{ group, duration, sync prometheus.Histogram }

// commitBuckets are for a disk that is idle up to one that hangs.
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
			Help:                        "Time of the fdatasync of one commit: the disk alone. Without it, as with the durability os, nothing is counted.",
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

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("jobbridge_"+name, help, labels, nil)
}

var (
	journalBytes    = desc("journal_bytes", "Bytes of the journal's segments.")
	journalMaxBytes = desc("journal_max_bytes", "Bound of the journal in bytes.")
	journalSegments = desc("journal_segments", "Segments of the journal.")
	journalIDs      = desc("journal_ids", "Message ids that the journal remembers.")
	journalDropped  = desc("journal_dropped_ids_total", "Message ids that the journal forgot before the duplicate window ended, because there were too many.")
	journalFree     = desc("journal_disk_free_bytes", "Bytes that the disk of the journal has left.")
	journalFull     = desc("journal_full", "1 if deliveries are refused because the journal or its disk is full.")
	journalFailed   = desc("journal_failed", "1 if the storage failed and nothing is acknowledged any more.")
	journalInfo     = desc("journal_info", "1, with what a 2xx survives.", "durability")

	forwardLag        = desc("forward_lag_events", "Durable events that the stream has not acknowledged.")
	forwardOldest     = desc("forward_lag_seconds", "Age of the oldest of them; 0 if there is none.")
	forwardForwarded  = desc("forward_forwarded_total", "Events that the stream acknowledged.")
	forwardParked     = desc("forward_parked_total", "Events moved to the quarantine because the stream can never accept them.")
	forwardRetries    = desc("forward_retries_total", "Attempts that failed and were repeated.")
	forwardConflicts  = desc("forward_conflicts_total", "Events published on the conflict subject because the stream held another payload under their message id.")
	forwardResent     = desc("forward_resent_total", "Events published again after an attempt without an answer: a plain subscriber may have seen them twice.")
	forwardRefilled   = desc("forward_refilled_total", "Events published again because the stream had lost them.")
	forwardMissing    = desc("forward_missing_total", "Events that the stream has lost and the journal does not have any more.")
	forwardLost       = desc("forward_journal_lost_total", "Acknowledged events that the journal has lost, as checkpoint and stream show.")
	forwardRestarts   = desc("forward_store_restarts_total", "Restarts of the embedded NATS server after its store failed.")
	forwardCheckpoint = desc("forward_checkpoint_sequence", "Journal sequence up to which everything is in the stream, durably.")

	streamBytes       = desc("stream_bytes", "Bytes in the embedded stream.")
	streamMaxBytes    = desc("stream_max_bytes", "Bound of the embedded stream in bytes.")
	streamMessages    = desc("stream_messages", "Events in the embedded stream.")
	streamConnections = desc("stream_connections", "Connections of workers to the embedded NATS server.")
	streamConsumers   = desc("stream_consumers", "Consumers of the embedded stream.")
	streamMaxConsumer = desc("stream_max_consumers", "Bound of the number of consumers.")
	streamTrimmed     = desc("stream_trimmed_bytes_total", "Bytes of acknowledged events that were removed before their retention ended.")
	streamHeld        = desc("stream_held_bytes", "Bytes that cannot be trimmed because a durable consumer has not acknowledged them, about.")
	streamFree        = desc("stream_disk_free_bytes", "Bytes that the disk of the embedded stream has left.")

	remoteConnected  = desc("remote_connected", "1 if there is a connection to the remote NATS.")
	remoteFindings   = desc("remote_findings", "What the audit of the remote stream found, by whether it keeps events from being stored.", "fatal")
	remoteReconnects = desc("remote_reconnects_total", "Reconnects to the remote NATS.")
)

// Describe implements [prometheus.Collector]. The figures differ between the modes,
// so the collector is unchecked.
func (publisherCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements [prometheus.Collector].
func (c publisherCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // a scrape has no context
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	stats := c.publisher.Stats(ctx)
	if j := stats.Journal; j != nil {
		gauge(journalBytes, float64(j.Bytes))
		gauge(journalMaxBytes, float64(j.MaxBytes))
		gauge(journalSegments, float64(j.Segments))
		gauge(journalIDs, float64(j.IDs))
		counter(journalDropped, j.DroppedIDs)
		gauge(journalFree, float64(j.Free))
		gauge(journalFull, oneIf(c.publisher.Full() != ""))
		gauge(journalFailed, oneIf(c.publisher.Err() != nil))
		gauge(journalInfo, 1, string(c.publisher.Durability()))
	}
	if f := stats.Forward; f != nil {
		gauge(forwardLag, float64(f.Lag))
		gauge(forwardOldest, f.OldestAge.Seconds())
		gauge(forwardCheckpoint, float64(f.Checkpoint))
		counter(forwardForwarded, f.Forwarded)
		counter(forwardParked, f.Parked)
		counter(forwardRetries, f.Retries)
		counter(forwardConflicts, f.Conflicts)
		counter(forwardResent, f.Resent)
		counter(forwardRefilled, f.Refilled)
		counter(forwardMissing, f.Missing)
		counter(forwardLost, f.JournalLost)
		counter(forwardRestarts, f.Restarts)
	}
	if s := stats.Server; s != nil {
		gauge(streamBytes, float64(s.Bytes))
		gauge(streamMaxBytes, float64(s.MaxBytes))
		gauge(streamMessages, float64(s.Messages))
		gauge(streamConnections, float64(s.Connections))
		gauge(streamConsumers, float64(s.Consumers))
		gauge(streamMaxConsumer, float64(s.MaxConsumers))
		gauge(streamHeld, float64(s.Held))
		gauge(streamFree, float64(s.Free))
		counter(streamTrimmed, s.Trimmed)
	}
	if r := stats.Remote; r != nil {
		gauge(remoteConnected, oneIf(r.Connected))
		gauge(remoteFindings, float64(len(r.Misconfigured())), "true")
		gauge(remoteFindings, float64(len(r.Warnings())), "false")
		counter(remoteReconnects, r.Reconnects)
	}
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
