package bridge_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/test/bridgetest"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func quarantined(t *testing.T, change func(*bridge.Options)) *bridgetest.Server {
	t.Helper()
	srv := bridgetest.NewUnstartedServer(t)
	if change != nil {
		change(&srv.Config)
	}
	srv.Start()
	return srv
}

// list waits until the quarantine holds n requests.
func list(t *testing.T, srv *bridgetest.Server, n int) []operator.Entry {
	t.Helper()
	var got []operator.Entry
	for end := time.Now().Add(bridgetest.Patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var err error
		if got, err = srv.Quarantine.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(got) == n {
			return got
		}
	}
	t.Fatalf("%d in the quarantine, want %d: %+v", len(got), n, got)
	return nil
}

// became waits until n requests have a result each, and returns them.
func became(t *testing.T, srv *bridgetest.Server, n uint64) map[string]uint64 {
	t.Helper()
	for end := time.Now().Add(bridgetest.Patience); ; time.Sleep(time.Millisecond) {
		kept, sum := srv.Quarantine.(*quarantine.Store).Stats().Results, uint64(0)
		for _, v := range kept {
			sum += v
		}
		if sum == n {
			return kept
		}
		if sum > n || time.Now().After(end) {
			t.Fatalf("%v, want %d together", kept, n)
		}
	}
}

// TestQuarantineNotWritten counts a refused request once: a request that could not be
// written does not count as stored.
func TestQuarantineNotWritten(t *testing.T) {
	t.Parallel()
	srv := quarantined(t, nil)
	refuse := func() {
		if r := srv.Deliver(bridgetest.Delivery{Secret: "whsec_new"}); r.Code != 400 {
			t.Fatal(r.Code)
		}
	}
	refuse()
	if kept := became(t, srv, 1); kept["kept"] != 1 {
		t.Fatal(kept)
	}
	if err := os.RemoveAll(filepath.Join(srv.Config.DataDir, "quarantine")); err != nil {
		t.Fatal(err)
	}
	refuse()
	if kept := became(t, srv, 2); kept["kept"] != 1 || kept["error"] != 1 {
		t.Fatal(kept)
	}
}

// TestQuarantineWithoutNATS stores and releases requests while NATS is stopped. They
// are forwarded when NATS has started again.
func TestQuarantineWithoutNATS(t *testing.T) {
	t.Parallel()
	srv := quarantined(t, nil)
	srv.StopNATS()
	if r := srv.Deliver(bridgetest.Delivery{Secret: "whsec_new"}); r.Code != 400 {
		t.Fatal(r.Code)
	}
	list(t, srv, 1)
	if err := srv.Verifier.SetSecrets([]string{"whsec_new"}); err != nil {
		t.Fatal(err)
	}
	if released, err := srv.Quarantine.Release(t.Context(), operator.ReleaseOptions{}); err != nil || !released[0].Released {
		t.Fatalf("%+v %v", released, err)
	}
	list(t, srv, 0)
	srv.StartNATS()
	if n := srv.Stored(); n != 1 {
		t.Error(n)
	}
}

