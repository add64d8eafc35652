package verify_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/verify"
)

const secret = "whsec_0123456789abcdef"

var (
	signedAt = time.Unix(1_700_000_000, 0)
	event    = []byte(`{"id":"job-1","status":"COMPLETED"}`)
)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func newVerifier(tb testing.TB, o verify.Options, secrets ...string) *verify.Verifier {
	tb.Helper()
	v, err := verify.New(secrets, o)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// v1 returns the v1 part of a header that Sign returned.
func v1(header string) string { return header[strings.Index(header, "v1="):] }

// signT returns a header with a t that Sign does not write.
func signT(t string, payload []byte) string {
	return "t=" + t + ",v1=" + verify.Signature(secret, t, payload)
}

// delivery holds the arguments of one verification. Each row of a table starts from a valid delivery and changes one
// field.
type delivery struct {
	header  string
	body    []byte
	now     time.Time
	secrets []string
	options verify.Options
}

func validDelivery() delivery {
	return delivery{
		header:  verify.Sign(secret, signedAt, event),
		body:    event,
		now:     signedAt.Add(time.Second),
		secrets: []string{secret},
	}
}

func (d delivery) verify(t *testing.T) (verify.Verified, error) {
	t.Helper()
	d.options.Now = at(d.now)
	return newVerifier(t, d.options, d.secrets...).Verify(d.header, d.body)
}

func TestVerify(t *testing.T) {
	right := v1(verify.Sign(secret, signedAt, event))
	wrong := v1(verify.Sign("whsec_other", signedAt, event))
	indented := []byte("{ \"id\": \"job-1\",\n \"status\": \"COMPLETED\" }")
	for _, test := range []struct {
		name   string
		change func(*delivery)
		want   error
	}{
		{"valid", func(*delivery) {}, nil},

		{"no header", func(d *delivery) { d.header = "" }, verify.ErrUnsigned},
		{"no t", func(d *delivery) { d.header = right }, verify.ErrMalformed},
		{"no v1", func(d *delivery) { d.header = "t=1700000000" }, verify.ErrMalformed},
		{"t empty", func(d *delivery) { d.header = "t=," + right }, verify.ErrMalformed},
		{"t without a value", func(d *delivery) { d.header = "t," + right }, verify.ErrMalformed},
		{"t negative", func(d *delivery) { d.header = "t=-1700000000," + right }, verify.ErrMalformed},
		{"t signed", func(d *delivery) { d.header = "t=+1700000000," + right }, verify.ErrMalformed},
		{"t a fraction", func(d *delivery) { d.header = "t=1700000000.5," + right }, verify.ErrMalformed},
		{"t in Arabic digits", func(d *delivery) { d.header = "t=١٧," + right }, verify.ErrMalformed},
		{"t of 17 digits", func(d *delivery) { d.header = signT("17000000000000000", event) }, verify.ErrMalformed},
		{"t twice", func(d *delivery) { d.header += ",t=1700000000" }, verify.ErrMalformed},
		{"t with spaces around =", func(d *delivery) { d.header = "t = 1700000000," + right }, verify.ErrMalformed},
		{"T", func(d *delivery) { d.header = "T=1700000000," + right }, verify.ErrMalformed},
		{"xt", func(d *delivery) { d.header = "x" + d.header }, verify.ErrMalformed},
		{"text before t", func(d *delivery) { d.header = "sig t=1700000000," + right }, verify.ErrMalformed},
		{"v1 empty", func(d *delivery) { d.header = "t=1700000000,v1=" }, verify.ErrMalformed},
		{"v1 in upper case", func(d *delivery) { d.header = "t=1700000000,v1=" + strings.ToUpper(right[3:]) }, verify.ErrMalformed},
		{"v1 too short", func(d *delivery) { d.header = d.header[:len(d.header)-1] }, verify.ErrMalformed},
		{"v1 too long", func(d *delivery) { d.header += "0" }, verify.ErrMalformed},
		{"v1 no hex", func(d *delivery) { d.header = d.header[:len(d.header)-1] + "g" }, verify.ErrMalformed},
		{"v1 next to hex", func(d *delivery) { d.header = d.header[:len(d.header)-1] + "`" }, verify.ErrMalformed},
		{"v1 next to digits", func(d *delivery) { d.header = d.header[:len(d.header)-1] + ":" }, verify.ErrMalformed},
		{"v1 between upper and lower case", func(d *delivery) { d.header = d.header[:len(d.header)-1] + "W" }, verify.ErrMalformed},
		{"v0 only", func(d *delivery) { d.header = strings.Replace(d.header, "v1", "v0", 1) }, verify.ErrMalformed},
		{"semicolon", func(d *delivery) { d.header = strings.Replace(d.header, ",", ";", 1) }, verify.ErrMalformed},
		{"commas only", func(d *delivery) { d.header = ",,," }, verify.ErrMalformed},

		{"v1 first", func(d *delivery) { d.header = right + ",t=1700000000" }, nil},
		{"blanks around parts", func(d *delivery) { d.header = " t=1700000000 ,\t" + right + " " }, nil},
		{"unknown parts", func(d *delivery) { d.header = "v0=x," + d.header + ",v2=y,,z" }, nil},
		{"a wrong v1 before", func(d *delivery) { d.header = "t=1700000000," + wrong + "," + right }, nil},
		{"a wrong v1 after", func(d *delivery) { d.header += "," + wrong }, nil},
		{"an undecodable v1 before", func(d *delivery) { d.header = "t=1700000000,v1=zz," + right }, nil},
		{"the 16th v1", func(d *delivery) { d.header = "t=1700000000," + strings.Repeat(wrong+",", 15) + right }, nil},
		{"the 17th v1", func(d *delivery) { d.header = "t=1700000000," + strings.Repeat(wrong+",", 16) + right }, verify.ErrMismatch},

		{"wrong signature", func(d *delivery) { d.header = "t=1700000000," + wrong }, verify.ErrMismatch},
		{"another time", func(d *delivery) { d.header = "t=1700000001," + right }, verify.ErrMismatch},
		{"the same time, written otherwise", func(d *delivery) { d.header = "t=01700000000," + right }, verify.ErrMismatch},
		{"another body", func(d *delivery) { d.body = []byte(`{"id":"job-2","status":"COMPLETED"}`) }, verify.ErrMismatch},
		{"no body", func(d *delivery) { d.body = nil }, verify.ErrMismatch},
		{"another body, no JSON", func(d *delivery) { d.body = append(bytes.Clone(event), '!') }, verify.ErrMismatch},
		{"another secret", func(d *delivery) { d.secrets = []string{"whsec_other"} }, verify.ErrMismatch},
		{"a secret without its prefix", func(d *delivery) { d.secrets = []string{strings.TrimPrefix(secret, "whsec_")} }, verify.ErrMismatch},
		{"the second of two secrets", func(d *delivery) { d.secrets = []string{"whsec_new", secret} }, nil},

		{"the fourth of four secrets", func(d *delivery) { d.secrets = []string{"whsec_1", "whsec_2", "whsec_3", secret} }, nil},
		{"the third of four secrets", func(d *delivery) { d.secrets = []string{"whsec_1", "whsec_2", secret, "whsec_4"} }, nil},

		{"signed in the re-serialized form", func(d *delivery) { d.body = indented }, nil},
		{"signed raw, not compact", func(d *delivery) { d.body, d.header = indented, verify.Sign(secret, signedAt, indented) }, nil},
		{"re-serialized, exactly the limit", func(d *delivery) { d.body, d.options.MaxPayload = indented, len(event) }, nil},
		{"re-serialized, one byte above the limit", func(d *delivery) {
			d.body, d.options.MaxPayload = indented, len(event)-1
		}, verify.ErrTooLarge},
		{"raw, above the limit", func(d *delivery) { d.options.MaxPayload = 1 }, nil},

		{"leading zero", func(d *delivery) { d.header = signT("01700000000", event) }, nil},
		{"milliseconds", func(d *delivery) { d.header = signT("1700000000999", event) }, nil},
		{"12 digits are milliseconds", func(d *delivery) { d.header = signT("017000000000", event) }, verify.ErrTooOld},
		{"16 digits are milliseconds", func(d *delivery) { d.header = signT("9999999999999999", event) }, verify.ErrTooNew},

		{"just not too old", func(d *delivery) { d.now = signedAt.Add(5 * time.Minute) }, nil},
		{"too old", func(d *delivery) { d.now = signedAt.Add(5*time.Minute + 1) }, verify.ErrTooOld},
		{"just not too new", func(d *delivery) { d.now = signedAt.Add(-5 * time.Minute) }, nil},
		{"too new", func(d *delivery) { d.now = signedAt.Add(-5*time.Minute - 1) }, verify.ErrTooNew},
		{"another tolerance", func(d *delivery) { d.options.Tolerance, d.now = time.Second, signedAt.Add(2*time.Second) }, verify.ErrTooOld},
		{"any age, old", func(d *delivery) {
			d.options.Tolerance, d.now = verify.AnyAge, signedAt.AddDate(100, 0, 0)
		}, nil},
		{"any age, new", func(d *delivery) {
			d.options.Tolerance, d.now = verify.AnyAge, signedAt.AddDate(-50, 0, 0)
		}, nil},
		{"wrong and too old", func(d *delivery) { d.header, d.now = "t=1700000000,"+wrong, signedAt.Add(time.Hour) }, verify.ErrMismatch},
		{"malformed and wrong", func(d *delivery) { d.header, d.body = d.header+"0", nil }, verify.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := validDelivery()
			test.change(&d)
			got, err := d.verify(t)
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
			switch authentic := err == nil || errors.Is(err, verify.ErrTooOld) || errors.Is(err, verify.ErrTooNew); {
			case !authentic && (got.Payload != nil || got.Form != "" || !got.SignedAt.IsZero()):
				t.Errorf("not authentic, but returned %+v", got)
			case authentic && (got.Payload == nil || got.Form == "" || got.SignedAt.IsZero()):
				t.Errorf("authentic, but returned only %+v", got)
			}
		})
	}
}

