package e2e

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/authority"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go"
)

// serial returns the serial number of the bridge's certificate, and the protocol that client and bridge agreed on.
func serial(t *testing.T, client *http.Client, url string) (*big.Int, string) {
	t.Helper()
	client.CloseIdleConnections()
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	return resp.TLS.PeerCertificates[0].SerialNumber, resp.Proto
}

// TestTLS serves HTTPS, replaces the certificate while the bridge runs, and asks clients for a certificate.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := authority.New(t, "ca"), authority.New(t, "stranger")
	k := &kubernetes{t: t, dir: t.TempDir()}
	cert, key := ca.Issue("127.0.0.1")
	k.put(map[string]string{"tls.crt": cert, "tls.key": key, "ca.crt": ca.PEM})
	path := func(name string) string { return filepath.Join(k.dir, name) }
	b := process.Start(t,
		process.Options{Args: []string{"--tls-cert", path("tls.crt"), "--tls-key", path("tls.key"), "--tls-client-ca", path("ca.crt")}})
	if !strings.HasPrefix(b.Webhook, "https://") {
		t.Fatal(b.Webhook)
	}
	mine, mineKey := ca.Issue("sender")
	client := ca.Client(mine, mineKey, 0)
	if code, err := deliver(client, b.Webhook, process.Secret, "a"); code != 200 || err != nil {
		t.Fatal(code, err)
	}
	files := func(name, text string) string {
		t.Helper()
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	send := []string{"send", "--url", b.Webhook, "--ca", path("ca.crt"), "--cert", files("mine.crt", mine),
		"--key", files("mine.key", mineKey)}
	if out, stderr, code := process.Run(t, nil, send...); code != 0 || !strings.HasPrefix(out, "200 ") {
		t.Errorf("exit %d: %s%s", code, out, stderr)
	}
	if _, stderr, code := process.Run(t, nil, send[:3]...); code != 1 || !strings.Contains(stderr, "give --ca") {
		t.Errorf("exit %d: %s", code, stderr)
	}
	if _, stderr, code := process.Run(t, nil, send[:5]...); code != 1 { // it may be reset before it has read why
		t.Errorf("exit %d: %s", code, stderr)
	}
	first, proto := serial(t, client, b.Webhook)
	if proto != "HTTP/2.0" {
		t.Error(proto)
	}
	theirs, theirKey := stranger.Issue("sender")
	for name, c := range map[string]*http.Client{
		"without a certificate": ca.Client("", "", 0), "with a stranger's": ca.Client(theirs, theirKey, 0),
		"over TLS 1.1": ca.Client(mine, mineKey, tls.VersionTLS11),
	} {
		if code, err := deliver(c, b.Webhook, process.Secret, "b"); err == nil {
			t.Errorf("%s: %d", name, code)
		}
	}
	if code, err := deliver(http.DefaultClient, strings.Replace(b.Webhook, "https", "http", 1), process.Secret, "c"); code == 200 {
		t.Error("plain HTTP is served", err)
	}
	// A pair that does not fit changes nothing.
	other, otherKey := ca.Issue("127.0.0.1")
	k.put(map[string]string{"tls.crt": other, "tls.key": key, "ca.crt": ca.PEM})
	await(t, "the pair that does not fit is not reported",
		func() bool { return strings.Contains(get(t, b.Admin+"/readyz"), "certificate: not reloaded") })
	if now, _ := serial(t, client, b.Webhook); now.Cmp(first) != 0 {
		t.Error("another certificate is shown")
	}
	k.put(map[string]string{"tls.crt": other, "tls.key": otherKey, "ca.crt": stranger.PEM})
	await(t, "the new certificate is not in force", func() bool { return !strings.Contains(get(t, b.Admin+"/readyz"), "not reloaded") })
	if now, _ := serial(t, ca.Client(theirs, theirKey, 0), b.Webhook); now.Cmp(first) == 0 {
		t.Error("the old certificate is shown")
	}
	if _, err := deliver(ca.Client(mine, mineKey, 0), b.Webhook, process.Secret, "d"); err == nil {
		t.Error("who was trusted before still is")
	}
	b.Stop(t)
}

