package main

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/verify"
)

// call runs jobbridge in this process, with a secret in its environment.
func call(t *testing.T, stdin io.Reader, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	getenv := func(key string) string {
		if key == secretEnv {
			return "whsec_test"
		}
		return ""
	}
	err := run(t.Context(), args, streams{getenv: getenv, in: stdin, out: &out, err: io.Discard})
	return out.String(), err
}

// TestDiagnosis bends a good delivery in each of the ways that happen, and
// reads what the user is told.
func TestDiagnosis(t *testing.T) {
	at := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	body := "{\"id\":\"a\",\"status\":\"COMPLETED\",\"name\":\"é\"}"
	sign := func(secret, payload string) string { return verify.Sign(secret, at, []byte(payload)) }
	bare := func(key, message string) string {
		mac := hmac.New(sha256.New, []byte(key))
		mac.Write([]byte(message))
		return hex.EncodeToString(mac.Sum(nil))
	}
	for _, r := range []struct {
		name, header, body string
		args               []string
		ok                 bool
		want               string
	}{
		{name: "good", header: sign("whsec_test", body), body: body, ok: true, want: "over the body as it is"},
		{name: "re-serialized", header: sign("whsec_test", body), body: strings.ReplaceAll(body, ",", ", "), ok: true, want: "JSON.stringify"},
		{name: "stale", header: sign("whsec_test", body), body: body, args: []string{"--at", "2026-01-31T12:06:00Z"},
			want: "6m0s old, 1m0s more"},
		{name: "from the future", header: sign("whsec_test", body), body: body, args: []string{"--at", "2026-01-31T11:50:00Z"},
			want: "10m0s in the future, 5m0s more"},
		{name: "unsigned", header: " ", body: body, want: "UNSIGNED"},
		{name: "malformed", header: "v1=abc", body: body, want: "MALFORMED: no t."},
		{name: "too many slow numbers", header: sign("whsec_test", body), body: "[" + strings.Repeat("5e-324,", 100) + "5e-324]",
			want: "TOO LARGE: more than 100 numbers"},
		{name: "wrong secret", header: sign("whsec_other", body), body: body, want: "fingerprint " + verify.Fingerprint("whsec_test")},
		{name: "altered", header: sign("whsec_test", body), body: strings.Replace(body, "a", "b", 1), want: "altered on its way"},
		{name: "cut off", header: sign("whsec_test", body), body: body[:len(body)-3], want: "cut off"},
		{name: "with the header's name", header: "Sync-Signature: " + sign("whsec_test", body), body: body, ok: true, want: "OK"},
		{name: "with the name and quotes", header: "'sync-signature: " + sign("whsec_test", body) + "'\r\n", body: body, ok: true, want: "OK"},
		{name: "empty body", header: sign("whsec_test", body), body: "", want: "The body is empty"},
		{name: "compressed body", header: sign("whsec_test", body), body: "\x1f\x8b\x08\x00", want: "compressed with gzip"},
		{name: "base64-decoded secret", header: sign("\xb5\xeb-", body), body: body, want: "base64-decoded secret"},
		{name: "without whsec_", header: sign("test", body), body: body, want: "without the secret's whsec_ prefix"},
		{name: "secret with a newline", header: sign("whsec_test\n", body), body: body, want: "newline after the secret"},
		{name: "captured with a newline", header: sign("whsec_test", body+"x"), body: body + "x\n", want: "without the newline at the end"},
		{name: "Python's separators", header: sign("whsec_test", strings.NewReplacer(`,"`, `, "`, `":`, `": `).Replace(body)),
			body: body, want: "space after each comma"},
		{name: "Python's escapes", header: sign("whsec_test", strings.ReplaceAll(body, "é", `\u00e9`)), body: body, want: "not ASCII"},
		{name: "body alone", header: fmt.Sprintf("t=%d,v1=%s", at.Unix(), bare("whsec_test", body)),
			body: body, want: "without the time in front"},
		{name: "upper case", header: fmt.Sprintf("t=%d,v1=%s", at.Unix(), strings.ToUpper(bare("whsec_test", body))),
			body: body, want: "lower-case"},
	} {
		args := append([]string{"verify", "--header", r.header, "--at", "2026-01-31T12:00:01Z"}, r.args...)
		out, err := call(t, strings.NewReader(r.body), args...)
		if (err == nil) != r.ok || !strings.Contains(out, r.want) {
			t.Errorf("%s: %v, want %q in:\n%s", r.name, err, r.want, out)
		}
		if strings.Contains(out, "whsec_test") {
			t.Errorf("%s: the secret is printed:\n%s", r.name, out)
		}
	}
}