func TestVerified(t *testing.T) {
	d := validDelivery()
	d.secrets = []string{"whsec_new", secret}
	got, err := d.verify(t)
	if err != nil || got.Form != verify.Raw || got.SecretIndex != 1 || !got.SignedAt.Equal(signedAt) || &got.Payload[0] != &event[0] {
		t.Errorf("raw: %+v, %v; want the body itself", got, err)
	}
	d.body = append([]byte(" "), event...)
	got, err = d.verify(t)
	if err != nil || got.Form != verify.Stringified || got.SecretIndex != 1 || !bytes.Equal(got.Payload, event) {
		t.Errorf("re-serialized: %+v, %v", got, err)
	}
	d.header = signT("1700000000123", event)
	if got, err = d.verify(t); err != nil || !got.SignedAt.Equal(signedAt.Add(123*time.Millisecond)) {
		t.Errorf("milliseconds: %+v, %v", got, err)
	}
	d.now = signedAt.Add(time.Hour)
	got, err = d.verify(t)
	if !errors.Is(err, verify.ErrTooOld) || got.Form != verify.Stringified || !bytes.Equal(got.Payload, event) {
		t.Errorf("stale: %+v, %v; want a complete Verified and ErrTooOld", got, err)
	}
}

// TestEachDigitCounts changes each digit of a signature, one at a time.
func TestEachDigitCounts(t *testing.T) {
	d := validDelivery()
	v := newVerifier(t, verify.Options{Now: at(d.now)}, secret)
	first := strings.Index(d.header, "v1=") + len("v1=")
	if len(d.header)-first != 64 {
		t.Fatal(d.header)
	}
	for i := first; i < len(d.header); i++ {
		other := "0"
		if d.header[i] == '0' {
			other = "1"
		}
		if _, err := v.Verify(d.header[:i]+other+d.header[i+1:], d.body); !errors.Is(err, verify.ErrMismatch) {
			t.Errorf("digit %d: %v", i-first, err)
		}
	}
}

