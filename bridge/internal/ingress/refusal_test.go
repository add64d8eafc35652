package ingress

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/labstack/echo/v4"
)

// TestRefuse is the table of what a sender is told for each error, and of what happens to the request.
func TestRefuse(t *testing.T) {
	t.Parallel()
	const secret = "dial tcp 10.1.2.3:4222: password hunter2"
	type want struct {
		reason, outcome    string
		status             int
		message            string
		retryAfter         string
		quarantine, forged bool
	}
	signature := func(reason string, forged bool) want {
		return want{reason, "refused", 400, "Invalid signature", "", true, forged}
	}
	later := func(reason, message string) want { return want{reason, "failed", 503, message, "5", false, false} }
	now := func(reason string, status int, message string) want {
		return want{reason, "refused", status, message, "", false, false}
	}
	for _, r := range []struct {
		err error
		want
	}{
		{verify.ErrUnsigned, signature("unsigned", true)},
		{verify.ErrMalformed, signature("malformed", true)},
		{verify.ErrMismatch, signature("mismatch", true)},
		{verify.ErrTooOld, signature("too_old", false)},
		{verify.ErrTooNew, signature("too_new", false)},
		{verify.ErrTooLarge, want{"too_large", "refused", 413, "Body too large", "", true, true}},
		{errReserialize, want{"no_room", "failed", 503, "Too many large bodies at once", "5", true, false}},
		{errBodyTooLarge, now("too_large", 413, "Body too large")},
		{errEncoding, now("encoding", 415, "Unsupported encoding")},
		{errBodyTimeout, now("body_timeout", 408, "Body not received in time")},
		{errBody, now("body", 400, "Unreadable body")},
		{errNoMemory, later("no_room", "Too many large bodies at once")},
		{errBusy, later("busy", "Too many deliveries in flight")},
		{event.ErrFull, later("full", "Storage full")},
		{event.ErrTooLarge, now("too_large", 413, "Body too large")},
		{event.ErrMisconfigured, later("misconfigured", "Storage unavailable")},
		{event.ErrUnavailable, later("unavailable", "Storage unavailable")},
		{errWrongPath, now("wrong_path", 404, "Not Found")},
		{echo.ErrNotFound, now("not_found", 404, "Not Found")},
		{echo.ErrMethodNotAllowed, now("method_not_allowed", 405, "Method Not Allowed")},
		{errPanic, want{"panic", "failed", 500, "Internal error", "", false, false}},
		{errors.New("anything else"), want{"internal", "failed", 500, "Internal error", "", false, false}},
	} {
		err := fmt.Errorf("publish: %w: %s", r.err, secret)
		got := refuse(err)
		if got.reason != r.reason || got.outcome() != r.outcome || got.quarantine != r.quarantine || got.forged != r.forged {
			t.Errorf("%v: %+v", r.err, got)
		}
		if !errors.Is(got.err, r.err) || !strings.Contains(got.err.Error(), secret) {
			t.Errorf("%v: the log gets %v", r.err, got.err)
		}
		answer := answered(got)
		if answer.Code != r.status || answer.Header().Get("Retry-After") != r.retryAfter {
			t.Errorf("%v: %d, Retry-After %q", r.err, answer.Code, answer.Header().Get("Retry-After"))
		}
		if allow := answer.Header().Get("Allow"); (allow != "") != (r.status == 405) || allow != "" && allow != "POST" {
			t.Errorf("%v: Allow %q", r.err, allow)
		}
		if want, _ := json.Marshal(map[string]string{"message": r.message}); answer.Body.String() != string(want)+"\n" {
			t.Errorf("%v: %s", r.err, answer.Body)
		}
		if strings.Contains(fmt.Sprint(answer.Header(), answer.Body), "hunter2") {
			t.Errorf("%v: the answer contains the error: %v %s", r.err, answer.Header(), answer.Body)
		}
	}
}

// TestThrottle is the answer to a bad signature of a source that has sent too many: the reason stays.
func TestThrottle(t *testing.T) {
	t.Parallel()
	r := refuse(verify.ErrMismatch).throttle()
	answer := answered(r)
	const body = `{"message":"Too many invalid signatures"}` + "\n"
	if answer.Code != 429 || answer.Header().Get("Retry-After") != "5" || answer.Body.String() != body {
		t.Errorf("%d %v %s", answer.Code, answer.Header(), answer.Body)
	}
	if r.reason != "mismatch" || r.outcome() != "refused" || !errors.Is(r.err, verify.ErrMismatch) {
		t.Errorf("%+v", r)
	}
}

