package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/natscontext"
)

// natsFlags say how to connect to a NATS server of the operator's. The files are read for each connection. serve connects again when
// they change.
type natsFlags struct {
	URL          []string `name:"url" placeholder:"URL"`
	Context      string   `placeholder:"NAME"`
	Creds        string   `placeholder:"FILE" type:"path"`
	Nkey         string   `placeholder:"FILE" type:"path"`
	User         string   `placeholder:"NAME"`
	PasswordFile string   `placeholder:"FILE" type:"path"`
	CA           string   `name:"ca" placeholder:"FILE" type:"path"`
	Cert         string   `placeholder:"FILE" type:"path"`
	Key          string   `placeholder:"FILE" type:"path"`
	TLSFirst     bool     `name:"tls-first"`
	Domain       string   `placeholder:"NAME"`
	Inbox        string   `placeholder:"PREFIX" hidden:""`
}

// Configured reports whether a server is named at all.
func (f natsFlags) Configured() bool { return len(f.URL) > 0 || f.Context != "" }

// files returns the files that a connection is made from, with the files that a context names.
func (f natsFlags) files() []string {
	files := []string{f.Creds, f.Nkey, f.PasswordFile, f.CA, f.Cert, f.Key}
	path, settings, _ := f.context() // connector reports its error
	files = append(files, path)
	for _, named := range []string{settings.Creds, settings.NKey, settings.CA, settings.Cert, settings.Key} {
		if rest, ok := strings.CutPrefix(named, "~"); ok {
			named = homeDir() + rest
		}
		files = append(files, named)
	}
	return slices.DeleteFunc(files, func(s string) bool { return s == "" })
}

// context returns the file of the context, if one is given, and its content. natscontext, which connects with it, does not return them.
func (f natsFlags) context() (path string, settings natscontext.Settings, err error) {
	if f.Context == "" {
		return "", settings, nil
	}
	path = f.Context
	if !filepath.IsAbs(path) {
		path = filepath.Join(cmp.Or(os.Getenv("XDG_CONFIG_HOME"), filepath.Join(homeDir(), ".config")), "nats", "context", path+".json")
	}
	text, err := readText(path)
	if err == nil {
		err = json.Unmarshal([]byte(text), &settings)
	}
	return path, settings, err
}

// homeDir returns the home folder that natscontext uses, which may differ from $HOME.
func homeDir() string {
	u, err := user.Current()
	if err != nil {
		return ""
	}
	return u.HomeDir
}

// connector returns a function that reads the files, connects, and returns the JetStream domain too.
func (f natsFlags) connector() (func(...nats.Option) (*nats.Conn, string, error), error) {
	options, err := f.options()
	if err != nil {
		return nil, err
	}
	if _, _, err := f.context(); err != nil {
		return nil, usage("--nats-context %s: %w", f.Context, err)
	}
	// The client checks some options only when it applies them, or when it connects.
	var applied nats.Options
	for _, apply := range options {
		if err := apply(&applied); err != nil {
			return nil, usage("--nats-ca, --nats-cert, --nats-inbox: %w", err)
		}
	}
	if applied.RootCAsCB != nil {
		if _, err := applied.RootCAsCB(); err != nil {
			return nil, usage("--nats-ca: %w", err)
		}
	}
	if applied.TLSCertCB != nil {
		if _, err := applied.TLSCertCB(); err != nil {
			return nil, usage("--nats-cert: %w", err)
		}
	}
	if f.Creds != "" {
		_, err := applied.UserJWT()
		if err == nil {
			_, err = applied.SignatureCB(nil)
		}
		if err != nil {
			return nil, usage("--nats-creds %s: %w: want what nsc writes: a JWT and its seed", f.Creds, err)
		}
	}
	return func(more ...nats.Option) (*nats.Conn, string, error) {
		options, err := f.options()
		if err != nil {
			return nil, "", err
		}
		options = append(options, more...)
		if f.Context == "" {
			conn, err := nats.Connect(strings.Join(f.URL, ","), options...) // it trims each URL
			return conn, f.Domain, err
		}
		conn, settings, err := natscontext.Connect(f.Context, options...)
		if err != nil {
			return nil, "", fmt.Errorf("--nats-context %s: %w", f.Context, err)
		}
		return conn, cmp.Or(f.Domain, settings.JSDomain), nil
	}, nil
}

// options checks the flags, and that the files can be read, because a missing file would look like an outage later.
func (f natsFlags) options() ([]nats.Option, error) {
	switch {
	case f.Context != "" && len(f.URL) > 0:
		return nil, usage("--nats-context and --nats-url exclude each other")
	case (f.User == "") != (f.PasswordFile == ""):
		return nil, usage("--nats-user and --nats-password-file belong together")
	case (f.Cert == "") != (f.Key == ""):
		return nil, usage("--nats-cert and --nats-key belong together")
	}
	if err := checkNATSURLs(f.URL); err != nil {
		return nil, usage("--nats-url: %w", err)
	}
	for name, path := range map[string]string{
		"creds": f.Creds, "nkey": f.Nkey, "password-file": f.PasswordFile, "ca": f.CA, "cert": f.Cert, "key": f.Key,
	} {
		if path == "" {
			continue
		}
		if _, err := readText(path); err != nil {
			return nil, usage("--nats-%s: %w", name, err)
		}
	}
	var options []nats.Option
	if f.Creds != "" {
		options = append(options, nats.UserCredentials(f.Creds))
	}
	if f.Nkey != "" {
		nkey, err := nats.NkeyOptionFromSeed(f.Nkey)
		if err != nil {
			return nil, usage("--nats-nkey: %w", err)
		}
		options = append(options, nkey)
	}
	if f.User != "" {
		options = append(options, nats.UserInfoHandler(func() (string, string) {
			password, err := readPassword(f.PasswordFile)
			if err != nil {
				return f.User, "" // the server refuses it
			}
			return f.User, password
		}))
	}
	if f.CA != "" {
		options = append(options, nats.RootCAs(f.CA))
	}
	if f.Cert != "" {
		options = append(options, nats.ClientCert(f.Cert, f.Key))
	}
	if f.TLSFirst {
		options = append(options, nats.TLSHandshakeFirst())
	}
	if f.Inbox != "" {
		options = append(options, nats.CustomInboxPrefix(f.Inbox))
	}
	return options, nil
}

func readPassword(path string) (string, error) {
	text, err := readText(path)
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(text, "\n")
	switch {
	case password == "":
		return "", errors.New("empty password file")
	case strings.Contains(password, "\n"):
		return "", errors.New("more than one line: want the password alone")
	}
	return password, nil
}