func TestVerifyVectors(t *testing.T) {
	type vector struct {
		text
		Name, Secret, T, Header, Payload, Verdict string
	}
	for _, x := range readVectors[vector](t, "verify.json") {
		t.Run(x.Name, func(t *testing.T) {
			got, err := newVerifier(t, verify.Options{Now: at(signedAt)}, x.Secret).Verify(x.Header, x.bytes(t))
			switch x.Verdict {
			case "ok":
				if err != nil || string(got.Payload) != x.Payload {
					t.Errorf("%q, %v; want %q", got.Payload, err, x.Payload)
				}
			case "mismatch":
				if !errors.Is(err, verify.ErrMismatch) {
					t.Errorf("%v, want ErrMismatch", err)
				}
			default:
				t.Fatalf("verdict %q", x.Verdict)
			}
			if mac := verify.Signature(x.Secret, x.T, []byte(x.Payload)); x.Verdict == "ok" && "t="+x.T+",v1="+mac != x.Header {
				t.Errorf("we sign %s", mac)
			}
		})
	}
}

func TestNoSecret(t *testing.T) {
	for _, secrets := range [][]string{nil, {}, {""}, {secret, ""}} {
		if _, err := verify.New(secrets, verify.Options{}); !errors.Is(err, verify.ErrNoSecret) {
			t.Errorf("New(%q): %v", secrets, err)
		}
	}
	if _, err := verify.New([]string{secret, ""}, verify.Options{}); err == nil || !strings.Contains(err.Error(), "secret 2 ") {
		t.Errorf("%v, want the number of the empty secret", err)
	}
}

