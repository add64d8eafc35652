package fault

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/jobbridge/jobbridge/verify"
)

// raw sends bytes unchanged and returns the status codes of the answers. Code 0 means that the connection ended without an answer.
func raw(t *testing.T, url string, request []byte, answers int) (codes []int) {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/webhook"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		// A server that refuses does not read to the end.
		_, _ = conn.Write(request)
		_ = conn.(*net.TCPConn).CloseWrite()
	})
	r := bufio.NewReader(conn)
	for range answers {
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			return append(codes, 0)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		codes = append(codes, resp.StatusCode)
	}
	return codes
}

// request returns a signed request with further header lines. Content-Length is correct, unless the header lines contain another one or
// the body is chunked.
func request(body string, headers ...string) []byte {
	signature, _ := signed(body)
	return requestSigned(signature, []byte(body), headers...)
}

func requestSigned(signature string, body []byte, headers ...string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST /webhook HTTP/1.1\r\nHost: bridge\r\nSync-Signature: %s\r\n", signature)
	all := strings.Join(headers, "\r\n")
	if all != "" {
		b.WriteString(all + "\r\n")
	}
	if !strings.Contains(all, "Content-Length") && !strings.Contains(all, "chunked") {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	return b.Bytes()
}

func zip(text string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = w.Write([]byte(text))
	_ = w.Close()
	return b.Bytes()
}

// limit is the default of --max-body.
const limit = 1 << 20

// TestInputs sends requests that no client should send. Each request is answered, or its connection ends. What is stored is what was
// signed, and its subject fits its kind.
func TestInputs(t *testing.T) {
	t.Parallel()
	b := start(t, process.Options{})
	event := func(id, status string) string {
		s, err := json.Marshal(map[string]string{"id": id, "status": status})
		if err != nil {
			t.Fatal(err)
		}
		return string(s)
	}
	padded := func(n int) string {
		frame := `{"id":"padded","status":"COMPLETED","pad":""}`
		return strings.Replace(frame, `""`, `"`+strings.Repeat("x", n-len(frame))+`"`, 1)
	}
	bomb := strings.Repeat("0", 50<<20)
	bombHeader, _ := signed(bomb)
	plain := event("gzipped", "COMPLETED")
	plainHeader, _ := signed(plain)
	chunk := func(s string) string {
		return fmt.Sprintf("%x\r\n%s\r\n%x\r\n%s\r\n0\r\n\r\n", 10, s[:10], len(s)-10, s[10:])
	}
	chunked := event("chunked", "COMPLETED")
	chunkedHeader, _ := signed(chunked)
	var many []string
	for i := range 10_000 {
		many = append(many, fmt.Sprintf("X-%d: %d", i, i))
	}
	one, two := request(event("pipelined-1", "COMPLETED")), request(event("pipelined-2", "COMPLETED"))
	deep := `{"id":"deep","status":"COMPLETED","x":` + strings.Repeat("[", limit/2-50) + strings.Repeat("]", limit/2-50) + "}"
	type row struct {
		name    string
		request []byte
		codes   []int
		subject string // where it is stored; empty if it is not
	}
	rows := []row{
		{"no bytes at all", nil, []int{0}, ""},
		{"0 bytes of body", request(""), []int{200}, "job.unrecognized"},
		{"exactly the limit", request(padded(limit)), []int{200}, "job.completed"},
		{"1 byte over the limit", request(padded(limit + 1)), []int{413}, ""},
		{"1 byte over, chunked", requestSigned(plainHeader, []byte(chunk(padded(limit+1))), "Transfer-Encoding: chunked"), []int{413}, ""},
		{"chunked", requestSigned(chunkedHeader, []byte(chunk(chunked)), "Transfer-Encoding: chunked"), []int{200}, "job.completed"},
		{"chunked, cut off", requestSigned(chunkedHeader, []byte(chunk(chunked)[:20]), "Transfer-Encoding: chunked"), []int{400}, ""},
		{"Content-Length too long", request(event("short", "COMPLETED"), "Content-Length: 1000"), []int{400}, ""},
		{"Content-Length too short", request(event("long", "COMPLETED"), "Content-Length: 10"), []int{400}, ""},
		{"two Content-Lengths", request(event("two", "COMPLETED"), "Content-Length: 10", "Content-Length: 11"), []int{400}, ""},
		{"negative Content-Length", request(event("negative", "COMPLETED"), "Content-Length: -1"), []int{400}, ""},
		{"gzip bomb", requestSigned(bombHeader, zip(bomb), "Content-Encoding: gzip"), []int{413}, ""},
		{"gzip", requestSigned(plainHeader, zip(plain), "Content-Encoding: gzip"), []int{200}, "job.completed"},
		{"gzip truncated", requestSigned(plainHeader, zip(plain)[:20], "Content-Encoding: gzip"), []int{400}, ""},
		{"brotli", requestSigned(plainHeader, zip(plain), "Content-Encoding: br"), []int{415}, ""},
		{"10,000 headers", request(event("headers", "COMPLETED"), many...), []int{431}, ""},
		{"a header of 1 MiB", request(event("header", "COMPLETED"), "X: "+strings.Repeat("x", 1<<20)), []int{431}, ""},
		{"pipelining", append(bytes.Clone(one), two...), []int{200, 200}, "job.completed"},
		{"HTTP/1.0", bytes.Replace(request(event("old", "COMPLETED")), []byte("HTTP/1.1"), []byte("HTTP/1.0"), 1), []int{200}, "job.completed"},
		{"HTTP/3.7", bytes.Replace(request(event("new", "COMPLETED")), []byte("HTTP/1.1"), []byte("HTTP/3.7"), 1), []int{505}, ""},
		{"not HTTP", []byte("hello\r\n\r\n"), []int{400}, ""},
		{"invalid UTF-8 in a string", request("{\"id\":\"utf\",\"status\":\"COMPLETED\",\"x\":\"\xff\xfe\"}"), []int{200}, "job.completed"},
		{"invalid UTF-8 in the id", request("{\"id\":\"\xff\",\"status\":\"COMPLETED\"}"), []int{200}, "job.completed"},
		{"NUL bytes", request("\x00\x00\x00"), []int{200}, "job.unrecognized"},
		{"1 MiB of nesting", request(deep), []int{200}, "job.unrecognized"},
		{"1 MiB of open brackets", request(strings.Repeat("[", limit)), []int{200}, "job.unrecognized"},
		{"two signature headers", requestSigned("t=1,v1=00", []byte(plain), "Sync-Signature: "+plainHeader), []int{400}, ""},
		{"signed by nobody", requestSigned(verify.Sign("whsec_nobody", time.Now(), []byte(plain)), []byte(plain)), []int{400}, ""},
		{"signed for another body", requestSigned(plainHeader, []byte(event("other", "COMPLETED"))), []int{400}, ""},
	}
	for i, injected := range []string{"*", ">", ".", "a.b", "a b", "a\nb", "a\r\nNats-Msg-Id: x", "", " ", "ä", "\u0000",
		strings.Repeat("x", 10_000), "$JS.API.STREAM.DELETE.JOBS", "_INBOX.x", "job.>"} {
		rows = append(rows,
			row{fmt.Sprintf("status %.20q", injected), request(event(fmt.Sprint("status-", i), injected)), []int{200}, "job.unrecognized"},
			row{fmt.Sprintf("id %.20q", injected), request(event(injected, "COMPLETED")), []int{200}, "job.completed"},
		)
	}
	want := map[string]int{}
	for _, r := range rows {
		codes := raw(t, b.Webhook, r.request, len(r.codes))
		if fmt.Sprint(codes) != fmt.Sprint(r.codes) {
			t.Errorf("%s: %v, want %v", r.name, codes, r.codes)
		}
		if r.subject != "" {
			want[r.subject] += len(r.codes)
		}
	}
	b.awaitForwarded(t)
	nc, js := connect(t, b)
	s, err := js.Stream(t.Context(), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	stored, err := traffic.Stored(t.Context(), nc, "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range stored {
		raw, err := s.GetMsg(t.Context(), m.Sequence)
		if err != nil {
			t.Fatal(err)
		}
		got[raw.Subject]++
		v, err := verify.New([]string{process.Secret}, verify.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(raw.Header.Get("Sync-Signature"), raw.Data); err != nil {
			t.Errorf("%s %.60q: stored, but %v", raw.Subject, raw.Data, err)
		}
		if id := raw.Header.Get("Job-Id"); strings.ContainsAny(id, " .*>\r\n") || len(id) > 128 {
			t.Errorf("Job-Id %q", id)
		}
	}
	// The empty status and id are the same payload twice; the rest are distinct.
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("stored %v, want %v", got, want)
	}
	b.awaitState(t, "ready", "")
	b.Stop(t)
}