// TestQuarantine refuses requests that the secrets or the clock do not accept, and
// releases them when they do: only those, each once, in the bytes that were signed.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	srv := quarantined(t, nil)
	now := srv.Now()
	body := func(id string) []byte { return bridgetest.Generation(id, "") }
	for _, d := range []bridgetest.Delivery{
		{Payload: body("rotated"), Secret: "whsec_new"},
		{Payload: body("forged"), Secret: "whsec_nobody"},
		{Payload: body("old"), SignedAt: now.Add(-time.Hour)},
		{Payload: body("future"), SignedAt: now.Add(time.Hour)},
		{Payload: body("malformed"), Signature: "t=x"},
		{Payload: body("unsigned"), Signature: "-"},
		{Payload: []byte(`{"id":"printed", "status":"FAILED"}`), Secret: "whsec_new", Header: http.Header{"User-Agent": {"provider/1"}}},
	} {
		if r := srv.Deliver(d); r.Code != 400 || string(r.Body) != "{\"message\":\"Invalid signature\"}\n" {
			t.Fatalf("%d %s", r.Code, r.Body)
		}
	}
	entries := list(t, srv, 7)
	var reasons []string
	for _, e := range entries {
		reasons = append(reasons, e.Reason)
		if e.Remote != "127.0.0.1" || e.Bytes == 0 || e.ReceivedAt.Before(now.Add(-time.Second)) {
			t.Errorf("%+v", e)
		}
	}
	if got := strings.Join(reasons, " "); got != "mismatch mismatch too_old too_new malformed unsigned mismatch" {
		t.Error(got)
	}
	if e, err := srv.Quarantine.Show(t.Context(), 7); err != nil || string(e.Body) != `{"id":"printed", "status":"FAILED"}` ||
		e.Header["User-Agent"] != "provider/1" || e.Header["Sync-Signature"] == "" {
		t.Errorf("%+v %v", e, err)
	}
	if _, err := srv.Quarantine.Show(t.Context(), 99); !errors.Is(err, operator.ErrNotFound) {
		t.Error(err)
	}
	release := func(stale bool, want map[string]string) {
		t.Helper()
		list, err := srv.Quarantine.Release(t.Context(), operator.ReleaseOptions{Stale: stale})
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, e := range list {
			got[fmt.Sprint(e.Sequence)] = e.Result
		}
		if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
			t.Fatalf("%v, want %v", got, want)
		}
		for seq, part := range want {
			if !strings.Contains(got[seq], part) {
				t.Errorf("%s: %q, want %q", seq, got[seq], part)
			}
		}
	}
	release(false, map[string]string{"1": "does not match", "2": "does not match", "3": "stale=true", "4": "stale=true", "5": "malformed",
		"6": "unsigned", "7": "does not match"})
	if n := srv.Stored(); n != 0 {
		t.Fatalf("%d are published that nobody may believe", n)
	}
	if err := srv.Verifier.SetSecrets([]string{bridgetest.Secret, "whsec_new"}); err != nil {
		t.Fatal(err)
	}
	srv.SetTime(now.Add(24 * time.Hour)) // much later: what was fresh when it came still is
	release(false, map[string]string{"1": "stored", "2": "does not match", "3": "stale=true", "4": "stale=true", "5": "malformed",
		"6": "unsigned", "7": "stored"})
	if m := srv.Next("job.completed"); !bytes.Equal(m.Data, body("rotated")) || m.Header.Get("Nats-Msg-Id") != "sync:rotated:COMPLETED" ||
		m.Header.Get("Sync-Signature") == "" ||
		m.Header.Get("Received-At") != entries[0].ReceivedAt.Format(time.RFC3339Nano) {
		t.Errorf("%s %v", m.Data, m.Header)
	}
	release(true, map[string]string{"2": "does not match", "3": "stored", "4": "stored", "5": "malformed", "6": "unsigned"})
	if srv.Stored() != 4 {
		t.Fatal(srv.Stored())
	}
	// The same again, forged by nobody but late: a duplicate, stored once.
	srv.Deliver(bridgetest.Delivery{Payload: body("old"), SignedAt: now.Add(-time.Hour)})
	list(t, srv, 4)
	release(true, map[string]string{"2": "does not match", "5": "malformed", "6": "unsigned", "8": "duplicate of sequence 3"})
	if n, err := srv.Quarantine.Purge(t.Context(), 2); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if n, err := srv.Quarantine.Purge(t.Context()); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	list(t, srv, 0)
	if srv.Stored() != 4 {
		t.Fatal(srv.Stored())
	}
}

