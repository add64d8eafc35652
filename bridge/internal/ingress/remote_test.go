package ingress_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestRemote finds the sender's address for connections and headers of all kinds (case C9).
func TestRemote(t *testing.T) {
	t.Parallel()
	const proxy, stranger = "10.1.2.3:4711", "198.51.100.9:4711"
	for name, r := range map[string]struct {
		trusted   []string
		from      string
		forwarded []string
		want      string
		warnings  int
	}{
		"no proxy":                     {nil, stranger, nil, "198.51.100.9", 0},
		"IPv6":                         {nil, "[2001:db8::9]:4711", nil, "2001:db8::9", 0},
		"no trusted proxies":           {nil, stranger, []string{"203.0.113.7"}, "198.51.100.9", 0},
		"no trusted proxies, loopback": {nil, "127.0.0.1:4711", []string{"203.0.113.7"}, "127.0.0.1", 0},
		"no trusted proxies, private":  {nil, proxy, []string{"203.0.113.7"}, "10.1.2.3", 0},
		"loopback is not trusted":      {[]string{"10.0.0.0/8"}, "127.0.0.1:4711", []string{"203.0.113.7"}, "127.0.0.1", 0},
		"IPv6 loopback is not trusted": {[]string{"10.0.0.0/8"}, "[::1]:4711", []string{"203.0.113.7"}, "::1", 0},
		"private is not trusted":       {[]string{"10.0.0.0/8"}, "192.168.1.1:4711", []string{"203.0.113.7"}, "192.168.1.1", 0},
		"link-local is not trusted":    {[]string{"10.0.0.0/8"}, "169.254.1.1:4711", []string{"203.0.113.7"}, "169.254.1.1", 0},
		"a stranger is not trusted":    {[]string{"10.0.0.0/8"}, stranger, []string{"203.0.113.7"}, "198.51.100.9", 0},
		"a proxy without the header":   {[]string{"10.0.0.0/8"}, proxy, nil, "10.1.2.3", 0},
		"a proxy":                      {[]string{"10.0.0.0/8"}, proxy, []string{"203.0.113.7"}, "203.0.113.7", 0},
		"what the client claims":       {[]string{"10.0.0.0/8"}, proxy, []string{"192.0.2.1, 203.0.113.7"}, "203.0.113.7", 0},
		"the client claims nonsense":   {[]string{"10.0.0.0/8"}, proxy, []string{"unknown, 203.0.113.7"}, "203.0.113.7", 0},
		"a line of the client's own":   {[]string{"10.0.0.0/8"}, proxy, []string{"", "203.0.113.7"}, "203.0.113.7", 0},
		"two proxies":                  {[]string{"10.0.0.0/8"}, proxy, []string{"192.0.2.1, 203.0.113.7, 10.9.9.9"}, "203.0.113.7", 0},
		"proxies only":                 {[]string{"10.0.0.0/8"}, proxy, []string{"10.7.7.7, 10.9.9.9"}, "10.7.7.7", 0},
		"with a port":                  {[]string{"10.0.0.0/8"}, proxy, []string{"203.0.113.7:4711"}, "203.0.113.7", 0},
		"IPv6 with a port":             {[]string{"10.0.0.0/8"}, proxy, []string{"[2001:db8::1]:4711"}, "2001:db8::1", 0},
		"IPv6 in brackets":             {[]string{"10.0.0.0/8"}, proxy, []string{"[2001:db8::1]"}, "2001:db8::1", 0},
		"IPv6 as it is":                {[]string{"10.0.0.0/8"}, proxy, []string{"2001:db8::1"}, "2001:db8::1", 0},
		"IPv4 in IPv6":                 {[]string{"10.0.0.0/8"}, "[::ffff:10.1.2.3]:4711", []string{"::ffff:203.0.113.7"}, "203.0.113.7", 0},
		"no address":                   {[]string{"10.0.0.0/8"}, proxy, []string{"unknown"}, "10.1.2.3", 1},
		"no port":                      {[]string{"10.0.0.0/8"}, proxy, []string{"203.0.113.7:"}, "10.1.2.3", 1},
		"an empty header":              {[]string{"10.0.0.0/8"}, proxy, []string{""}, "10.1.2.3", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			core, logs := observer.New(zapcore.InfoLevel)
			cfg := ingress.Options{Verifier: refuseAll{}, Publisher: refuseAll{}, Logger: zap.New(core)}
			for _, network := range r.trusted {
				_, n, err := net.ParseCIDR(network)
				if err != nil {
					t.Fatal(err)
				}
				cfg.TrustedProxies = append(cfg.TrustedProxies, n)
			}
			b := newIngress(t, cfg)
			for range 3 {
				request := httptest.NewRequest(http.MethodPost, ingress.DefaultPath, nil)
				request.RemoteAddr = r.from
				request.Header["X-Forwarded-For"] = r.forwarded
				b.ServeHTTP(httptest.NewRecorder(), request)
			}
			if n := logs.FilterMessage(ingress.LogDelivery).FilterField(zap.String("remote", r.want)).Len(); n != 3 {
				t.Errorf("not from %s: %v", r.want, logs.All())
			}
			if n := logs.FilterLevelExact(zapcore.WarnLevel).Len(); n != r.warnings {
				t.Errorf("%d warnings, want %d", n, r.warnings)
			}
		})
	}
}
