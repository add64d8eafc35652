package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// parse returns the commands with the values that args give them.
func parse(t *testing.T, args ...string) (*cli, error) {
	t.Helper()
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	_, err = parser.Parse(args)
	return &c, err
}

// optionsOf returns what serve with these flags passes to the bridge.
func optionsOf(t *testing.T, args ...string) (bridge.Options, error) {
	t.Helper()
	c, err := parse(t, append([]string{"serve"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c.Serve.Flags.options(func(string) string { return "" })
}

// TestFlagsReachOptions gives each flag of serve a value, and finds the value in the options. A flag that is in no table here fails
// the test.
func TestFlagsReachOptions(t *testing.T) {
	certificate, key := keyPair(t)
	certificates := func(source bridge.Source[bridge.Certificate]) any {
		c, err := source.Read()
		return fmt.Sprint(len(c.Certificate.Certificate), c.ClientCAs != nil, err)
	}
	rows := []struct {
		args string
		get  func(bridge.Options) any
		want any
	}{
		{"--listen 127.0.0.1:1", func(o bridge.Options) any { return o.Webhook.Listen }, "127.0.0.1:1"},
		{"--path /hook", func(o bridge.Options) any { return o.Webhook.Path }, "/hook"},
		{"--trusted-proxies 10.0.0.0/8", func(o bridge.Options) any { return fmt.Sprint(o.Webhook.TrustedProxies) }, "[10.0.0.0/8]"},
		{"--tolerance 7m", func(o bridge.Options) any { return o.Tolerance }, 7 * time.Minute},
		{"--max-body 2MiB", func(o bridge.Options) any { return o.Webhook.MaxBody }, 2 << 20},
		{"--max-in-flight 7", func(o bridge.Options) any { return o.Webhook.MaxInFlight }, 7},
		{"--max-connections 7", func(o bridge.Options) any { return o.Webhook.MaxConnections }, 7},
		{"--idle-timeout 7m", func(o bridge.Options) any { return o.Webhook.IdleTimeout }, 7 * time.Minute},
		{"--max-body-memory 64MiB", func(o bridge.Options) any { return o.Webhook.MaxBodyMemory }, 64 << 20},
		{"--max-body-memory 1MiB --max-body 1MiB", func(o bridge.Options) any { return o.Webhook.MaxBodyMemory }, 8 << 20},
		{"--forgery-rate 7", func(o bridge.Options) any { return o.Webhook.ForgeryRate }, 7},
		{"--forgery-rate 0", func(o bridge.Options) any { return o.Webhook.ForgeryRate }, -1},
		{"--secret-file " + file(t, "secret", "whsec_one"), func(o bridge.Options) any {
			secrets, err := o.Secrets.Read()
			return fmt.Sprint(secrets, err)
		}, "[whsec_one] <nil>"},
		{"--tls-cert " + certificate + " --tls-key " + key, func(o bridge.Options) any { return certificates(o.Webhook.TLS) }, "1 false <nil>"},
		{"--tls-cert " + certificate + " --tls-key " + key + " --tls-client-ca " + certificate,
			func(o bridge.Options) any { return certificates(o.Webhook.TLS) }, "1 true <nil>"},
		{"--admin-tls-cert " + certificate + " --admin-tls-key " + key + " --admin-tls-client-ca " + certificate,
			func(o bridge.Options) any { return certificates(o.Admin.TLS) }, "1 true <nil>"},
		{"--nats-tls-cert " + certificate + " --nats-tls-key " + key + " --nats-tls-client-ca " + certificate,
			func(o bridge.Options) any { return certificates(o.NATS.TLS) }, "1 true <nil>"},
		{"--acme-domain a.example --acme-email me@a.example --acme-ca https://ca.example/ --acme-dir /acme --acme-root " + certificate,
			func(o bridge.Options) any {
				a := o.Webhook.ACME
				return fmt.Sprint(a.Domains, a.Email, a.CA, a.Dir, a.Roots != nil)
			}, "[a.example]me@a.examplehttps://ca.example//acmetrue"},
		{"--acme-domain a.example --data-dir /d", func(o bridge.Options) any { return o.Webhook.ACME.Dir }, "/d/acme"},
		{"--data-dir /d", func(o bridge.Options) any { return o.DataDir }, "/d"},
		{"--journal on", func(o bridge.Options) any { return fmt.Sprint(o.Journal.Off, o.DataDir != "") }, "false true"},
		{"--journal off", func(o bridge.Options) any { return fmt.Sprint(o.Journal.Off, o.DataDir != "") }, "true false"},
		{"--journal-max-bytes 1GiB", func(o bridge.Options) any { return o.Journal.MaxBytes }, int64(1 << 30)},
		{"--durability os", func(o bridge.Options) any { return o.Journal.Durability }, event.OS},
		{"--dedupe-window 7h", func(o bridge.Options) any { return o.Stream.Dedupe }, 7 * time.Hour},
		{"--accept-clock", func(o bridge.Options) any { return o.Journal.AcceptClock }, true},
		{"--stream S", func(o bridge.Options) any { return o.Stream.Name }, "S"},
		{"--subject x.{status}", func(o bridge.Options) any { return fmt.Sprint(o.Stream.Subject.StreamSubjects()) }, "[x.>]"},
		{"--retention 2d", func(o bridge.Options) any { return o.Stream.Retention }, 48 * time.Hour},
		{"--max-bytes 1GiB", func(o bridge.Options) any { return o.Stream.MaxBytes }, int64(1 << 30)},
		{"--nats-listen 127.0.0.1:2", func(o bridge.Options) any { return fmt.Sprint(o.NATS.Listen, o.NATS.NoListen) }, "127.0.0.1:2false"},
		{"--nats-listen=", func(o bridge.Options) any { return o.NATS.NoListen }, true},
		{"--nats-auth-file " + file(t, "workers", "ann:Eil4uoch"), func(o bridge.Options) any {
			workers, err := o.NATS.Workers.Read()
			return fmt.Sprint(workers, err)
		}, "[{ann Eil4uoch}] <nil>"},
		{"--max-workers 7", func(o bridge.Options) any { return o.NATS.MaxConnections }, 7},
		{"--no-quarantine", func(o bridge.Options) any { return o.Quarantine.Off }, true},
		{"--quarantine", func(o bridge.Options) any { return o.Quarantine.Off }, false},
		{"--quarantine-bytes 2MiB", func(o bridge.Options) any { return o.Quarantine.MaxBytes }, int64(2 << 20)},
		{"--quarantine-age 7h", func(o bridge.Options) any { return o.Quarantine.MaxAge }, 7 * time.Hour},
		{"--quarantine-max-body 7KiB", func(o bridge.Options) any { return o.Quarantine.MaxBody }, 7 << 10},
		{"--admin-listen 127.0.0.1:3", func(o bridge.Options) any { return o.Admin.Listen }, "127.0.0.1:3"},
		{"--admin-token-file " + file(t, "token", "0123456789abcdef"), func(o bridge.Options) any {
			token, err := o.Admin.Token.Read()
			return fmt.Sprint(token, err)
		}, "0123456789abcdef<nil>"},
		{"--pprof", func(o bridge.Options) any { return o.Admin.Profile }, true},
		{"--drain-delay 7s", func(o bridge.Options) any { return o.Shutdown.Delay }, 7 * time.Second},
		{"--drain-timeout 7s", func(o bridge.Options) any { return o.Shutdown.Forward }, 7 * time.Second},
		{"--drain-timeout 0s", func(o bridge.Options) any { return o.Shutdown.Forward }, time.Duration(-1)},
	}
	var tested []string
	for _, r := range rows {
		o, err := optionsOf(t, strings.Fields(r.args)...)
		if err != nil {
			t.Errorf("%s: %v", r.args, err)
		} else if got := r.get(o); got != r.want {
			t.Errorf("%s: %v, want %v", r.args, got, r.want)
		}
		for _, word := range strings.Fields(r.args) {
			tested = append(tested, strings.TrimPrefix(strings.SplitN(word, "=", 2)[0], "--"))
		}
	}
	elsewhere := []string{ // TestNATSOptions, TestEndpoint, TestLogConsole, TestDev and TestConfig in package test
		"nats-url", "nats-context", "nats-creds", "nats-nkey", "nats-user", "nats-password-file", "nats-ca", "nats-cert", "nats-key",
		"nats-tls-first", "nats-domain", "nats-inbox", "log-level", "log-format", "otlp-endpoint", "trace-ratio", "config", "dev",
	}
	for _, name := range serveFlagNames(t) {
		if !slices.Contains(append(tested, elsewhere...), name) {
			t.Errorf("--%s is not tested", name)
		}
	}
	for _, name := range elsewhere {
		if !slices.Contains(serveFlagNames(t), name) {
			t.Errorf("serve has no --%s", name)
		}
	}
}

func serveFlagNames(t *testing.T) []string {
	t.Helper()
	parser, err := newParser(new(cli))
	if err != nil {
		t.Fatal(err)
	}
	return flagsOfServe(parser.Model)
}

// keyPair returns the files of a certificate that signed itself, and of its key.
func keyPair(t *testing.T) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	return file(t, "cert", encode("CERTIFICATE", der)), file(t, "key", encode("PRIVATE KEY", pkcs8))
}

// TestNATSOptions gives each flag of a connection a value, and finds the value in the options of the client.
func TestNATSOptions(t *testing.T) {
	certificate, key := keyPair(t)
	user, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	password := file(t, "password", "Eil4uoch\n")
	for _, r := range []struct {
		args string
		get  func(*nats.Options) any
		want any
	}{
		{"--nats-nkey " + file(t, "nkey", string(seed)), func(o *nats.Options) any { return strings.HasPrefix(o.Nkey, "U") }, true},
		{"--nats-user ann --nats-password-file " + password, func(o *nats.Options) any {
			user, password := o.UserInfo()
			return user + ":" + password
		}, "ann:Eil4uoch"},
		{"--nats-ca " + certificate, func(o *nats.Options) any { return o.RootCAsCB != nil }, true},
		{"--nats-cert " + certificate + " --nats-key " + key, func(o *nats.Options) any { return o.TLSCertCB != nil }, true},
		{"--nats-tls-first", func(o *nats.Options) any { return o.TLSHandshakeFirst }, true},
		{"--nats-inbox _I", func(o *nats.Options) any { return o.InboxPrefix }, "_I"},
	} {
		c, err := parse(t, append([]string{"tail", "--nats-url", "nats://127.0.0.1:1"}, strings.Fields(r.args)...)...)
		if err != nil {
			t.Fatal(r.args, err)
		}
		if _, err := c.Tail.NATS.connector(); err != nil {
			t.Errorf("%s: %v", r.args, err)
			continue
		}
		options, err := c.Tail.NATS.options()
		if err != nil {
			t.Fatal(r.args, err)
		}
		o := nats.GetDefaultOptions()
		for _, apply := range options {
			if err := apply(&o); err != nil {
				t.Fatal(r.args, err)
			}
		}
		if got := r.get(&o); got != r.want {
			t.Errorf("%s: %v, want %v", r.args, got, r.want)
		}
	}
}

// TestHidden: a flag that is rarely needed is not in the help, has a text in the guide, and is accepted as a flag, a variable and
// a key of the file.
func TestHidden(t *testing.T) {
	values := map[string]string{
		"max-workers": "7", "max-body-memory": "64MiB", "forgery-rate": "7", "quarantine-max-body": "7KiB",
		"trace-ratio": "0.5", "nats-inbox": "_I",
	}
	help, err := call(t, nil, "serve", "--help")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := newParser(new(cli))
	if err != nil {
		t.Fatal(err)
	}
	guide, err := os.ReadFile("../../deployments/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var hidden []string
	for _, node := range commandsOf(parser.Model.Node) {
		for _, flag := range node.Flags {
			if flag.Hidden && !slices.Contains(hidden, flag.Name) {
				hidden = append(hidden, flag.Name)
			}
		}
	}
	if len(hidden) != len(values) {
		t.Errorf("hidden are %q", hidden)
	}
	for _, name := range hidden {
		value := values[name]
		if strings.Contains(help, "--"+name+"=") || !strings.Contains(string(guide), "| `--"+name+"` (") {
			t.Errorf("--%s is in the help of serve, or not in the guide's table", name)
		}
		row := regexp.MustCompile(`(?m)^` + name + ` +` + value + ` +(\S+)`)
		for want, args := range map[string][]string{"flag": {"--" + name, value},
			"file": {"--config", file(t, "c", name+": "+value+"\n")}, variableOf(name): nil} {
			if args == nil {
				t.Setenv(variableOf(name), value)
			}
			out, err := call(t, nil, append([]string{"config", "print"}, args...)...)
			if m := row.FindStringSubmatch(out); err != nil || m == nil || m[1] != want {
				t.Errorf("%s by %s: %v %q", name, want, err, m)
			}
			os.Unsetenv(variableOf(name))
		}
	}
}

// TestTranslate: what the libraries name is on the command line what an operator types, and nothing else changes.
func TestTranslate(t *testing.T) {
	for text, want := range map[string]string{
		"bridge: Options.Webhook.MaxBodyMemory must not be below 0": "--max-body-memory must not be below 0",
		"Options.Journal.Off needs Options.NATS.Connect":            "--journal=off needs --nats-url or --nats-context",
		"lower publisher.Options.MaxPayload to 5":                   "lower --max-body to 5",
		"start with publisher.Options.AcceptClock":                  "start with --accept-clock",
		"raise publisher.Options.Stream.Retention":                  "raise --retention",
		"create it with publisher.CreateStream":                     "create it with jobbridge stream create",
		"unset nats.TLSHandshakeFirst":                              "unset --nats-tls-first",
		operator.DoReleaseStale + " publishes them":                 "jobbridge quarantine release --stale publishes them",
		operator.DoRelease + " publishes them":                      "jobbridge quarantine release publishes them",
		operator.DoList + " shows them, " + operator.DoPurge:        "jobbridge quarantine list shows them, jobbridge quarantine purge",
		"to undo: " + operator.DoCancelDrain:                        "to undo: jobbridge drain --cancel",
		"(signed 7m before it came; stale=true accepts it)":         "(signed 7m before it came; --stale accepts it)",
	} {
		if got := translate(text); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// TestLibrariesNameNoFlags: a text of a library names a field or a request, which translate knows, and no flag and no command.
func TestLibrariesNameNoFlags(t *testing.T) {
	names := regexp.MustCompile(`(^|[ (:;` + "`" + `])--[a-z][a-z-]+|jobbridge [a-z]+ `)
	fields := regexp.MustCompile(`publisher\.[A-Z][A-Za-z.]*[A-Za-z]|nats\.[A-Z]\w+`)
	found := 0
	for _, root := range []string{"bridge", "publisher", "verify"} {
		err := filepath.WalkDir("../../"+root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				literal, ok := n.(*ast.BasicLit)
				if !ok || literal.Kind != token.STRING {
					return true
				}
				text, err := strconv.Unquote(literal.Value)
				if err != nil {
					t.Fatal(err)
				}
				if m := names.FindString(text); m != "" {
					t.Errorf("%s names %q in %q", path, m, text)
				}
				if strings.HasSuffix(path, "bridge/check.go") {
					text = regexp.MustCompile(`Options\.[A-Z]`).ReplaceAllString(text, "publisher.$0") // it names the fields of bridge
				}
				for _, field := range fields.FindAllString(text, -1) {
					found++
					if translate(field) == field || strings.Contains(translate(field), "Options") {
						t.Errorf("%s: translate does not know %s", path, field)
					}
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if found < 30 {
		t.Errorf("%d fields in texts", found)
	}
}

// TestTranslatedFlags: each flag that a field becomes is one of serve.
func TestTranslatedFlags(t *testing.T) {
	known := serveFlagNames(t)
	for _, field := range []string{
		"DataDir", "Secrets", "Tolerance", "Webhook.Listen", "Webhook.TLS", "Webhook.ACME.Domains", "Webhook.ACME.CA", "Webhook.ACME.Dir",
		"Webhook.Path", "Webhook.MaxBodyMemory", "Webhook.MaxBody", "Webhook.MaxInFlight", "Webhook.MaxConnections", "Webhook.IdleTimeout",
		"Admin.Listen", "Admin.TLS", "Admin.Token", "Journal.MaxBytes", "Journal.Durability", "Stream.Name", "Stream.Retention",
		"Stream.Dedupe", "Stream.MaxBytes", "NATS.Listen", "NATS.Workers", "NATS.MaxConnections", "NATS.TLS", "Quarantine.MaxBytes",
		"Quarantine.MaxAge", "Quarantine.MaxBody", "Shutdown.Delay",
	} {
		if flag := strings.TrimPrefix(translate("Options."+field), "--"); !slices.Contains(known, flag) {
			t.Errorf("Options.%s becomes %q, which is no flag of serve", field, flag)
		}
	}
}
