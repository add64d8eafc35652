// Package authority is a certificate authority for tests. Its keys are elliptic, because RSA keys take long to make.
package authority

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Authority issues certificates.
type Authority struct {
	// PEM is the authority's own certificate.
	PEM string
	// Since and Left say when a certificate becomes valid and when it ends, counted from the moment of its issue. [New] sets them to one hour
	// before and one hour after.
	Since, Left time.Duration

	t      testing.TB
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	serial int64
	dir    string
}

// New returns an authority with a name.
func New(t testing.TB, name string) *Authority {
	t.Helper()
	a := &Authority{t: t, Since: -time.Hour, Left: time.Hour, key: must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
	template := a.template(name)
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	der := must[[]byte](t)(x509.CreateCertificate(rand.Reader, template, template, &a.key.PublicKey, a.key))
	a.cert = must[*x509.Certificate](t)(x509.ParseCertificate(der))
	a.PEM = encode("CERTIFICATE", der)
	return a
}

// template returns what all certificates of the authority have in common.
func (a *Authority) template(name string) *x509.Certificate {
	a.serial++
	now := time.Now()
	return &x509.Certificate{SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(a.Since), NotAfter: now.Add(a.Left)}
}

// Issue returns a certificate for hosts, which are names or addresses, and its key. Servers and clients may use it.
func (a *Authority) Issue(hosts ...string) (cert, key string) {
	a.t.Helper()
	template := a.template(hosts[0])
	template.KeyUsage, template.ExtKeyUsage = x509.KeyUsageDigitalSignature,
		[]x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	k := must[*ecdsa.PrivateKey](a.t)(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	der := must[[]byte](a.t)(x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key))
	return encode("CERTIFICATE", der), encode("EC PRIVATE KEY", must[[]byte](a.t)(x509.MarshalECPrivateKey(k)))
}

// Files is Issue with the certificate and its key in files.
func (a *Authority) Files(hosts ...string) (cert, key string) {
	a.t.Helper()
	certPEM, keyPEM := a.Issue(hosts...)
	return a.write(hosts[0]+".crt", certPEM), a.write(hosts[0]+".key", keyPEM)
}

// File returns the path of a file with the authority's own certificate.
func (a *Authority) File() string { a.t.Helper(); return a.write("ca.crt", a.PEM) }

func (a *Authority) write(name, text string) string {
	a.t.Helper()
	if a.dir == "" {
		a.dir = a.t.TempDir()
	}
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// Client returns a client that trusts the authority. The client shows the certificate, unless cert is empty. It speaks TLS up to version,
// and 0 means the newest version.
func (a *Authority) Client(cert, key string, version uint16) *http.Client {
	a.t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	config := &tls.Config{RootCAs: pool, MaxVersion: version} //nolint:gosec // a test shows that the bridge refuses old versions
	if cert != "" {
		config.Certificates = []tls.Certificate{must[tls.Certificate](a.t)(tls.X509KeyPair([]byte(cert), []byte(key)))}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
}

func encode(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
