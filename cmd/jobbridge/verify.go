package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf16"

	"github.com/jobbridge/jobbridge/verify"
)

type verifyCmd struct {
	Header    string        `required:"" placeholder:"t=…,v1=…"`
	File      string        `default:"-" placeholder:"FILE"`
	At        string        `placeholder:"TIME"`
	Tolerance time.Duration `default:"${tolerance}"`
	DataDir   string        `default:"${data_dir}" type:"path"`
	Secrets   secretFlags   `embed:""`
}

// Run prints a diagnosis, and fails if the delivery would be refused.
func (c *verifyCmd) Run(_ context.Context, s streams) error {
	secrets, err := c.Secrets.orDev(s.getenv, c.DataDir)
	if err != nil {
		return err
	}
	c.Header = headerValue(c.Header)
	body, err := readInput(c.File, s.in)
	if err != nil {
		return err
	}
	at, err := parseAt(c.At)
	if err != nil {
		return err
	}
	now := time.Now
	if c.At != "" {
		now = func() time.Time { return at(time.Now()) }
	}
	v, err := verify.New(secrets, verify.Options{Tolerance: c.Tolerance, Now: now, MaxPayload: largestCapture})
	if err != nil {
		return usageError{err}
	}
	got, err := v.Verify(strings.TrimSpace(c.Header), body)
	for _, line := range explain(c, secrets, body, got, err, now()) {
		fmt.Fprintln(s.out, line)
	}
	if err != nil {
		return errors.New("a bridge would refuse this delivery")
	}
	return nil
}

// headerValue returns the value of a header that was pasted with its name.
func headerValue(text string) string {
	name, value, found := strings.Cut(text, ":")
	if found && strings.EqualFold(strings.Trim(name, " \t\"'"), verify.HeaderName) {
		text = value
	}
	return strings.Trim(text, " \t\r\n\"'")
}

// explain says in lines what is right or wrong with a delivery, and what to do.
func explain(c *verifyCmd, secrets []string, body []byte, got verify.Verified, err error, now time.Time) []string {
	signed := fmt.Sprintf("signed at %s with secret %d of %d", got.SignedAt.UTC().Format(time.RFC3339), got.SecretIndex+1, len(secrets))
	form := "over the body as it is"
	if got.Form == verify.Stringified {
		form = "over JSON.stringify of the body, not over its bytes"
	}
	detail := func(sentinel error) string { return strings.TrimPrefix(err.Error(), sentinel.Error()+": ") + "." }
	switch {
	case err == nil:
		return []string{"OK: " + signed + ", " + form + "."}
	case errors.Is(err, verify.ErrTooOld), errors.Is(err, verify.ErrTooNew):
		return []string{
			"STALE: the signature is right (" + signed + ", " + form + "), but " + stale(got.SignedAt, now, c.Tolerance) + ".",
			"If it was captured earlier, judge it as of then: --at " + got.SignedAt.UTC().Format(time.RFC3339) + ".",
			"If it was refused live: check the clocks (timedatectl, chronyc tracking), or raise --tolerance.",
		}
	case errors.Is(err, verify.ErrUnsigned):
		return []string{"UNSIGNED: the header is empty.",
			"Check that a proxy in front passes " + verify.HeaderName + " on, and that the sender is the provider."}
	case errors.Is(err, verify.ErrMalformed):
		return []string{"MALFORMED: " + detail(verify.ErrMalformed), "The header has the form t=<digits>,v1=<64 lower-case hex digits>."}
	case errors.Is(err, verify.ErrTooLarge):
		return []string{"TOO LARGE: " + detail(verify.ErrTooLarge)}
	}
	lines := []string{"MISMATCH: the secret did not make this signature over this body."}
	if len(secrets) > 1 {
		lines = []string{fmt.Sprintf("MISMATCH: none of the %d secrets made this signature over this body.", len(secrets))}
	}
	if found := diagnose(strings.TrimSpace(c.Header), secrets, body); found != "" {
		return append(lines, "But: "+found)
	}
	for i, s := range secrets {
		lines = append(lines, fmt.Sprintf("  secret %d has the fingerprint %s and %d characters", i+1, verify.Fingerprint(s), len(s)))
	}
	_, notJSON := verify.Stringify(body, 0)
	switch {
	case len(body) == 0:
		return append(lines, "The body is empty: give --file, or the body on standard input.")
	case bytes.HasPrefix(body, []byte{0x1f, 0x8b}):
		return append(lines, "The body is compressed with gzip: decompress it first, because the signature is over the text.")
	case notJSON != nil:
		return append(lines, "The body is not JSON ("+notJSON.Error()+"): was it cut off, or changed by a proxy?")
	}
	return append(lines, "Either the secret is another one (was it rotated? is it the secret of another endpoint?), "+
		"or the body was altered on its way: compare its "+strconv.Itoa(len(body))+" bytes with what was sent.")
}

