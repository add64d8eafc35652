// Package acme gets certificates for a listener from a CA that speaks ACME. The CA checks a domain with the challenge
// TLS-ALPN, which the listener itself answers.
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

// Start gets certificates and renews them until ctx ends, and returns how the listener speaks TLS. A handshake fails
// until the certificate of its domain has come. current returns the certificate that ends first, or nil while a domain
// has none.
func Start(ctx context.Context, ln net.Listener, o Options, protocols []string, log *zap.Logger) (
	config *tls.Config, current func() *x509.Certificate, err error,
) {
	issuer := certmagic.ACMEIssuer{
		CA: cmp.Or(o.CA, DefaultCA), Email: o.Email, TrustedRoots: o.Roots, Agreed: true, DisableHTTPChallenge: true, Logger: log.Named("acme"),
	}
	// Without the port of our listener, certmagic would open one of its own for the challenge.
	if addr, ok := ln.Addr().(*net.TCPAddr); ok {
		issuer.AltTLSALPNPort = addr.Port
	}
	var magic *certmagic.Config
	cache := certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return magic, nil }, Logger: log.Named("acme"),
	})
	context.AfterFunc(ctx, cache.Stop)
	magic = certmagic.New(cache, certmagic.Config{Storage: &certmagic.FileStorage{Path: o.Dir}, Logger: log.Named("acme")})
	magic.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(magic, issuer)}
	if err := magic.ManageAsync(ctx, o.Domains); err != nil {
		return nil, nil, err
	}
	config = magic.TLSConfig()
	config.MinVersion = tls.VersionTLS12
	config.NextProtos = append(slices.Clone(protocols), config.NextProtos...)
	return config, func() *x509.Certificate {
		var newest []*x509.Certificate
		for _, domain := range o.Domains {
			var all []*x509.Certificate
			for _, cert := range cache.AllMatchingCertificates(domain) {
				all = append(all, cert.Leaf)
			}
			newest = append(newest, endsLast(all))
		}
		return endsFirst(newest)
	}, nil
}

// endsLast returns the certificate that ends last, or nil if there is none. A domain has several while a new
// certificate replaces an old one.
func endsLast(certs []*x509.Certificate) (last *x509.Certificate) {
	for _, cert := range certs {
		if last == nil || cert.NotAfter.After(last.NotAfter) {
			last = cert
		}
	}
	return last
}

// endsFirst returns the certificate that ends first, or nil if one of them is nil.
func endsFirst(certs []*x509.Certificate) (first *x509.Certificate) {
	for _, cert := range certs {
		if cert == nil {
			return nil
		}
		if first == nil || cert.NotAfter.Before(first.NotAfter) {
			first = cert
		}
	}
	return first
}
