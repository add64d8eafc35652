package source_test

import (
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
)

// TestOf has one source for each IPv4 address, however it is written, and one for each IPv6 network of 64 bits.
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