func TestExitCodes(t *testing.T) {
	for want, err := range map[int]error{0: nil, 1: errors.New("x"), 2: fmt.Errorf("wrapped: %w", usage("x"))} {
		if got := exitCode(err, io.Discard); got != want {
			t.Errorf("%v: %d, want %d", err, got, want)
		}
	}
}

// TestSecrets reads what people write. What would refuse every delivery, or let
// others in, is an error, and does not show the secret.
func TestSecrets(t *testing.T) {
	for _, c := range []struct{ name, variable, file, want, err string }{
		{"none", "", "-", "", ""},
		{"variable", "whsec_one, whsec_two\n", "-", "whsec_one|whsec_two", ""},
		{"file", "", "whsec_one\r\n\n  whsec_two==  \n", "whsec_one|whsec_two==", ""},
		{"both", "whsec_two", "whsec_one", "whsec_one|whsec_two", ""},
		{"byte order mark", "", "\ufeffwhsec_one\n", "whsec_one", ""},
		{"comments", "", "# rotated in 2026\nwhsec_one\n #whsec_two\n", "whsec_one", ""},
		{"comment alone", "", "# whsec_one\n", "", "is empty"},
		{"empty", "", "\n", "", "is empty"},
		{"short", "", "whsec_one\ns3cr3tx\n", "", "secret 2 is shorter than 8"},
		{"short variable", "s3cr3tx", "-", "", secretEnv + ": secret 1 is shorter"},
		{"space", "", "whsec one two\n", "", "has a space"},
		{"comma", "", "whsec_one,whsec_two\n", "", "one secret a line"},
		{"assignment of nothing", "", "SYNC_WEBHOOK_SECRET=\n", "", "assignment"},
		{"two signs", "", "SYNC_WEBHOOK_SECRET==\n", "", "assignment"},
		{"joined", "", "whsec_onewhsec_two\n", "", "has another one in it"},
		{"base32", "", "MFRGGZDFMZTWQ2LK=\nKRSXG5BAONSWG4TFOQQGC3TE==\n", "MFRGGZDFMZTWQ2LK=|KRSXG5BAONSWG4TFOQQGC3TE==", ""},
		{"quotes", "", `"whsec_one"`, "", "in quotes"},
		{"assignment", "", "SYNC_WEBHOOK_SECRET=whsec_one\n", "", "assignment"},
		{"UTF-16", "", "\xff\xfew\x00h\x00s\x00e\x00c\x00_\x00o\x00n\x00e\x00", "", "no text in UTF-8"},
		{"NUL", "", "whsec_one\x00", "", "no text in UTF-8"},
		{"CR", "", "whsec_one\rwhsec_two\r", "", "no text in UTF-8"},
		{"large", "", strings.Repeat("whsec_one\n", 200_000), "", "is it the right file?"},
	} {
		f := secretFlags{}
		if c.file != "-" {
			f.SecretFile = file(t, "secret", c.file)
		}
		secrets, err := f.read(func(string) string { return c.variable })
		if got := strings.Join(secrets, "|"); got != c.want || (err == nil) != (c.err == "") {
			t.Errorf("%s: %q %v, want %q %q", c.name, got, err, c.want, c.err)
		}
		if err != nil && (!strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "whsec")) {
			t.Errorf("%s: %v, want %q", c.name, err, c.err)
		}
	}
}
