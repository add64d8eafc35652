package ingress

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/verify"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestObserveSignature observes one delivery of a kind again and again, at a clock that jumps a day ahead or not.
func TestObserveSignature(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, r := range map[string]struct {
		fingerprint string
		err         error
		late        time.Duration
		jump        bool
		reason      string // the beginning of the only reason
	}{
		"fresh":                {"f", nil, 0, false, ""},
		"too old":              {"f", verify.ErrTooOld, time.Hour, false, "clock: "},
		"too old, after jump":  {"f", verify.ErrTooOld, time.Hour, true, "paused: "},
		"nobody's, late":       {"", verify.ErrMismatch, time.Hour, false, ""},
		"nobody's, after jump": {"", verify.ErrMismatch, time.Hour, true, "signatures: "},
		"malformed":            {"", verify.ErrMalformed, time.Hour, true, ""},
	} {
		now := start
		in := &Ingress{cfg: Options{Now: func() time.Time { return now }}, clock: newClockCheck(5 * time.Minute)}
		in.silence.authentic(start)
		in.pause.observeTick(start)
		if r.jump {
			now = start.Add(24 * time.Hour)
		}
		for i := range 16 {
			in.observeSignature(now, verify.Verified{Fingerprint: r.fingerprint, SignedAt: now.Add(-r.late), Payload: []byte{byte(i)}}, r.err)
		}
		if got := in.Reasons(); len(got) > 1 || (len(got) == 1) != (r.reason != "") || !strings.HasPrefix(strings.Join(got, ""), r.reason) {
			t.Errorf("%s: %q, want %q", name, got, r.reason)
		}
		in.observeSignature(now, verify.Verified{Fingerprint: "f", SignedAt: now}, nil)
		if got := strings.Join(in.Reasons(), " "); strings.Contains(got, "signatures: ") {
			t.Errorf("%s, and then an authentic one: %s", name, got)
		}
	}
}

// TestWatch logs a reason when it begins, and once an hour, though its figures change each second.
func TestWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		in := &Ingress{cfg: Options{Now: time.Now}, log: zap.New(core), clock: newClockCheck(5 * time.Minute)}
		in.silence.authentic(time.Now())
		in.silence.mismatch(time.Now())
		go in.watch(t.Context())
		lines := func(after time.Duration, want int) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if n := logs.FilterMessageSnippet("signatures: ").Len(); n != want {
				t.Errorf("%d lines, want %d: %v", n, want, logs.All())
			}
		}
		lines(59*time.Minute, 0)
		lines(time.Minute+time.Second, 1)
		lines(59*time.Minute, 1)
		lines(time.Minute+time.Second, 2)
		in.silence.authentic(time.Now())
		lines(time.Second, 2)
		in.silence.mismatch(time.Now())
		lines(61*time.Minute, 3)
	})
}
