package ingress_test

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// failing is a Publisher that returns one of its errors for each event, and then stores events.
type failing struct{ errs []error }

func (f *failing) Publish(ctx context.Context, e event.Event) (publisher.Receipt, error) {
	if len(f.errs) > 0 {
		err := f.errs[0]
		f.errs = f.errs[1:]
		return publisher.Receipt{}, err
	}
	return instant{}.Publish(ctx, e)
}

// newIngress returns an Ingress with the defaults of package bridge.
func newIngress(tb testing.TB, o ingress.Options) *ingress.Ingress {
	tb.Helper()
	if o.Verifier == nil {
		o.Verifier = newVerifier(tb)
	}
	o.Path = cmp.Or(o.Path, ingress.DefaultPath)
	o.MaxBody = cmp.Or(o.MaxBody, ingress.DefaultMaxBody)
	o.MaxBodyMemory = cmp.Or(o.MaxBodyMemory, ingress.DefaultMaxBodyMemory)
	o.MaxInFlight = cmp.Or(o.MaxInFlight, ingress.DefaultMaxInFlight)
	o.MaxConnections = cmp.Or(o.MaxConnections, ingress.DefaultMaxConnections)
	o.ForgeryRate = cmp.Or(o.ForgeryRate, ingress.DefaultForgeryRate)
	o.ReadTimeout = cmp.Or(o.ReadTimeout, ingress.DefaultReadTimeout)
	o.IdleTimeout = cmp.Or(o.IdleTimeout, ingress.DefaultIdleTimeout)
	o.Tolerance = cmp.Or(o.Tolerance, verify.DefaultTolerance)
	o.Logger, o.Now = cmp.Or(o.Logger, zap.NewNop()), time.Now
	if o.OnDrain == nil {
		o.OnDrain = func() {}
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	in, err := ingress.New(o)
	if err != nil {
		tb.Fatal(err)
	}
	return in
}

// serveOne returns the answer to one signed request.
func serveOne(b *ingress.Ingress, body string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(http.MethodPost, ingress.DefaultPath, strings.NewReader(body))
	request.Header.Set(verify.HeaderName, sign(body))
	answer := httptest.NewRecorder()
	b.ServeHTTP(answer, request)
	return answer
}

const completed = `{"id":"job-1","status":"COMPLETED"}`

// TestSlotOfAFailedDelivery has one slot, and deliveries that are not stored for several reasons: each releases the slot.
func TestSlotOfAFailedDelivery(t *testing.T) {
	t.Parallel()
	f := &failing{errs: []error{event.ErrUnavailable, event.ErrFull, errors.New("anything")}}
	b := newIngress(t, ingress.Options{Publisher: f, MaxInFlight: 1})
	for _, code := range []int{503, 503, 500, 200, 200} {
		if answer := serveOne(b, completed); answer.Code != code {
			t.Fatalf("%d %s, want %d", answer.Code, answer.Body, code)
		}
	}
}

// TestSlotOfAPanic has one slot, and a panic while an event is published: the panic releases the slot.
func TestSlotOfAPanic(t *testing.T) {
	t.Parallel()
	b := newIngress(t, ingress.Options{Publisher: panicking{}, MaxInFlight: 1})
	for range 2 {
		if answer := serveOne(b, completed); answer.Code != 500 {
			t.Fatalf("%d %s", answer.Code, answer.Body)
		}
	}
}

// TestUnclassifiedError returns errors from the publisher: their text is in the log, and not in the answer.
func TestUnclassifiedError(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	const text = "dial tcp 10.1.2.3:4222: password hunter2"
	f := &failing{errs: []error{errors.New(text), fmt.Errorf("%w: %s", event.ErrUnavailable, text)}}
	b := newIngress(t, ingress.Options{Publisher: f, Logger: zap.New(core)})
	for _, want := range []struct {
		code         int
		body, reason string
	}{
		{500, `{"message":"Internal error"}`, "internal"},
		{503, `{"message":"Storage unavailable"}`, "unavailable"},
	} {
		answer := serveOne(b, completed)
		if answer.Code != want.code || answer.Body.String() != want.body+"\n" {
			t.Errorf("%d %s", answer.Code, answer.Body)
		}
		if strings.Contains(fmt.Sprint(answer.Header()), "hunter2") {
			t.Error(answer.Header())
		}
		lines := logs.FilterField(zap.String("reason", want.reason)).All()
		if len(lines) != 1 || !strings.Contains(fmt.Sprint(lines[0].ContextMap()["error"]), text) {
			t.Errorf("%v", lines)
		}
	}
}

// TestLargestBody sends bodies of exactly the limit, and of one byte more or less: with their length, chunked, and compressed.
func TestLargestBody(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1 << 10, 8 << 10, 64 << 10} {
		b := newIngress(t, ingress.Options{Publisher: instant{}, MaxBody: limit})
		for _, r := range []struct{ size, code int }{{limit - 1, 200}, {limit, 200}, {limit + 1, 413}} {
			frame := `{"id":"a","status":"COMPLETED","pad":"%s"}`
			body := fmt.Sprintf(frame, strings.Repeat("x", r.size-len(frame)+2))
			if len(body) != r.size {
				t.Fatal(len(body))
			}
			for _, form := range []string{"announced", "chunked", "gzip"} {
				wire := []byte(body)
				if form == "gzip" {
					wire = traffic.Zip(t, wire, false)
				}
				request := httptest.NewRequest(http.MethodPost, ingress.DefaultPath, bytes.NewReader(wire))
				request.Header.Set(verify.HeaderName, sign(body))
				switch form {
				case "chunked":
					request.ContentLength = -1
				case "gzip":
					request.Header.Set("Content-Encoding", "gzip")
				}
				answer := httptest.NewRecorder()
				b.ServeHTTP(answer, request)
				if answer.Code != r.code {
					t.Errorf("%d bytes of %d, %s: %d %s", r.size, limit, form, answer.Code, answer.Body)
				}
			}
		}
	}
}

