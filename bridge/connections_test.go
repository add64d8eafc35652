package bridge_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/test/bridgetest"
	"github.com/jobbridge/jobbridge/test/traffic"
)

// dial connects from an address of this machine.
func dial(t *testing.T, srv *bridgetest.Server, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	conn, err := d.DialContext(t.Context(), "tcp", strings.TrimSuffix(strings.TrimPrefix(srv.URL, "http://"), "/webhook"))
	if err != nil {
		t.Skipf("%s is no address of this machine: %v", from, err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(bridgetest.Patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// ask sends a request and returns the first line of the answer, or what went
// wrong.
func ask(conn net.Conn, request string) string {
	if _, err := io.WriteString(conn, request); err != nil {
		return err.Error()
	}
	line := make([]byte, 64)
	n, err := conn.Read(line)
	if err != nil {
		return err.Error()
	}
	text, _, _ := strings.Cut(string(line[:n]), "\r\n")
	return text
}

func delivery(srv *bridgetest.Server, d bridgetest.Delivery, header ...string) string {
	signature, body := srv.Sign(d)
	return fmt.Sprintf("POST /webhook HTTP/1.1\r\nHost: x\r\nSync-Signature: %s\r\n%sContent-Length: %d\r\n\r\n%s", signature,
		strings.Join(append(header, ""), "\r\n"), len(body), body)
}

// TestConnections opens as many connections as the listener accepts. One source may have
// half of them, and an idle connection is closed for a new one.
func TestConnections(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Webhook.MaxConnections = 4
	srv.Start()
	good := func() string { return delivery(srv, bridgetest.Delivery{}) }
	const ok = "HTTP/1.1 200 OK"
	// begun is in the middle of a request. A connection is idle an instant after
	// its answer, so that there may be no room at once.
	begun := func(from string) (conn net.Conn, body string) {
		head, body, _ := strings.Cut(delivery(srv, bridgetest.Delivery{}, "Expect: 100-continue"), "\r\n\r\n")
		for end := time.Now().Add(bridgetest.Patience); ; {
			conn = dial(t, srv, from)
			got := ask(conn, head+"\r\n\r\n")
			if got == "HTTP/1.1 100 Continue" {
				return conn, body
			}
			if time.Now().After(end) {
				t.Fatal(got)
			}
		}
	}
	idle := []net.Conn{dial(t, srv, "127.0.0.1"), dial(t, srv, "127.0.0.1")}
	for _, c := range idle {
		if got := ask(c, good()); got != ok {
			t.Fatal(got)
		}
	}
	// Of a source that has its half, those that are idle go for those that come.
	for range 2 {
		c, body := begun("127.0.0.1")
		if got := ask(c, body); got != ok {
			t.Fatalf("there is no room: %s", got)
		}
	}
	for _, c := range idle {
		if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
			t.Fatalf("an idle one stays: %v", err)
		}
	}
	// Those in use stay, and what comes on top is closed.
	first, rest := begun("127.0.0.1")
	second, _ := begun("127.0.0.1")
	if got := ask(dial(t, srv, "127.0.0.1"), good()); strings.HasPrefix(got, "HTTP") {
		t.Errorf("one source has more than its half: %s", got)
	}
	if got := traffic.Series(t, srv.Metrics, "jobbridge_connections_rejected_total"); got["limit"] < 1 {
		t.Errorf("that was not counted: %v", got)
	}
	// Another source has room, and makes room for a third one when all is full.
	for _, from := range []string{"127.0.0.2", "127.0.0.2", "127.0.0.3", "127.0.0.2"} {
		if got := ask(dial(t, srv, from), good()); got != ok {
			t.Errorf("%s has no room: %s", from, got)
		}
	}
	if got := ask(first, rest); got != ok {
		t.Errorf("one in use was closed: %s", got)
	}
	second.Close()
}

// TestDrainWhenFull stops a bridge that has all the connections it may have. None of them
// ends by itself.
func TestDrainWhenFull(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Webhook.MaxConnections = 2
	srv.Start()
	for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
		if got := ask(dial(t, srv, from), "GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n"); got != "HTTP/1.1 404 Not Found" {
			t.Fatal(got)
		}
	}
	drained := make(chan error, 1)
	go func() { drained <- srv.Drain() }()
	select {
	case err := <-drained:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(bridgetest.Patience):
		t.Fatal("it waits for a connection to end")
	}
}

// TestDrainTheQueue stops a bridge that has all the connections it may have, while other
// connections wait in the listener's queue with their requests. The bridge serves them.
func TestDrainTheQueue(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Webhook.MaxConnections = 2
	srv.Start()
	var held []net.Conn
	var rests []string
	for _, from := range []string{"127.0.0.1", "127.0.0.2"} {
		conn := dial(t, srv, from)
		head, body, _ := strings.Cut(delivery(srv, bridgetest.Delivery{}, "Expect: 100-continue"), "\r\n\r\n")
		if got := ask(conn, head+"\r\n\r\n"); got != "HTTP/1.1 100 Continue" {
			t.Fatal(got)
		}
		held, rests = append(held, conn), append(rests, body)
	}
	answers := make(chan string)
	const n = 6
	for range n {
		conn, request := dial(t, srv, "127.0.0.3"), delivery(srv, bridgetest.Delivery{})
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(err)
		}
		go func() { answers <- ask(conn, "") }()
	}
	drained := make(chan error, 1)
	go func() { drained <- srv.Drain() }()
	for range n {
		if got := <-answers; got != "HTTP/1.1 200 OK" {
			t.Error(got)
		}
	}
	for i, conn := range held {
		if got := ask(conn, rests[i]); got != "HTTP/1.1 200 OK" {
			t.Error(got)
		}
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

// TestSmuggling hides a second request in the first, in each way that has deceived a
// server in front of another. Each request is verified with its own signature over its
// own body.
func TestSmuggling(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewServer(t)
	hidden := delivery(srv, bridgetest.Delivery{ID: "hidden", Secret: "whsec_forged"})
	signature, signed := srv.Sign(bridgetest.Delivery{ID: "signed"})
	head := "POST /webhook HTTP/1.1\r\nHost: x\r\nSync-Signature: " + signature + "\r\n"
	chunked := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(signed), signed)
	for name, request := range map[string]string{
		"two lengths": head + fmt.Sprintf("Content-Length: %d\r\nContent-Length: %d\r\n\r\n%s%s", len(signed), len(signed)+len(hidden),
			signed, hidden),
		"length and chunks": head + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n%s%s", len(chunked)+len(hidden),
			chunked, hidden),
		"chunks misspelt": head + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: xchunked\r\n\r\n%s%s", len(chunked), chunked,
			hidden),
		"chunks, space before": head + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding : chunked\r\n\r\n%s%s", len(chunked), chunked,
			hidden),
		"a length with a sign": head + fmt.Sprintf("Content-Length: +%d\r\n\r\n%s%s", len(signed), signed, hidden),
		"no length":            head + "\r\n" + string(signed) + hidden,
		"in the query": strings.Replace(head, "/webhook", "/webhook?id=hidden&status=COMPLETED", 1) +
			fmt.Sprintf("Content-Length: %d\r\n\r\n%s%s", len(signed), signed, hidden),
		"two signatures": head + fmt.Sprintf("Sync-Signature: t=1,v1=00\r\nContent-Length: %d\r\n\r\n%s%s", len(signed), signed, hidden),
	} {
		conn := dial(t, srv, "127.0.0.1")
		if _, err := io.WriteString(conn, request); err != nil {
			t.Fatal(name, err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(name, err)
		}
		answers, err := io.ReadAll(conn)
		if err != nil && !strings.Contains(err.Error(), "reset") {
			t.Error(name, err)
		}
		if n := strings.Count(string(answers), "HTTP/1.1 200"); n > 1 || strings.Contains(string(answers), "hidden") {
			t.Errorf("%s: %s", name, answers)
		}
	}
	if n := srv.Stored(); n != 1 {
		t.Errorf("%d stored", n)
	}
	if m := srv.Next("job.>"); m.Header.Get("Job-Id") != "signed" || string(m.Data) != string(signed) {
		t.Errorf("%s %s", m.Header, m.Data)
	}
}

