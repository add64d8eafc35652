package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
)

// sign posts a small event signed with a secret and returns the answer's code.
func signed(client *http.Client, url, secret, id string) (int, error) {
	body := fmt.Sprintf(`{"id":%q,"status":"COMPLETED"}`, id)
	req, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set(verify.HeaderName, verify.Sign(secret, time.Now(), []byte(body)))
	resp, err := client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// kubernetes is a mounted Secret: files are links into ..data, which is itself a
// link that is replaced in one rename.
type kubernetes struct {
	t   *testing.T
	dir string
	n   int
}

func (k *kubernetes) put(files map[string]string) {
	k.t.Helper()
	k.n++
	version := fmt.Sprintf("..version-%d", k.n)
	must := func(err error) {
		if err != nil {
			k.t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(k.dir, version), 0o700))
	for name, text := range files {
		must(os.WriteFile(filepath.Join(k.dir, version, name), []byte(text), 0o600))
	}
	must(os.Symlink(version, filepath.Join(k.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(k.dir, "..data_tmp"), filepath.Join(k.dir, "..data")))
	if k.n == 1 {
		for name := range files {
			must(os.Symlink(filepath.Join("..data", name), filepath.Join(k.dir, name)))
		}
		return
	}
	must(os.RemoveAll(filepath.Join(k.dir, fmt.Sprintf("..version-%d", k.n-1))))
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// await polls until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

// TestSecretsRotate rotates the secret as Kubernetes does, under load: first
// both, then the new one alone. Nothing is refused.
func TestSecretsRotate(t *testing.T) {
	t.Parallel()
	k := &kubernetes{t: t, dir: t.TempDir()}
	k.put(map[string]string{"secret": "whsec_old\n"})
	b := process.Start(t, process.Options{Args: []string{"--secret-file", filepath.Join(k.dir, "secret")}, Env: []string{"SYNC_WEBHOOK_SECRET="}})
	var secret atomic.Pointer[string]
	use := func(s string) { secret.Store(&s) }
	use("whsec_old")
	stop := make(chan struct{})
	var sent atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if code, err := signed(http.DefaultClient, b.Webhook, *secret.Load(), fmt.Sprintf("w%d-%d", w, i)); err != nil || code != 200 {
					t.Error(code, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	more := func() {
		n := sent.Load() + 100
		await(t, "the load has stopped", func() bool { return sent.Load() >= n || t.Failed() })
	}
	counts := func(secret string) string {
		for line := range strings.Lines(get(t, b.Admin+"/metrics")) {
			if rest, ok := strings.CutPrefix(line, fmt.Sprintf("jobbridge_secret_deliveries_total{secret=%q} ", verify.Fingerprint(secret))); ok {
				return rest
			}
		}
		return ""
	}
	more()
	k.put(map[string]string{"secret": "whsec_new\nwhsec_old\n"})
	await(t, "both secrets are not in force", func() bool { return strings.Count(b.Log(), `"reloaded"`) == 1 })
	use("whsec_new")
	more()
	if counts("whsec_new") == "" || counts("whsec_old") == "" {
		t.Error("the metric does not tell the secrets apart")
	}
	k.put(map[string]string{"secret": "whsec_new\n"})
	await(t, "the new secret is not in force alone", func() bool { return strings.Count(b.Log(), `"reloaded"`) == 2 })
	was := counts("whsec_old")
	more()
	close(stop)
	wg.Wait()
	if now := counts("whsec_old"); now != was {
		t.Errorf("the old secret counts on: %s, %s", was, now)
	}
	if code, err := signed(http.DefaultClient, b.Webhook, "whsec_old", "late"); code != 400 || err != nil {
		t.Error("the old secret is still good:", code, err)
	}
	if log := b.Log(); strings.Contains(log, "whsec_") {
		t.Error("a secret is in the log")
	}
	b.Stop(t)
}

// TestBadReload keeps what was in force when the file is no good, says so until
// it is mended, and reads it again at SIGHUP.
func TestBadReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("whsec_a")
	b := process.Start(t, process.Options{Args: []string{"--secret-file", file}, Env: []string{"SYNC_WEBHOOK_SECRET="}})
	ready := func() string { return get(t, b.Admin+"/readyz") }
	put("\n")
	await(t, "an empty file is not reported", func() bool { return strings.Contains(ready(), "secrets: not reloaded") })
	if code, err := signed(http.DefaultClient, b.Webhook, "whsec_a", "1"); code != 200 {
		t.Fatal(code, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b.Signal(t, syscall.SIGHUP)
	await(t, "a missing file is not reported", func() bool { return strings.Contains(ready(), "no such file") })
	if code, err := signed(http.DefaultClient, b.Webhook, "whsec_a", "2"); code != 200 {
		t.Fatal(code, err)
	}
	put("whsec_b")
	await(t, "the mended file is not in force", func() bool { return !strings.Contains(ready(), "not reloaded") })
	if code, err := signed(http.DefaultClient, b.Webhook, "whsec_b", "3"); code != 200 {
		t.Fatal(code, err)
	}
	b.Stop(t)
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
	n    int64
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	a := &authority{t: t, n: 1}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	a.key = newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.pem = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// issue returns a certificate and its key for names, of which some may be
// addresses.
func (a *authority) issue(names ...string) (cert, key string) {
	a.t.Helper()
	a.n++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.n), Subject: pkix.Name{CommonName: names[0]}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, name := range names {
		if ip := net.ParseIP(name); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	k := newKey(a.t)
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER}))
}

// client trusts the authority, and shows a certificate if there is one.
func (a *authority) client(cert, key string, version uint16) *http.Client {
	a.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	config := &tls.Config{RootCAs: pool, MaxVersion: version} //nolint:gosec // the server is to refuse old ones
	if cert != "" {
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			a.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
}

// serial returns the number of the certificate that the bridge shows, and the
// protocol that was agreed on.
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

// TestTLS serves HTTPS, replaces the certificate under way, and asks clients for
// theirs.
func TestTLS(t *testing.T) {
	t.Parallel()
	ca, stranger := newAuthority(t, "ca"), newAuthority(t, "stranger")
	k := &kubernetes{t: t, dir: t.TempDir()}
	cert, key := ca.issue("127.0.0.1")
	k.put(map[string]string{"tls.crt": cert, "tls.key": key, "ca.crt": ca.pem})
	path := func(name string) string { return filepath.Join(k.dir, name) }
	b := process.Start(t, process.Options{Args: []string{"--tls-cert", path("tls.crt"), "--tls-key", path("tls.key"), "--tls-client-ca", path("ca.crt")}})
	if !strings.HasPrefix(b.Webhook, "https://") {
		t.Fatal(b.Webhook)
	}
	mine, mineKey := ca.issue("sender")
	client := ca.client(mine, mineKey, 0)
	if code, err := signed(client, b.Webhook, process.Secret, "a"); code != 200 || err != nil {
		t.Fatal(code, err)
	}
	first, proto := serial(t, client, b.Webhook)
	if proto != "HTTP/2.0" {
		t.Error(proto)
	}
	theirs, theirKey := stranger.issue("sender")
	for name, c := range map[string]*http.Client{
		"without a certificate": ca.client("", "", 0), "with a stranger's": ca.client(theirs, theirKey, 0), "over TLS 1.1": ca.client(mine, mineKey, tls.VersionTLS11),
	} {
		if code, err := signed(c, b.Webhook, process.Secret, "b"); err == nil {
			t.Errorf("%s: %d", name, code)
		}
	}
	if code, err := signed(http.DefaultClient, strings.Replace(b.Webhook, "https", "http", 1), process.Secret, "c"); code == 200 {
		t.Error("plain HTTP is served", err)
	}
	// A pair that does not fit changes nothing.
	other, otherKey := ca.issue("127.0.0.1")
	k.put(map[string]string{"tls.crt": other, "tls.key": key, "ca.crt": ca.pem})
	await(t, "the pair that does not fit is not reported", func() bool { return strings.Contains(get(t, b.Admin+"/readyz"), "certificate: not reloaded") })
	if now, _ := serial(t, client, b.Webhook); now.Cmp(first) != 0 {
		t.Error("another certificate is shown")
	}
	k.put(map[string]string{"tls.crt": other, "tls.key": otherKey, "ca.crt": stranger.pem})
	await(t, "the new certificate is not in force", func() bool { return !strings.Contains(get(t, b.Admin+"/readyz"), "not reloaded") })
	if now, _ := serial(t, ca.client(theirs, theirKey, 0), b.Webhook); now.Cmp(first) == 0 {
		t.Error("the old certificate is shown")
	}
	if _, err := signed(ca.client(mine, mineKey, 0), b.Webhook, process.Secret, "d"); err == nil {
		t.Error("who was trusted before still is")
	}
	b.Stop(t)
}

// TestWorkersReload takes a worker out of the file: it is disconnected.
func TestWorkersReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "workers")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("ann:one\nbob:two\n")
	b := process.Start(t, process.Options{Args: []string{"--nats-auth-file", file}})
	gone := make(chan struct{})
	bob, err := nats.Connect(b.NATS, nats.UserInfo("bob", "two"), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(gone) }))
	if err != nil {
		t.Fatal(err)
	}
	defer bob.Close()
	ann, err := nats.Connect(b.NATS, nats.UserInfo("ann", "one"))
	if err != nil {
		t.Fatal(err)
	}
	defer ann.Close()
	put("ann:one\nbob\n")
	await(t, "a bad line is not reported", func() bool { return strings.Contains(get(t, b.Admin+"/readyz"), "workers: not reloaded") })
	put("ann:one\n")
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Fatal("bob is still connected")
	}
	if err := ann.Flush(); err != nil || ann.Stats().Reconnects != 0 {
		t.Error("ann was disturbed", err)
	}
	if code, err := post(b.Webhook, "a", 0); code != 200 {
		t.Error(code, err)
	}
	b.Stop(t)
}
