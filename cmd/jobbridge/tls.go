package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// tlsFlags make the webhook listener speak HTTPS: with certificates from files,
// or with its own from a CA that speaks ACME.
type tlsFlags struct {
	TLSCert     string   `name:"tls-cert" help:"Certificate chain of the webhook listener (PEM), which then speaks HTTPS. Read again when it changes." placeholder:"FILE" type:"path"`
	TLSKey      string   `name:"tls-key" help:"Key of --tls-cert." placeholder:"FILE" type:"path"`
	TLSClientCA string   `name:"tls-client-ca" help:"Certificates of the CAs whose clients may connect; nobody else may." placeholder:"FILE" type:"path"`
	AcmeDomain  []string `help:"Domains to get a certificate for by ACME (TLS-ALPN): port 443 of each must lead to the webhook listener. Implies that you agree to the CA's terms." placeholder:"NAME"`
	AcmeEmail   string   `help:"Where the CA reaches you." placeholder:"ADDRESS"`
	AcmeCA      string   `name:"acme-ca" help:"ACME directory of the CA." default:"https://acme-v02.api.letsencrypt.org/directory" placeholder:"URL"`
	AcmeRoot    string   `help:"Certificates that the directory's own is checked against, for a CA of yours." placeholder:"FILE" type:"path"`
	AcmeDir     string   `help:"Folder for the account and the certificates; default: acme in the data folder." placeholder:"DIR" type:"path"`
}

// secure reports whether the listener speaks HTTPS.
func (f tlsFlags) secure() bool { return f.TLSCert != "" || len(f.AcmeDomain) > 0 }

func (f tlsFlags) check() error {
	switch {
	case (f.TLSCert == "") != (f.TLSKey == ""):
		return usage("--tls-cert and --tls-key belong together")
	case f.TLSClientCA != "" && f.TLSCert == "":
		return usage("--tls-client-ca needs --tls-cert")
	case len(f.AcmeDomain) > 0 && f.TLSCert != "":
		return usage("--acme-domain and --tls-cert exclude each other")
	}
	return nil
}

// certificates are those of the files, as they were last read.
type certificates struct {
	tlsFlags
	now  [3][]byte
	tls  atomic.Pointer[tls.Config]
	part reloaded
}

func newCertificates(f tlsFlags) (*certificates, error) {
	c := &certificates{tlsFlags: f}
	if _, err := c.load(); err != nil {
		return nil, usageError{err}
	}
	files := []string{f.TLSCert, f.TLSKey}
	if f.TLSClientCA != "" {
		files = append(files, f.TLSClientCA)
	}
	c.part = reloaded{"certificate", files, c.load}
	return c, nil
}

// load reads the files and puts them in force, if they fit together.
func (c *certificates) load() (bool, error) {
	var files [3][]byte
	for i, path := range []string{c.TLSCert, c.TLSKey, c.TLSClientCA} {
		if path == "" {
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return false, fmt.Errorf("--tls-cert, --tls-key, --tls-client-ca: %w", err)
		}
		files[i] = data
	}
	if bytes.Equal(files[0], c.now[0]) && bytes.Equal(files[1], c.now[1]) && bytes.Equal(files[2], c.now[2]) {
		return false, nil
	}
	cert, err := tls.X509KeyPair(files[0], files[1])
	if err != nil {
		return false, fmt.Errorf("--tls-cert %s and --tls-key %s: %w", c.TLSCert, c.TLSKey, err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{cert}}
	if c.TLSClientCA != "" {
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), tls.RequireAndVerifyClientCert
		if !config.ClientCAs.AppendCertsFromPEM(files[2]) {
			return false, fmt.Errorf("--tls-client-ca %s: no certificate in it", c.TLSClientCA)
		}
	}
	c.now = files
	c.tls.Store(config)
	return true, nil
}

// protocols are those offered in a handshake.
var protocols = []string{"h2", "http/1.1"}

// config is for the listener: each handshake uses what is in force then.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.tls.Load(), nil },
	}
}

// acme gets certificates and renews them until ctx ends. Until the first is
// there, handshakes fail.
func (f tlsFlags) acme(ctx context.Context, ln net.Listener, dataDir string, log *zap.Logger) (*tls.Config, error) {
	dir := f.AcmeDir
	if dir == "" {
		if dataDir == "" {
			return nil, usage("--acme-domain needs a folder for the certificates: --acme-dir or --data-dir")
		}
		dir = filepath.Join(dataDir, "acme")
	}
	template := certmagic.ACMEIssuer{CA: f.AcmeCA, Email: f.AcmeEmail, Agreed: true, DisableHTTPChallenge: true, Logger: log.Named("acme")}
	if f.AcmeRoot != "" {
		data, err := os.ReadFile(f.AcmeRoot)
		if err != nil {
			return nil, usage("--acme-root: %w", err)
		}
		template.TrustedRoots = x509.NewCertPool()
		if !template.TrustedRoots.AppendCertsFromPEM(data) {
			return nil, usage("--acme-root %s: no certificate in it", f.AcmeRoot)
		}
	}
	// Our own listener answers the challenge; this is where it is.
	if addr, ok := ln.Addr().(*net.TCPAddr); ok {
		template.AltTLSALPNPort = addr.Port
	}
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil }, Logger: log.Named("acme"),
	})
	context.AfterFunc(ctx, cache.Stop)
	magic = certmagic.New(cache, certmagic.Config{Storage: &certmagic.FileStorage{Path: dir}, Logger: log.Named("acme")})
	magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(magic, template)}
	if err := magic.ManageAsync(ctx, f.AcmeDomain); err != nil {
		return nil, fmt.Errorf("--acme-domain: %w", err)
	}
	config := magic.TLSConfig()
	config.MinVersion = tls.VersionTLS12
	config.NextProtos = append(protocols[:len(protocols):len(protocols)], config.NextProtos...)
	return config, nil
}
