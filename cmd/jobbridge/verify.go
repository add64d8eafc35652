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
	v, err := verify.New(secrets, verify.Options{Tolerance: c.Tolerance, Now: now, MaxPayload: 32 << 20})
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

// notJSON says why a body is not what a provider signs, or returns "".
func notJSON(body []byte) string {
	_, err := verify.Stringify(body, 0)
	switch {
	case len(body) == 0:
		return "The body is empty: give --file, or the body on standard input."
	case bytes.HasPrefix(body, []byte{0x1f, 0x8b}):
		return "The body is compressed with gzip: decompress it first, because the signature is over the text."
	case err != nil:
		return "The body is not JSON (" + err.Error() + "): was it cut off, or changed by a proxy?"
	}
	return ""
}

// explain says in lines what is right or wrong, and what to do.
func explain(c *verifyCmd, secrets []string, body []byte, got verify.Verified, err error, now time.Time) []string {
	signed := fmt.Sprintf("signed at %s with secret %d of %d", got.SignedAt.UTC().Format(time.RFC3339), got.SecretIndex+1, len(secrets))
	form := "over the body as it is"
	if got.Form == verify.Stringified {
		form = "over JSON.stringify of the body, not over its bytes"
	}
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
		return []string{"UNSIGNED: the header is empty.", "Check that a proxy in front passes " + verify.HeaderName + " on, and that the sender is the provider."}
	case errors.Is(err, verify.ErrMalformed):
		return []string{"MALFORMED: " + strings.TrimPrefix(err.Error(), verify.ErrMalformed.Error()+": ") + ".", "The header has the form t=<digits>,v1=<64 lower-case hex digits>."}
	case errors.Is(err, verify.ErrTooLarge):
		return []string{"TOO LARGE: " + strings.TrimPrefix(err.Error(), verify.ErrTooLarge.Error()+": ") + "."}
	}
	lines := []string{"MISMATCH: " + noneOf(len(secrets)) + " made this signature over this body."}
	if found := diagnose(strings.TrimSpace(c.Header), secrets, body); found != "" {
		return append(lines, "But: "+found)
	}
	for i, s := range secrets {
		lines = append(lines, fmt.Sprintf("  secret %d has the fingerprint %s and %d characters", i+1, verify.Fingerprint(s), len(s)))
	}
	if problem := notJSON(body); problem != "" {
		return append(lines, problem)
	}
	return append(lines, "Either the secret is another one (was it rotated? is it that of another endpoint?), or the body was altered on its way: compare its "+
		strconv.Itoa(len(body))+" bytes with what was sent.")
}

// noneOf begins a sentence that says what the secrets did not do.
func noneOf(secrets int) string {
	if secrets == 1 {
		return "the secret has not"
	}
	return "none of the " + strconv.Itoa(secrets) + " secrets has"
}

func stale(signed, now time.Time, tolerance time.Duration) string {
	age := now.Sub(signed).Round(time.Second)
	if age > 0 {
		return fmt.Sprintf("%s old, %s more than the tolerance of %s", age, age-tolerance, tolerance)
	}
	return fmt.Sprintf("%s in the future, %s more than the tolerance of %s", -age, -age-tolerance, tolerance)
}

// diagnose tries the usual mistakes, alone and in pairs, and says which makes
// the signature right.
func diagnose(header string, secrets []string, body []byte) string {
	for _, secret := range secrets {
		for _, key := range keyMistakes(secret) {
			for _, payload := range bodyMistakes(body) {
				v, err := verify.New([]string{key.value}, verify.Options{Tolerance: verify.AnyAge, MaxPayload: 32 << 20})
				if err != nil {
					continue
				}
				if _, err := v.Verify(header, payload.value); err == nil {
					return strings.TrimSpace(key.advice + " " + payload.advice)
				}
			}
		}
	}
	if h := bareMAC(header); h != nil {
		for _, secret := range secrets {
			for _, payload := range bodyMistakes(body) {
				mac := hmac.New(sha256.New, []byte(secret))
				mac.Write(payload.value)
				if hmac.Equal(mac.Sum(nil), h) {
					return strings.TrimSpace("it is right over the body without the time in front: the sender must sign t + \".\" + body. " + payload.advice)
				}
			}
		}
	}
	return ""
}

