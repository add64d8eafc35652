package bridge_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/test/bridgetest"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestOutcomes sends each row of the table of outcomes over TCP.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Webhook.MaxBody = 64 << 10
	srv.Start()
	event := bridgetest.Generation("job-1", "COMPLETED")
	big := []byte(`{"id":"big","status":"COMPLETED","pad":"` + strings.Repeat("a", 64<<10) + `"}`)
	swollen := []byte(`[` + strings.Repeat("1e20,", 12<<10) + `1]`)
	header := func(kv ...string) http.Header {
		h := http.Header{}
		for i := 0; i < len(kv); i += 2 {
			h.Set(kv[i], kv[i+1])
		}
		return h
	}
	known := len(traffic.Series(t, srv.Metrics, "jobbridge_deliveries_total"))
	const invalid = `{"message":"Invalid signature"}` + "\n"
	rows := []struct {
		name     string
		delivery bridgetest.Delivery
		code     int
		body     string // if not empty
		outcome  string
		reason   string
	}{
		{"stored", bridgetest.Delivery{ID: "a"}, 200, "", "stored", ""},
		{"duplicate", bridgetest.Delivery{ID: "a"}, 200, "", "duplicate", ""},
		{"conflict", bridgetest.Delivery{Payload: []byte(`{"id":"a","status":"COMPLETED"}`)}, 200, "", "conflict", ""},
		{"conflict again", bridgetest.Delivery{Payload: []byte(`{"id":"a","status":"COMPLETED"}`)}, 200, "", "conflict", ""},
		{"unsigned", bridgetest.Delivery{Signature: "-"}, 400, invalid, "refused", "unsigned"},
		{"malformed", bridgetest.Delivery{Signature: "nonsense"}, 400, invalid, "refused", "malformed"},
		{"other secret", bridgetest.Delivery{Secret: "whsec_other"}, 400, invalid, "refused", "mismatch"},
		{"altered body", bridgetest.Delivery{Payload: event, Body: bytes.Replace(event, []byte("job-1"), []byte("job-2"), 1)}, 400, invalid,
			"refused", "mismatch"},
		{"truncated body", bridgetest.Delivery{Payload: event, Body: event[:len(event)-1]}, 400, invalid, "refused", "mismatch"},
		{"too old", bridgetest.Delivery{SignedAt: time.Now().Add(-6 * time.Minute)}, 400, invalid, "refused", "too_old"},
		{"too new", bridgetest.Delivery{SignedAt: time.Now().Add(6 * time.Minute)}, 400, invalid, "refused", "too_new"},
		{"too large", bridgetest.Delivery{Payload: big}, 413, "", "refused", "too_large"},
		{"too large inflated", bridgetest.Delivery{Payload: big, Body: traffic.Zip(t, big, false), Header: header("Content-Encoding", "gzip")},
			413, "", "refused", "too_large"},
		{"too large printed again", bridgetest.Delivery{Payload: []byte("1"), Body: swollen}, 413, "", "refused", "too_large"},
		{"gzip", bridgetest.Delivery{Payload: event, Body: traffic.Zip(t, event, false), Header: header("Content-Encoding", "gzip")}, 200, "",
			"stored", ""},
		{"deflate", bridgetest.Delivery{Payload: event, Body: traffic.Zip(t, event, true), Header: header("Content-Encoding", "deflate")}, 200,
			"", "duplicate", ""},
		{"truncated gzip", bridgetest.Delivery{Payload: event, Body: traffic.Zip(t, event, false)[:40],
			Header: header("Content-Encoding", "gzip")}, 400, "", "refused", "body"},
		{"br", bridgetest.Delivery{Header: header("Content-Encoding", "br")}, 415, "", "refused", "encoding"},
		{"utf-16", bridgetest.Delivery{Header: header("Content-Type", "application/json; charset=utf-16le")}, 415, "", "refused", "encoding"},
		{"no content type", bridgetest.Delivery{Header: header("Content-Type", "application/octet-stream")}, 200, "", "stored", ""},
		{"empty body", bridgetest.Delivery{Payload: []byte{}}, 200, "", "stored", ""},
	}
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			count := counter(t, srv, r.outcome, r.reason)
			got := srv.Deliver(r.delivery)
			if got.Code != r.code || r.body != "" && string(got.Body) != r.body {
				t.Fatalf("answered %d %s, want %d %s", got.Code, got.Body, r.code, r.body)
			}
			if after := counter(t, srv, r.outcome, r.reason); after != count+1 {
				t.Fatalf("deliveries{%s,%s} went from %v to %v", r.outcome, r.reason, count, after)
			}
			if strings.Contains(string(got.Body), "publisher:") || strings.Contains(string(got.Body), "verify:") {
				t.Fatalf("the answer holds an internal error: %s", got.Body)
			}
		})
	}
	if msg := srv.Next("job.conflict"); string(msg.Data) != `{"id":"a","status":"COMPLETED"}` {
		t.Errorf("on job.conflict: %s", msg.Data)
	}
	if msg := srv.Next("job.unrecognized"); len(msg.Data) != 0 {
		t.Errorf("on job.unrecognized: %s", msg.Data)
	}
	for _, r := range []struct {
		method, url string
		code        int
	}{{"GET", srv.URL, 405}, {"PUT", srv.URL, 405}, {"GET", srv.URL + "/", 405}, {"POST", srv.URL + "//", 404}, {"POST", srv.URL + "2", 404},
		{"GET", srv.URL + "/../..", 404}} {
		resp, body := request(t, r.method, r.url)
		if resp.StatusCode != r.code || !json.Valid(body) {
			t.Errorf("%s %s: %d %s", r.method, r.url, resp.StatusCode, body)
		}
		if r.code == 405 && resp.Header.Get("Allow") != "POST" {
			t.Errorf("%s %s: Allow %q", r.method, r.url, resp.Header.Get("Allow"))
		}
	}
	if all := traffic.Series(t, srv.Metrics, "jobbridge_deliveries_total"); len(all) != known {
		t.Errorf("of %v, %d were there from the start", all, known)
	}
}