// stale says by how much a delivery is too old or too new.
func stale(signed, now time.Time, tolerance time.Duration) string {
	age, way := now.Sub(signed).Round(time.Second), "old"
	if age <= 0 {
		age, way = -age, "in the future"
	}
	return fmt.Sprintf("%s %s, %s more than the tolerance of %s", age, way, age-tolerance, tolerance)
}

// largestCapture bounds the body of a capture, which may be larger than what a bridge accepts.
const largestCapture = 32 << 20

// diagnose tries the usual mistakes with the secret and with the body, alone and in pairs, and says which of them makes the signature
// right. It returns "" if none does.
func diagnose(header string, secrets []string, body []byte) string {
	_, v1, _ := strings.Cut(header, "v1=")
	v1, _, _ = strings.Cut(v1, ",")
	mac, _ := hex.DecodeString(v1) // what is no hex equals nothing below
	for _, secret := range secrets {
		for _, key := range keyMistakes(secret) {
			v, err := verify.New([]string{key.value}, verify.Options{Tolerance: verify.AnyAge, MaxPayload: largestCapture})
			if err != nil {
				continue
			}
			for _, payload := range bodyMistakes(body) {
				if _, err := v.Verify(header, []byte(payload.value)); err == nil {
					return strings.TrimSpace(key.advice + " " + payload.advice)
				}
			}
		}
		for _, payload := range bodyMistakes(body) {
			h := hmac.New(sha256.New, []byte(secret))
			h.Write([]byte(payload.value))
			if hmac.Equal(h.Sum(nil), mac) {
				return strings.TrimSpace(`it is right over the body without the time in front: the sender must sign t + "." + body. ` + payload.advice)
			}
		}
	}
	return ""
}

// mistake is what a sender or a capture may have made of a secret or a body, and what to do about it.
type mistake struct{ value, advice string }

// keyMistakes returns the secret as it is, and what wrong senders make of it.
func keyMistakes(secret string) []mistake {
	plain := strings.TrimPrefix(secret, "whsec_")
	list := []mistake{
		{secret, ""},
		{plain, "it is right without the secret's whsec_ prefix: the sender leaves it out, and must not."},
		{"whsec_" + plain, "it is right with whsec_ in front of the secret: give the whole secret."},
		{strings.TrimSpace(secret), "it is right without the white space around the secret."},
		{secret + "\n", "it is right with a newline after the secret: the sender reads the secret from a file and does not trim it."},
		{`"` + secret + `"`, "it is right with quotes around the secret: the sender's configuration keeps them."},
	}
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if decoded, err := encoding.DecodeString(plain); err == nil {
			list = append(list, mistake{string(decoded), "it is right with the base64-decoded secret, as in Standard Webhooks. " +
				"This provider's secret is used as text: the sender is another one, or signs wrongly."})
		}
	}
	return list
}

// bodyMistakes returns the body as it is, and what it may have been before the capture.
func bodyMistakes(data []byte) []mistake {
	var indented bytes.Buffer
	_ = json.Indent(&indented, data, "", "  ") // what fails here and below is empty, and left out
	compact, _ := verify.Stringify(data, 0)
	fromBase64, _ := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(data)))
	fromHex, _ := hex.DecodeString(string(bytes.TrimSpace(data)))
	const python = ", as json.dumps of Python prints it: the sender signs that form, and must sign what it sends."
	body := string(data)
	list := []mistake{
		{body, ""},
		{strings.TrimRight(body, "\r\n"), "it is right without the newline at the end of the body, which came with the capture."},
		{body + "\n", "it is right with a newline after the body: the capture, or a proxy, dropped it."},
		{strings.ReplaceAll(body, "\n", "\r\n"), "it is right with CRLF line ends: the capture changed them."},
		{strings.ReplaceAll(body, "\r\n", "\n"), "it is right with LF line ends: the capture changed them."},
		{indented.String(), "it is right over the body indented by two spaces: something in between re-serialized it."},
		{asciiOnly(compact), `it is right over the body with \u escapes for characters that are not ASCII` + python},
		{spaced(compact), "it is right over the body with a space after each comma and colon" + python},
		{string(fromBase64), "it is right over the base64-decoded body: the capture, or a gateway in front, encoded it."},
		{string(fromHex), "it is right over the hex-decoded body: the capture encoded it."},
	}
	return slices.DeleteFunc(list, func(m mistake) bool { return m.advice != "" && (m.value == "" || m.value == body) })
}

// asciiOnly escapes the characters of JSON that are not ASCII.
func asciiOnly(data []byte) string {
	var b strings.Builder
	for _, r := range string(data) {
		if r < 0x80 {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.String()
}

// spaced puts a space after each comma and colon of compact JSON that is not inside a string.
func spaced(data []byte) string { return outside.ReplaceAllString(string(data), "$1$2 ") }

// outside matches strings and other tokens of compact JSON up to a comma or a colon.
var outside = regexp.MustCompile(`((?:"(?:[^"\\]|\\.)*"|[^",:])*)([,:])`)
