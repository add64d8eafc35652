package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"path/filepath"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// acmeFlags make the webhook listener speak TLS with certificates of its own,
// from a CA that speaks ACME.
type acmeFlags struct {
	AcmeDomain []string `help:"Domains to get a certificate for by ACME (TLS-ALPN): port 443 of each must lead to the webhook listener. Implies that you agree to the CA's terms." placeholder:"NAME"`
	AcmeEmail  string   `help:"Where the CA reaches you." placeholder:"ADDRESS"`
	AcmeCA     string   `name:"acme-ca" help:"ACME directory of the CA." default:"https://acme-v02.api.letsencrypt.org/directory" placeholder:"URL"`
	AcmeRoot   string   `help:"Certificates that the directory's own is checked against, for a CA of yours." placeholder:"FILE" type:"path"`
	AcmeDir    string   `help:"Folder for the account and the certificates; default: acme in the data folder." placeholder:"DIR" type:"path"`
}

// checkACME refuses what can never work, and returns the folder for certificates
// and the CA's own authorities, nil for the system's.
func (c *serveCmd) checkACME() (dir string, roots *x509.CertPool, err error) {
	if len(c.AcmeDomain) == 0 {
		return "", nil, nil
	}
	switch dir = c.AcmeDir; {
	case dir != "":
	case c.DataDir != "":
		dir = filepath.Join(c.DataDir, "acme")
	default:
		return "", nil, usage("--acme-domain needs a folder for the certificates: --acme-dir or --data-dir")
	}
	if u, err := url.Parse(c.AcmeCA); err != nil || u.Host == "" || u.User != nil {
		return "", nil, usage("--acme-ca: want a URL such as https://ca.example/directory")
	}
	if c.AcmeRoot == "" {
		return dir, nil, nil
	}
	roots, err = readRoots(c.AcmeRoot)
	if err != nil {
		return "", nil, usage("--acme-root: %w", err)
	}
	return dir, roots, nil
}

// readRoots reads certificates of authorities.
func readRoots(path string) (*x509.CertPool, error) {
	text, err := readText(path)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(text)) {
		return nil, fmt.Errorf("%s: no certificate in it", path)
	}
	return roots, nil
}

// acme gets certificates and renews them until ctx ends. Until the first is
// there, handshakes fail. current returns the one of them that ends first, or nil
// while one is missing.
func (c *serveCmd) acme(ctx context.Context, ln net.Listener, log *zap.Logger) (config *tls.Config, current func() *x509.Certificate, err error) {
	dir, roots, err := c.checkACME()
	if err != nil {
		return nil, nil, err
	}
	template := certmagic.ACMEIssuer{CA: c.AcmeCA, Email: c.AcmeEmail, TrustedRoots: roots, Agreed: true, DisableHTTPChallenge: true, Logger: log.Named("acme")}
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
	if err := magic.ManageAsync(ctx, c.AcmeDomain); err != nil {
		return nil, nil, fmt.Errorf("--acme-domain: %w", err)
	}
	config = magic.TLSConfig()
	config.MinVersion = tls.VersionTLS12
	config.NextProtos = append(overHTTP[:len(overHTTP):len(overHTTP)], config.NextProtos...)
	return config, func() (first *x509.Certificate) {
		for _, domain := range c.AcmeDomain {
			var last *x509.Certificate // of the domain, while a new one replaces an old one
			for _, cert := range cache.AllMatchingCertificates(domain) {
				if last == nil || cert.Leaf.NotAfter.After(last.NotAfter) {
					last = cert.Leaf
				}
			}
			if last == nil {
				return nil
			}
			if first == nil || last.NotAfter.Before(first.NotAfter) {
				first = last
			}
		}
		return first
	}, nil
}
