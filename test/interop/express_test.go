package interop

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/jobbridge/jobbridge/verify"
)

// mac signs as the provider documents it. It does not use package verify, because a test of verify against itself would show nothing.
func mac(t string, payload []byte) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(t + "."))
	h.Write(payload)
	return hex.EncodeToString(h.Sum(nil))
}

func signature(t string, payload []byte) string { return "t=" + t + ",v1=" + mac(t, payload) }

func now() string { return strconv.FormatInt(time.Now().Unix(), 10) }

// signed returns a header line that signs payload now.
func signed(payload string) string {
	return "Sync-Signature: " + signature(now(), []byte(payload))
}

const asJSON = "Content-Type: application/json"

// post returns a request with exactly these header lines and this body.
func post(body string, lines ...string) []byte {
	return raw("POST /webhook HTTP/1.1", body, append(lines, "Content-Length: "+strconv.Itoa(len(body)))...)
}

// raw returns a request without a Content-Length of its own.
func raw(requestLine, body string, lines ...string) []byte {
	lines = append([]string{requestLine, "Host: receiver.example", "Connection: close"}, lines...)
	return []byte(strings.Join(lines, "\r\n") + "\r\n\r\n" + body)
}

// chunked returns body in chunks of at most n bytes.
func chunked(body string, n func() int) string {
	var b strings.Builder
	for body != "" {
		k := min(n(), len(body))
		fmt.Fprintf(&b, "%x\r\n%s\r\n", k, body[:k])
		body = body[k:]
	}
	return b.String() + "0\r\n\r\n"
}

func zipped(body string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	must(io.WriteString(w, body))
	check(w.Close())
	return b.String()
}

func deflated(body string) string {
	var b bytes.Buffer
	w := zlib.NewWriter(&b)
	must(io.WriteString(w, body))
	check(w.Close())
	return b.String()
}

// must and check are for what writes to memory, and cannot fail.
func must[T any](v T, err error) T { check(err); return v }

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// verdict is the answer of a receiver to a request.
type verdict struct {
	code int
	body string
}

func (v verdict) accepted() bool { return v.code/100 == 2 }

// message returns the message of an answer that has the documented form.
func (v verdict) message() string {
	var m struct{ Message string }
	if json.Unmarshal([]byte(v.body), &m) != nil {
		return ""
	}
	return m.Message
}

func (v verdict) String() string {
	body := v.body
	if len(body) > 300 {
		body = body[:300] + "…"
	}
	return fmt.Sprintf("%d %q", v.code, body)
}

// receivers are the documented receiver and the bridge, with one secret.
type receivers struct{ express, bridge string }

func startReceivers(t *testing.T) receivers {
	t.Helper()
	_, express := node(t, "listening ", "node/receiver.mjs")
	b := startBridge(t)
	u, err := url.Parse(b.Webhook)
	if err != nil {
		t.Fatal(err)
	}
	return receivers{express, u.Host}
}

// ask sends the same bytes to both receivers.
func (r receivers) ask(ctx context.Context, request []byte) (express, bridge verdict, err error) {
	if express, err = exchange(ctx, r.express, request); err != nil {
		return express, bridge, fmt.Errorf("express: %w", err)
	}
	if bridge, err = exchange(ctx, r.bridge, request); err != nil {
		return express, bridge, fmt.Errorf("bridge: %w", err)
	}
	return express, bridge, nil
}

// exchange sends the bytes of a request unchanged, and reads the answer.
func exchange(ctx context.Context, address string, request []byte) (verdict, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return verdict{}, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return verdict{}, err
	}
	// Who refuses a request may close before it has all of it. Its answer
	// counts then, not the failure to write.
	writing := make(chan error, 1)
	go func() { _, err := conn.Write(request); writing <- err }()
	answers := bufio.NewReader(conn)
	resp, err := http.ReadResponse(answers, nil)
	for err == nil && resp.StatusCode == http.StatusContinue {
		resp, err = http.ReadResponse(answers, nil)
	}
	if err != nil {
		return verdict{}, fmt.Errorf("%w (write: %w)", err, <-writing)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return verdict{resp.StatusCode, string(body)}, err
}

