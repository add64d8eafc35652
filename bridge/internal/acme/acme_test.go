package acme

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"go.uber.org/zap"
)

// cert returns a certificate that ends on a day.
func cert(day int) *x509.Certificate {
	return &x509.Certificate{NotAfter: time.Date(2026, 1, day, 0, 0, 0, 0, time.UTC)}
}

// TestEnds: of one domain the newest certificate counts, of several domains the one
// that ends first, and none while a domain has none.
func TestEnds(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		domains [][]*x509.Certificate
		want    int // 0 is none
	}{
		"no certificate yet":          {[][]*x509.Certificate{nil}, 0},
		"one":                         {[][]*x509.Certificate{{cert(5)}}, 5},
		"a new one behind an old one": {[][]*x509.Certificate{{cert(5), cert(9)}}, 9},
		"an old one behind a new one": {[][]*x509.Certificate{{cert(9), cert(5)}}, 9},
		"two domains":                 {[][]*x509.Certificate{{cert(9)}, {cert(7)}}, 7},
		"two domains, the other way":  {[][]*x509.Certificate{{cert(7)}, {cert(9)}}, 7},
		"the first domain has none":   {[][]*x509.Certificate{nil, {cert(7)}}, 0},
		"the last domain has none":    {[][]*x509.Certificate{{cert(7)}, nil}, 0},
		"one of two was renewed":      {[][]*x509.Certificate{{cert(3), cert(8)}, {cert(7)}}, 7},
	} {
		var newest []*x509.Certificate
		for _, certs := range r.domains {
			newest = append(newest, endsLast(certs))
		}
		got := endsFirst(newest)
		if (got == nil) != (r.want == 0) || got != nil && got.NotAfter.Day() != r.want {
			t.Errorf("%s: %v, want the one of day %d", name, got, r.want)
		}
	}
}

// TestStartWithoutCA: Start does not wait for the CA. While there is no certificate, a
// handshake fails, and current says that there is none.
func TestStartWithoutCA(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 1)
	ca := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		select {
		case asked <- struct{}{}:
		default:
		}
		http.Error(w, "out of order", http.StatusServiceUnavailable)
	}))
	defer ca.Close()
	roots := x509.NewCertPool()
	roots.AddCert(ca.Certificate())
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	config, current, err := Start(ctx, ln, Options{Domains: []string{"bridge.test"}, CA: ca.URL, Roots: roots, Dir: t.TempDir()},
		[]string{"h2"}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if config.MinVersion != tls.VersionTLS12 || !slices.Equal(config.NextProtos, []string{"h2", "acme-tls/1"}) {
		t.Errorf("version %x, protocols %v", config.MinVersion, config.NextProtos)
	}
	if cert := current(); cert != nil {
		t.Error(cert.Subject)
	}
	select {
	case <-asked:
	case <-time.After(20 * time.Second):
		t.Error("nobody asks the CA")
	}
	client, server := net.Pipe()
	defer client.Close()
	go func() {
		_ = tls.Server(server, config).Handshake() // the client sees the alert
		server.Close()
	}()
	if err := tls.Client(client, &tls.Config{ServerName: "bridge.test", RootCAs: roots}).Handshake(); err == nil {
		t.Error("a handshake succeeds without a certificate")
	}
}