// TestLargeBodies occupies the memory for large bodies with senders that never finish.
// Small bodies still pass, and one source occupies at most half.
func TestLargeBodies(t *testing.T) {
	t.Parallel()
	const limit = 64 << 10
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Webhook.MaxBody, srv.Config.Webhook.MaxBodyMemory = limit, 8*limit
	_, loopback, _ := net.ParseCIDR("127.0.0.0/8")
	srv.Config.Webhook.TrustedProxies = []*net.IPNet{loopback}
	srv.Start()
	large := bridgetest.Delivery{Payload: []byte(`{"id":"large","status":"COMPLETED","pad":"` + strings.Repeat("x", limit/2) + `"}`)}
	from := func(source string) string { return "X-Forwarded-For: " + source }
	for range 7 { // each holds 33 KiB of 256
		conn := dial(t, srv, "127.0.0.1")
		request := delivery(srv, large, from("203.0.113.1"))
		if _, err := io.WriteString(conn, request[:len(request)-1]); err != nil {
			t.Fatal(err)
		}
	}
	post := func(source string, d bridgetest.Delivery) string {
		return ask(dial(t, srv, "127.0.0.1"), delivery(srv, d, from(source)))
	}
	// Until all are in the room, another may be let in.
	for end := time.Now().Add(bridgetest.Patience); counter(t, srv, "failed", "no_room") == 0; post("203.0.113.1", large) {
		if time.Now().After(end) {
			t.Fatal("one source has more than its half")
		}
	}
	if got := post("203.0.113.1", bridgetest.Delivery{}); got != "HTTP/1.1 200 OK" {
		t.Errorf("a small one of the same source: %s", got)
	}
	if got := post("203.0.113.2", large); got != "HTTP/1.1 200 OK" {
		t.Errorf("a large one of another: %s", got)
	}
}