// generated is the number of requests that TestExpressAgrees sends.
const generated = 1500

// TestExpressAgrees sends the same generated requests to both receivers: valid requests in many forms, and forged ones. The verdicts must
// be the same.
func TestExpressAgrees(t *testing.T) {
	t.Parallel()
	both := startReceivers(t)
	d := &documents{Rand: rand.New(rand.NewPCG(seed(t), 1))}
	requests := make([]delivery, generated)
	for i := range requests {
		requests[i] = d.delivery()
	}
	var group sync.WaitGroup
	var mu sync.Mutex
	next := make(chan delivery)
	var accepted, refused, differences int
	for range 16 {
		group.Go(func() {
			for r := range next {
				express, bridge, err := both.ask(t.Context(), r.bytes)
				mu.Lock()
				switch {
				case err != nil:
					t.Errorf("%q: %v", r.bytes, err)
				case express.accepted() != bridge.accepted():
					if differences++; differences <= 10 {
						t.Errorf("%q\nexpress: %s\nbridge: %s\n%s", r.bytes, express, bridge, r.what)
					}
				case express.accepted() != r.valid:
					t.Errorf("%q\nboth: %s, valid: %v\n%s", r.bytes, bridge, r.valid, r.what)
				case r.valid && express.message() != bridge.message():
					t.Errorf("express says %s, bridge %s", express, bridge)
				case r.valid:
					accepted++
				default:
					refused++
				}
				mu.Unlock()
			}
		})
	}
	for _, r := range requests {
		next <- r
	}
	close(next)
	group.Wait()
	t.Logf("%d requests: both accept %d, both refuse %d, %d differences", generated, accepted, refused, differences)
	if accepted < generated/3 || refused < generated/5 {
		t.Error("the requests are too uniform to prove anything")
	}
}

type delivery struct {
	bytes []byte
	what  string
	valid bool
}

// delivery makes a request on which the receivers must agree.
func (d *documents) delivery() delivery {
	body, printed, err := d.document()
	r := delivery{valid: err == nil}
	t := d.time()
	header := "Sync-Signature: "
	if d.IntN(3) == 0 {
		header = pick(d, "sync-signature:", "SYNC-SIGNATURE: ", "Sync-Signature:\t  ", "sYNC-sIGNATURE: ")
	}
	sum := mac(t, printed)
	value := "t=" + t + ",v1=" + sum
	if d.IntN(4) == 0 {
		r.valid = false
		other := strconv.FormatInt(time.Now().Unix()+1, 10)
		value = pick(d,
			"t="+t+",v1="+mac(t, append(bytes.Clone(printed), ' ', '#')),
			"t="+t+",v1="+mac(t, d.otherForm(body, printed)),
			"t="+t+",v1="+mac(other, printed),
			"t="+t+",v1="+strings.ToUpper(sum[:63])+"F",
			"t="+t+",v1="+sum[:63],
			"t="+t+",v1="+sum+"0",
			"t="+t+",v1="+sum[1:]+sum[:1]+"g",
			"t="+t+",v1=",
			"t="+t+",v0="+sum,
			"t="+t+";v1="+sum,
			"t="+t+"v1="+sum,
			"t=,v1="+sum,
			"t=-"+t+",v1="+sum,
			"t="+t+".0,v1="+sum,
			"T="+t+",V1="+sum,
			"t="+t+",v1 = "+sum,
			`t="`+t+`",v1="`+sum+`"`,
			"v1="+sum,
			"t="+t,
			sum,
			"",
		)
	}
	lines := []string{header + value + pick(d, "", "", " ", "\t ")}
	lines = append(lines, pick(d, "Content-Type: ", "content-type:")+
		pick(d, "application/json", "application/json; charset=utf-8", `Application/JSON;charset="UTF-8"`,
			"application/json ;  charset=Utf-8;x=y", "application/json;", "application/json; charset="))
	if d.IntN(4) == 0 {
		lines = append(lines, pick(d, "X-Signature-Primary: "+sum, "Expect: 100-continue", "X-Empty:",
			"Accept: */*", "User-Agent: Zo\xeb", "Cookie: a=b; t=1,v1=2"))
	}
	var encoding string
	wire := string(body)
	switch d.IntN(5) {
	case 0:
		encoding, wire = pick(d, "gzip", "GZIP", " gzip "), zipped(wire)
	case 1:
		encoding, wire = pick(d, "deflate", "Deflate"), deflated(wire)
	case 2:
		encoding = pick(d, "identity", "IDENTITY", " ")
	}
	if encoding != "" {
		lines = append(lines, "Content-Encoding: "+encoding)
		if damaged := d.IntN(8); damaged == 0 && strings.TrimSpace(strings.ToLower(encoding)) != "identity" && encoding != " " {
			r.valid, wire = false, wire[:len(wire)-1-d.IntN(len(wire)-1)]
		}
	}
	target := pick(d, "/webhook", "/webhook", "/webhook?a=b", "http://receiver.example/webhook")
	d.Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	if d.IntN(3) == 0 {
		most := pick(d, 1, 7, 100_000)
		lines = append(lines, "Transfer-Encoding: chunked")
		wire = chunked(wire, func() int { return 1 + d.IntN(most) })
	} else {
		lines = append(lines, "Content-Length: "+strconv.Itoa(len(wire)))
	}
	r.bytes = raw("POST "+target+" HTTP/1.1", wire, lines...)
	r.what = fmt.Sprintf("body %q, signed %q", body, printed)
	return r
}

