package main

import (
	"context"
	"runtime"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher/journal"
	"github.com/jobbridge/jobbridge/publisher/relay"
	"github.com/jobbridge/jobbridge/publisher/remote"
	"github.com/prometheus/client_golang/prometheus"
)

// buildInfo says what this was built from.
func buildInfo() prometheus.Collector {
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "jobbridge_build_info", Help: "1, with what the bridge was built from.",
		ConstLabels: prometheus.Labels{"version": version(), "goversion": runtime.Version()},
	})
	g.Set(1)
	return g
}

// commitMetrics count the journal's commits.
type commitMetrics struct{ group, duration, sync prometheus.Histogram }

// commitBuckets are for a disk that is idle up to one that hangs.
var commitBuckets = []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5}

func newCommitMetrics(reg prometheus.Registerer) *commitMetrics {
	m := &commitMetrics{
		group: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "jobbridge_commit_group_size",
			Help:    "Deliveries made durable by one commit, without those that the journal makes for itself.",
			Buckets: prometheus.ExponentialBuckets(1, 2, 11),
		}),
		duration: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "jobbridge_commit_duration_seconds",
			Help:                        "Time of one commit: its fsyncs and, beside them, the question to the NATS server whether it is well; the count is that of all commits.",
			Buckets:                     commitBuckets,
			NativeHistogramBucketFactor: 1.1,
		}),
		sync: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:                        "jobbridge_fsync_duration_seconds",
			Help:                        "Time to sync the files of one commit: the disk alone. Nothing is counted where the server syncs by itself (--commit-method=always) or nobody does (--durability=os).",
			Buckets:                     commitBuckets,
			NativeHistogramBucketFactor: 1.1,
		}),
	}
	reg.MustRegister(m.group, m.duration, m.sync)
	return m
}

func (m *commitMetrics) observe(s journal.CommitStats) {
	if s.Group > 0 {
		m.group.Observe(float64(s.Group))
	}
	if s.Sync > 0 {
		m.sync.Observe(s.Sync.Seconds())
	}
	m.duration.Observe(s.Duration.Seconds())
}

// journalCollector asks the journal for its state at each scrape.
type journalCollector struct{ journal *journal.Journal }