// TestQuarantineIsPrivate has a worker that subscribes to everything. The worker sees no
// refused request.
func TestQuarantineIsPrivate(t *testing.T) {
	t.Parallel()
	srv := quarantined(t, nil)
	nc := srv.Connect(nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	sub, err := nc.SubscribeSync(">")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	srv.Deliver(bridgetest.Delivery{Secret: "whsec_other"})
	list(t, srv, 1)
	srv.Deliver(bridgetest.Delivery{}) // the first message there is
	if m, err := sub.NextMsg(bridgetest.Patience); err != nil || m.Subject != "job.completed" {
		t.Fatal(m, err)
	}
}

// TestQuarantineFlood sends far more forgeries from one source than the quarantine holds.
// The requests that others sent before and after are in it.
func TestQuarantineFlood(t *testing.T) {
	t.Parallel()
	_, loopback, err := net.ParseCIDR("127.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	srv := quarantined(t, func(c *bridge.Options) {
		c.Quarantine.MaxBytes = 1 << 20
		c.Webhook.ForgeryRate = -1
		c.Webhook.TrustedProxies = []*net.IPNet{loopback}
	})
	from := func(source string, i int) bridgetest.Delivery {
		return bridgetest.Delivery{ID: fmt.Sprintf("%s-%d", source, i), Secret: "whsec_new", Header: http.Header{"X-Forwarded-For": {source}}}
	}
	post := func(d bridgetest.Delivery) {
		if r, err := srv.Post(d); err != nil || r.Code != 400 {
			t.Error(r.Code, err)
		}
	}
	post(from("192.0.2.1", 0))
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 500 { // one network, whatever the address in it
				post(from(fmt.Sprintf("2001:db8::%x:%x", w+1, i), w*500+i))
			}
		})
	}
	wg.Wait()
	post(from("192.0.2.2", 0))
	post(from("2001:db8:0:1::1", 0))
	kept := became(t, srv, 2003)
	if kept["kept"] < 50 || kept["kept"] > 400 || kept["source_limit"]+kept["busy"] < 1600 {
		t.Errorf("%v", kept)
	}
	n := int(kept["kept"])
	others := map[string]int{}
	for _, e := range list(t, srv, n) {
		if !strings.HasPrefix(e.Remote, "2001:db8::") {
			others[e.Remote]++
		}
	}
	if len(others) != 3 {
		t.Errorf("%v", others)
	}
}

// TestQuarantineBounds drops the oldest request when there is no room, and does not store
// a request that is too large.
func TestQuarantineBounds(t *testing.T) {
	t.Parallel()
	_, loopback, err := net.ParseCIDR("127.0.0.0/8")
	if err != nil {
		t.Fatal(err)
	}
	srv := quarantined(t, func(c *bridge.Options) {
		c.Quarantine.MaxBytes = 1 << 20
		c.Webhook.TrustedProxies = []*net.IPNet{loopback}
	})
	pad := func(n int) []byte {
		return fmt.Appendf(nil, `{"id":"big","status":"COMPLETED","pad":"%s"}`, strings.Repeat("x", n))
	}
	srv.Deliver(bridgetest.Delivery{Payload: pad(bridge.DefaultQuarantineMaxBody), Secret: "whsec_new"})
	if kept := srv.Quarantine.(*quarantine.Store).Stats().Results; kept["size"] != 1 || kept["kept"] != 0 {
		t.Fatal(kept)
	}
	for source := range 40 { // together twice what they may fill
		srv.Deliver(bridgetest.Delivery{Payload: pad(25 << 10), Secret: "whsec_new",
			Header: http.Header{"X-Forwarded-For": {fmt.Sprintf("192.0.2.%d", source)}}})
	}
	kept := became(t, srv, 41)
	if kept["limit"] == 0 || kept["kept"] == 0 || kept["limit"]+kept["kept"] != 40 {
		t.Fatal(kept)
	}
	list(t, srv, int(kept["kept"]))
	if size := srv.Quarantine.(*quarantine.Store).Stats().Bytes[operator.Refused]; size == 0 || size > 1<<20 {
		t.Fatal(size)
	}
}