func request(t *testing.T, method, url string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, body
}

// counter returns jobbridge_deliveries_total of an outcome and reason. The
// bridge counts after it has answered, so this waits until all that was
// answered has been counted: nothing is in flight.
func counter(t *testing.T, srv *bridgetest.Server, outcome, reason string) float64 {
	t.Helper()
	families, err := srv.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "jobbridge_deliveries_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["outcome"] == outcome && labels["reason"] == reason {
				return m.GetCounter().GetValue()
			}
		}
	}
	return 0
}

func TestMetricsLint(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewServer(t)
	srv.Deliver(bridgetest.Delivery{})
	problems, err := testutil.GatherAndLint(srv.Metrics)
	if err != nil || len(problems) > 0 {
		t.Fatal(problems, err)
	}
}

type result struct {
	bridgetest.Response
	err  error
	took time.Duration
}

func post(srv *bridgetest.Server, d bridgetest.Delivery) <-chan result {
	done := make(chan result, 1)
	go func() {
		start := time.Now()
		r, err := srv.Post(d)
		done <- result{r, err, time.Since(start)}
	}()
	return done
}

// commits returns how many commits the journal has counted.
func commits(t *testing.T, srv *bridgetest.Server) (n uint64) {
	t.Helper()
	families, err := srv.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "jobbridge_commit_group_size" {
			n = f.GetMetric()[0].GetHistogram().GetSampleCount()
		}
	}
	return n
}