// TestDribblers opens connections of two sources that send a little more than a small
// body and never finish. They occupy only the memory for what they sent, so large
// deliveries pass.
func TestDribblers(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	_, loopback, _ := net.ParseCIDR("127.0.0.0/8")
	srv.Config.Webhook.TrustedProxies = []*net.IPNet{loopback}
	srv.Start()
	payload := func(size int) bridgetest.Delivery {
		return bridgetest.Delivery{Payload: []byte(`{"id":"large","status":"COMPLETED","pad":"` + strings.Repeat("x", size) + `"}`)}
	}
	for n := range 64 {
		conn := dial(t, srv, "127.0.0.1")
		request := delivery(srv, payload(9000), fmt.Sprintf("X-Forwarded-For: 203.0.113.%d", n%2))
		if _, err := io.WriteString(conn, request[:len(request)-100]); err != nil {
			t.Fatal(err)
		}
	}
	for _, source := range []string{"203.0.113.0", "203.0.113.1", "203.0.113.2"} {
		for _, size := range []int{9000, 100_000, 1_000_000} {
			conn := dial(t, srv, "127.0.0.1")
			if got := ask(conn, delivery(srv, payload(size), "X-Forwarded-For: "+source)); got != "HTTP/1.1 200 OK" {
				t.Errorf("%d bytes from %s: %s", size, source, got)
			}
		}
	}
}

// TestManyHuge sends more bodies of the largest size at once than there is memory for.
// They wait for each other, and none is refused.
func TestManyHuge(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewServer(t)
	pad := strings.Repeat("x", bridge.DefaultMaxBody-100)
	answers := make(chan string)
	const n = 18 // one source has room for 15
	for i := range n {
		conn := dial(t, srv, "127.0.0.1")
		go func() {
			answers <- ask(conn, delivery(srv, bridgetest.Delivery{Payload: fmt.Appendf(nil, `{"id":"huge-%d","status":"COMPLETED","pad":%q}`, i,
				pad)}))
		}()
	}
	for range n {
		if got := <-answers; got != "HTTP/1.1 200 OK" {
			t.Error(got)
		}
	}
}

// TestInflatedSmall sends more small compressed bodies at once than there is memory for.
// Each needs the memory for a moment only.
func TestInflatedSmall(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Webhook.MaxBody, srv.Config.Webhook.MaxBodyMemory = bridge.DefaultMaxBody, 1
	srv.Start()
	codes := make(chan int, 64)
	for range cap(codes) {
		go func() {
			signature, body := srv.Sign(bridgetest.Delivery{})
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL, bytes.NewReader(traffic.Zip(t, body, false)))
			if err != nil {
				t.Error(err)
			}
			req.Header.Set("Content-Encoding", "gzip")
			req.Header.Set("Sync-Signature", signature)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Error(err)
				codes <- 0
				return
			}
			resp.Body.Close()
			codes <- resp.StatusCode
		}()
	}
	for range cap(codes) {
		if code := <-codes; code != 200 {
			t.Error(code)
		}
	}
}