// document returns an object or an array and the result of JSON.stringify for it. It can also return a text that is neither, which no
// sender can have signed in that form.
func (d *documents) document() (body, printed []byte, err error) {
	for {
		body = d.next()
		printed, err = verify.Stringify(body, 0)
		switch {
		case err != nil && d.IntN(4) != 0: // most of the rest should say something
		case err != nil:
			return body, append(bytes.Clone(body), '#'), err
		case printed[0] == '{', printed[0] == '[':
			return body, printed, nil
		}
	}
}

// time returns the present time in one of the forms that the header allows.
func (d *documents) time() string {
	switch d.IntN(6) {
	case 0:
		return strconv.FormatInt(time.Now().UnixMilli(), 10)
	case 1:
		return "0" + now()
	}
	return now()
}

// otherForm returns body as another JSON encoder may print it, if that differs from body and from printed.
func (d *documents) otherForm(body, printed []byte) []byte {
	var v any
	if json.Unmarshal(printed, &v) == nil {
		if sorted, err := json.Marshal(v); err == nil && !bytes.Equal(sorted, printed) && !bytes.Equal(sorted, body) {
			return sorted
		}
	}
	var indented bytes.Buffer
	if json.Indent(&indented, printed, "", "    ") == nil && !bytes.Equal(indented.Bytes(), body) && !bytes.Equal(indented.Bytes(), printed) {
		return indented.Bytes()
	}
	return append(bytes.Clone(printed), '#')
}

// side says which receivers accept a request.
type side string

const (
	neither     side = "neither"
	both        side = "both"
	onlyExpress side = "express"
	onlyBridge  side = "bridge"
)

func sideOf(express, bridge verdict) side {
	switch {
	case express.accepted() && bridge.accepted():
		return both
	case express.accepted():
		return onlyExpress
	case bridge.accepted():
		return onlyBridge
	}
	return neither
}

// sample is a request, and the receivers that accept it.
type sample struct {
	name    string
	accepts side
	request []byte
}