func TestSetSecrets(t *testing.T) {
	v := newVerifier(t, verify.Options{Now: at(signedAt)}, secret)
	accepts := func(secret string) bool {
		_, err := v.Verify(verify.Sign(secret, signedAt, event), event)
		return err == nil
	}
	if err := v.SetSecrets([]string{"whsec_new", ""}); !errors.Is(err, verify.ErrNoSecret) {
		t.Errorf("with an empty secret: %v", err)
	}
	if !accepts(secret) || accepts("whsec_new") {
		t.Error("an error replaced the secrets")
	}
	if err := v.SetSecrets([]string{"whsec_new", secret}); err != nil || !accepts(secret) || !accepts("whsec_new") {
		t.Errorf("both while rotating: %v", err)
	}
	if err := v.SetSecrets([]string{"whsec_new"}); err != nil || accepts(secret) || !accepts("whsec_new") {
		t.Errorf("only the new one: %v", err)
	}
}

// TestSetSecretsWhileVerifying lets the race detector look for races. A secret that stays in the set is accepted all the
// time.
func TestSetSecretsWhileVerifying(t *testing.T) {
	v := newVerifier(t, verify.Options{Now: at(signedAt)}, secret)
	header := verify.Sign(secret, signedAt, event)
	spaced := append([]byte(" "), event...)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				for _, body := range [][]byte{event, spaced} {
					if got, err := v.Verify(header, body); err != nil || !bytes.Equal(got.Payload, event) {
						t.Errorf("%q, %v", got.Payload, err)
					}
				}
			}
		})
	}
	for i := range 500 {
		if err := v.SetSecrets([]string{fmt.Sprintf("whsec_%d", i), secret}); err != nil {
			t.Error(err)
		}
	}
	wg.Wait()
}

