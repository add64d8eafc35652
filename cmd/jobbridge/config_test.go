package main

import (
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
	config := file(t, "jobbridge.yaml", "max-body: 2MiB\nmax-bytes: 21474836480\nquarantine-bytes: '1048576'\ndurability: os\npath: /from-file\n")
	t.Setenv("JOBBRIDGE_PATH", "/from-env")
	t.Setenv("JOBBRIDGE_STREAM", "ENV")
	secrets := file(t, "secrets", "whsec_one\nwhsec_two\n")
	out, err := call(t, nil, "config", "print", "--config", config, "--stream", "FLAG", "--quarantine-max-body", "4096", "--secret-file", secrets)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`max-body +2MiB +file`, `max-bytes +20GiB +file`, `quarantine-bytes +1MiB +file`, `quarantine-max-body +4KiB +flag`, `durability +os +file`, `path +/from-env +JOBBRIDGE_PATH`, `stream +FLAG +flag`, `tolerance +5m0s +default`,
		`secrets +` + verify.Fingerprint("whsec_one") + ", " + verify.Fingerprint("whsec_two") + ", " + verify.Fingerprint("whsec_test") + ` +` + regexp.QuoteMeta(secrets) + " and " + secretEnv,
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
	if out, err := call(t, nil, "config", "check"); err != nil || !strings.HasPrefix(out, "good") {
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
	} {
		out, err := call(t, nil, append([]string{"config", "check"}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %q %v, want %q", name, out, err, c.want)
		}
	}
}

func TestEndpoint(t *testing.T) {
	for given, want := range map[string]string{
		"http://c:4318": "http://c:4318/v1/traces", "https://c/": "https://c/v1/traces", "http://c/otlp": "http://c/otlp/v1/traces",
		"http://c/v1/traces": "http://c/v1/traces", "http://c/otlp/v1/traces/": "http://c/otlp/v1/traces/", "http://c/xv1/traces": "http://c/xv1/traces/v1/traces",
	} {
		if u, err := (traceFlags{OtlpEndpoint: given, TraceRatio: 1}).endpoint(); err != nil || u.String() != want {
			t.Errorf("%s: %s %v, want %s", given, u, err, want)
		}
	}
}