// TestExpressDiffers sends the requests on which the receivers differ. deployments/receiver.md lists each kind. It also sends requests
// that are close to these, on which the receivers agree.
func TestExpressDiffers(t *testing.T) {
	t.Parallel()
	servers := startReceivers(t)
	e := newEvent()
	page, err := os.ReadFile("../../deployments/receiver.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []struct {
		name    string
		samples []sample
		differ  bool
	}{{"table", table(e), true}, {"known", known(e), true}, {"alike", alike(e), false}} {
		t.Run(list.name, func(t *testing.T) {
			for _, s := range list.samples {
				t.Run(s.name, func(t *testing.T) {
					if differ := s.accepts == onlyExpress || s.accepts == onlyBridge; differ != list.differ {
						t.Fatalf("accepted by %s does not belong here", s.accepts)
					}
					if group, _, _ := strings.Cut(s.name, "/"); list.differ && !bytes.Contains(page, []byte("\n| **"+group+"**")) {
						t.Errorf("deployments/receiver.md has no row **%s**", group)
					}
					express, bridge, err := servers.ask(t.Context(), s.request)
					if err != nil {
						t.Fatal(err)
					}
					if got := sideOf(express, bridge); got != s.accepts {
						t.Errorf("accepted by %s, want %s\nexpress: %s\nbridge: %s\n%.600q", got, s.accepts, express, bridge, s.request)
					}
				})
			}
			t.Logf("%d requests", len(list.samples))
		})
	}
}

// event is a job event in compact form, and its signature.
type event struct{ body, t, v1 string }

func newEvent() event {
	e := event{body: `{"id":"differs","status":"COMPLETED","outputUrl":null}`, t: now()}
	e.v1 = mac(e.t, []byte(e.body))
	return e
}

// header returns the event with this header instead of its own.
func (e event) header(value string) []byte { return post(e.body, asJSON, "Sync-Signature: "+value) }

// at returns the event with this time of signing.
func (e event) at(t string) []byte { return e.header(signature(t, []byte(e.body))) }

// as returns the event with these header lines besides its own.
func (e event) as(lines ...string) []byte { return post(e.body, append(lines, signed(e.body))...) }

// to returns the event with another request line.
func (e event) to(requestLine string, lines ...string) []byte {
	return raw(requestLine, e.body, append(lines, asJSON, signed(e.body), "Content-Length: "+strconv.Itoa(len(e.body)))...)
}

// shift returns a time of signing that is d from now.
func shift(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).Unix(), 10) }

// large returns an object of n bytes.
func large(n int) string { return `{"pad":"` + strings.Repeat("x", n-10) + `"}` }

// nested returns an array of this depth.
func nested(depth int) string { return strings.Repeat("[", depth) + strings.Repeat("]", depth) }

// utf16le and utf16be encode text.
func utf16le(text string) string {
	return units16(text, func(u uint16) []byte { return []byte{byte(u), byte(u >> 8)} })
}
func utf16be(text string) string {
	return units16(text, func(u uint16) []byte { return []byte{byte(u >> 8), byte(u)} })
}

func units16(text string, order func(uint16) []byte) string {
	var b []byte
	for _, u := range utf16.Encode([]rune(text)) {
		b = append(b, order(u)...)
	}
	return string(b)
}

// brotli is {"id":"br"}: the standard library only reads what it writes.
const brotli = "\x0b\x05\x80{\"id\":\"br\"}\x03"

