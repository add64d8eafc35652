package ingress_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// instant is a Publisher that stores nothing and answers at once.
type instant struct{}

func (instant) Publish(context.Context, event.Event) (publisher.Receipt, error) {
	return publisher.Receipt{Subject: "job.completed", Sequence: 4711, Durability: event.OS}, nil
}

const testSecret = "whsec_0123456789abcdef"

func newVerifier(tb testing.TB) *verify.Verifier {
	tb.Helper()
	v, err := verify.New([]string{testSecret}, verify.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

// sign returns the signature header of a body that is sent now.
func sign(body string) string { return verify.Sign(testSecret, time.Now(), []byte(body)) }

// recorder is a ResponseWriter that can be used again without allocation.
type recorder struct {
	header http.Header
	code   int
	body   []byte
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(code int)        { r.code = code }
func (r *recorder) Write(p []byte) (int, error) { r.body = append(r.body, p...); return len(p), nil }
func (r *recorder) reset()                      { clear(r.header); r.code, r.body = 0, r.body[:0] }

// resettable is a request body that can be read again.
type resettable struct{ bytes.Reader }

func (*resettable) Close() error { return nil }

// newDeliverer returns a function that sends one new delivery of 1 KiB to an Ingress. The Ingress has metrics, a log that is
// encoded and discarded, and no tracing. The function itself allocates nothing.
func newDeliverer(tb testing.TB, p ingress.Publisher) func() {
	tb.Helper()
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	handler := newIngress(tb, ingress.Options{
		Publisher: p,
		Logger:    zap.New(zapcore.NewCore(encoder, zapcore.AddSync(io.Discard), zapcore.InfoLevel)),
	})
	type delivery struct {
		payload   []byte
		signature []string
	}
	deliveries := make([]delivery, 8192) // a delivery that is sent again is older than those that judge the clock
	for i := range deliveries {
		payload := fmt.Appendf(nil, `{"id":"731f0c19-7a5e-4d9b-9a60-%012d","status":"COMPLETED","model":"lipsync-2",`+
			`"input":[{"type":"video","url":"https://assets.example/in.mp4"}],"pad":%q}`, i, strings.Repeat("x", 850))
		deliveries[i] = delivery{payload, []string{sign(string(payload))}}
	}
	request := httptest.NewRequest(http.MethodPost, ingress.DefaultPath, nil)
	request.Header.Set("Content-Type", "application/json")
	request.RemoteAddr = "192.0.2.1:4711"
	body := &resettable{}
	answer := &recorder{header: make(http.Header)}
	next := 0
	return func() {
		d := deliveries[next%len(deliveries)]
		next++
		body.Reset(d.payload)
		request.Body, request.ContentLength = body, int64(len(d.payload))
		request.Header[verify.HeaderName] = d.signature
		answer.reset()
		handler.ServeHTTP(answer, request)
		if answer.code != http.StatusOK {
			tb.Fatal(answer.code, string(answer.body))
		}
	}
}

// TestDeliveryAllocations limits the allocations for a delivery without its storage: there are 13. The race detector makes
// sync.Pool forget at random, so more are allowed with it.
func TestDeliveryAllocations(t *testing.T) {
	limit := 16.0
	if raceEnabled {
		limit = 30
	}
	if n := testing.AllocsPerRun(1000, newDeliverer(t, instant{})); n > limit {
		t.Errorf("%v allocations", n)
	}
}

// journaled returns a publisher with a real journal, without fsync, whose NATS server is stopped, so that only deliveries
// allocate.
func journaled(tb testing.TB) *publisher.Publisher {
	tb.Helper()
	p, err := publisher.Open(tb.Context(), publisher.Options{Dir: tb.TempDir(), Durability: event.OS})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := p.Close(ctx); err != nil {
			tb.Error(err)
		}
	})
	p.StopServer()
	return p
}

// TestDeliveryAllocationsWithJournal limits the allocations for a delivery and its storage: there are 33, of 4.4 KiB.
func TestDeliveryAllocationsWithJournal(t *testing.T) {
	deliver := newDeliverer(t, journaled(t))
	// Other goroutines of the publisher allocate too, so the smallest of several rounds counts.
	const runs = 500
	allocations, bytes := uint64(math.MaxUint64), uint64(math.MaxUint64)
	for range 10 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for range runs {
			deliver()
		}
		runtime.ReadMemStats(&after)
		allocations, bytes = min(allocations, (after.Mallocs-before.Mallocs)/runs), min(bytes, (after.TotalAlloc-before.TotalAlloc)/runs)
	}
	t.Logf("%d allocations, %d bytes a delivery", allocations, bytes)
	if !raceEnabled && (allocations > 37 || bytes > 5<<10) {
		t.Errorf("%d allocations, %d bytes a delivery", allocations, bytes)
	}
}

// BenchmarkDelivery measures a delivery without net/http and without the storage.
func BenchmarkDelivery(b *testing.B) {
	deliver := newDeliverer(b, instant{})
	b.ReportAllocs()
	start := cpuTime(b)
	for b.Loop() {
		deliver()
	}
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
}

// cpuTime returns the processor time that the process has used. It depends less on the other processes of the machine than
// the time of day does.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