// TestClockSkew warns before deliveries are refused.
func TestClockSkew(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Logger = zap.New(core)
	srv.Start()
	deliver := func(n int, off time.Duration) {
		for range n {
			if r := srv.Deliver(bridgetest.Delivery{SignedAt: srv.Now().Add(-off)}); r.Code != 200 {
				t.Fatal(r.Code)
			}
		}
	}
	reasons := func() string { return strings.Join(srv.Bridge.Report().Reasons, " ") }
	deliver(16, 100*time.Second)
	if got := reasons(); !strings.Contains(got, "1m4") || !strings.Contains(got, "ahead of") {
		t.Fatal(got)
	}
	logged(t, logs, "clock: ")
	if v := gauge(t, srv, "jobbridge_clock_skew_seconds"); v < 99 || v > 105 {
		t.Error(v)
	}
	deliver(16, time.Second)
	if got := reasons(); got != "" {
		t.Fatal(got)
	}
	deliver(100, 4*time.Minute) // late, or captured and sent now for the first time: the newer ones tell the time
	if got := reasons(); got != "" {
		t.Fatal(got)
	}
	deliver(16, -100*time.Second)
	if got := reasons(); !strings.Contains(got, "behind") {
		t.Fatal(got)
	}
	if n := logs.FilterMessageSnippet("ahead of").Len(); n != 1 {
		t.Errorf("%d lines, want one: %v", n, logs.All())
	}
}

// TestClockOff has a clock that is wrong by more than the tolerance. Everything is
// refused, and the reason says by how much the clock is wrong.
func TestClockOff(t *testing.T) {
	t.Parallel()
	for name, off := range map[string]time.Duration{"ahead of": time.Hour, "behind": -time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := bridgetest.NewUnstartedServer(t)
			srv.Config.Quarantine.Off = true // it would have reasons of its own
			srv.Start()
			signed := srv.Now().Add(-off)
			refuse := func(d bridgetest.Delivery) {
				t.Helper()
				d.SignedAt = signed
				if r := srv.Deliver(d); r.Code != 400 {
					t.Fatal(r.Code)
				}
			}
			// One that was captured, in any header, has one vote.
			for i := range 50 {
				d := bridgetest.Delivery{ID: "captured", SignedAt: signed}
				signature, _ := srv.Sign(d)
				d.Signature = fmt.Sprintf("%s,v1=%064x", signature, i)
				refuse(d)
			}
			if got := srv.Bridge.Report().Reasons; len(got) != 0 || len(traffic.Series(t, srv.Metrics, "jobbridge_clock_skew_seconds")) != 0 {
				t.Fatal(got)
			}
			for range 2 {
				refuse(bridgetest.Delivery{Secret: "whsec_other"}) // nobody's word
			}
			if got := srv.Bridge.Report().Reasons; len(got) != 0 {
				t.Fatal(got)
			}
			for range 2 {
				refuse(bridgetest.Delivery{})
			}
			got := strings.Join(srv.Bridge.Report().Reasons, " ")
			if !strings.Contains(got, name) || !strings.Contains(got, "so they are refused") {
				t.Fatal(got)
			}
			if v := gauge(t, srv, "jobbridge_clock_skew_seconds"); v < off.Seconds()-2 || v > off.Seconds()+60 {
				t.Error(v)
			}
			for range 6 {
				if r := srv.Deliver(bridgetest.Delivery{}); r.Code != 200 {
					t.Fatal(r.Code)
				}
			}
			if got := srv.Bridge.Report().Reasons; len(got) != 0 {
				t.Error("the clock was set:", got)
			}
		})
	}
}

func gauge(t *testing.T, srv *bridgetest.Server, name string) float64 {
	t.Helper()
	families, err := srv.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("no %s", name)
	return 0
}
