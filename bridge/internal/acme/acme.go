// Package acme gets certificates for a listener from a CA that speaks ACME, by the
// challenge TLS-ALPN, which the listener itself answers.
//
// It leaves to certmagic the protocol and the renewal.
package acme

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// DefaultCA is the ACME directory that is used unless [Options.CA] names one.
const DefaultCA = "https://acme-v02.api.letsencrypt.org/directory"

// Options are those of package bridge, which documents them.
type Options struct {
	Domains []string
	Email   string
	CA      string // empty means [DefaultCA]
	Roots   *x509.CertPool
	Dir     string
}

// Start gets certificates and renews them until ctx ends, and returns how the
// listener speaks TLS. Until the first certificate is there, handshakes fail. current
// returns the certificate that ends first, or nil while one is missing.
func Start(ctx context.Context, ln net.Listener, o Options, protocols []string, log *zap.Logger) (config *tls.Config, current func() *x509.Certificate, err error) {
	template := certmagic.ACMEIssuer{CA: cmp.Or(o.CA, DefaultCA), Email: o.Email, TrustedRoots: o.Roots, Agreed: true, DisableHTTPChallenge: true, Logger: log.Named("acme")}
	// Our own listener answers the challenge; this is where it is.
	if addr, ok := ln.Addr().(*net.TCPAddr); ok {
		template.AltTLSALPNPort = addr.Port
	}
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil }, Logger: log.Named("acme"),
	})
	context.AfterFunc(ctx, cache.Stop)
	magic = certmagic.New(cache, certmagic.Config{Storage: &certmagic.FileStorage{Path: o.Dir}, Logger: log.Named("acme")})
	magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(magic, template)}
	if err := magic.ManageAsync(ctx, o.Domains); err != nil {
		return nil, nil, err
	}
	config = magic.TLSConfig()
	config.MinVersion = tls.VersionTLS12
	config.NextProtos = append(slices.Clone(protocols), config.NextProtos...)
	return config, func() (first *x509.Certificate) {
		for _, domain := range o.Domains {
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
