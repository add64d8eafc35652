// Package backoff spaces the attempts at something that fails.
//
// It leaves to its callers what is attempted, and when they give up.
package backoff

import (
	"context"
	"math"
	"time"
)

// Exponential is the pause between attempts: Min after the first failure, twice as long after each further failure, and at
// most Max.
type Exponential struct{ Min, Max time.Duration }

// Pause returns the pause after the n-th failure in a row. jitter is a random number in [0, 1), with which the pause is
// between half and the whole of the backoff, so that many who failed at once do not try again at once.
func (b Exponential) Pause(n int, jitter float64) time.Duration {
	backoff := min(float64(b.Max), float64(b.Min)*math.Pow(2, float64(min(n, 30)-1)))
	return time.Duration(backoff * (0.5 + 0.5*jitter))
}

// Wait returns after d, or with ctx's error when ctx ends.
func Wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