// TestSlowDisk holds an fsync until 256 deliveries wait for the next one. The next fsync
// serves them all.
func TestSlowDisk(t *testing.T) {
	t.Parallel()
	const n = 256
	var armed atomic.Bool
	entered, release := make(chan struct{}), make(chan struct{})
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Sync = func(f *os.File) error {
		if filepath.Base(filepath.Dir(f.Name())) == "journal" && armed.CompareAndSwap(true, false) {
			close(entered)
			<-release
		}
		return f.Sync()
	}
	srv.Start()
	srv.Deliver(bridgetest.Delivery{ID: "before"})
	// The next segment is prepared in the background, with a sync of its own.
	for end := time.Now().Add(bridgetest.Patience); ; time.Sleep(time.Millisecond) {
		if j := srv.Publisher.Stats(t.Context()).Journal; j.Bytes >= 2*j.SegmentBytes {
			break
		}
		if time.Now().After(end) {
			t.Fatal("no segment was prepared")
		}
	}
	before := commits(t, srv)
	armed.Store(true)
	answers := []<-chan result{post(srv, bridgetest.Delivery{ID: "first"})}
	<-entered
	for i := range n {
		answers = append(answers, post(srv, bridgetest.Delivery{ID: fmt.Sprint("job-", i)}))
	}
	traffic.AwaitSeries(t, bridgetest.Patience, srv.Metrics, "jobbridge_deliveries_in_flight", "", n+1)
	close(release)
	for _, answer := range answers {
		if r := <-answer; r.err != nil || r.Code != 200 {
			t.Fatalf("%+v", r)
		}
	}
	// Two as a rule: on a busy machine some deliveries are appended late.
	if c := commits(t, srv) - before; c > n/16 {
		t.Errorf("%d commits", c)
	}
}

// TestForgers sends bad signatures until the sender has to wait for the answers. Good
// signatures from the same address are not limited.
func TestForgers(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Webhook.ForgeryRate = 1
	srv.Start()
	codes := map[int]int{}
	for range 13 {
		start := time.Now()
		r := srv.Deliver(bridgetest.Delivery{Secret: "whsec_forged"})
		codes[r.Code]++
		if r.Code == 429 && (r.Header.Get("Retry-After") == "" || time.Since(start) < time.Second) {
			t.Error(r.Header, time.Since(start))
		}
		if r := srv.Deliver(bridgetest.Delivery{}); r.Code != 200 {
			t.Fatalf("a good one: %d", r.Code)
		}
		// Signed by someone who may, only late: no forger.
		if r := srv.Deliver(bridgetest.Delivery{SignedAt: srv.Now().Add(-time.Hour)}); r.Code != 400 {
			t.Fatalf("a late one: %d", r.Code)
		}
	}
	if codes[400] < 10 || codes[429] < 1 {
		t.Errorf("%v", codes)
	}
	if n := counter(t, srv, "refused", "mismatch"); n != 13 {
		t.Errorf("%v counted", n)
	}
}

// TestFloodIsSampled refuses more requests than the log should hold. The lines of
// authentic deliveries are still written.
func TestFloodIsSampled(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Logger = zap.New(core)
	srv.Config.Webhook.ForgeryRate = -1
	srv.Start()
	start := time.Now()
	for range 1000 {
		if r := srv.Deliver(bridgetest.Delivery{Secret: "whsec_forged"}); r.Code != 400 {
			t.Fatal(r.Code)
		}
	}
	for range 200 {
		srv.Deliver(bridgetest.Delivery{})
	}
	seconds := int(time.Since(start)/time.Second) + 2
	if n := logs.FilterField(zap.String("reason", "mismatch")).Len(); n < 100 || n > 100*seconds+1000/100 {
		t.Errorf("%d of 1000 forgeries logged", n)
	}
	if err := srv.Drain(); err != nil {
		t.Fatal(err)
	}
	if n := logs.FilterField(zap.String("outcome", "stored")).Len(); n != 200 {
		t.Errorf("%d of 200 stored deliveries logged", n)
	}
	if n := counter(t, srv, "refused", "mismatch"); n != 1000 {
		t.Errorf("%v counted", n)
	}
}