// recording is a Publisher that records the events.
type recording struct{ events []event.Event }

func (r *recording) Publish(_ context.Context, e event.Event) (publisher.Receipt, error) {
	r.events = append(r.events, e)
	return publisher.Receipt{Subject: event.Template{}.Subject(e)}, nil
}

// TestForged publishes what was signed with the secret, and nothing else.
func TestForged(t *testing.T) {
	t.Parallel()
	p := new(recording)
	b := newIngress(t, ingress.Options{Publisher: p})
	start := time.Now()
	for secret, code := range map[string]int{testSecret: 200, "whsec_forger": 400} {
		request := httptest.NewRequest(http.MethodPost, ingress.DefaultPath, strings.NewReader(completed))
		signature := verify.Sign(secret, time.Now(), []byte(completed))
		request.Header.Set(verify.HeaderName, signature)
		answer := httptest.NewRecorder()
		b.ServeHTTP(answer, request)
		if answer.Code != code {
			t.Errorf("signed with %s: %d, want %d", secret, answer.Code, code)
		}
		if code == 200 && (len(p.events) != 1 || p.events[0].Signature != signature) {
			t.Fatalf("published: %+v", p.events)
		}
	}
	e := p.events[0]
	if len(p.events) != 1 || e.MessageID() != "sync:job-1:COMPLETED" || string(e.Payload) != completed {
		t.Errorf("published: %+v", p.events)
	}
	if e.ReceivedAt.Before(start) || e.ReceivedAt.After(time.Now()) {
		t.Errorf("received at %s", e.ReceivedAt)
	}
}

// TestHugeLimits has the largest limits that there are. They allow everything, and do not overflow (case C11).
func TestHugeLimits(t *testing.T) {
	t.Parallel()
	b := newIngress(t, ingress.Options{Publisher: instant{}, MaxBodyMemory: math.MaxInt, ForgeryRate: math.MaxInt})
	large := `{"id":"job-1","status":"COMPLETED","pad":"` + strings.Repeat("x", 100<<10) + `"}`
	if answer := serveOne(b, large); answer.Code != 200 {
		t.Errorf("a large body: %d %s", answer.Code, answer.Body)
	}
	for range 2 {
		request := httptest.NewRequest(http.MethodPost, ingress.DefaultPath, strings.NewReader(completed))
		answer := httptest.NewRecorder()
		b.ServeHTTP(answer, request)
		if answer.Code != 400 {
			t.Errorf("a bad signature: %d %s", answer.Code, answer.Body)
		}
	}
}

// blocking is a Publisher that stores an event when it gets a token, and records how long each event had until its deadline.
type blocking struct {
	tokens chan struct{}
	left   chan time.Duration
}

func (b *blocking) Publish(ctx context.Context, e event.Event) (publisher.Receipt, error) {
	deadline, _ := ctx.Deadline()
	b.left <- time.Until(deadline)
	<-b.tokens
	return instant{}.Publish(ctx, e)
}

// TestRequestsOfHTTP2 sends requests over HTTP/2, of which one may be handled at a time.
func TestRequestsOfHTTP2(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &blocking{make(chan struct{}), make(chan time.Duration, 8)}
		b := newIngress(t, ingress.Options{Publisher: p, MaxConnections: 1})
		post := func(major int) int {
			request := httptest.NewRequest(http.MethodPost, ingress.DefaultPath, strings.NewReader(completed))
			request.Header.Set(verify.HeaderName, sign(completed))
			request.ProtoMajor = major
			answer := httptest.NewRecorder()
			b.ServeHTTP(answer, request)
			return answer.Code
		}
		for range 2 {
			codes := make(chan int, 2)
			go func() { codes <- post(2) }()
			synctest.Wait()
			if code := post(2); code != 503 {
				t.Errorf("the second request over HTTP/2: %d", code)
			}
			go func() { codes <- post(1) }()
			p.tokens <- struct{}{}
			p.tokens <- struct{}{}
			if first, other := <-codes, <-codes; first != 200 || other != 200 {
				t.Errorf("the first request over HTTP/2, and one over HTTP/1: %d, %d", first, other)
			}
		}
	})
}

// TestDeadline stores an event within 4.5 s of the last byte of its body. That byte may have arrived while the body waited
// for memory, so this time counts.
func TestDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := &blocking{make(chan struct{}), make(chan time.Duration, 8)}
		b := newIngress(t, ingress.Options{Publisher: p, MaxBody: 64 << 10, MaxBodyMemory: 1})
		large := `{"id":"job-1","status":"COMPLETED","pad":"` + strings.Repeat("x", 60<<10) + `"}`
		var answers sync.WaitGroup
		for range 5 { // there is memory for four
			answers.Go(func() {
				if answer := serveOne(b, large); answer.Code != 200 {
					t.Errorf("%d %s", answer.Code, answer.Body)
				}
			})
			synctest.Wait() // the memory of a body is taken in steps, which two could share
		}
		time.Sleep(time.Second)
		for range 5 {
			p.tokens <- struct{}{}
		}
		answers.Wait()
		var left []time.Duration // in any order
		for range 5 {
			left = append(left, <-p.left)
		}
		slices.Sort(left)
		const whole = 4500 * time.Millisecond
		if want := []time.Duration{whole - time.Second, whole, whole, whole, whole}; !slices.Equal(left, want) {
			t.Errorf("the deliveries have %s, want %s", left, want)
		}
	})
}
