package ingress

import (
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/prometheus/client_golang/prometheus"
)

// silence notices that signatures stopped to match: requests come whose signature
// matches no secret, and no authentic request has come for an hour. A secret that
// was rotated at the provider alone looks like that, also where few jobs run.
type silence struct {
	// When the last authentic request and the last mismatch came, in Unix
	// nanoseconds; bad is 0 before the first.
	good, bad atomic.Int64
	count     atomic.Int64 // mismatches since the last authentic request
}

// silenceLeast is how long nothing authentic comes before silence has a reason.
const silenceLeast = time.Hour

// newSilence returns a silence that begins now.
func newSilence(now time.Time) *silence {
	s := new(silence)
	s.good.Store(now.UnixNano())
	return s
}

// authentic records a request whose signature matched.
func (s *silence) authentic(now time.Time) {
	s.good.Store(now.UnixNano())
	if s.count.Load() != 0 {
		s.count.Store(0)
	}
}

// mismatch records a request whose signature matched no secret.
func (s *silence) mismatch(now time.Time) {
	s.bad.Store(now.UnixNano())
	s.count.Add(1)
}

// reason says in words what is wrong, or returns "".
func (s *silence) reason(now time.Time) string {
	good, n := time.Unix(0, s.good.Load()), s.count.Load()
	if n == 0 || now.Sub(good) < silenceLeast {
		return ""
	}
	return fmt.Sprintf("signatures: %d requests match none of the secrets, and no request was authentic for %s: "+
		"if the secret was rotated at the provider, add the new secret; "+operator.DoRelease+" then publishes what was refused",
		n, now.Sub(good).Round(time.Second))
}

var (
	lastAuthenticDesc = prometheus.NewDesc("jobbridge_last_authentic_timestamp_seconds",
		"When the last request came whose signature matched a secret; before the first, when the bridge started.", nil, nil)
	lastMismatchDesc = prometheus.NewDesc("jobbridge_last_mismatch_timestamp_seconds",
		"When the last request came whose signature matched no secret; 0 before the first.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (*silence) Describe(ch chan<- *prometheus.Desc) {
	ch <- lastAuthenticDesc
	ch <- lastMismatchDesc
}

// Collect implements [prometheus.Collector].
func (s *silence) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(lastAuthenticDesc, prometheus.GaugeValue, float64(s.good.Load())/1e9)
	ch <- prometheus.MustNewConstMetric(lastMismatchDesc, prometheus.GaugeValue, float64(s.bad.Load())/1e9)
}