// TestDrainHTTP2 stops a bridge while a client sends over one HTTP/2 connection. The client cannot repeat its requests. During the delay
// no request is refused, and the client keeps its connection.
func TestDrainHTTP2(t *testing.T) {
	t.Parallel()
	ca := authority.New(t, "ca")
	dir := t.TempDir()
	cert, key := ca.Issue("127.0.0.1")
	for name, text := range map[string]string{"crt": cert, "key": key} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := process.Start(t,
		process.Options{Args: []string{"--tls-cert", filepath.Join(dir, "crt"), "--tls-key", filepath.Join(dir, "key"), "--drain-delay", "4s"}})
	client := ca.Client("", "", 0)
	var dialled atomic.Int64
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialled.Add(1)
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	var n atomic.Int64
	send := func() (int, error) {
		r := traffic.Request(b.Webhook, process.Secret, fmt.Sprintf(`{"id":"h2-%d","status":"COMPLETED"}`, n.Add(1)))
		r.GetBody = nil // the client cannot send the request again
		code, _, err := traffic.Send(client, r)
		return code, err
	}
	if code, err := send(); code != 200 {
		t.Fatal(code, err)
	}
	b.Signal(t, syscall.SIGTERM)
	await(t, "it does not drain", func() bool { return strings.Contains(get(t, b.Admin+"/readyz"), `"draining"`) })
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				if code, err := send(); code != 200 {
					t.Error(code, err)
				}
			}
		})
	}
	wg.Wait()
	if dialled.Load() != 1 {
		t.Errorf("%d connections", dialled.Load())
	}
	if state := b.Wait(t); state.ExitCode() != 0 {
		t.Error(state)
	}
}

// TestAdminTLS: the admin listener answers a client with a certificate or with the token. Any other client only gets the state.
func TestAdminTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := authority.New(t, "ca"), authority.New(t, "stranger")
	dir := t.TempDir()
	put := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, key := ca.Issue("bridge.example")
	mine, mineKey := ca.Issue("operator")
	theirs, theirKey := stranger.Issue("operator")
	token := put("token", "0123456789abcdef\n")
	b := process.Start(t, process.Options{Args: []string{"--admin-tls-cert", put("tls.crt", cert), "--admin-tls-key", put("tls.key", key),
		"--admin-tls-client-ca", put("ca.crt", ca.PEM), "--admin-token-file", token}})
	port := b.Admin[strings.LastIndex(b.Admin, ":"):]
	elsewhere := func(cert, key, path string) (int, error) {
		client := ca.Client(cert, key, 0)
		client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, "127.0.0.1"+port)
		}
		resp, err := client.Get("https://bridge.example" + port + path)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	for _, c := range []struct {
		who, cert, key, path string
		want                 int
	}{
		{"nobody", "", "", "/healthz", 200},
		{"nobody", "", "", "/metrics", 200},
		{"nobody", "", "", "/config", 403},
		{"a stranger", theirs, theirKey, "/config", 403},
		{"an operator", mine, mineKey, "/config", 200},
		{"an operator", mine, mineKey, "/quarantine", 200},
	} {
		if code, err := elsewhere(c.cert, c.key, c.path); code != c.want {
			t.Errorf("%s at %s: %d %v, want %d", c.who, c.path, code, err, c.want)
		}
	}
	// The commands, of which each has the same flags.
	admin := []string{"--admin", b.Admin, "--admin-server-name", "bridge.example"}
	for name, c := range map[string]struct {
		args []string
		want string // of stderr; empty if it works
	}{
		"not checked": {nil, "certificate"},
		"with the CA": {[]string{"--admin-ca", put("ca.crt", ca.PEM)}, ""},
		"with a certificate": {[]string{"--admin-ca", put("ca.crt", ca.PEM), "--admin-cert", put("op.crt", mine),
			"--admin-key", put("op.key", mineKey)}, ""},
		"without its key":      {[]string{"--admin-ca", put("ca.crt", ca.PEM), "--admin-cert", put("op.crt", mine)}, "--admin-key"},
		"with a wrong CA":      {[]string{"--admin-ca", put("other.crt", stranger.PEM)}, "certificate"},
		"with a CA that is no": {[]string{"--admin-ca", token}, "no certificate"},
	} {
		for _, command := range [][]string{{"health"}, {"config", "running"}, {"quarantine", "list"}} {
			_, stderr, code := process.Run(t, nil, slices.Concat(command, admin, c.args)...)
			if (code == 0) != (c.want == "") || !strings.Contains(stderr, c.want) {
				t.Errorf("%s %s: exit %d: %s, want %q", name, command, code, stderr, c.want)
			}
		}
	}
	b.Stop(t)
}

