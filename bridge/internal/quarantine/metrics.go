package quarantine

import "github.com/prometheus/client_golang/prometheus"

var (
	requestsDesc = prometheus.NewDesc("jobbridge_quarantine_requests_total",
		"Requests refused for their signature or time, by whether they were stored (kept), and if not why.", []string{"result"}, nil)
	failedDesc  = prometheus.NewDesc("jobbridge_quarantine_failed", "1 while the quarantine cannot store entries safely.", nil, nil)
	entriesDesc = prometheus.NewDesc("jobbridge_quarantine_entries",
		"Entries in the quarantine, by kind: refused requests, and authentic events that the stream did not accept.", []string{"kind"}, nil)
	bytesDesc = prometheus.NewDesc("jobbridge_quarantine_bytes", "Bytes on disk that the entries occupy, by kind.", []string{"kind"}, nil)
)

// Describe implements [prometheus.Collector].
func (*Store) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestsDesc, failedDesc, entriesDesc, bytesDesc} {
		ch <- d
	}
}

// Collect implements [prometheus.Collector].
func (s *Store) Collect(ch chan<- prometheus.Metric) {
	failed := 0.0
	if s.Err() != nil {
		failed = 1
	}
	ch <- prometheus.MustNewConstMetric(failedDesc, prometheus.GaugeValue, failed)
	st := s.Stats()
	for result, n := range st.Results {
		ch <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n), result)
	}
	for kind, n := range st.Entries {
		ch <- prometheus.MustNewConstMetric(entriesDesc, prometheus.GaugeValue, float64(n), string(kind))
		ch <- prometheus.MustNewConstMetric(bytesDesc, prometheus.GaugeValue, float64(st.Bytes[kind]), string(kind))
	}
}
