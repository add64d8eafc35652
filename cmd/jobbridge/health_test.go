package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/operator"
)

// TestHealthAndDrainJSON checks that health and drain print JSON with --json, also for a bridge that is not ready.
func TestHealthAndDrainJSON(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case operator.PathLive:
			_, _ = io.WriteString(w, `{"status":"alive"}`)
		case operator.PathReady:
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, `{"state":"full","reasons":["why"]}`)
		default: // drain and forward
			_, _ = io.WriteString(w, `{"lag":0,"forwarded":7}`)
		}
	}))
	t.Cleanup(srv.Close)
	for _, c := range []struct {
		args   []string
		key    string
		want   any
		failed bool
	}{
		{[]string{"health"}, "status", "alive", false},
		{[]string{"health", "--ready"}, "state", "full", true},
		{[]string{"drain"}, "forwarded", 7.0, false},
		{[]string{"drain", "--cancel"}, "cancelled", true, false},
	} {
		out, err := call(t, nil, append(c.args, "--json", "--admin", srv.URL)...)
		var answer map[string]any
		if json.Unmarshal([]byte(out), &answer) != nil || answer[c.key] != c.want || (err != nil) != c.failed {
			t.Errorf("%v: %v\n%s", c.args, err, out)
		}
	}
}
