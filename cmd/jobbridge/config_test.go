package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/verify"
)

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConfigPrint gives a value in each way there is.
func TestConfigPrint(t *testing.T) {
	config := file(t, "jobbridge.yaml",
		"max-body: 2MiB\nmax-bytes: 21474836480\nquarantine-bytes: '1048576'\ndurability: os\npath: /from-file\n")
	t.Setenv("JOBBRIDGE_PATH", "/from-env")
	t.Setenv("JOBBRIDGE_STREAM", "ENV")
	secrets := file(t, "secrets", "whsec_one\nwhsec_two\n")
	out, err := call(t, nil, "config", "print", "--config", config, "--stream", "FLAG",
		"--quarantine-max-body", "4096", "--secret-file", secrets)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`max-body +2MiB +file`, `max-bytes +20GiB +file`, `quarantine-bytes +1MiB +file`, `quarantine-max-body +4KiB +flag`,
		`durability +os +file`, `path +/from-env +JOBBRIDGE_PATH`, `stream +FLAG +flag`, `tolerance +5m0s +default`,
		`secrets +` + verify.Fingerprint("whsec_one") + ", " + verify.Fingerprint("whsec_two") + ", " + verify.Fingerprint("whsec_test") +
			` +` + regexp.QuoteMeta(secrets) + " and " + secretEnv,
	} {
		if !regexp.MustCompile(`(?m)^` + want + ` *$`).MatchString(out) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "whsec_") {
		t.Errorf("a secret is printed:\n%s", out)
	}
}