// table returns the differences that the contract lists.
func table(e event) []sample {
	const spaced = `{"id": "spaced", "status": "COMPLETED"}`
	good, bad := e.v1, mac(e.t, []byte(e.body+"#"))
	return []sample{
		{"signed over the raw bytes/not compact", onlyBridge, post(spaced, asJSON, signed(spaced))},
		{"signed over the raw bytes/invalid UTF-8", onlyBridge, post("{\"id\":\"\xff\"}", asJSON, signed("{\"id\":\"\xff\"}"))},
		{"signed over the raw bytes/BOM", onlyBridge, post("\ufeff"+e.body, asJSON, signed("\ufeff"+e.body))},

		{"outside the tolerance/old", onlyExpress, e.at(shift(-10 * time.Minute))},
		{"outside the tolerance/new", onlyExpress, e.at(shift(10 * time.Minute))},
		{"outside the tolerance/old in milliseconds", onlyExpress, e.at(shift(-10*time.Minute) + "000")},
		{"outside the tolerance/zeros that make it milliseconds", onlyExpress, e.at("000" + e.t)},
		{"outside the tolerance/17 digits", onlyExpress, e.at("0000000" + e.t)},

		{"after v1/v0", onlyBridge, e.header("t=" + e.t + ",v1=" + good + ",v0=x")},
		{"after v1/a second v1 that is wrong", onlyBridge, e.header("t=" + e.t + ",v1=" + good + ",v1=" + bad)},
		{"after v1/a second v1 that is right", onlyBridge, e.header("t=" + e.t + ",v1=" + bad + ",v1=" + good)},
		{"after v1/a comma", onlyBridge, e.header("t=" + e.t + ",v1=" + good + ",")},
		{"after v1/space after the comma", onlyBridge, e.header("t=" + e.t + ", v1=" + good)},
		{"after v1/tab after the comma", onlyBridge, e.header("t=" + e.t + ",\tv1=" + good)},

		{"before t/xt", onlyExpress, e.header("xt=" + e.t + ",v1=" + good)},
		{"before t/text", onlyExpress, e.header("signature t=" + e.t + ",v1=" + good)},
		{"before t/a scheme", onlyExpress, e.header("HMAC:t=" + e.t + ",v1=" + good)},
		{"before t/another t", onlyExpress, e.header("t=1,t=" + e.t + ",v1=" + good)},

		{"over 100 kB/by a byte", onlyBridge, post(large(102401), asJSON, signed(large(102401)))},
		{"over 100 kB/inflated", onlyBridge, post(zipped(large(102401)), asJSON, "Content-Encoding: gzip", signed(large(102401)))},
		{"over 100 kB/max-body", onlyBridge, post(large(1<<20), asJSON, signed(large(1<<20)))},

		{"top-level scalar/number", onlyBridge, post("1", asJSON, signed("1"))},
		{"top-level scalar/string", onlyBridge, post(`"a"`, asJSON, signed(`"a"`))},
		{"top-level scalar/true", onlyBridge, post("true", asJSON, signed("true"))},
		{"top-level scalar/null", onlyBridge, post("null", asJSON, signed("null"))},
		{"top-level scalar/printed again", onlyBridge, post(" 1.0 ", asJSON, signed("1"))},

		{"content type not JSON/text", onlyBridge, e.as("Content-Type: text/plain")},
		{"content type not JSON/none", onlyBridge, e.as()},
		{"content type not JSON/form", onlyBridge, e.as("Content-Type: application/x-www-form-urlencoded")},
		{"content type not JSON/JSON as a suffix", onlyBridge, e.as("Content-Type: application/vnd.sync+json")},
		{"content type not JSON/malformed", onlyBridge, e.as("Content-Type: json")},

		{"UTF-16, UTF-32, br/utf-16le", onlyExpress, post(utf16le(e.body), asJSON+"; charset=utf-16le", signed(e.body))},
		{"UTF-16, UTF-32, br/utf-16be", onlyExpress, post(utf16be(e.body), asJSON+`; charset="UTF-16BE"`, signed(e.body))},
		{"UTF-16, UTF-32, br/utf-16", onlyExpress, post(utf16le("\ufeff"+e.body), asJSON+"; charset=utf-16", signed(e.body))},
		{"UTF-16, UTF-32, br/utf-32le", onlyExpress, post("{\x00\x00\x00}\x00\x00\x00", asJSON+"; charset=utf-32le", signed("{}"))},
		{"UTF-16, UTF-32, br/br", onlyExpress, post(brotli, asJSON, "Content-Encoding: br", signed(`{"id":"br"}`))},
	}
}