// TestFull fills the stream with events that a worker has not acknowledged, and then
// the journal. First the journal takes over; when it is full too, deliveries are
// refused. When the worker has acknowledged, deliveries are accepted within two
// seconds, and the worker gets each event once.
func TestFull(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Stream.MaxBytes = publisher.MinMaxBytes
	srv.Config.Journal.MaxBytes = 16 << 20
	srv.Config.Webhook.MaxBody = 512 << 10
	srv.Start()
	worker, err := srv.JetStream().CreateConsumer(t.Context(), "JOBS", jetstream.ConsumerConfig{Durable: "slow", MaxAckPending: -1,
		AckPolicy: jetstream.AckExplicitPolicy})
	if err != nil {
		t.Fatal(err)
	}
	deliver := func(i int) bridgetest.Response {
		return srv.Deliver(bridgetest.Delivery{Payload: fmt.Appendf(nil, `{"id":"f%d","status":"COMPLETED","pad":"%s"}`, i,
			strings.Repeat("x", 500<<10))})
	}
	// A refusal can come before the stream is full: what is forwarded just then is
	// released a moment later. The last refusal is the one that stays.
	acked, refused := 0, 0
	held := func() bool {
		s := srv.Publisher.Status()
		return s.State == publisher.Full && strings.Contains(strings.Join(s.Reasons, "\n"), `"slow"`)
	}
	for i := 0; refused == 0 || !held(); i++ {
		switch r := deliver(i); r.Code {
		case 200:
			acked++
		case 503:
			refused++
			time.Sleep(10 * time.Millisecond)
		default:
			t.Fatalf("%d %s", r.Code, r.Body)
		}
		if i == 999 {
			t.Fatalf("%d acknowledged, %d refused, the status is %+v", acked, refused, srv.Publisher.Status())
		}
	}
	if f := srv.Publisher.Stats(t.Context()).Forward; f.Lag < 10 {
		t.Fatalf("%d acknowledged, %d wait in the journal", acked, f.Lag)
	}
	if n := counter(t, srv, "failed", "full"); n != float64(refused) {
		t.Fatalf("%d refused, %v counted", refused, n)
	}
	had := make(map[string]int)
	fetch := func() {
		m, err := worker.Next(jetstream.FetchMaxWait(bridgetest.Patience))
		if err != nil {
			t.Fatal(err)
		}
		had[m.Headers().Get("Job-Id")]++
		if err := m.DoubleAck(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for range acked {
		fetch()
	}
	for end := time.Now().Add(2 * time.Second); deliver(1000).Code != 200; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("there is room, and the status is %+v", srv.Publisher.Status())
		}
	}
	for i := range 100 {
		if r := deliver(1001 + i); r.Code != 200 {
			t.Fatalf("%d: %d %s", i, r.Code, r.Body)
		}
		fetch()
	}
	fetch()
	for id, n := range had {
		if n != 1 {
			t.Errorf("%s came %d times", id, n)
		}
	}
	if len(had) != acked+101 {
		t.Errorf("the worker had %d events of %d", len(had), acked+101)
	}
}

// TestSlowSender sends a body byte by byte. The sender must not hold an in-flight slot or
// its connection for ever.
func TestSlowSender(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Webhook.MaxInFlight = 1
	srv.Config.Webhook.ReadTimeout = 300 * time.Millisecond
	srv.Start()
	for _, head := range []string{"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{", "POST /webhook HT"} {
		conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(srv.URL, "http://"), "/webhook"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, head); err != nil {
			t.Fatal(err)
		}
		if r := srv.Deliver(bridgetest.Delivery{}); r.Code != 200 {
			t.Fatalf("beside a slow sender: %d", r.Code)
		}
		if err := conn.SetReadDeadline(time.Now().Add(bridgetest.Patience)); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 408") && !strings.HasPrefix(string(answer), "HTTP/1.1 400") &&
			len(answer) > 0 {
			t.Fatalf("%q %v", answer, err)
		}
	}
}

