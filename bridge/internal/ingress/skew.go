package ingress

import (
	"fmt"
	"hash/maphash"
	"slices"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// skew measures by how much this clock and the senders' differ, by deliveries
// whose signature is right, be they too old or too new: the median of the last
// ones, so that a slow delivery does not decide. One that was captured and is
// replayed counts once, however its header is written.
type skew struct {
	tolerance time.Duration
	log       *zap.Logger

	seed maphash.Seed

	mu      sync.Mutex
	seen    map[signed]struct{} // the last skewSeen votes
	recent  [skewSeen]signed    // the same in a ring; the next to be replaced is at votes%skewSeen
	votes   int
	samples []time.Duration // of the last skewSamples votes, as a ring
	median  time.Duration
	warned  time.Time
	reason  string // in words, while the clock is off; else empty
}

const (
	skewSamples = 16
	skewLeast   = 3
	// skewShare of the tolerance is when to warn.
	skewShare = 4
	skewEvery = time.Minute
	// skewSeen is how many deliveries are recognized when they are replayed.
	skewSeen = 1024
)

// signed is what a signature was made over: the header around it is anybody's.
type signed struct {
	at      int64
	payload uint64 // its hash
}

func newSkew(tolerance time.Duration, log *zap.Logger) *skew {
	return &skew{tolerance: tolerance, log: log, seen: make(map[signed]struct{}, skewSeen), seed: maphash.MakeSeed()}
}

// observe adds a delivery that came at now, if somebody signed it.
func (s *skew) observe(now time.Time, v verify.Verified) {
	if s.tolerance <= 0 || v.Fingerprint == "" {
		return
	}
	vote := signed{v.SignedAt.UnixMilli(), maphash.Bytes(s.seed, v.Payload)}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, again := s.seen[vote]; again {
		return
	}
	if s.votes >= skewSeen {
		delete(s.seen, s.recent[s.votes%skewSeen])
	}
	s.seen[vote] = struct{}{}
	s.recent[s.votes%skewSeen] = vote
	if len(s.samples) < skewSamples {
		s.samples = append(s.samples, now.Sub(v.SignedAt))
	} else {
		s.samples[s.votes%skewSamples] = now.Sub(v.SignedAt)
	}
	s.votes++
	if len(s.samples) < skewLeast {
		return
	}
	var sorted [skewSamples]time.Duration
	part := sorted[:copy(sorted[:], s.samples)]
	slices.Sort(part)
	s.median = part[len(part)/2]
	if s.median.Abs() <= s.tolerance/skewShare {
		s.reason = ""
		return
	}
	if s.reason != "" && now.Sub(s.warned).Abs() < skewEvery {
		return
	}
	s.warned = now
	way := "ahead of"
	if s.median < 0 {
		way = "behind"
	}
	consequence := fmt.Sprintf("beyond %s they are refused", s.tolerance)
	if s.median.Abs() > s.tolerance {
		consequence = fmt.Sprintf("that is beyond %s, so they are refused; when the clock is set, "+operator.DoReleaseStale+" publishes them", s.tolerance)
	}
	s.reason = fmt.Sprintf("clock: it is %s %s the time that deliveries are signed with, or they come that late; %s: check timedatectl or chronyc tracking",
		s.median.Abs().Round(time.Second), way, consequence)
	s.log.Warn("clock", zap.Duration("skew", s.median), zap.String("reason", s.reason))
}

// reasons says in words that the clock is off, or returns nothing.
func (s *skew) reasons() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" {
		return nil
	}
	return []string{s.reason}
}

var skewDesc = prometheus.NewDesc("jobbridge_clock_skew_seconds", "By how much this clock is ahead of the time that deliveries are signed with; the median of the last ones, and absent before there are enough.", nil, nil)

// Describe implements [prometheus.Collector].
func (*skew) Describe(ch chan<- *prometheus.Desc) { ch <- skewDesc }

// Collect implements [prometheus.Collector].
func (s *skew) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.samples) >= skewLeast {
		ch <- prometheus.MustNewConstMetric(skewDesc, prometheus.GaugeValue, s.median.Seconds())
	}
}
