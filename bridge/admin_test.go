package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
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
	health := bridge.NewHealth()
	health.Set("test", publisher.Ready, "because")
	a := bridge.NewAdmin(health, prometheus.NewRegistry(), zap.NewNop())
	set(a)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Serve(ctx, ln, nil) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + ln.Addr().String()
}

func get(t *testing.T, url, host string, header ...string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
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

// TestToken is for operators who are elsewhere; another name for this machine is
// as far away.
func TestToken(t *testing.T) {
	t.Parallel()
	const token = "0123456789abcdef"
	var a *bridge.Admin
	url := admin(t, func(it *bridge.Admin) {
		a = it
		a.Operate("GET /secret", func(context.Context, url.Values) (any, error) { return "told", nil })
	})
	ask := func(path, authorization string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "bridge.example"
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, c := range []struct {
		token, sent string
		want        int
	}{
		{"", "", 403}, {"", "Bearer ", 403}, {token, "", 403}, {token, "Bearer wrong", 403}, {token, token, 403}, {token, "Bearer " + token, 200},
	} {
		a.SetToken(c.token)
		if got, body := ask("/secret", c.sent); got != c.want || (got == 200) != strings.Contains(body, "told") {
			t.Errorf("token %q, sent %q: %d %s", c.token, c.sent, got, body)
		}
		for _, path := range []string{"/healthz", "/metrics"} {
			if got, _ := ask(path, c.sent); got != 200 {
				t.Errorf("%s needs a token", path)
			}
		}
		if _, body := ask("/readyz", c.sent); (c.want == 200) != strings.Contains(body, "because") || !strings.Contains(body, `"state":"starting"`) {
			t.Errorf("token %q, sent %q: %s", c.token, c.sent, body)
		}
	}
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
	// A proxy on this machine stands for others, and a page for nobody.
	for _, header := range [][]string{{"X-Forwarded-For", "203.0.113.9"}, {"Forwarded", "for=203.0.113.9"}, {"Via", "1.1 proxy"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}} {
		if got := get(t, with+"/debug/pprof/", "", header...); got != 403 {
			t.Errorf("with %q: %d", header, got)
		}
	}
	if got := get(t, with+"/debug/pprof/", "", "Sec-Fetch-Site", "none"); got != 200 {
		t.Errorf("by hand: %d", got)
	}
}

// TestOperateErrors: only an entry that is not there is 404; any other error of a purge
// or a release is 500 (case R7).
func TestOperateErrors(t *testing.T) {
	t.Parallel()
	url := admin(t, func(a *bridge.Admin) {
		a.Operate("GET /none", func(context.Context, url.Values) (any, error) {
			return nil, fmt.Errorf("%w: sequence 7", bridge.ErrNotQuarantined)
		})
		a.Operate("GET /failed", func(context.Context, url.Values) (any, error) { return nil, errors.New("purge 7: input/output error") })
	})
	for path, want := range map[string]int{"/none": 404, "/failed": 500} {
		if code := get(t, url+path, ""); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
}