var (
	journalBytes       = prometheus.NewDesc("jobbridge_journal_bytes", "Bytes in the stream.", nil, nil)
	journalMaxBytes    = prometheus.NewDesc("jobbridge_journal_max_bytes", "Bound of the stream in bytes.", nil, nil)
	journalMessages    = prometheus.NewDesc("jobbridge_journal_messages", "Events in the stream.", nil, nil)
	journalConnections = prometheus.NewDesc("jobbridge_journal_connections", "Connections of workers to the embedded NATS server.", nil, nil)
	journalConsumers   = prometheus.NewDesc("jobbridge_journal_consumers", "Consumers of the stream.", nil, nil)
	journalTrimmed     = prometheus.NewDesc("jobbridge_journal_trimmed_bytes_total", "Bytes of events that everyone has had, removed before their retention ended.", nil, nil)
	journalFull        = prometheus.NewDesc("jobbridge_journal_full", "1 if events are refused because nothing more can be trimmed.", nil, nil)
	journalOwed        = prometheus.NewDesc("jobbridge_journal_owed_bytes", "Bytes that trimming may not take, because a durable consumer owes one of their events, up to a message block too many.", nil, nil)
	journalFree        = prometheus.NewDesc("jobbridge_journal_disk_free_bytes", "Bytes that the disk of the journal has left.", nil, nil)
	journalFailure     = prometheus.NewDesc("jobbridge_journal_last_failure_timestamp_seconds", "When the storage failed last, in this run or an earlier one; 0 if never. The file \"failure\" in the data folder has the cause.", nil, nil)
	journalInfo        = prometheus.NewDesc("jobbridge_journal_info", "1, with what a 2xx survives and how that is reached.", []string{"durability", "method"}, nil)
	journalFailed      = prometheus.NewDesc("jobbridge_journal_failed", "1 if the storage failed and nothing is acknowledged any more.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (journalCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{journalBytes, journalMaxBytes, journalMessages, journalConnections, journalConsumers, journalTrimmed, journalFull, journalOwed, journalFree, journalFailure, journalInfo, journalFailed} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c journalCollector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	gauge(journalFailed, oneIf(c.journal.Err() != nil))
	failure := 0.0
	if at := c.journal.LastFailure(); !at.IsZero() {
		failure = float64(at.Unix())
	}
	gauge(journalFailure, failure)
	ch <- prometheus.MustNewConstMetric(journalInfo, prometheus.GaugeValue, 1, string(c.journal.Durability()), string(c.journal.Method()))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // a scrape has no context
	defer cancel()
	stats, err := c.journal.Stats(ctx)
	if err != nil {
		return // the journal is closing or has failed: its gauges are missing, not wrong
	}
	gauge(journalBytes, float64(stats.Bytes))
	gauge(journalMaxBytes, float64(stats.MaxBytes))
	gauge(journalMessages, float64(stats.Messages))
	gauge(journalConnections, float64(stats.Connections))
	gauge(journalConsumers, float64(stats.Consumers))
	gauge(journalFull, oneIf(stats.Full))
	gauge(journalFree, float64(stats.Free))
	if owed, err := c.journal.Owed(ctx); err == nil {
		gauge(journalOwed, float64(owed))
	}
	ch <- prometheus.MustNewConstMetric(journalTrimmed, prometheus.CounterValue, float64(stats.Trimmed))
}

func oneIf(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// remoteCollector says how the connection to the remote stream is.
type remoteCollector struct{ remote *remote.Remote }

var (
	remoteConnected  = prometheus.NewDesc("jobbridge_remote_connected", "1 if there is a connection to the remote NATS.", nil, nil)
	remoteFindings   = prometheus.NewDesc("jobbridge_remote_findings", "What the audit of the remote stream found, by whether it keeps events from being stored.", []string{"fatal"}, nil)
	remoteReconnects = prometheus.NewDesc("jobbridge_remote_reconnects_total", "Reconnects to the remote NATS.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (remoteCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{remoteConnected, remoteFindings, remoteReconnects} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c remoteCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.remote.Status()
	ch <- prometheus.MustNewConstMetric(remoteConnected, prometheus.GaugeValue, oneIf(s.Connected))
	ch <- prometheus.MustNewConstMetric(remoteFindings, prometheus.GaugeValue, float64(len(s.Misconfigured())), "true")
	ch <- prometheus.MustNewConstMetric(remoteFindings, prometheus.GaugeValue, float64(len(s.Warnings())), "false")
	ch <- prometheus.MustNewConstMetric(remoteReconnects, prometheus.CounterValue, float64(s.Reconnects))
}

// relayCollector says how far the relay is.
type relayCollector struct{ relay *relay.Relay }

var (
	relayLag     = prometheus.NewDesc("jobbridge_relay_lag_events", "Events of the journal that the remote stream does not have.", nil, nil)
	relayOldest  = prometheus.NewDesc("jobbridge_relay_oldest_seconds", "Age of the oldest of them; 0 if there is none.", nil, nil)
	relayRelayed = prometheus.NewDesc("jobbridge_relay_relayed_total", "Events that the remote stream acknowledged, or that were parked.", nil, nil)
	relayParked  = prometheus.NewDesc("jobbridge_relay_parked_total", "Events kept aside because the remote stream will never take them, since the start.", nil, nil)
	relayAside   = prometheus.NewDesc("jobbridge_relay_parked_events", "Events that are kept aside now.", nil, nil)
	relayRetries = prometheus.NewDesc("jobbridge_relay_retries_total", "Attempts that failed and were repeated.", nil, nil)
	relayLate    = prometheus.NewDesc("jobbridge_relay_late_total", "Events of unknown outcome older than the remote's duplicate window: they may be stored twice.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (relayCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{relayLag, relayOldest, relayRelayed, relayParked, relayAside, relayRetries, relayLate} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c relayCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // a scrape has no context
	defer cancel()
	s, err := c.relay.Stats(ctx)
	counter := func(d *prometheus.Desc, v uint64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v))
	}
	counter(relayRelayed, s.Relayed)
	counter(relayParked, s.Parked)
	counter(relayRetries, s.Retries)
	counter(relayLate, s.Late)
	if err != nil {
		return // the journal is closing or has failed
	}
	age := 0.0
	if !s.Oldest.IsZero() {
		age = time.Since(s.Oldest).Seconds()
	}
	ch <- prometheus.MustNewConstMetric(relayAside, prometheus.GaugeValue, float64(s.ParkedEvents))
	ch <- prometheus.MustNewConstMetric(relayLag, prometheus.GaugeValue, float64(s.Lag))
	ch <- prometheus.MustNewConstMetric(relayOldest, prometheus.GaugeValue, age)
}

// quarantineCollector says how full the quarantine is.
type quarantineCollector struct{ quarantine *bridge.QuarantineStore }

var (
	quarantineRequests = prometheus.NewDesc("jobbridge_quarantine_requests_total", "Requests refused for their signature or time, by whether they were stored (kept), and if not why.", []string{"result"}, nil)
	quarantineFailed   = prometheus.NewDesc("jobbridge_quarantine_failed", "1 while the quarantine cannot store entries safely.", nil, nil)
	quarantineEntries  = prometheus.NewDesc("jobbridge_quarantine_entries", "Entries in the quarantine, by kind: refused requests, and authentic events that the stream did not accept.", []string{"kind"}, nil)
	quarantineBytes    = prometheus.NewDesc("jobbridge_quarantine_bytes", "Bytes on disk that the entries occupy, by kind.", []string{"kind"}, nil)
)

// Describe implements [prometheus.Collector].
func (quarantineCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{quarantineRequests, quarantineFailed, quarantineEntries, quarantineBytes} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (c quarantineCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(quarantineFailed, prometheus.GaugeValue, oneIf(c.quarantine.Err() != nil))
	s := c.quarantine.Stats()
	for result, n := range s.Results {
		ch <- prometheus.MustNewConstMetric(quarantineRequests, prometheus.CounterValue, float64(n), result)
	}
	for kind, n := range s.Entries {
		ch <- prometheus.MustNewConstMetric(quarantineEntries, prometheus.GaugeValue, float64(n), string(kind))
		ch <- prometheus.MustNewConstMetric(quarantineBytes, prometheus.GaugeValue, float64(s.Bytes[kind]), string(kind))
	}
}