// bareMAC returns the first v1 of a header.
func bareMAC(header string) []byte {
	_, v1, _ := strings.Cut(header, "v1=")
	v1, _, _ = strings.Cut(v1, ",")
	mac, err := hex.DecodeString(v1)
	if err != nil {
		return nil
	}
	return mac
}

type keyMistake struct{ value, advice string }

func keyMistakes(secret string) []keyMistake {
	plain := strings.TrimPrefix(secret, "whsec_")
	list := []keyMistake{{secret, ""}}
	add := func(value, advice string) { list = append(list, keyMistake{value, advice}) }
	for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
		if decoded, err := encoding.DecodeString(plain); err == nil {
			add(string(decoded), "it is right with the base64-decoded secret, as in Standard Webhooks. This provider's secret is used as text: the sender is another, or signs wrongly.")
		}
	}
	add(plain, "it is right without the secret's whsec_ prefix: the sender leaves it out, and must not.")
	add("whsec_"+plain, "it is right with whsec_ in front of the secret: give the whole secret.")
	add(strings.TrimSpace(secret), "it is right without the white space around the secret.")
	add(secret+"\n", "it is right with a newline after the secret: the sender reads it from a file and does not trim it.")
	add(`"`+secret+`"`, "it is right with quotes around the secret: the sender's configuration keeps them.")
	return list
}

type bodyMistake struct {
	value  []byte
	advice string
}

func bodyMistakes(body []byte) []bodyMistake {
	list := []bodyMistake{{body, ""}}
	add := func(value []byte, advice string) {
		if value != nil && !bytes.Equal(value, body) {
			list = append(list, bodyMistake{value, advice})
		}
	}
	add(bytes.TrimRight(body, "\r\n"), "it is right without the newline at the end of the body: that came with the capture.")
	add(append(bytes.Clone(body), '\n'), "it is right with a newline after the body: the capture, or a proxy, dropped it.")
	add(bytes.ReplaceAll(body, []byte("\n"), []byte("\r\n")), "it is right with CRLF line ends: the capture changed them.")
	add(bytes.ReplaceAll(body, []byte("\r\n"), []byte("\n")), "it is right with LF line ends: the capture changed them.")
	var indented bytes.Buffer
	if json.Indent(&indented, body, "", "  ") == nil {
		add(indented.Bytes(), "it is right over the body indented by two spaces: something in between re-serialized it.")
	}
	if printed, err := verify.Stringify(body, 0); err == nil {
		add(asciiOnly(printed), `it is right over the body with \u escapes for what is not ASCII, as Python's json.dumps prints it: the sender signs that form; let it sign what it sends.`)
		add(spaced(printed), "it is right over the body with a space after each comma and colon, as Python's json.dumps prints it: the sender signs that form; let it sign what it sends.")
	}
	if decoded, err := base64.StdEncoding.DecodeString(string(bytes.TrimSpace(body))); err == nil {
		add(decoded, "it is right over the base64-decoded body: the capture, or a gateway in front, encoded it.")
	}
	if decoded, err := hex.DecodeString(string(bytes.TrimSpace(body))); err == nil {
		add(decoded, "it is right over the hex-decoded body: the capture encoded it.")
	}
	return list
}

// asciiOnly escapes what is not ASCII in JSON.
func asciiOnly(data []byte) []byte {
	var b bytes.Buffer
	for _, r := range string(data) {
		if r < 0x80 {
			b.WriteRune(r)
			continue
		}
		for _, unit := range utf16.Encode([]rune{r}) {
			fmt.Fprintf(&b, `\u%04x`, unit)
		}
	}
	return b.Bytes()
}

// spaced puts a space after the commas and colons of compact JSON that are not
// inside a string.
func spaced(data []byte) []byte {
	var b bytes.Buffer
	inside := false
	for i := 0; i < len(data); i++ {
		c := data[i]
		b.WriteByte(c)
		switch {
		case inside && c == '\\':
			i++
			b.WriteByte(data[i])
		case c == '"':
			inside = !inside
		case !inside && (c == ',' || c == ':'):
			b.WriteByte(' ')
		}
	}
	return b.Bytes()
}
