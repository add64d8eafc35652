package bridge_test

import (
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/test/bridgetest"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/jobbridge/jobbridge/verify"
)

// TestMetricsFromTheStart finds every counter at zero before anything happens. Prometheus
// does not see the increase of a counter that appears with its first failure.
func TestMetricsFromTheStart(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewServer(t)
	deliveries := traffic.Series(t, srv.Metrics, "jobbridge_deliveries_total")
	for _, pair := range []string{
		"stored ", "duplicate ", "conflict ", "refused mismatch", "refused too_old", "refused too_new", "refused unsigned", "refused too_large",
		"refused wrong_path", "refused not_found",
		"refused method_not_allowed", "failed busy", "failed no_room", "failed full", "failed unavailable", "failed misconfigured",
		"failed internal", "failed panic",
	} {
		if n, ok := deliveries[pair]; !ok || n != 0 {
			t.Errorf("%q: %v, there: %v", pair, n, ok)
		}
	}
	if got := traffic.Series(t, srv.Metrics, "jobbridge_delivery_duration_seconds"); len(got) != 5 {
		t.Errorf("outcomes with a duration: %v", got)
	}
	if got := traffic.Series(t, srv.Metrics, "jobbridge_clock_skew_seconds"); len(got) != 0 {
		t.Errorf("a skew that nobody measured: %v", got)
	}
	want := map[string]float64{"in_flight": bridge.DefaultMaxInFlight, "connections": bridge.DefaultMaxConnections,
		"body_bytes": bridge.DefaultMaxBody, "body_memory_bytes": bridge.DefaultMaxBodyMemory}
	if got := traffic.Series(t, srv.Metrics, "jobbridge_limit"); !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	srv.Deliver(bridgetest.Delivery{})
	old := verify.Fingerprint(bridgetest.Secret)
	traffic.AwaitSeries(t, bridgetest.Patience, srv.Metrics, "jobbridge_secret_deliveries_total", old, 1)
	if err := srv.Verifier.SetSecrets([]string{"whsec_new"}); err != nil {
		t.Fatal(err)
	}
	want = map[string]float64{old: 1, verify.Fingerprint("whsec_new"): 0}
	if got := traffic.Series(t, srv.Metrics, "jobbridge_secret_deliveries_total"); !maps.Equal(got, want) {
		t.Errorf("after a rotation: %v, want %v", got, want)
	}
}

// TestRejectedConnections counts the requests that net/http answers by itself, and no
// others.
func TestRejectedConnections(t *testing.T) {
	t.Parallel()
	const metric = "jobbridge_connections_rejected_total"
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Webhook.ReadTimeout = 200 * time.Millisecond
	srv.Start()
	raw := func(request string) string {
		t.Helper()
		conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(srv.URL, "http://"), bridge.DefaultPath))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if request == "" {
			return ""
		}
		// The bridge may have said enough before it has read it all.
		_, _ = io.WriteString(conn, request)
		_ = conn.SetReadDeadline(time.Now().Add(bridgetest.Patience))
		answer, _ := io.ReadAll(conn)
		return string(answer)
	}
	for i, r := range []struct{ request, answer string }{
		{"POST /webhook HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("a", 64<<10) + "\r\n\r\n", " 431 "},
		{"POST /webhook HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", " 400 "},
		{"POST /webhook HTTP/1.1\r\nHost: a\r\n", ""}, // and no more, until the time is over
	} {
		if got := raw(r.request); !strings.Contains(got, r.answer) {
			t.Errorf("%.60q: %.60q", r.request, got)
		}
		traffic.AwaitSeries(t, bridgetest.Patience, srv.Metrics, metric, "request", float64(i+1))
	}
	raw("") // a port scan, a load balancer's look
	if got := raw("GET /other HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"); !strings.Contains(got, " 404 ") {
		t.Errorf("%.60q", got)
	}
	srv.Deliver(bridgetest.Delivery{})
	http.DefaultClient.CloseIdleConnections()
	traffic.AwaitSeries(t, bridgetest.Patience, srv.Metrics, "jobbridge_connections", "", 0)
	if got := traffic.Series(t, srv.Metrics, metric); got["request"] != 3 || got["handshake"] != 0 {
		t.Errorf("%v", got)
	}
}
