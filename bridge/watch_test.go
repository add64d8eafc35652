package bridge_test

import (
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/test/bridgetest"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// watched returns a server with a quarantine, what its log says at warn, and its
// reasons.
func watched(t *testing.T) (*bridgetest.Server, *observer.ObservedLogs, func() string) {
	t.Helper()
	core, logs := observer.New(zap.WarnLevel)
	srv := quarantined(t, func(c *bridge.Options) { c.Logger = zap.New(core) })
	return srv, logs, func() string { return strings.Join(srv.Bridge.Report().Reasons, "\n") }
}

// logged waits for a line at warn that has the text in it.
func logged(t *testing.T, logs *observer.ObservedLogs, text string) {
	t.Helper()
	has := func(e observer.LoggedEntry) bool { return strings.Contains(e.Message, text) }
	for end := time.Now().Add(bridgetest.Patience); logs.Filter(has).Len() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %q in %v", text, logs.All())
		}
	}
}

// TestQuarantineIsSeen expects a reason on /readyz while the quarantine is not empty
// (case C25).
func TestQuarantineIsSeen(t *testing.T) {
	t.Parallel()
	srv, logs, reasons := watched(t)
	if got := reasons(); got != "" {
		t.Fatal(got)
	}
	srv.Deliver(bridgetest.Delivery{Secret: "whsec_other"})
	list(t, srv, 1)
	if got := reasons(); !strings.Contains(got, "quarantine: refused requests that may be authentic: 1,") {
		t.Error(got)
	}
	logged(t, logs, "quarantine: refused requests that may be authentic: 1,")
	if err := srv.Quarantine.(*quarantine.Store).Park(t.Context(), publisher.Parked{ID: "a", Subject: "job.completed", Payload: []byte("{}")},
		"too large"); err != nil {
		t.Fatal(err)
	}
	if got := reasons(); !strings.Contains(got, "quarantine: authentic events that the stream did not accept: 1.") {
		t.Error(got)
	}
	if _, err := srv.Quarantine.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := reasons(); got != "" {
		t.Error(got)
	}
	if n := logs.FilterMessageSnippet("refused requests that may").Len(); n != 1 {
		t.Errorf("%d lines, want one: %v", n, logs.All())
	}
}

// TestSilence expects a reason when signatures do not match and no authentic delivery has
// come for an hour. One delivery is enough for the reason, and an authentic one ends it
// (case C25).
func TestSilence(t *testing.T) {
	t.Parallel()
	srv, logs, reasons := watched(t)
	start := srv.Now()
	if v := gauge(t, srv, "jobbridge_last_mismatch_timestamp_seconds"); v != 0 {
		t.Error(v)
	}
	srv.Deliver(bridgetest.Delivery{})
	srv.SetTime(start.Add(30 * time.Minute))
	srv.Deliver(bridgetest.Delivery{Secret: "whsec_rotated"})
	srv.SetTime(start.Add(59 * time.Minute))
	if got := reasons(); strings.Contains(got, "signatures") {
		t.Fatal(got)
	}
	srv.SetTime(start.Add(61 * time.Minute))
	if got := reasons(); !strings.Contains(got, "signatures: 1 requests match none of the secrets, and no request was authentic for 1h") {
		t.Fatal(got)
	}
	logged(t, logs, "signatures: 1 requests")
	good, bad := gauge(t, srv, "jobbridge_last_authentic_timestamp_seconds"), gauge(t, srv, "jobbridge_last_mismatch_timestamp_seconds")
	if want := float64(start.Unix()); good < want-1 || good > want+10 || bad < good+1700 || bad > good+1900 {
		t.Error(good, bad)
	}
	srv.Deliver(bridgetest.Delivery{})
	if got := reasons(); strings.Contains(got, "signatures") {
		t.Error(got)
	}
	srv.SetTime(start.Add(5 * time.Hour)) // nothing comes, and nothing is wrong
	if got := reasons(); strings.Contains(got, "signatures") {
		t.Error(got)
	}
}

// TestPause stops the process for six minutes: the deliveries of that time are
// read late. The reason names the pause, no clock is blamed, and a release clears
// it (case C14).
func TestPause(t *testing.T) {
	t.Parallel()
	srv, logs, reasons := watched(t)
	start := srv.Now()
	for range 8 {
		srv.Deliver(bridgetest.Delivery{})
	}
	srv.SetTime(start.Add(6 * time.Minute))
	for range 20 {
		if r := srv.Deliver(bridgetest.Delivery{SignedAt: start.Add(30 * time.Second)}); r.Code != 400 {
			t.Fatal(r.Code)
		}
	}
	list(t, srv, 20)
	got := reasons()
	if !strings.Contains(got, "stood still") || !strings.Contains(got, "for 6m0s until") || !strings.Contains(got, "20 deliveries") ||
		strings.Contains(got, "clock: ") {
		t.Fatal(got)
	}
	logged(t, logs, "stood still")
	released, err := srv.Quarantine.Release(t.Context(), operator.ReleaseOptions{Stale: true})
	if err != nil || len(released) != 20 || !released[0].Released {
		t.Fatalf("%+v %v", released, err)
	}
	if got := reasons(); got != "" {
		t.Error("after the release:", got)
	}
	if n := srv.Stored(); n != 28 {
		t.Error(n)
	}
	// A clock that is off is blamed as ever, once the pause is over.
	srv.SetTime(start.Add(16 * time.Minute))
	srv.Deliver(bridgetest.Delivery{})
	srv.SetTime(start.Add(18 * time.Minute))
	for range 16 {
		srv.Deliver(bridgetest.Delivery{SignedAt: start.Add(10 * time.Minute)})
	}
	if got := reasons(); !strings.Contains(got, "clock: ") {
		t.Error(got)
	}
}
