package bridge

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// skew measures by how much this clock and the senders' differ, by deliveries
// whose signature is right: the median of the last ones, so that neither a slow
// delivery nor a replayed one decides.
type skew struct {
	tolerance time.Duration
	health    *Health
	warn      func(offset time.Duration, reason string)

	mu      sync.Mutex
	samples []time.Duration
	next    int
	median  time.Duration
	warned  time.Time
	off     bool
}

const (
	skewSamples = 16
	skewLeast   = 3
	// skewShare of the tolerance is when to warn.
	skewShare = 4
	skewEvery = time.Minute
	clockPart = "clock"
)

// observe adds a delivery that was signed at signed and came at now.
func (s *skew) observe(now, signed time.Time) {
	if s.tolerance <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.samples) < skewSamples {
		s.samples = append(s.samples, now.Sub(signed))
	} else {
		s.samples[s.next%skewSamples] = now.Sub(signed)
	}
	s.next++
	if len(s.samples) < skewLeast {
		return
	}
	var sorted [skewSamples]time.Duration
	part := sorted[:copy(sorted[:], s.samples)]
	slices.Sort(part)
	s.median = part[len(part)/2]
	off := s.median.Abs() > s.tolerance/skewShare
	if !off {
		if s.off {
			s.health.Set(clockPart, Ready)
		}
		s.off = false
		return
	}
	if s.off && now.Sub(s.warned).Abs() < skewEvery {
		return
	}
	s.off, s.warned = true, now
	way := "ahead of"
	if s.median < 0 {
		way = "behind"
	}
	reason := fmt.Sprintf("clock: it is %s %s the time that deliveries are signed with, or they come that late; beyond %s they are refused: check timedatectl or chronyc tracking",
		s.median.Abs().Round(time.Second), way, s.tolerance)
	s.health.Set(clockPart, Ready, reason)
	s.warn(s.median, reason)
}

// offset returns the last measurement; positive if this clock is ahead.
func (s *skew) offset() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.median
}