// TestConfigCheck finds what serve would not start with.
func TestConfigCheck(t *testing.T) {
	if out, err := call(t, nil, "config", "check"); err != nil ||
		out != "OK; signing secret: fingerprint "+verify.Fingerprint("whsec_test")+"\n" {
		t.Fatal(out, err)
	}
	for name, c := range map[string]struct {
		args []string
		want string
	}{
		"misspelt key":          {[]string{"--config", file(t, "c.yaml", "max-boddy: 1MiB\n")}, `did you mean "max-body"`},
		"bad value":             {[]string{"--config", file(t, "c.yaml", "max-body: big\n")}, `max-body: "big" is no size`},
		"no YAML":               {[]string{"--config", file(t, "c.yaml", "{")}, "configuration file"},
		"missing secrets":       {[]string{"--secret-file", "/nowhere"}, "--secret-file"},
		"empty secrets":         {[]string{"--secret-file", file(t, "s", "\n")}, "is empty"},
		"half a pair":           {[]string{"--tls-cert", "x"}, "--tls-key"},
		"no certificate":        {[]string{"--tls-cert", file(t, "c", "x"), "--tls-key", file(t, "k", "x")}, "PEM"},
		"two certificates":      {[]string{"--tls-cert", "x", "--tls-key", "x", "--acme-domain", "a.example"}, "exclude"},
		"idle timeout":          {[]string{"--idle-timeout", "0s"}, "--idle-timeout"}, // case C7
		"short token":           {[]string{"--admin-token-file", file(t, "t", "secret")}, "16 characters"},
		"short window":          {[]string{"--dedupe-window", "1m"}, "--dedupe-window"},
		"ratio":                 {[]string{"--otlp-endpoint", "http://c:4318", "--trace-ratio", "1.1"}, "--trace-ratio"},
		"no ratio":              {[]string{"--trace-ratio", "NaN"}, "--trace-ratio"},
		"collector by gRPC":     {[]string{"--otlp-endpoint", "grpc://c:4317"}, "--otlp-endpoint"},
		"collector, port alone": {[]string{"--otlp-endpoint", "http://:4318"}, "--otlp-endpoint"},
		"collector, no scheme":  {[]string{"--otlp-endpoint", "collector:4318"}, "--otlp-endpoint"},
		"collector's password":  {[]string{"--otlp-endpoint", "http://me:pw@c:4318"}, "OTEL_EXPORTER_OTLP_HEADERS"},
		"collector's query":     {[]string{"--otlp-endpoint", "http://c:4318/?a=b"}, "no query"},
		"off loopback":          {[]string{"--trusted-proxies", "10.0.0.1"}, "--trusted-proxies"},
		"number as duration":    {[]string{"--config", file(t, "c.yaml", "tolerance: 300\n")}, `"300" is no duration: want one with its unit`},
		"list for one value":    {[]string{"--config", file(t, "c.yaml", "listen: [a, b]\n")}, "listen: want one value"},
		"keys for a value":      {[]string{"--config", file(t, "c.yaml", "listen: {a: b}\n")}, "listen: want one value"},
		"a list of keys":        {[]string{"--config", file(t, "c.yaml", "- listen\n")}, "want the names of flags"},
		"two documents":         {[]string{"--config", file(t, "c.yaml", "path: /a\n---\npath: /b\n")}, "one document"},
		"a file in the file":    {[]string{"--config", file(t, "c.yaml", "config: other.yaml\n")}, `unknown key "config"`},
		"a secret as key":       {[]string{"--config", file(t, "c.yaml", "whsec_abc: y\n")}, `unknown key "…"`},
		"no host":               {[]string{"--listen", "8080"}, "--listen: \"8080\": want a host and a port"},
		"empty address":         {[]string{"--admin-listen", ""}, "--admin-listen"},
		"no port":               {[]string{"--nats-listen", "127.0.0.1:nats!"}, "--nats-listen"},
		"workers anywhere":      {[]string{"--nats-listen", "0.0.0.0:4222"}, "--nats-listen: 0.0.0.0:4222 is not a loopback address"},
		"no path":               {[]string{"--path", "webhook"}, "--path"},
		"negative memory":       {[]string{"--max-body-memory=-5MiB"}, "--max-body-memory"},
		"body above NATS's":     {[]string{"--max-body", "32MiB"}, "--max-body"}, // case C11
		"stream for one body":   {[]string{"--max-body", "8MiB", "--max-bytes", "32MiB"}, "--max-bytes"},
		"stream above all":      {[]string{"--max-bytes", "4EiB"}, "--max-bytes"}, // case C11
		"small journal":         {[]string{"--journal-max-bytes", "4MiB"}, "--journal-max-bytes must be at least 4734976"},
		"negative delay":        {[]string{"--drain-delay=-10s"}, "--drain-delay"},
		"stream's name":         {[]string{"--stream", "a.b"}, "--stream"},
		"no context":            {[]string{"--nats-context", "nosuch"}, "--nats-context nosuch"},
		"no authority":          {[]string{"--nats-url", "nats://h:4222", "--nats-ca", file(t, "ca", "x")}, "--nats-ca"},
		"bad inbox":             {[]string{"--nats-url", "nats://h:4222", "--nats-inbox", "a..b >"}, "inbox"},
		"credentials alone":     {[]string{"--nats-creds", file(t, "creds", "x")}, "--nats-url"},
		"no ACME root":          {[]string{"--acme-domain", "a.example", "--acme-root", "/nowhere"}, "--acme-root"},
		"ACME's password":       {[]string{"--acme-domain", "a.example", "--acme-ca", "https://u:hunter2@ca/dir"}, "--acme-ca"},
		"quarantine's age":      {[]string{"--quarantine-age", "10ns"}, "--quarantine-age"},
		"twice":                 {[]string{"--nats-auth-file", file(t, "w", "ann:Eil4uoch\nann:ieTh5ohv\n")}, "ann is there twice"},
		"no folder":             {[]string{"--data-dir", file(t, "d", "x")}, "--data-dir"},
	} {
		out, err := call(t, nil, append([]string{"config", "check"}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "Options.") || exitCode(err, io.Discard) != 2 {
			t.Errorf("%s: %q %v, want %q", name, out, err, c.want)
		}
	}
}

func TestEndpoint(t *testing.T) {
	for given, want := range map[string]string{
		"http://c:4318": "http://c:4318/v1/traces", "https://c/": "https://c/v1/traces", "http://c/otlp": "http://c/otlp/v1/traces",
		"http://c/v1/traces": "http://c/v1/traces", "http://c/otlp/v1/traces/": "http://c/otlp/v1/traces/",
		"http://c/xv1/traces": "http://c/xv1/traces/v1/traces",
	} {
		if u, err := (traceFlags{OtlpEndpoint: given, TraceRatio: 1}).endpoint(); err != nil || u.String() != want {
			t.Errorf("%s: %s %v, want %s", given, u, err, want)
		}
	}
}

// TestConfigCheckAll reports all problems at once, the secret's too.
func TestConfigCheckAll(t *testing.T) {
	secret := file(t, "secret", "whsec_…\n")
	_, err := call(t, nil, "config", "check", "--secret-file", secret, "--retention", "1s", "--max-bytes", "1KiB",
		"--tolerance", "100ms", "--subject", "foo", "--listen", "8080",
		"--trusted-proxies", "x", "--path", "webhook", "--nats-auth-file", "/nowhere", "--max-body", "0",
		"--journal-max-bytes", "1", "--idle-timeout", "0s")
	if exitCode(err, io.Discard) != 2 {
		t.Fatal(err)
	}
	for _, want := range []string{
		"--secret-file", "--max-bytes", "--tolerance must",
		"--subject", "--listen", "--trusted-proxies", "--path", "--nats-auth-file", "--max-body", "--idle-timeout",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s is missing in:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n"); n < 9 {
		t.Errorf("%d lines:\n%v", n+1, err)
	}
}

// TestConfigHidesPasswords prints what is refused all the same, but not who
// connects.
func TestConfigHidesPasswords(t *testing.T) {
	for _, args := range [][]string{
		{"--config", file(t, "c.yaml", "nats-url: nats://u:hunter2@h:4222\n")},
		{"--config", file(t, "c.yaml", "nats-url: ['nats://a:4222', 'u:hunter2@h:4222']\n")},
		{"--otlp-endpoint", "http://u:hunter2@h:4318"},
		{"--acme-ca", "https://u:hunter2@ca/dir"},
		{"--stream", "whsec_hunter2"},
		{"--nats-url", "nats://u:hunter2 x@h:4222"},
		{"--nats-url", "nats://u:hunter2,w1@h:4222"},
		{"--otlp-endpoint", "http://c:4318/?key=hunter2"},
	} {
		out, err := call(t, nil, append([]string{"config", "print"}, args...)...)
		if !strings.Contains(out, "FLAG") || strings.Contains(out, "hunter2") || err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	out, err := call(t, nil, "config", "print", "--acme-email", "ops@example.com", "--nats-url", "tls://a:4222,tls://[::1]:4222")
	if err != nil || !strings.Contains(out, "ops@example.com") || !strings.Contains(out, "[tls://a:4222 tls://[::1]:4222]") ||
		!strings.Contains(out, "jobbridge-data") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestVariables sets some to nothing, and misspells others.
func TestVariables(t *testing.T) {
	for _, name := range []string{"JOBBRIDGE_TOLERANCE", "JOBBRIDGE_MAX_BYTES", "JOBBRIDGE_MAX_IN_FLIGHT", "JOBBRIDGE_PPROF",
		"JOBBRIDGE_DURABILITY", "JOBBRIDGE_CONFIG", "JOBBRIDGE_TLS_CERT"} {
		t.Setenv(name, "")
	}
	if out, err := call(t, nil, "config", "check"); err != nil {
		t.Error(out, err)
	}
	hints := func(environ ...string) string {
		parser, err := newParser(new(cli))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(misspelled(parser, environ), "\n")
	}
	for variable, want := range map[string]string{
		"JOBBRIDGE_MAX_BDOY=1": "did you mean JOBBRIDGE_MAX_BODY?", "JOBBRIDGE_NO_QUARANTINE=true": "set JOBBRIDGE_QUARANTINE=false",
		"JOBBRIDGE_MAX_BODY=1": "", "JOBBRIDGE_PORT=tcp://10.0.0.1:8080": "", "JOBBRIDGE_SERVICE_HOST=10.0.0.1": "", "MAX_BDOY=1": "",
	} {
		if got := hints(variable); got == "" != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", variable, got, want)
		}
	}
}

// TestClientVariables: a flag that is for one call has no variable, and one that says
// where to connect has.
func TestClientVariables(t *testing.T) {
	for name, value := range map[string]string{"TIMEOUT": "1ns", "ID": "x", "STATUS": "x", "COUNT": "0",
		"TAMPER": "body", "JSON": "true", "FORCE": "true", "ALL": "true"} {
		t.Setenv("JOBBRIDGE_"+name, value)
	}
	t.Setenv("JOBBRIDGE_ADMIN", "http://")
	t.Setenv("JOBBRIDGE_URL", "ftp://nowhere")
	for command, want := range map[string]string{
		"drain":            "--admin: want a URL", // and not that the timeout is too short
		"send":             "--url: want a URL",
		"quarantine purge": "say which", // and not all
	} {
		if out, err := call(t, nil, strings.Fields(command)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s %v, want %q", command, out, err, want)
		}
	}
}

// TestWarnings lets passwords go over the network, and says so.
func TestWarnings(t *testing.T) {
	token, workers := file(t, "token", "0123456789abcdef"), file(t, "workers", "ann:one")
	certificate := file(t, "cert", "x")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--admin-listen", "0.0.0.0:8081", "--admin-token-file", token}, "the admin listener a certificate"},
		{[]string{"--admin-listen", ":8081", "--admin-token-file", token}, "the admin listener a certificate"},
		{[]string{"--admin-listen", "0.0.0.0:8081", "--admin-token-file", token,
			"--admin-tls-cert", certificate, "--admin-tls-key", certificate}, ""},
		{[]string{"--admin-listen", "127.0.0.1:8081", "--admin-token-file", token}, ""},
		{[]string{"--admin-listen", "0.0.0.0:8081"}, ""},
		{[]string{"--nats-listen", "[::]:4222", "--nats-auth-file", workers}, "the NATS listener a certificate"},
		{[]string{"--nats-listen", "localhost:4222", "--nats-auth-file", workers}, ""},
	} {
		o, err := optionsOf(t, c.args...)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(o.Warnings(), "\n"); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%q: %q, want %q", c.args, got, c.want)
		}
	}
}