// TestDrain stops a bridge while clients connect again and again. Every client that had
// connected is answered 200, and its event is stored. A connection is reset only if its
// handshake ends between the last accept and the close of the listener. That takes
// microseconds, unless the thread is put to sleep there: of 150 runs with the race
// detector, two had one such connection. Before the queue was emptied, 27 runs had up to
// six.
func TestDrain(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewServer(t)
	const clients = 16
	var stored, refused, cut atomic.Int64
	var begun, wg sync.WaitGroup
	begun.Add(clients)
	for range clients {
		wg.Go(func() {
			once := sync.OnceFunc(begun.Done)
			defer once()
			for n := 0; ; n++ {
				if n == 5 {
					once()
				}
				r, err := srv.Post(bridgetest.Delivery{})
				switch {
				case err == nil && r.Code == 200:
					stored.Add(1)
				case err == nil:
					refused.Add(1)
					return
				case dialing(err):
					return // it is stopped, and says so before it took anything
				default:
					t.Logf("cut off: %v", err)
					cut.Add(1)
					return
				}
			}
		})
	}
	begun.Wait()
	if err := srv.Drain(); err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	if refused.Load() > 0 || cut.Load() > 2 || int(stored.Load()) != srv.Stored() {
		t.Fatalf("%d answered 200, %d refused, %d cut off, %d stored", stored.Load(), refused.Load(), cut.Load(), srv.Stored())
	}
}

// dialing reports whether err is of a connection that was never made: refused,
// or reset in its handshake by a listener that closed meanwhile.
func dialing(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// TestDrainKeepAlive has an idle connection. During the delay of a drain the bridge still
// serves it, and tells the client to close it.
func TestDrainKeepAlive(t *testing.T) {
	t.Parallel()
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Shutdown.Delay = 500 * time.Millisecond
	srv.Start()
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(srv.URL, "http://"), "/webhook"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	exchange := func() *http.Response {
		signature, body := srv.Sign(bridgetest.Delivery{})
		fmt.Fprintf(conn, "POST /webhook HTTP/1.1\r\nHost: x\r\nSync-Signature: %s\r\nContent-Length: %d\r\n\r\n%s", signature, len(body), body)
		resp, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(resp.Body); err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if resp := exchange(); resp.StatusCode != 200 || resp.Close {
		t.Fatalf("%d, close %v", resp.StatusCode, resp.Close)
	}
	drained := make(chan error, 1)
	go func() { drained <- srv.Drain() }()
	for srv.Bridge.Report().State != operator.Draining {
		select {
		case err := <-drained:
			t.Fatal("drained without saying so", err)
		case <-time.After(time.Millisecond):
		}
	}
	if resp := exchange(); resp.StatusCode != 200 || !resp.Close {
		t.Fatalf("while draining: %d, close %v", resp.StatusCode, resp.Close)
	}
	if err := <-drained; err != nil {
		t.Fatal(err)
	}
}

// TestNoSecretLeaks searches everything that the bridge writes for its secret and for the
// signatures that it expected.
func TestNoSecretLeaks(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.DebugLevel)
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Logger = zap.New(core)
	srv.Start()
	payload := bridgetest.Generation("secret-job", "COMPLETED")
	expected, _ := srv.Sign(bridgetest.Delivery{Payload: payload})
	expected = expected[strings.Index(expected, "v1=")+3:]
	var said bytes.Buffer
	for _, d := range []bridgetest.Delivery{
		{Payload: payload},
		{Payload: payload, Signature: "t=1,v1=" + strings.Repeat("0", 64)},
		{Payload: payload, Secret: "whsec_wrong"},
		{Payload: payload, SignedAt: time.Now().Add(-time.Hour)},
		{Payload: payload, Signature: "-"},
	} {
		said.Write(srv.Deliver(d).Body)
	}
	if err := srv.Drain(); err != nil {
		t.Fatal(err)
	}
	for _, line := range logs.All() {
		fmt.Fprintln(&said, line.Message, line.ContextMap())
	}
	families, err := srv.Metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(&said, families)
	for _, secret := range []string{bridgetest.Secret, strings.TrimPrefix(bridgetest.Secret, "whsec_") + `"`, expected} {
		if strings.Contains(said.String(), secret) {
			t.Errorf("%q is said aloud", secret)
		}
	}
	if logs.FilterMessage("delivery").Len() != 5 {
		t.Errorf("%d deliveries logged", logs.FilterMessage("delivery").Len())
	}
}
