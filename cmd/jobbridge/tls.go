package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/prometheus/client_golang/prometheus"
)

// tlsFlags make a listener speak TLS with certificates from files. They are
// there once for each listener, under a prefix.
type tlsFlags struct {
	TLSCert     string `name:"tls-cert" help:"Certificate chain (PEM) of the ${listener}, which then speaks TLS. Read again when it changes." placeholder:"FILE" type:"path"`
	TLSKey      string `name:"tls-key" help:"Key of --${prefix}tls-cert." placeholder:"FILE" type:"path"`
	TLSClientCA string `name:"tls-client-ca" help:"Certificates of the CAs ${clients}." placeholder:"FILE" type:"path"`
}

// given reports whether the listener speaks TLS.
func (f tlsFlags) given() bool { return f.TLSCert != "" }

// check refuses half a pair, naming the flags by their prefix.
func (f tlsFlags) check(prefix string) error {
	switch {
	case (f.TLSCert == "") != (f.TLSKey == ""):
		return usage("--%stls-cert and --%stls-key belong together", prefix, prefix)
	case f.TLSClientCA != "" && !f.given():
		return usage("--%stls-client-ca needs --%stls-cert", prefix, prefix)
	}
	return nil
}

// files that are named.
func (f tlsFlags) files() []string {
	return slices.DeleteFunc([]string{f.TLSCert, f.TLSKey, f.TLSClientCA}, func(s string) bool { return s == "" })
}

// secure reports whether the webhook listener speaks HTTPS.
func (c *serveCmd) secure() bool { return c.WebhookTLS.given() || len(c.AcmeDomain) > 0 }

// checkTLS refuses certificates that contradict each other or cannot be read.
func (c *serveCmd) checkTLS() error {
	if len(c.AcmeDomain) > 0 && c.WebhookTLS.given() {
		return usage("--acme-domain and --tls-cert exclude each other")
	}
	if _, _, err := c.checkACME(); err != nil {
		return err
	}
	for prefix, f := range map[string]tlsFlags{"": c.WebhookTLS, "admin-": c.AdminTLS, "nats-": c.NatsTLS} {
		if err := f.check(prefix); err != nil {
			return err
		}
		if !f.given() {
			continue
		}
		if _, err := newCertificates(prefix, f, tls.NoClientCert, nil); err != nil {
			return err
		}
	}
	return nil
}

// https returns how the webhook listener speaks TLS, or nil. ctx bounds what
// goes on beside it.
func (c *serveCmd) https(ctx context.Context, o operator, ln net.Listener) (*tls.Config, error) {
	switch {
	case c.WebhookTLS.given():
		certs, err := newCertificates("", c.WebhookTLS, tls.RequireAndVerifyClientCert, overHTTP)
		if err != nil {
			return nil, err
		}
		o.use(certs, "webhook", "certificate")
		return certs.config(), nil
	case len(c.AcmeDomain) > 0:
		config, current, err := c.acme(ctx, ln, o.log)
		if err == nil {
			o.watchCertificate("webhook", fmt.Sprintf("there is no certificate for %s yet, and handshakes fail: port 443 of each domain must lead here; the log has what the CA says", strings.Join(c.AcmeDomain, ", ")), current)
		}
		return config, err
	}
	return nil, nil
}

// certificates are those of the files, as they were last read.
type certificates struct {
	flags     tlsFlags
	prefix    string
	clients   tls.ClientAuthType // with --tls-client-ca
	protocols []string
	now       []string
	tls       atomic.Pointer[tls.Config]
}

// newCertificates reads them for the listener whose flags have the prefix.
func newCertificates(prefix string, f tlsFlags, clients tls.ClientAuthType, protocols []string) (*certificates, error) {
	c := &certificates{flags: f, prefix: prefix, clients: clients, protocols: protocols}
	if _, err := c.load(); err != nil {
		return nil, usageError{err}
	}
	return c, nil
}

// leaf is the certificate that is in force.
func (c *certificates) leaf() *x509.Certificate { return c.tls.Load().Certificates[0].Leaf }

