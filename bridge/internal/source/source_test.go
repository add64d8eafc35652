package source_test

import (
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
)

// TestOf has one source for an IPv4 address in each of its forms, and one for an
// IPv6 network.
func TestOf(t *testing.T) {
	t.Parallel()
	for remote, want := range map[string]string{
		"192.0.2.1":        "192.0.2.1/32",
		"::ffff:192.0.2.1": "192.0.2.1/32",
		"2001:db8::1:2":    "2001:db8::/64",
		"fe80::1%eth0":     "fe80::/64",
		"nobody":           "invalid Prefix",
	} {
		if got := source.Of(remote).String(); got != want {
			t.Errorf("%s: %s, want %s", remote, got, want)
		}
	}
}

// TestLimiters gives each source its own tokens.
func TestLimiters(t *testing.T) {
	t.Parallel()
	l, err := source.NewLimiters(0, 2)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for _, remote := range []string{"192.0.2.1", "192.0.2.2"} {
		for i, want := range []bool{true, true, false} {
			if got := l.Of(source.Of(remote)).AllowN(now, 1); got != want {
				t.Errorf("%s, token %d: %v", remote, i+1, got)
			}
		}
	}
}
