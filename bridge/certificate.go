package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/acme"
	"github.com/jobbridge/jobbridge/bridge/internal/reload"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/prometheus/client_golang/prometheus"
)

// Certificate is what a listener needs to speak TLS.
type Certificate struct {
	// Certificate is the chain and its private key.
	Certificate tls.Certificate
	// ClientCAs are the authorities that sign the certificates of clients. nil means that clients are not asked for a
	// certificate.
	ClientCAs *x509.CertPool
}

// config returns how a listener speaks TLS with the certificate. If there are ClientCAs, clients says whether a client
// must have a certificate.
func (c Certificate) config(clients tls.ClientAuthType, protocols []string) (*tls.Config, error) {
	if len(c.Certificate.Certificate) == 0 {
		return nil, errors.New("no certificate")
	}
	if c.Certificate.Leaf == nil { // a debug setting of Go leaves it out
		leaf, err := x509.ParseCertificate(c.Certificate.Certificate[0])
		if err != nil {
			return nil, err
		}
		c.Certificate.Leaf = leaf
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: protocols, Certificates: []tls.Certificate{c.Certificate}}
	if c.ClientCAs != nil {
		config.ClientCAs, config.ClientAuth = c.ClientCAs, clients
	}
	return config, nil
}

// overHTTP are the protocols that an HTTP listener offers in a handshake.
var overHTTP = []string{"h2", "http/1.1"}

// useCertificate returns how a listener speaks TLS, or nil without a certificate. The certificate is read again when
// its files change, and each handshake uses the latest one. what names the certificate in the log.
func (b *Bridge) useCertificate(
	what, listener string, s reload.Setting[Certificate], clients tls.ClientAuthType, protocols []string,
) (*tls.Config, error) {
	if s.IsZero() {
		return nil, nil
	}
	var current atomic.Pointer[tls.Config]
	apply := func(c Certificate) error {
		config, err := c.config(clients, protocols)
		if err == nil {
			current.Store(config)
		}
		return err
	}
	if err := apply(s.Value); err != nil {
		return nil, err
	}
	warn := b.watchCertificate(listener, "", func() *x509.Certificate { return current.Load().Certificates[0].Leaf })
	reload.Add(b.reload, what, s, func(c Certificate) error {
		err := apply(c)
		if err == nil {
			warn()
		}
		return err
	})
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return current.Load(), nil },
	}, nil
}

// webhookTLS returns how the webhook listener speaks TLS; nil means that it does not.
func (b *Bridge) webhookTLS(ctx context.Context) (*tls.Config, error) {
	o := b.opts.Webhook.ACME
	if len(o.Domains) == 0 {
		config, err := b.useCertificate("certificate", "webhook", b.settings.webhook, tls.RequireAndVerifyClientCert, overHTTP)
		if err != nil {
			return nil, wrong("Options.Webhook.TLS: %w", err)
		}
		return config, nil
	}
	renewing, stop := context.WithCancel(context.WithoutCancel(ctx))
	b.shutdown.add("ACME", func(context.Context) error { stop(); return nil })
	config, current, err := acme.Start(renewing, b.webhook, acme.Options(o), overHTTP, b.log.Named("acme"))
	if err != nil {
		return nil, fmt.Errorf("bridge: Options.Webhook.ACME.Domains: %w", err)
	}
	b.watchCertificate("webhook", fmt.Sprintf("there is no certificate for %s yet, and handshakes fail: "+
		"port 443 of each domain must lead here; the log has what the CA says",
		strings.Join(o.Domains, ", ")), current)
	return config, nil
}

// watchCertificate exports the time at which a listener's certificate ends. When that time is near, /readyz has a
// reason. While current returns nil, none is the reason. The state of the bridge does not change, because a challenge
// of the CA must still arrive, and a client that does not check the dates is still served. watchCertificate logs the
// reason, and so does the function that it returns.
func (b *Bridge) watchCertificate(listener, none string, current func() *x509.Certificate) (warn func()) {
	b.opts.Metrics.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "jobbridge_tls_certificate_expiry_timestamp_seconds", Help: "When the certificate of a listener ends; 0 while there is none yet.",
		ConstLabels: prometheus.Labels{"listener": listener},
	}, func() float64 {
		if cert := current(); cert != nil {
			return float64(cert.NotAfter.Unix())
		}
		return 0
	}))
	reasons := func() []string {
		cert, why := current(), none
		if cert != nil {
			why = expires(cert, time.Now())
		}
		if why == "" {
			return nil
		}
		return []string{"certificate of the " + listener + " listener: " + why}
	}
	b.health.Watch(func() (publisher.State, []string) { return publisher.Ready, reasons() })
	warn = func() {
		for _, why := range reasons() {
			b.log.Warn(why)
		}
	}
	warn()
	return warn
}

// expirySoon is how long before the end of a certificate the bridge warns. If the whole life of the certificate is less
// than three times as long, the bridge warns when a third of it is left.
const expirySoon = 7 * 24 * time.Hour

// expires returns a sentence if a certificate has ended or will end soon, or "".
func expires(cert *x509.Certificate, now time.Time) string {
	left := cert.NotAfter.Sub(now)
	at := cert.NotAfter.UTC().Format(time.RFC3339)
	switch {
	case left <= 0:
		return "it expired at " + at + ": senders break off the handshake"
	case left < min(expirySoon, cert.NotAfter.Sub(cert.NotBefore)/3):
		return "it expires at " + at + ", in " + left.Round(time.Minute).String()
	}
	return ""
}