// known returns the differences that the contract does not list. If only the bridge accepts a request, the sender did sign these bytes. If
// only express accepts it, no sender has a reason to send it.
func known(e event) []sample {
	return []sample{
		// express takes no body for {}, or for undefined where it does not parse.
		{"body/empty, signed over {}", onlyExpress, post("", asJSON, signed("{}"))},
		{"body/BOM, signed over {}", onlyExpress, post("\ufeff", asJSON, signed("{}"))},
		{"body/gzip of nothing, signed over {}", onlyExpress, post(zipped(""), asJSON, "Content-Encoding: gzip", signed("{}"))},
		{"body/none, signed over undefined", onlyExpress, raw("POST /webhook HTTP/1.1", "", asJSON, signed("undefined"))},
		{"body/text, signed over undefined", onlyExpress, post("anything", "Content-Type: text/plain", signed("undefined"))},
		// Raw bytes need be no JSON at all: they become job.unrecognized.
		{"body/empty, signed so", onlyBridge, post("", asJSON, signed(""))},
		{"body/not JSON, signed so", onlyBridge, post("{", asJSON, signed("{"))},
		// JSON.stringify runs out of stack: a 500.
		{"body/nested 5,000 deep", onlyBridge, post(nested(5_000), asJSON, signed(nested(5_000)))},

		{"header/v1 before t", onlyBridge, e.header("v1=" + e.v1 + ",t=" + e.t)},
		{"header/a part between", onlyBridge, e.header("t=" + e.t + ",v0=x,v1=" + e.v1)},
		{"header/space before the comma", onlyBridge, e.header("t=" + e.t + " ,v1=" + e.v1)},
		{"header/on two lines", onlyBridge, post(e.body, asJSON, "Sync-Signature: t="+e.t, "Sync-Signature: v1="+e.v1)},

		// express wants a charset that begins with utf- and that it knows.
		{"charset/iso-8859-1", onlyBridge, e.as(asJSON + "; charset=iso-8859-1")},
		{"charset/utf8", onlyBridge, e.as(asJSON + "; charset=utf8")},
		{"charset/utf-9", onlyBridge, e.as(asJSON + "; charset=utf-9")},
		{"charset/utf-7", onlyExpress, e.as(asJSON + "; charset=utf-7")},
		{"charset/misspelt utf-16le", onlyExpress, post(utf16le("{}"), asJSON+"; charset=utf-_16le", signed("{}"))},
		{"encoding/x-gzip", onlyBridge, post(zipped(e.body), asJSON, "Content-Encoding: x-gzip", signed(e.body))},
		{"encoding/zeros after gzip", onlyExpress, post(zipped(e.body)+"\x00\x00", asJSON, "Content-Encoding: gzip", signed(e.body))},

		// What is a route, and what is a request, is not the receiver's to say.
		{"http/path in upper case", onlyExpress, e.to("POST /WEBHOOK HTTP/1.1")},
		{"http/the same length twice", onlyBridge, e.to("POST /webhook HTTP/1.1", "Content-Length: "+strconv.Itoa(len(e.body)))},
		{"http/length and chunks", onlyBridge, raw("POST /webhook HTTP/1.1", chunked(e.body, func() int { return 100 }), asJSON, signed(e.body),
			"Transfer-Encoding: chunked", "Content-Length: "+strconv.Itoa(len(e.body)))},
		{"http/folded header", onlyBridge, e.header("t=" + e.t + ",\r\n v1=" + e.v1)},
		{"http/LF for CRLF", onlyBridge, bytes.ReplaceAll(e.as(asJSON), []byte("\r\n"), []byte("\n"))},
		{"http/18 kB of header", onlyBridge, e.as(asJSON, "X-Long: "+strings.Repeat("x", 18_000))},
	}
}

