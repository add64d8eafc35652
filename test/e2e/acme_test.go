package e2e

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/authority"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
)

// TestACME gets a certificate from a real ACME server. That server asks a name server, which resolves every name to this machine, and then
// connects to the bridge for the challenge.
func TestACME(t *testing.T) {
	t.Parallel()
	process.Require(t, "pebble")
	process.Require(t, "pebble-challtestsrv")
	dir := t.TempDir()
	ca := authority.New(t, "pebble")
	cert, key := ca.Issue("127.0.0.1")
	webhook, directory, management, dns := natsd.FreePort(t), natsd.FreePort(t), natsd.FreePort(t), natsd.FreePort(t)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": fmt.Sprint("127.0.0.1:", directory), "managementListenAddress": fmt.Sprint("127.0.0.1:", management),
		"certificate": filepath.Join(dir, "cert.pem"), "privateKey": filepath.Join(dir, "key.pem"), "httpPort": 1, "tlsPort": webhook,
		"ocspResponderURL": "", "externalAccountBindingRequired": false,
	}})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{"cert.pem": cert, "key.pem": key, "ca.pem": ca.PEM, "pebble.json": string(config)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		var log process.Buffer
		cmd.Stdout, cmd.Stderr = &log, &log
		cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill() // it may have ended
			_ = cmd.Wait()
			if t.Failed() {
				t.Logf("%s: %s", name, log.String())
			}
		})
	}
	run("pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dnsserver", fmt.Sprint("127.0.0.1:", dns), "-http01", "",
		"-https01", "", "-tlsalpn01", "", "-doh", "", "-management", fmt.Sprint("127.0.0.1:", natsd.FreePort(t)))
	run("pebble", "-config", filepath.Join(dir, "pebble.json"), "-dnsserver", fmt.Sprint("127.0.0.1:", dns))
	pebble := ca.Client("", "", 0)
	await(t, "pebble does not answer", func() bool {
		resp, err := pebble.Get(fmt.Sprintf("https://127.0.0.1:%d/dir", directory))
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	b := process.Start(t, process.Options{Args: []string{
		"--listen", fmt.Sprint("127.0.0.1:", webhook), "--acme-domain", "bridge.test", "--acme-email", "ops@bridge.test",
		"--acme-ca", fmt.Sprintf("https://127.0.0.1:%d/dir", directory), "--acme-root", filepath.Join(dir, "ca.pem"),
	}})
	var root string
	await(t, "pebble has no root", func() bool {
		resp, err := pebble.Get(fmt.Sprintf("https://127.0.0.1:%d/roots/0", management))
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		data := make([]byte, 1<<16)
		n, _ := resp.Body.Read(data)
		root = string(data[:n])
		return n > 0
	})
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(root)) {
		t.Fatal(root)
	}
	client := ca.Client("", "", 0)
	transport := client.Transport.(*http.Transport)
	transport.TLSClientConfig.RootCAs, transport.TLSClientConfig.ServerName = pool, "bridge.test"
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, fmt.Sprint("127.0.0.1:", webhook))
	}
	var code int
	await(t, "there is no certificate", func() bool {
		code, err = deliver(client, "https://bridge.test/webhook", process.Secret, "a")
		return err == nil
	})
	if code != 200 {
		t.Fatal(code)
	}
	end := metric(t, b, `jobbridge_tls_certificate_expiry_timestamp_seconds{listener="webhook"}`)
	if !time.Unix(int64(end), 0).After(time.Now()) {
		t.Error(end)
	}
	if ready := get(t, b.Admin+"/readyz"); strings.Contains(ready, "certificate") {
		t.Error(ready)
	}
	b.Stop(t)
}
