package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/jobbridge/jobbridge/publisher/remote"
	"github.com/nats-io/nats.go"
	"github.com/synadia-io/orbit.go/natscontext"
)

// natsFlags say how to reach a NATS server of the operator's, and as whom. The
// files are read at each connect, and serve connects anew when they change.
type natsFlags struct {
	NatsURL          []string `name:"nats-url" help:"NATS servers, such as nats://a:4222,tls://b:4222." placeholder:"URL"`
	NatsContext      string   `help:"Context of the nats command to connect with, by its name or file, instead of --nats-url." placeholder:"NAME"`
	NatsCreds        string   `help:"Credentials file." placeholder:"FILE" type:"path"`
	NatsNkey         string   `help:"File with an nkey seed." placeholder:"FILE" type:"path"`
	NatsUser         string   `help:"User name; with --nats-password-file." placeholder:"NAME"`
	NatsPasswordFile string   `help:"File with the password of --nats-user." placeholder:"FILE" type:"path"`
	NatsCA           string   `name:"nats-ca" help:"File with the certificates that the server's is checked against; default: the system's." placeholder:"FILE" type:"path"`
	NatsCert         string   `help:"Client certificate." placeholder:"FILE" type:"path"`
	NatsKey          string   `help:"Key of --nats-cert." placeholder:"FILE" type:"path"`
	NatsInbox        string   `help:"Prefix of the subjects that answers come on. Default: the context's; else _INBOX_BRIDGE for serve and stream audit, and NATS's own for the rest." placeholder:"PREFIX"`
	NatsDomain       string   `help:"JetStream domain." placeholder:"NAME"`
}

// given reports whether a server is named at all.
func (f natsFlags) given() bool { return len(f.NatsURL) > 0 || f.NatsContext != "" }

// files that a connection is made from; of a context, also those that it names.
func (f natsFlags) files() []string {
	files := []string{f.NatsCreds, f.NatsNkey, f.NatsPasswordFile, f.NatsCA, f.NatsCert, f.NatsKey}
	if f.NatsContext != "" {
		path := f.NatsContext
		if dir, err := os.UserHomeDir(); !filepath.IsAbs(path) && err == nil {
			path = filepath.Join(cmp.Or(os.Getenv("XDG_CONFIG_HOME"), filepath.Join(dir, ".config")), "nats", "context", path+".json")
		}
		var settings natscontext.Settings
		if data, err := os.ReadFile(path); err == nil { // connecting says what is wrong with it
			_ = json.Unmarshal(data, &settings)
		}
		files = append(files, path, settings.Creds, settings.NKey, settings.CA, settings.Cert, settings.Key)
	}
	return slices.DeleteFunc(files, func(s string) bool { return s == "" })
}

// reloadedNATS connects anew when what it connected with has changed.
func (f natsFlags) reloadedNATS(r *remote.Remote) reloaded {
	files := f.files()
	now, _ := readAll(files) // if one is gone already, load says so
	return reloaded{name: "NATS credentials", files: files, load: func() (bool, error) {
		read, err := readAll(files)
		if err != nil || slices.Equal(read, now) {
			return false, err
		}
		if err := r.Renew(); err != nil {
			return false, err
		}
		now = read
		return true, nil
	}}
}

// connector returns what connects, and the JetStream domain of a connection. It
// reads the files anew each time.
func (f natsFlags) connector() (func(...nats.Option) (*nats.Conn, string, error), error) {
	if _, err := f.options(); err != nil {
		return nil, err
	}
	return func(more ...nats.Option) (*nats.Conn, string, error) {
		options, err := f.options()
		if err != nil {
			return nil, "", err
		}
		options = append(options, more...)
		if f.NatsContext == "" {
			conn, err := nats.Connect(strings.Join(f.NatsURL, ","), options...)
			return conn, f.NatsDomain, err
		}
		conn, settings, err := natscontext.Connect(f.NatsContext, options...)
		if err != nil {
			return nil, "", fmt.Errorf("--nats-context %s: %w", f.NatsContext, err)
		}
		return conn, cmp.Or(f.NatsDomain, settings.JSDomain), nil
	}, nil
}

// options checks the flags, and that the files can be read now: later, a file
// that is missing looks like an outage.
func (f natsFlags) options() ([]nats.Option, error) {
	switch {
	case f.NatsContext != "" && len(f.NatsURL) > 0:
		return nil, usage("--nats-context and --nats-url exclude each other")
	case (f.NatsUser == "") != (f.NatsPasswordFile == ""):
		return nil, usage("--nats-user and --nats-password-file belong together")
	case (f.NatsCert == "") != (f.NatsKey == ""):
		return nil, usage("--nats-cert and --nats-key belong together")
	}
	for _, s := range f.NatsURL {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" {
			return nil, usage("--nats-url: want nats://host:port or tls://host:port")
		}
		if u.User != nil {
			return nil, usage("--nats-url: no credentials in the URL, where every user of this machine sees them: give --nats-creds, or --nats-user and --nats-password-file")
		}
	}
	for name, path := range map[string]string{"creds": f.NatsCreds, "nkey": f.NatsNkey, "password-file": f.NatsPasswordFile, "ca": f.NatsCA, "cert": f.NatsCert, "key": f.NatsKey} {
		if path == "" {
			continue
		}
		if _, err := os.ReadFile(path); err != nil {
			return nil, usage("--nats-%s: %w", name, err)
		}
	}
	var options []nats.Option
	if f.NatsCreds != "" {
		options = append(options, nats.UserCredentials(f.NatsCreds))
	}
	if f.NatsNkey != "" {
		nkey, err := nats.NkeyOptionFromSeed(f.NatsNkey)
		if err != nil {
			return nil, usage("--nats-nkey: %w", err)
		}
		options = append(options, nkey)
	}
	if f.NatsUser != "" {
		options = append(options, nats.UserInfoHandler(func() (string, string) {
			password, err := readPassword(f.NatsPasswordFile)
			if err != nil {
				return f.NatsUser, "" // the server's refusal says the rest
			}
			return f.NatsUser, password
		}))
	}
	if f.NatsCA != "" {
		options = append(options, nats.RootCAs(f.NatsCA))
	}
	if f.NatsCert != "" {
		options = append(options, nats.ClientCert(f.NatsCert, f.NatsKey))
	}
	if f.NatsInbox != "" {
		options = append(options, nats.CustomInboxPrefix(f.NatsInbox))
	}
	return options, nil
}

func readPassword(path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	password := strings.TrimRight(string(data), "\r\n")
	if password == "" {
		return "", errors.New("empty password file")
	}
	return password, nil
}