// TestErrorsGiveNothingAway checks that no error contains a secret or an expected signature. A caller that sends errors
// to the client would otherwise sign for strangers.
func TestErrorsGiveNothingAway(t *testing.T) {
	good := verify.Sign(secret, signedAt, event)
	expected := v1(good)[len("v1="):]
	wrong := verify.Sign("whsec_other", signedAt, event)
	spaced := append([]byte(" "), event...)
	var errs []error
	for _, now := range []time.Time{signedAt, signedAt.Add(time.Hour), signedAt.Add(-time.Hour)} {
		v := newVerifier(t, verify.Options{Now: at(now), MaxPayload: len(event) - 1}, secret)
		upper := "t=1700000000,v1=" + strings.ToUpper(expected)
		for _, header := range []string{"", "t", "t=1,t=2", "t=x", "t=" + secret, good, wrong, good + "0", upper} {
			for _, body := range [][]byte{event, spaced, []byte("{"), []byte(secret)} {
				_, err := v.Verify(header, body)
				errs = append(errs, err)
			}
		}
		errs = append(errs, v.SetSecrets([]string{secret, ""}))
	}
	_, err := verify.New([]string{secret, ""}, verify.Options{})
	seen := map[error]bool{}
	for _, err := range append(errs, err) {
		if err == nil {
			continue
		}
		for _, sentinel := range append(invalid, verify.ErrInvalid, verify.ErrNoSecret, verify.ErrTooLarge) {
			seen[sentinel] = seen[sentinel] || errors.Is(err, sentinel)
		}
		for _, s := range []string{secret, strings.TrimPrefix(secret, "whsec_"), expected, expected[:16]} {
			if text := strings.ToLower(fmt.Sprintf("%v %+v %#v", err, err, err)); strings.Contains(text, s) {
				t.Errorf("error gives away %q: %v", s, err)
			}
		}
	}
	for sentinel, ok := range seen {
		if !ok {
			t.Errorf("no error was %v: this test does not cover it", sentinel)
		}
	}
}

// TestVerifyAllocatesNothing checks a delivery whose signature matches as received, which is the ordinary case.
func TestVerifyAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector, a sync.Pool drops values at random")
	}
	v := newVerifier(t, verify.Options{Now: at(signedAt)}, "whsec_new", secret)
	header := verify.Sign(secret, signedAt, event)
	if n := testing.AllocsPerRun(1000, func() { _, _ = v.Verify(header, event) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func ExampleVerifier_Verify() {
	now := time.Unix(1_700_000_000, 0)
	v, err := verify.New([]string{"whsec_new", "whsec_old"}, verify.Options{Now: func() time.Time { return now }})
	if err != nil {
		fmt.Println(err)
		return
	}
	payload := []byte(`{"id":"job-1","status":"COMPLETED"}`)
	header := verify.Sign("whsec_old", now.Add(-time.Minute), payload)

	got, err := v.Verify(header, payload)
	fmt.Println(got.Form, got.SecretIndex, err)
	got, err = v.Verify(header, []byte(`{ "id": "job-1", "status": "COMPLETED" }`))
	fmt.Println(got.Form, string(got.Payload), err)
	_, err = v.Verify(header, []byte(`{"id":"job-2","status":"COMPLETED"}`))
	fmt.Println(err)
	// Output:
	// raw 1 <nil>
	// stringified {"id":"job-1","status":"COMPLETED"} <nil>
	// verify: invalid delivery: signature does not match
}

// invalid holds the reasons why a delivery is invalid.
var invalid = []error{verify.ErrUnsigned, verify.ErrMalformed, verify.ErrMismatch, verify.ErrTooOld, verify.ErrTooNew}

// TestErrInvalid checks that errors.Is tells which errors mean an invalid delivery, and tells the reasons apart.
func TestErrInvalid(t *testing.T) {
	for i, reason := range invalid {
		wrapped := fmt.Errorf("delivery: %w", reason)
		if !errors.Is(wrapped, verify.ErrInvalid) || !errors.Is(wrapped, reason) {
			t.Errorf("%v is not ErrInvalid and itself", wrapped)
		}
		if errors.Is(fmt.Errorf("delivery: %w", verify.ErrInvalid), reason) {
			t.Errorf("ErrInvalid is %v", reason)
		}
		for j, other := range invalid {
			if i != j && errors.Is(reason, other) {
				t.Errorf("%v is %v", reason, other)
			}
		}
	}
	for _, err := range []error{verify.ErrNoSecret, verify.ErrTooLarge, verify.ErrSyntax} {
		if errors.Is(err, verify.ErrInvalid) {
			t.Errorf("%v is ErrInvalid", err)
		}
	}
}

// TestVerifyInSteps checks that VerifyRaw and VerifyStringified each accept only their own form.
func TestVerifyInSteps(t *testing.T) {
	spaced := append([]byte(" "), event...)
	good := verify.Sign(secret, signedAt, event)
	for _, test := range []struct {
		name             string
		header           string
		body             []byte
		now              time.Time
		raw, stringified error
	}{
		{"signed as received", good, event, signedAt, nil, verify.ErrMismatch},
		{"signed as received, not compact", verify.Sign(secret, signedAt, spaced), spaced, signedAt, nil, verify.ErrMismatch},
		{"signed re-serialized", good, spaced, signedAt, verify.ErrMismatch, nil},
		{"signed re-serialized, too old", good, spaced, signedAt.Add(time.Hour), verify.ErrMismatch, verify.ErrTooOld},
		{"signed as received, too new", good, event, signedAt.Add(-time.Hour), verify.ErrTooNew, verify.ErrMismatch},
		{"not JSON", good, []byte("{"), signedAt, verify.ErrMismatch, verify.ErrMismatch},
		{"too large", good, append(bytes.Clone(indented), ' '), signedAt, verify.ErrMismatch, verify.ErrTooLarge},
		{"unsigned", "", event, signedAt, verify.ErrUnsigned, verify.ErrUnsigned},
		{"malformed", "t=1", event, signedAt, verify.ErrMalformed, verify.ErrMalformed},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := newVerifier(t, verify.Options{Now: at(test.now), MaxPayload: len(event)}, "whsec_new", secret)
			raw, rawErr := v.VerifyRaw(test.header, test.body)
			stringified, stringifiedErr := v.VerifyStringified(test.header, test.body)
			if !errors.Is(rawErr, test.raw) || !errors.Is(stringifiedErr, test.stringified) {
				t.Fatalf("%v and %v, want %v and %v", rawErr, stringifiedErr, test.raw, test.stringified)
			}
			both, bothErr := v.Verify(test.header, test.body)
			want, wantErr := raw, rawErr
			if errors.Is(rawErr, verify.ErrMismatch) {
				want, wantErr = stringified, stringifiedErr
			}
			if fmt.Sprint(both, bothErr) != fmt.Sprint(want, wantErr) {
				t.Errorf("Verify returns %+v, %v; the steps return %+v, %v", both, bothErr, want, wantErr)
			}
		})
	}
}

