package backoff_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/publisher/internal/backoff"
)

// TestPause: a pause lies between half and the whole of the backoff, which doubles up to its bound.
func TestPause(t *testing.T) {
	t.Parallel()
	b := backoff.Exponential{Min: 50 * time.Millisecond, Max: time.Second}
	for n, whole := range map[int]time.Duration{
		1: 50 * time.Millisecond, 2: 100 * time.Millisecond, 5: 800 * time.Millisecond, 6: time.Second, 1_000_000: time.Second,
	} {
		for jitter, want := range map[float64]time.Duration{0: whole / 2, 0.5: whole * 3 / 4, 1: whole} {
			if got := b.Pause(n, jitter); got != want {
				t.Errorf("failure %d, jitter %v: %s, want %s", n, jitter, got, want)
			}
		}
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := backoff.Wait(t.Context(), time.Minute); err != nil || time.Since(start) != time.Minute {
			t.Error(err, time.Since(start))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := backoff.Wait(ctx, time.Minute); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 61*time.Second {
			t.Error(err, time.Since(start))
		}
	})
}
