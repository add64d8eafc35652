package admin_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/admin"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// serve starts the operator's listener and returns its URL.
func serve(t *testing.T, set func(*admin.Server)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	health := admin.NewHealth(func(text string) string { return text })
	health.Set("test", publisher.Ready, "because")
	a := admin.New(health, prometheus.NewRegistry(), zap.NewNop())
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

func get(t *testing.T, url, host string, header ...string) (code int, body string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	if host != "" {
		req.Host = host
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// TestToken asks as operators on other machines do. A request under another name of this
// machine counts as one of them.
func TestToken(t *testing.T) {
	t.Parallel()
	const token = "0123456789abcdef"
	var a *admin.Server
	url := serve(t, func(it *admin.Server) {
		a = it
		a.ServeSettings(func() any { return "told" })
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
		{"", "", 403}, {"", "Bearer ", 403}, {token, "", 403}, {token, "Bearer wrong", 403}, {token, token, 403},
		{token, "Bearer " + token, 200},
	} {
		a.SetToken(c.token)
		if got, body := ask(operator.PathConfig, c.sent); got != c.want || (got == 200) != strings.Contains(body, "told") {
			t.Errorf("token %q, sent %q: %d %s", c.token, c.sent, got, body)
		}
		for _, path := range []string{"/healthz", "/metrics"} {
			if got, _ := ask(path, c.sent); got != 200 {
				t.Errorf("%s needs a token", path)
			}
		}
		if _, body := ask("/readyz", c.sent); (c.want == 200) != strings.Contains(body, "because") ||
			!strings.Contains(body, `"state":"starting"`) {
			t.Errorf("token %q, sent %q: %s", c.token, c.sent, body)
		}
	}
}

// TestProfile asks for profiles. They are served only if they were enabled, and only to
// this machine.
func TestProfile(t *testing.T) {
	t.Parallel()
	without := serve(t, func(*admin.Server) {})
	with := serve(t, (*admin.Server).Profile)
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
		if got, _ := get(t, c.url, c.host); got != c.want {
			t.Errorf("%s as %q: %d, want %d", c.url, c.host, got, c.want)
		}
	}
	// A proxy on this machine stands for others (case C3), and a page for nobody.
	for _, header := range [][]string{
		{"X-Forwarded-For", "203.0.113.9"}, {"X-Forwarded-For", ""}, {"X-Forwarded-For", "", "X-Forwarded-For", "203.0.113.9"},
		{"x-forwarded-anything", ""},
		{"Forwarded", "for=203.0.113.9"}, {"Forwarded", ""}, {"Via", "1.1 proxy"}, {"Via", ""}, {"X-Real-IP", ""}, {"CF-Connecting-IP", ""},
		{"True-Client-IP", ""},
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"},
	} {
		if got, _ := get(t, with+"/debug/pprof/", "", header...); got != 403 {
			t.Errorf("with %q: %d", header, got)
		}
	}
	if got, _ := get(t, with+"/debug/pprof/", "", "Sec-Fetch-Site", "none"); got != 200 {
		t.Errorf("by hand: %d", got)
	}
}

// TestAdmin asks for health, readiness and metrics in each state.
func TestAdmin(t *testing.T) {
	t.Parallel()
	health, metrics := admin.NewHealth(func(text string) string { return strings.ReplaceAll(text, "Options.X", "--x") }),
		prometheus.NewRegistry()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- admin.New(health, metrics, zap.NewNop()).Serve(ctx, ln, nil) }()
	url := "http://" + ln.Addr().String()
	check := func(path string, code int, want string) {
		t.Helper()
		got, body := get(t, url+path, "")
		if got != code || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, got, body)
		}
	}
	check("/healthz", 200, "alive")
	check("/readyz", 503, `{"state":"starting","reasons":[]}`)
	health.Start(event.Fsync)
	check("/readyz", 200, `{"state":"ready","durability":"fsync","reasons":[]}`)
	health.Set("remote", publisher.Journaling, "no Options.X")
	check("/readyz", 200, `{"state":"journaling","durability":"fsync","reasons":["no --x"]}`)
	health.Set("full", publisher.Full, "no room")
	check("/readyz", 503, `{"state":"full","durability":"fsync","reasons":["no --x","no room"]}`)
	metrics.MustRegister(health)
	state := func(state string, want int) {
		t.Helper()
		check("/metrics", 200, fmt.Sprintf("jobbridge_state{state=%q} %d\n", state, want))
	}
	state("full", 1)
	state("ready", 0)
	state("journaling", 0)
	health.Set("full", publisher.Ready)
	health.Set("remote", publisher.Ready)
	state("full", 0)
	state("ready", 1)
	check("/readyz", 200, `{"state":"ready","durability":"fsync","reasons":[]}`)
	health.Set("bridge", operator.Draining)
	check("/readyz", 503, `"state":"draining"`)
	health.Set("journal", publisher.Failed, "fsync: no")
	health.Set("journal", publisher.Ready)
	check("/readyz", 503, `{"state":"failed","durability":"fsync","reasons":["fsync: no"]}`)
	var asked []string
	health.Watch(func() (publisher.State, []string) { return publisher.Ready, asked })
	check("/readyz", 503, `"reasons":["fsync: no"]}`)
	asked = []string{"later"}
	check("/readyz", 503, `"reasons":["fsync: no","later"]}`)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// failingQuarantine has no entries, and a disk that fails.
type failingQuarantine struct{ operator.Quarantine }

func (failingQuarantine) Show(_ context.Context, sequence uint64) (operator.Entry, error) {
	return operator.Entry{}, fmt.Errorf("%w: sequence %d", operator.ErrNotFound, sequence)
}

func (failingQuarantine) List(context.Context) ([]operator.Entry, error) {
	return nil, errors.New("input/output error")
}

// TestOperateErrors expects 404 only for an entry that does not exist, and 500 for any
// other error (case R7).
func TestOperateErrors(t *testing.T) {
	t.Parallel()
	url := serve(t, func(a *admin.Server) { a.ServeQuarantine(failingQuarantine{}) })
	for path, want := range map[string]struct {
		code int
		text string
	}{
		operator.PathEntry + "?seq=7": {404, `"not in the quarantine: sequence 7"`},
		operator.PathEntry + "?seq=x": {404, "is not a number"},
		operator.PathEntry:            {404, "want one sequence"},
		operator.PathQuarantine:       {500, `"input/output error"`},
	} {
		if code, body := get(t, url+path, ""); code != want.code || !strings.Contains(body, want.text) {
			t.Errorf("%s: %d %s, want %d %s", path, code, body, want.code, want.text)
		}
	}
}

// TestBadQuery sends parameters that an endpoint does not have, and values that it cannot read: it answers 400 and does
// nothing.
func TestBadQuery(t *testing.T) {
	t.Parallel()
	url := serve(t, func(a *admin.Server) {
		a.ServeDrain(func(bool) { t.Error("it drains") })
		a.ServeQuarantine(failingQuarantine{}) // which answers 500
	})
	for _, path := range []string{
		operator.PathPurge + "?sequence=1", operator.PathPurge + "?seq=1&all=true", operator.PathPurge + "?seq=1;x",
		operator.PathRelease + "?dry_run=1", operator.PathRelease + "?dryrun=true",
		operator.PathDrain + "?cancel=1", operator.PathDrain + "?seq=1",
	} {
		resp, err := http.Post(url+path, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(body), "bad query") || err != nil {
			t.Errorf("%s: %d %s %v", path, resp.StatusCode, body, err)
		}
	}
}
