package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
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

// acme gets certificates and renews them until ctx ends. Until the first is
// there, handshakes fail.
func (f acmeFlags) acme(ctx context.Context, ln net.Listener, dataDir string, log *zap.Logger) (*tls.Config, error) {
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
	config.NextProtos = append(overHTTP[:len(overHTTP):len(overHTTP)], config.NextProtos...)
	return config, nil
}
