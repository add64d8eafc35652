package ingress

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/verify"
)

// votes are so many deliveries with different payloads that were signed in the given second, and by how much the clock is
// ahead of that when they arrive.
type votes struct {
	count, second int
	ahead         time.Duration
}

// TestClockCheck judges the clock by deliveries. Each row begins with a new check, with a tolerance of 5 minutes.
func TestClockCheck(t *testing.T) {
	t.Parallel()
	const hour = time.Hour
	captured := make([]votes, 100)
	for i := range captured {
		captured[i] = votes{1, i, time.Duration(200-i) * hour}
	}
	for name, r := range map[string]struct {
		votes  []votes
		skew   time.Duration
		known  bool
		reason string // a part of it; empty for none
	}{
		"no delivery":                  {nil, 0, false, ""},
		"too few":                      {[]votes{{2, 0, hour}}, 0, false, ""},
		"enough":                       {[]votes{{3, 0, hour}}, hour, true, "1h0m0s ahead of"},
		"the clock is right":           {[]votes{{20, 0, time.Second}}, time.Second, true, ""},
		"behind":                       {[]votes{{20, 0, -hour}}, -hour, true, "1h0m0s behind"},
		"refused":                      {[]votes{{3, 0, 301 * time.Second}}, 301 * time.Second, true, "so they are refused"},
		"not yet refused":              {[]votes{{3, 0, 300 * time.Second}}, 300 * time.Second, true, "if the difference exceeds 5m0s"},
		"at the margin":                {[]votes{{3, 0, 75 * time.Second}}, 75 * time.Second, true, ""},
		"beyond the margin":            {[]votes{{3, 0, 76 * time.Second}}, 76 * time.Second, true, "1m16s ahead of"},
		"beyond the margin, behind":    {[]votes{{3, 0, -76 * time.Second}}, -76 * time.Second, true, "1m16s behind"},
		"a few late ones":              {[]votes{{9, 1, 0}, {7, 2, hour}}, 0, true, ""},
		"a few early ones":             {[]votes{{9, 1, 0}, {7, 2, -hour}}, 0, true, ""},
		"the clock was set":            {[]votes{{16, 0, hour}, {9, 1, 0}}, 0, true, ""},
		"a sender is ahead":            {[]votes{{16, 200, -100 * time.Second}, {9, 101, 0}}, 0, true, ""},
		"one replayed delivery":        {[]votes{{1, 0, 0}, {1, 0, hour}, {1, 0, hour}, {1, 0, hour}}, 0, false, ""},
		"replays of the same second":   {[]votes{{100, 0, 0}, {100, 0, hour}}, 0, true, ""},
		"replays of old deliveries":    {append([]votes{{16, 1000, 0}}, captured...), 0, true, ""},
		"replays hide no wrong clock":  {append([]votes{{16, 1000, hour}}, votes{16, 0, 0}), hour, true, "1h0m0s ahead of"},
		"more at once than are needed": {[]votes{{100, 0, hour}}, hour, true, "ahead of"},
	} {
		c := newClockCheck(5 * time.Minute)
		for _, v := range r.votes {
			signedAt := time.Unix(1_700_000_000+int64(v.second), 0)
			for i := range v.count {
				payload := fmt.Appendf(nil, `{"id":"%d-%d"}`, v.second, i)
				c.observe(signedAt.Add(v.ahead), verify.Verified{SignedAt: signedAt, Payload: payload, Fingerprint: "f"})
			}
		}
		if skew, known := c.skew(); skew != r.skew || known != r.known {
			t.Errorf("%s: %s %v, want %s %v", name, skew, known, r.skew, r.known)
		}
		reason := c.reason()
		if (reason == "") != (r.reason == "") || !strings.Contains(reason, r.reason) {
			t.Errorf("%s: %q, want %q", name, reason, r.reason)
		}
		if reason != "" && !strings.HasPrefix(reason, "clock: ") {
			t.Errorf("%s: %q", name, reason)
		}
		c.tolerance = verify.AnyAge
		if reason := c.reason(); reason != "" {
			t.Errorf("%s, and every age is accepted: %s", name, reason)
		}
	}
}
