package ingress_test

import (
	"cmp"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestPath sends requests to the webhook's path and to others. A signed request to another path probably comes from the
// provider, whose URL has a mistake: the log tells the operator the right path (case C10).
func TestPath(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		configured, method, path string
		signed                   bool
		code                     int
		reason                   string
	}{
		{"", "POST", "/webhook", true, 200, ""},
		{"", "POST", "/webhook/", true, 200, ""},
		{"", "POST", "/webhook/?a=b", true, 200, ""},
		{"/hooks/sync/", "POST", "/hooks/sync/", true, 200, ""},
		{"/hooks/sync/", "POST", "/hooks/sync", true, 200, ""},
		{"/", "POST", "/", true, 200, ""},
		{"", "POST", "/webhook//", true, 404, "wrong_path"},
		{"", "POST", "/webhooks", true, 404, "wrong_path"},
		{"", "POST", "/", true, 404, "wrong_path"},
		{"/hooks/sync/", "POST", "/webhook", true, 404, "wrong_path"},
		{"", "POST", "/webhooks", false, 404, "not_found"},
		{"", "GET", "/webhooks", true, 404, "not_found"},
		{"", "GET", "/webhook/", true, 405, "method_not_allowed"},
		{"", "OPTIONS", "/webhook", false, 405, "method_not_allowed"},
	} {
		core, logs := observer.New(zapcore.InfoLevel)
		registry := prometheus.NewRegistry()
		b := newIngress(t, ingress.Options{Publisher: instant{}, Path: r.configured, Registerer: registry, Logger: zap.New(core)})
		request := httptest.NewRequest(r.method, r.path, strings.NewReader(completed))
		if r.signed {
			request.Header.Set(verify.HeaderName, sign(completed))
		}
		answer := httptest.NewRecorder()
		b.ServeHTTP(answer, request)
		name := r.method + " " + r.path + " of " + r.configured
		if answer.Code != r.code {
			t.Errorf("%s: %d", name, answer.Code)
		}
		lines := logs.FilterMessage(ingress.LogDelivery).All()
		if len(lines) != 1 {
			t.Fatalf("%s: %v", name, lines)
		}
		fields := lines[0].ContextMap()
		reason, _ := fields["reason"].(string)
		hint, _ := fields["hint"].(string)
		if reason != r.reason {
			t.Errorf("%s: reason %q, want %q", name, reason, r.reason)
		}
		warned := lines[0].Level == zapcore.WarnLevel && strings.Contains(hint, " "+cmp.Or(r.configured, ingress.DefaultPath))
		if warned != (r.reason == "wrong_path") || (hint != "") != warned {
			t.Errorf("%s: %v", name, lines[0])
		}
		if r.reason != "" {
			if n := traffic.Series(t, registry, "jobbridge_deliveries_total")["refused "+r.reason]; n != 1 {
				t.Errorf("%s: counted %v times", name, n)
			}
		}
	}
}