// alike returns requests that are close to the differences above.
func alike(e event) []sample {
	bad := mac(e.t, []byte(e.body+"#"))
	const broken, mended = "{\"id\":\"\xff\xe2\x80\"}", "{\"id\":\"\ufffd\ufffd\"}"
	return []sample{
		{"signed over the printed form", both, post(`{"id": "alike", "status": "X"}`, asJSON, signed(`{"id":"alike","status":"X"}`))},
		{"within the tolerance", both, e.at(shift(-4 * time.Minute))},
		{"within the tolerance, in milliseconds", both, e.at(shift(-4*time.Minute) + "000")},
		{"header/both v1 are wrong", neither, e.header("t=" + e.t + ",v1=" + bad + ",v1=" + bad)},
		{"header/text after v1", neither, e.header("t=" + e.t + ",v1=" + e.v1 + " x")},
		{"header/t after v1 too", neither, e.header("t=" + e.t + ",v1=" + e.v1 + ",t=" + e.t)},
		{"header/another part before t", both, e.header("v0=x,t=" + e.t + ",v1=" + e.v1)},
		{"header/twice", neither, post(e.body, asJSON, "Sync-Signature: t="+e.t+",v1="+e.v1, "Sync-Signature: t="+e.t+",v1="+e.v1)},
		{"header/none", neither, post(e.body, asJSON)},
		{"header/the older name", neither, post(e.body, asJSON, "X-Signature-Primary: t="+e.t+",v1="+e.v1)},
		{"http/slash after the path", both, e.to("POST /webhook/ HTTP/1.1")},
		{"body/100 kB", both, post(large(102400), asJSON, signed(large(102400)))},
		{"body/over max-body", neither, post(large(1<<20+1), asJSON, signed(large(1<<20+1)))},
		{"body/nested 3,000 deep", both, post(nested(3_000), asJSON, signed(nested(3_000)))},
		{"content type not JSON/forged", neither, post(e.body, "Content-Type: text/plain", signed(e.body+"#"))},
		// express 4 took any text for {}.
		{"content type not JSON/signed over {}", neither, post("anything", "Content-Type: text/plain", signed("{}"))},
		{"content type twice", both, e.as(asJSON, "Content-Type: text/plain")},
		{"invalid UTF-8/signed over U+FFFD", both, post(broken, asJSON, signed(mended))},
		{"invalid UTF-8/byte by byte", both, raw("POST /webhook HTTP/1.1", chunked(broken, func() int { return 1 }),
			asJSON, "Transfer-Encoding: chunked", signed(mended))},
		{"BOM/signed without", both, post("\ufeff"+e.body, asJSON, signed(e.body))},
		{"BOM/two", neither, post("\ufeff\ufeff"+e.body, asJSON, signed(e.body))},
		{"encoding/gzip twice", neither, post(zipped(zipped(e.body)), asJSON, "Content-Encoding: gzip, gzip", signed(e.body))},
		{"encoding/on two lines", neither, post(zipped(e.body), asJSON, "Content-Encoding: gzip", "Content-Encoding: identity", signed(e.body))},
		{"encoding/nothing is no gzip", neither, post("", asJSON, "Content-Encoding: gzip", signed("{}"))},
		{"encoding/text after gzip", neither, post(zipped(e.body)+"text", asJSON, "Content-Encoding: gzip", signed(e.body))},
		{"encoding/text after deflate", both, post(deflated(e.body)+"text", asJSON, "Content-Encoding: deflate", signed(e.body))},
		{"encoding/gzip in two members", both, post(zipped(e.body[:5])+zipped(e.body[5:]), asJSON, "Content-Encoding: gzip", signed(e.body))},
		{"http/1.0", both, e.to("POST /webhook HTTP/1.0")},
		{"http/PUT", neither, e.to("PUT /webhook HTTP/1.1")},
		{"http/method override", neither, e.to("GET /webhook HTTP/1.1", "X-HTTP-Method-Override: POST")},
		{"http/escaped path", neither, e.to("POST /web%68ook HTTP/1.1")},
		{"http/no host", neither, bytes.Replace(e.as(asJSON), []byte("Host: receiver.example\r\n"), nil, 1)},
		{"http/space before the colon", neither, bytes.Replace(e.as(asJSON), []byte("Sync-Signature:"), []byte("Sync-Signature :"), 1)},
	}
}