func ExampleNew() {
	_, err := verify.New(nil, verify.Options{})
	fmt.Println(err)
	// Output: verify: no secret
}

// FuzzVerify checks that every accepted header contains the correct signature and the time that was signed.
func FuzzVerify(f *testing.F) {
	good := verify.Sign(secret, signedAt, event)
	right := v1(good)
	for _, header := range []string{good, "", "t=1,v1=", " t=1700000000 , " + right + ",v0=x", right + ",t=1700000000", "t=1,t=2," + right} {
		f.Add(header, event)
	}
	f.Add(good, []byte(`{ "id": "job-1", "status": "COMPLETED" }`))
	v, err := verify.New([]string{secret}, verify.Options{Now: at(signedAt)})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, header string, body []byte) {
		got, err := v.Verify(header, body)
		if err != nil {
			return
		}
		if !strings.Contains(header, "t=1700000000") || !strings.Contains(header, v1(good)) || !bytes.Equal(got.Payload, event) {
			t.Fatalf("accepted %q over %q as %q", header, body, got.Payload)
		}
	})
}

func benchmarkVerify(b *testing.B, body, payload []byte, secrets ...string) {
	v := newVerifier(b, verify.Options{Now: at(signedAt)}, secrets...)
	header := verify.Sign(secret, signedAt, payload)
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := v.Verify(header, body); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyRaw1KB(b *testing.B) { benchmarkVerify(b, indented, indented, secret) }

func BenchmarkVerifyRaw1KBTwoSecrets(b *testing.B) {
	benchmarkVerify(b, indented, indented, "whsec_new", secret)
}

func BenchmarkVerifyStringified1KB(b *testing.B) {
	payload, err := verify.Stringify(indented, 0)
	if err != nil {
		b.Fatal(err)
	}
	benchmarkVerify(b, indented, payload, secret)
}