// TestNATSTLS serves workers over TLS. The workers have certificates besides their passwords, and the bridge replaces its own certificate
// while it runs.
func TestNATSTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := authority.New(t, "ca"), authority.New(t, "stranger")
	k := &kubernetes{t: t, dir: t.TempDir()}
	cert, key := ca.Issue("127.0.0.1")
	k.put(map[string]string{"tls.crt": cert, "tls.key": key, "ca.crt": ca.PEM, "workers": "ann:one\n"})
	path := func(name string) string { return filepath.Join(k.dir, name) }
	b := process.Start(t, process.Options{Args: []string{"--nats-tls-cert", path("tls.crt"), "--nats-tls-key", path("tls.key"),
		"--nats-tls-client-ca", path("ca.crt"), "--nats-auth-file", path("workers")}})
	if !strings.HasPrefix(b.NATS, "tls://") {
		t.Fatal(b.NATS)
	}
	connect := func(ca *authority.Authority, user, password, cert, key string) (*tls.ConnectionState, error) {
		nc, err := nats.Connect(b.NATS, nats.UserInfo(user, password), nats.NoReconnect(),
			nats.Secure(ca.Client(cert, key, 0).Transport.(*http.Transport).TLSClientConfig))
		if err != nil {
			return nil, err
		}
		defer nc.Close()
		state, err := nc.TLSConnectionState()
		return &state, errors.Join(err, nc.Flush())
	}
	mine, mineKey := ca.Issue("worker")
	theirs, theirKey := stranger.Issue("worker")
	state, err := connect(ca, "ann", "one", mine, mineKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := connect(ca, "ann", "two", mine, mineKey); err == nil {
		t.Error("a certificate replaces the password")
	}
	if _, err := connect(ca, "ann", "one", "", ""); err == nil {
		t.Error("the password replaces the certificate")
	}
	if _, err := connect(ca, "ann", "one", theirs, theirKey); err == nil {
		t.Error("a stranger's certificate")
	}
	// The certificate, its CA and the workers change in the same breath.
	other, otherKey := stranger.Issue("127.0.0.1")
	k.put(map[string]string{"tls.crt": other, "tls.key": otherKey, "ca.crt": stranger.PEM, "workers": "bob:two\n"})
	await(t, "nothing was read again", func() bool { return strings.Count(b.Log(), `"reloaded"`) == 2 })
	now, err := connect(stranger, "bob", "two", theirs, theirKey)
	if err != nil {
		t.Fatal(err)
	}
	if now.PeerCertificates[0].Equal(state.PeerCertificates[0]) {
		t.Error("the old certificate is shown")
	}
	if code, err := post(b.Webhook, "a", 0); code != 200 {
		t.Error(code, err)
	}
	b.Stop(t)
}

// TestCertificateEnds: the bridge reports certificates that have ended or will end soon, and keeps serving.
func TestCertificateEnds(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	ca := authority.New(t, "ca")
	k := &kubernetes{t: t, dir: t.TempDir()}
	put := func(since, left time.Duration) {
		ca.Since, ca.Left = since, left
		cert, key := ca.Issue("127.0.0.1")
		k.put(map[string]string{"tls.crt": cert, "tls.key": key})
	}
	put(-90*day, -day)
	cert, key := filepath.Join(k.dir, "tls.crt"), filepath.Join(k.dir, "tls.key")
	b := process.Start(t,
		process.Options{Args: []string{"--tls-cert", cert, "--tls-key", key, "--nats-tls-cert", cert, "--nats-tls-key", key}})
	var left time.Duration
	said := func() string {
		left = time.Until(time.Unix(int64(metric(t, b, `jobbridge_tls_certificate_expiry_timestamp_seconds{listener="nats"}`)),
			0)).Round(time.Hour)
		resp, err := http.Get(b.Admin + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("/readyz: %d", resp.StatusCode)
		}
		data, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if got := said(); left != -day || strings.Count(got, "it expired at") != 2 ||
		!strings.Contains(got, "certificate of the webhook listener") || !strings.Contains(got, `"state":"ready"`) {
		t.Errorf("%s left: %s", left, got)
	}
	if !strings.Contains(b.Log(), "certificate of the nats listener: it expired") {
		t.Error("the log does not say so")
	}
	put(-84*day, 6*day)
	await(t, "the end that is near is not reported", func() bool { return strings.Count(said(), "it expires at") == 2 && left == 6*day })
	if !strings.Contains(b.Log(), "certificate of the webhook listener: it expires at") {
		t.Error("the log does not say so")
	}
	put(-time.Hour, day) // made for little more than a day
	await(t, "what is made for a day is reported", func() bool { return !strings.Contains(said(), "certificate") && left == day })
	b.Stop(t)
}

// TestNoCertificateYet: a bridge that cannot reach its CA says that it has no certificate yet.
func TestNoCertificateYet(t *testing.T) {
	t.Parallel()
	b := process.Start(t, process.Options{Args: []string{"--acme-domain", "bridge.test,other.test", "--acme-ca", "https://127.0.0.1:1/dir"}})
	const gauge = `jobbridge_tls_certificate_expiry_timestamp_seconds{listener="webhook"}`
	if got := get(t, b.Admin+"/readyz"); metric(t, b, gauge) != 0 ||
		!strings.Contains(got, "no certificate for bridge.test, other.test yet") || !strings.Contains(got, `"state":"ready"`) {
		t.Error(metric(t, b, gauge), got)
	}
	b.Stop(t)
}

// metric returns the value of one line of /metrics. It fails the test if the line is missing.
func metric(t *testing.T, b *process.Bridge, series string) float64 {
	t.Helper()
	all := get(t, b.Admin+"/metrics")
	for line := range strings.Lines(all) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(rest), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("no %s in\n%s", series, all)
	return 0
}