// use has a listener's certificates read again when they change, and their end
// watched.
func (o operator) use(c *certificates, listener, name string) {
	warn := o.watchCertificate(listener, "", c.leaf)
	o.reload.add(reloaded{name: name, files: c.flags.files, load: func() (bool, error) {
		changed, err := c.load()
		if changed {
			warn()
		}
		return changed, err
	}})
}

// watchCertificate exports when a listener's certificate ends, and says on /readyz
// when that is near; or none, while current returns nil. The state does not
// change: a challenge must still reach us, and whoever does not look at dates is
// served. The function that it returns logs the same, as it does by itself now.
func (o operator) watchCertificate(listener, none string, current func() *x509.Certificate) (warn func()) {
	o.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
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
	o.health.Watch(func() (bridge.State, []string) { return publisher.Ready, reasons() })
	warn = func() {
		for _, why := range reasons() {
			o.log.Warn(why)
		}
	}
	warn()
	return warn
}

// expirySoon is when to warn of the end of a certificate; of one that is made for
// less than three times that, when a third is left.
const expirySoon = 7 * 24 * time.Hour

// expires says that a certificate is not good any more, or not for long.
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

// load reads the files and puts them in force, if they fit together.
func (c *certificates) load() (bool, error) {
	files, err := readAll(c.flags.files())
	if err != nil {
		return false, fmt.Errorf("--%stls-cert, --%stls-key, --%stls-client-ca: %w", c.prefix, c.prefix, c.prefix, err)
	}
	if slices.Equal(files, c.now) {
		return false, nil
	}
	cert, err := tls.X509KeyPair([]byte(files[0]), []byte(files[1]))
	if err != nil {
		return false, fmt.Errorf("--%stls-cert %s and --%stls-key %s: %w", c.prefix, c.flags.TLSCert, c.prefix, c.flags.TLSKey, err)
	}
	if cert.Leaf == nil { // a debug setting of Go leaves it out
		if cert.Leaf, err = x509.ParseCertificate(cert.Certificate[0]); err != nil {
			return false, fmt.Errorf("--%stls-cert %s: %w", c.prefix, c.flags.TLSCert, err)
		}
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: c.protocols, Certificates: []tls.Certificate{cert}}
	if c.flags.TLSClientCA != "" {
		config.ClientCAs, config.ClientAuth = x509.NewCertPool(), c.clients
		if !config.ClientCAs.AppendCertsFromPEM([]byte(files[2])) {
			return false, fmt.Errorf("--%stls-client-ca %s: no certificate in it", c.prefix, c.flags.TLSClientCA)
		}
	}
	c.now = files
	c.tls.Store(config)
	return true, nil
}

// overHTTP are the protocols that an HTTP listener offers in a handshake.
var overHTTP = []string{"h2", "http/1.1"}

// config is for the listener: each handshake uses what is in force then.
func (c *certificates) config() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: c.protocols,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return c.tls.Load(), nil },
	}
}

// clientTLSFlags say whom a command trusts, and who it is itself.
type clientTLSFlags struct {
	CA         string `name:"ca" help:"File with the certificates that the listener's is checked against, if it speaks TLS; default: the system's." placeholder:"FILE" type:"path"`
	Cert       string `help:"Your certificate, of its --${prefix}tls-client-ca${instead}." placeholder:"FILE" type:"path"`
	Key        string `help:"Key of --${prefix}cert." placeholder:"FILE" type:"path"`
	ServerName string `help:"Name in the listener's certificate, if it is not that in the URL." placeholder:"NAME"`
}

// config reads the files; the prefix of the flags is for what is wrong.
func (f clientTLSFlags) config(prefix string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: f.ServerName}
	if (f.Cert == "") != (f.Key == "") {
		return nil, usage("--%scert and --%skey belong together", prefix, prefix)
	}
	if f.CA != "" {
		roots, err := readRoots(f.CA)
		if err != nil {
			return nil, usage("--%sca: %w", prefix, err)
		}
		config.RootCAs = roots
	}
	if f.Cert != "" {
		cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, usage("--%scert: %w", prefix, err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}

// untrusted reports whether a listener's certificate was refused.
func untrusted(err error) bool {
	var refused *tls.CertificateVerificationError
	return errors.As(err, &refused)
}