// answered returns the answer to a refused delivery. It does not wait for throttleDelay: no place is left for that.
func answered(r refusal) *httptest.ResponseRecorder {
	in := &Ingress{delayed: make(chan struct{})}
	answer := httptest.NewRecorder()
	in.answerRefusal(echo.New().NewContext(httptest.NewRequest(http.MethodPost, DefaultPath, nil), answer), r)
	return answer
}

// TestForgeryCost counts a larger body as more bad signatures, but never as more than a source may send at once.
func TestForgeryCost(t *testing.T) {
	t.Parallel()
	for _, r := range []struct{ rate, bytes, want int }{
		{50, 0, 1}, {50, 16<<10 - 1, 1}, {50, 16 << 10, 2}, {50, 1 << 20, 65}, {1, 1 << 20, 10}, {0, 1 << 20, 1},
	} {
		in := &Ingress{cfg: Options{ForgeryRate: r.rate}}
		if got := in.forgeryCost(r.bytes); got != r.want {
			t.Errorf("%d bytes at %d/s: %d, want %d", r.bytes, r.rate, got, r.want)
		}
	}
}

// TestDelay has room for one answer that is delayed: a second one is written at once, and one after the first is delayed.
func TestDelay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in := &Ingress{delayed: make(chan struct{}, 1)}
		answerAfter := func(ctx context.Context, want time.Duration) {
			start := time.Now()
			request := httptest.NewRequest(http.MethodPost, DefaultPath, nil).WithContext(ctx)
			in.answerRefusal(echo.New().NewContext(request, httptest.NewRecorder()), refuse(verify.ErrMismatch).throttle())
			if took := time.Since(start); took != want {
				t.Errorf("answered after %s, want %s", took, want)
			}
		}
		for range 2 {
			done := make(chan struct{})
			go func() { defer close(done); answerAfter(t.Context(), throttleDelay) }()
			synctest.Wait()
			answerAfter(t.Context(), 0)
			<-done
		}
		gone, cancel := context.WithTimeout(t.Context(), throttleDelay/2)
		defer cancel()
		answerAfter(gone, throttleDelay/2)
	})
}

// shelf is a Quarantine that records what is added to it.
type shelf struct{ added []Refused }

func (s *shelf) Add(r Refused) string { s.added = append(s.added, r); return "kept" }
func (*shelf) Stale() int             { return 0 }
func (*shelf) Reasons() []string      { return nil }

// TestRefuseUnverified keeps each request that may be authentic, and throttles only a source of bad signatures.
func TestRefuseUnverified(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for err, want := range map[error]struct {
			kept      int
			throttled bool
		}{
			verify.ErrMismatch:  {30, true},
			verify.ErrTooOld:    {30, false},
			errReserialize:      {30, false},
			errors.New("a bug"): {0, false},
		} {
			s := new(shelf)
			in := &Ingress{cfg: Options{Quarantine: s, ForgeryRate: 1}}
			in.forgeries = source.NewLimiter(source.Limits{PerSource: 10, Period: forgeryPeriod})
			throttled := 0
			for range 30 {
				d := delivery{remote: "192.0.2.1", signed: signed{receivedAt: time.Unix(1, 0)}}
				in.refuseUnverified(&d, err, source.Of(d.remote), http.Header{"A": {"b"}}, []byte("body"))
				if d.refusal.status == http.StatusTooManyRequests {
					throttled++
				}
				if (d.quarantine == "kept") != (want.kept > 0) {
					t.Errorf("%v: quarantine %q", err, d.quarantine)
				}
			}
			if len(s.added) != want.kept || (throttled == 20) != want.throttled || throttled%20 != 0 {
				t.Errorf("%v: %d kept, %d throttled", err, len(s.added), throttled)
			}
			for _, r := range s.added {
				same := r.Reason == refuse(err).reason && r.Remote == "192.0.2.1" && r.At.Unix() == 1
				if !same || r.Header.Get("A") != "b" || string(r.Body) != "body" {
					t.Fatalf("%v: %+v", err, r)
				}
			}
		}
	})
}

// TestAcquire has a semaphore with one token.
func TestAcquire(t *testing.T) {
	t.Parallel()
	tokens := make(chan struct{}, 1)
	if !acquire(tokens, 0) || acquire(tokens, 0) || acquire(tokens, time.Millisecond) {
		t.Error("a token was acquired twice, or not at all")
	}
	go func() { <-tokens }()
	if !acquire(tokens, time.Minute) {
		t.Error("a token that was released was not acquired")
	}
}
