package main

import (
	"io"
	"os"
	"strings"
	"testing"
)

// notSecrets are values that people paste where a secret belongs, each with a part of
// the mistake that is named (case C4).
var notSecrets = map[string]string{
	"whsec_…":                           "ellipsis",
	"whsec_...":                         "ellipsis",
	"whsec_abcd1234…":                   "ellipsis",
	"whsec_xxxxxxxx":                    "masked",
	"XXXXXXXXXXXXXXXX":                  "masked",
	"****************":                  "masked",
	"whsec_ab12••••••cd":                "masked",
	"whsec_ab12********cd":              "masked",
	"whsec_aaaaaaaaaaaaaaaaaaaa":        "different characters",
	"0000000000000000":                  "different characters",
	"t=1795516600,v1=9b14d6ff00aa7c":    "signature header",
	"v1=9b14d6ff00aa7c9b14d6ff":         "signature header",
	"v1,whsec_c2VjcmV0LW9mLWEtc3R1ZHk=": "version",
	"${SECRET_OF_WEBHOOK}":              "variable",
	"whsec_${SECRET}":                   "variable",
	"$SYNC_WEBHOOK_SECRET":              "variable",
	"$(cat_secret_of_webhook)":          "variable",
	"{{secrets.webhook.key}}":           "variable",
	"%SYNC_WEBHOOK_SECRET%":             "variable",
	"<the-secret-of-webhook>":           "brackets",
	"whsec_<from-dashboard>":            "brackets",
	"[from_the_dashboard]":              "brackets",
	"https://example.org/webhook":       "URL",
	"op://vault/sync/credential":        "URL",
	"/run/secrets/webhook-secret":       "path",
	"./secrets/webhook.txt":             "path",
	"changeme123changeme":               "placeholder",
	"Change-me_before-use":              "placeholder",
	"whsec_your_secret_here":            "placeholder",
	"whsec_replace_with_real":           "placeholder",
	"your-webhook-secret":               "placeholder",
	"webhook-secret-1":                  "stands for a secret",
	"whsec_undefined":                   "stands for a secret",
	"whsec_0123456789":                  "stands for a secret",
	"abcdefghijklmnop":                  "stands for a secret",
	"whsec_c2Vjcm\u200bV0LW9mLWE":       "U+200B",
	"whsec_c2Vjcm\u00a0V0LW9mLWE":       "U+00A0",
	"whsec_c2Vjcm\u202eV0LW9mLWE":       "U+202E",
}

// TestPlaceholders: what stands for a secret is no signing secret, whether it comes in
// the variable or in a file, for serve and for the commands that sign and verify; it is
// no admin token and no password of a worker. The mistake is named, the value is not
// shown, and the exit code is 2 (case C4).
func TestPlaceholders(t *testing.T) {
	noVariable := func(string) string { return "" }
	for value, want := range notSecrets {
		refused := func(where string, err error) {
			t.Helper()
			if err == nil || exitCode(err, io.Discard) != 2 || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), value) {
				t.Errorf("%s: %q: %v, want exit 2 and %q", where, value, err, want)
			}
		}
		variable := streams{getenv: func(string) string { return value }, in: strings.NewReader("{}"), out: io.Discard, err: io.Discard}
		secretFile := file(t, "secret", "whsec_one\n"+value+"\n")
		for _, command := range []string{"config check", "send", "verify --header t=1,v1=00"} {
			refused(command+", variable", run(t.Context(), strings.Fields(command), variable))
			s := variable
			s.getenv, s.in = noVariable, strings.NewReader("{}")
			refused(command+", file", run(t.Context(), append(strings.Fields(command), "--secret-file", secretFile), s))
		}
		s := variable
		s.getenv = func(string) string { return "whsec_test" }
		if len(value) >= 16 {
			refused("token", run(t.Context(), []string{"config", "check", "--admin-token-file", file(t, "token", value+"\n")}, s))
		}
		refused("password", run(t.Context(), []string{"config", "check", "--nats-auth-file", file(t, "workers", "ann:"+value+"\n")}, s))
	}
}

// TestRealSecrets: what sources of randomness and people produce is accepted.
func TestRealSecrets(t *testing.T) {
	for _, value := range []string{
		"whsec_4eC39HqLyjWDarjtT1zdp7dc", "whsec_c2VjcmV0LW9mLWEtc3R1ZHk=", "MFRGGZDFMZTWQ2LK=",
		"9b14d6ff00aa7c9b14d6ff00aa7c9b14", "Tr0ub4dor&3-x$y", "/x+Yk2/9fPq0aZ==",
		"correct-horse-battery-staple", "whsec_one", "p(a)s{s}w0rd!2",
	} {
		if mistake := secretMistake(value); mistake != "" {
			t.Errorf("%q %s", value, mistake)
		}
	}
	for _, value := range []string{"pässwörter-für-alle", "with a space in it",
		"$2y$10$N9qo8uLOickgx2ZMRZoMyeIjZAgcfl7p92ldGxad68LJZdL17lhWy"} {
		if mistake := placeholder(value); mistake != "" {
			t.Errorf("%q %s", value, mistake)
		}
	}
}

// TestDevSecretBehindLink: the secret of --dev is not read behind a link that somebody
// else has planted in the data folder (case C5).
func TestDevSecretBehindLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(file(t, "theirs", "whsec_theirs\n"), devSecretFile(dir)); err != nil {
		t.Fatal(err)
	}
	if secret, err := devSecret(dir); err == nil {
		t.Errorf("serve would use %q", secret)
	}
	if secrets, err := (secretFlags{}).orDev(func(string) string { return "" }, dir); err == nil {
		t.Errorf("send would use %q", secrets)
	}
}
