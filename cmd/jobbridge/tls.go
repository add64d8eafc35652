package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/jobbridge/jobbridge/bridge"
)

// tlsFlags make a listener speak TLS with certificates from files. Each listener has these flags under its own prefix.
type tlsFlags struct {
	Cert     string `name:"tls-cert" placeholder:"FILE" type:"path"`
	Key      string `name:"tls-key" placeholder:"FILE" type:"path"`
	ClientCA string `name:"tls-client-ca" placeholder:"FILE" type:"path"`
}

// Configured reports whether the listener speaks TLS.
func (f tlsFlags) Configured() bool { return f.Cert != "" }

// source returns the certificate of the listener whose flags have the prefix.
func (f tlsFlags) source(prefix string) (source bridge.Source[bridge.Certificate], err error) {
	switch {
	case (f.Cert == "") != (f.Key == ""):
		return source, usage("--%stls-cert and --%stls-key belong together", prefix, prefix)
	case f.ClientCA != "" && !f.Configured():
		return source, usage("--%stls-client-ca needs --%stls-cert", prefix, prefix)
	case !f.Configured():
		return source, nil
	}
	files := []string{f.Cert, f.Key}
	if f.ClientCA != "" {
		files = append(files, f.ClientCA)
	}
	return bridge.Files(func() (bridge.Certificate, error) { return f.read(prefix) }, files...), nil
}

// read reads the certificate, its key and the CAs of clients.
func (f tlsFlags) read(prefix string) (c bridge.Certificate, err error) {
	if c.Certificate, err = readKeyPair(f.Cert, f.Key); err != nil {
		return c, usage("--%stls-cert %s and --%stls-key %s: %w", prefix, f.Cert, prefix, f.Key, err)
	}
	if f.ClientCA == "" {
		return c, nil
	}
	if c.ClientCAs, err = readRoots(f.ClientCA); err != nil {
		return c, usage("--%stls-client-ca: %w", prefix, err)
	}
	return c, nil
}

// clientTLSFlags say which servers a command trusts, and which certificate it shows.
type clientTLSFlags struct {
	CA         string `name:"ca" placeholder:"FILE" type:"path"`
	Cert       string `placeholder:"FILE" type:"path"`
	Key        string `placeholder:"FILE" type:"path"`
	ServerName string `placeholder:"NAME"`
}

// config reads the files. Its errors name the flags with the prefix.
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
		cert, err := readKeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, usage("--%scert: %w", prefix, err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return config, nil
}

// readKeyPair reads a certificate and its key.
func readKeyPair(certFile, keyFile string) (c tls.Certificate, err error) {
	cert, err := readText(certFile)
	if err != nil {
		return c, err
	}
	key, err := readText(keyFile)
	if err != nil {
		return c, err
	}
	return tls.X509KeyPair([]byte(cert), []byte(key))
}

// readRoots reads the certificates of CAs.
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

// acmeFlags make the webhook listener get its certificates from a CA by ACME.
type acmeFlags struct {
	Domain []string `placeholder:"NAME"`
	Email  string   `placeholder:"ADDRESS"`
	CA     string   `name:"ca" default:"${acme_ca}"`
	Root   string   `placeholder:"FILE" type:"path"`
	Dir    string   `placeholder:"DIR" type:"path"`
}

// options turns the flags into options. dataDir may be empty.
func (f acmeFlags) options(dataDir string) (o bridge.ACMEOptions, err error) {
	if len(f.Domain) == 0 {
		return o, nil
	}
	o = bridge.ACMEOptions{Domains: f.Domain, Email: f.Email, CA: f.CA, Dir: f.Dir}
	switch {
	case f.Dir == "" && dataDir == "":
		return o, usage("--acme-domain needs a folder for the certificates: --acme-dir or --data-dir")
	case f.Dir == "":
		o.Dir = filepath.Join(dataDir, "acme")
	}
	if f.Root != "" {
		if o.Roots, err = readRoots(f.Root); err != nil {
			return o, usage("--acme-root: %w", err)
		}
	}
	return o, nil
}

// untrusted reports whether a listener's certificate was refused.
func untrusted(err error) bool {
	var refused *tls.CertificateVerificationError
	return errors.As(err, &refused)
}
