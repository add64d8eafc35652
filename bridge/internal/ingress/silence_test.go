package ingress

import (
	"strings"
	"testing"
	"time"
)

// TestSilence has requests whose signature matches a secret, or none. The first one at 0 is authentic.
func TestSilence(t *testing.T) {
	t.Parallel()
	const minute = time.Minute
	type request struct {
		at        time.Duration
		authentic bool
	}
	for name, r := range map[string]struct {
		requests []request
		now      time.Duration
		reason   string
	}{
		"nothing":                           {nil, 48 * time.Hour, ""},
		"less than an hour":                 {[]request{{minute, false}}, time.Hour - 1, ""},
		"an hour":                           {[]request{{minute, false}}, time.Hour, "1 requests match none of the secrets"},
		"several, the last one just before": {[]request{{minute, false}, {89 * minute, false}}, 90 * minute, "2 requests"},
		"an authentic one after them":       {[]request{{minute, false}, {2 * minute, true}}, 2 * time.Hour, ""},
		"an authentic one between":          {[]request{{minute, false}, {2 * minute, true}, {3 * minute, false}}, 62 * minute, "1 requests"},
	} {
		var s silence
		start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		for _, q := range append([]request{{0, true}}, r.requests...) {
			if q.authentic {
				s.authentic(start.Add(q.at))
			} else {
				s.mismatch(start.Add(q.at))
			}
		}
		if got := s.reason(start.Add(r.now)); (got == "") != (r.reason == "") || !strings.Contains(got, r.reason) {
			t.Errorf("%s: %q, want %q", name, got, r.reason)
		}
	}
}
