package bridge_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// admin starts the operator's listener and returns its URL.
func admin(t *testing.T, set func(*bridge.Admin)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	a := bridge.NewAdmin(bridge.NewHealth(), prometheus.NewRegistry(), zap.NewNop())
	set(a)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, ln) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String()
}

func get(t *testing.T, url, host string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		req.Host = host
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode
}

// TestProfile is there when asked for, and for the same machine only.
func TestProfile(t *testing.T) {
	t.Parallel()
	without := admin(t, func(*bridge.Admin) {})
	with := admin(t, (*bridge.Admin).Profile)
	for _, c := range []struct {
		url, host string
		want      int
	}{
		{without + "/debug/pprof/", "", 404},
		{with + "/debug/pprof/", "", 200},
		{with + "/debug/pprof/heap", "", 200},
		{with + "/debug/pprof/goroutine?debug=1", "localhost:8081", 200},
		{with + "/debug/pprof/", "evil.example", 403},
		{with + "/debug/pprof/profile?seconds=1", "evil.example", 403},
		{with + "/healthz", "evil.example", 200},
	} {
		if got := get(t, c.url, c.host); got != c.want {
			t.Errorf("%s as %q: %d, want %d", c.url, c.host, got, c.want)
		}
	}
}
