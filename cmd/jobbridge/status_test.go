package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
)

// TestStatusText reads metrics as a bridge writes them, and prints them.
func TestStatusText(t *testing.T) {
	now := time.Unix(1_800_000_100, 0)
	const common = "# HELP jobbridge_deliveries_total x\nprocess_start_time_seconds 1.8e+09\n" +
		`jobbridge_deliveries_total{outcome="refused",reason="mismatch"} 2` + "\n" +
		`jobbridge_deliveries_total{outcome="refused",reason="too_old"} 1` + "\n" +
		"jobbridge_last_authentic_timestamp_seconds 1.800000095e+09\n"
	for name, c := range map[string]struct {
		metrics string
		want    []string
		without string
	}{
		"standalone": {
			common + `jobbridge_deliveries_total{outcome="stored",reason=""} 7` + "\n" + `jobbridge_quarantine_entries{kind="refused"} 3` + "\n" +
				`jobbridge_quarantine_entries{kind="authentic"} 0` + "\njobbridge_forward_lag_events 5\njobbridge_forward_lag_seconds 26.4\n" +
				"jobbridge_stream_messages 9\njobbridge_stream_consumers 2\njobbridge_stream_connections 1\n" +
				"jobbridge_last_mismatch_timestamp_seconds 1.80000008e+09\n",
			[]string{
				"state               ready", "because", "started             1m40s ago", "last delivery       5s ago",
				"last bad signature  20s ago", "7 stored, 0 duplicates, 0 conflicts, 3 refused",
				"5 events to forward, the oldest for 26s", "3 refused requests, 0 authentic events: jobbridge quarantine list",
				"9 events, 2 consumers, 1 connection of workers",
			}, "none",
		},
		"direct, nothing yet": {
			common + "jobbridge_last_mismatch_timestamp_seconds 0\n",
			[]string{"last delivery  none since the start", "quarantine     this bridge has none"}, "bad signature",
		},
		"quiet": {
			common + `jobbridge_quarantine_entries{kind="refused"} 0` + "\n" + `jobbridge_quarantine_entries{kind="authentic"} 0` +
				"\njobbridge_forward_lag_events 0\njobbridge_forward_lag_seconds 0\n",
			[]string{"everything is forwarded", "empty"}, "stream",
		},
	} {
		samples, err := readSamples(strings.NewReader(c.metrics))
		if err != nil {
			t.Fatal(err)
		}
		status := samples.status()
		status.State, status.Reasons = publisher.Ready, []string{"because\x1b[31m"}
		var out bytes.Buffer
		if err := status.print(&out, now); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: %q is missing in:\n%s", name, want, &out)
			}
		}
		if strings.Contains(out.String(), c.without) || strings.Contains(out.String(), "\x1b") {
			t.Errorf("%s:\n%s", name, &out)
		}
	}
}
