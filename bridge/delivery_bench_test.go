package bridge_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// instant is a Publisher that stores nothing and answers at once.
type instant struct{}

func (instant) Publish(context.Context, event.Event) (publisher.Receipt, error) {
	return publisher.Receipt{Stream: "JOBS", Subject: "job.completed", Sequence: 4711, Durability: event.OS}, nil
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

// BenchmarkDelivery is the bridge's own part of a delivery of 1 KiB: everything
// but net/http and the storage, with a log that is encoded and thrown away, with
// metrics, and without tracing.
func BenchmarkDelivery(b *testing.B) {
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	handler, err := bridge.New(bridge.Config{
		Verifier: newVerifier(b), Publisher: instant{},
		Logger: zap.New(zapcore.NewCore(encoder, zapcore.AddSync(io.Discard), zapcore.InfoLevel)),
	})
	if err != nil {
		b.Fatal(err)
	}
	// More of them than the bridge remembers: each is new to it.
	type delivery struct {
		payload   []byte
		signature []string
	}
	deliveries := make([]delivery, 4096)
	for i := range deliveries {
		payload := fmt.Appendf(nil, `{"id":"731f0c19-7a5e-4d9b-9a60-%012d","status":"COMPLETED","model":"lipsync-2","input":[{"type":"video","url":"https://assets.example/in.mp4"}],"pad":%q}`, i, strings.Repeat("x", 850))
		deliveries[i] = delivery{payload, []string{sign(string(payload))}}
	}
	request := httptest.NewRequest(http.MethodPost, bridge.DefaultPath, nil)
	request.Header.Set("Content-Type", "application/json")
	request.RemoteAddr = "192.0.2.1:4711"
	body := &resettable{}
	answer := &recorder{header: make(http.Header)}
	b.ReportAllocs()
	start := cpuTime(b)
	for i := 0; b.Loop(); i++ {
		d := deliveries[i%len(deliveries)]
		body.Reset(d.payload)
		request.Body, request.ContentLength = body, int64(len(d.payload))
		request.Header[verify.HeaderName] = d.signature
		answer.reset()
		handler.ServeHTTP(answer, request)
		if answer.code != http.StatusOK {
			b.Fatal(answer.code, string(answer.body))
		}
	}
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/op")
}

// cpuTime returns the processor time that the process has used: other processes
// of a busy machine disturb it less than the time of day.
func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
