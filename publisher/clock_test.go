package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
)

// clock is a wall clock that a test sets.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time           { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) jump(ahead time.Duration) { c.ahead.Store(int64(ahead)) }

// TestClockJumps sets the clock two days forward and two days back while the publisher runs. No event is rejected or lost,
// and every duplicate is recognized.
func TestClockJumps(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	var c clock
	p := open(t, publisher.Options{Now: c.now})
	sequence := uint64(0)
	for i, jump := range []time.Duration{0, 2 * day, -2 * day, 0} {
		c.jump(jump)
		for n := range 20 {
			sequence++
			r, err := p.Publish(t.Context(), newEvent(fmt.Sprintf("job-%d-%d", i, n), "COMPLETED", "{}"))
			if err != nil || r.Duplicate || r.Sequence != sequence {
				t.Fatalf("clock at %s: %+v %v", jump, r, err)
			}
		}
		for before := range i + 1 {
			r, err := p.Publish(t.Context(), newEvent(fmt.Sprintf("job-%d-0", before), "COMPLETED", "{}"))
			if err != nil || !r.Duplicate || r.Sequence != uint64(20*before+1) {
				t.Errorf("clock at %s: %+v %v", jump, r, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if s := p.Stats(ctx); s.Server == nil || s.Server.Messages != sequence || s.Forward.Lag != 0 {
		t.Errorf("%+v %+v", s.Server, s.Forward)
	}
}

// TestClockAtOpen opens a publisher with a clock that is two days behind the newest event, and with one that is so far ahead
// that every event in the stream would expire. Both are errors, unless AcceptClock is set.
func TestClockAtOpen(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for jump, refused := range map[time.Duration]bool{-2 * day: true, 2 * day: true, 12 * time.Hour: false} {
		t.Run(jump.String(), func(t *testing.T) {
			t.Parallel()
			o := publisher.Options{Dir: t.TempDir(), Stream: publisher.StreamOptions{Retention: day}}
			p := open(t, o)
			if _, err := p.Publish(t.Context(), newEvent("a", "COMPLETED", "{}")); err != nil {
				t.Fatal(err)
			}
			closePublisher(t, p)
			var c clock
			c.jump(jump)
			o.Now = c.now
			for range 2 { // a refused start does not make the next one plausible
				again, err := publisher.Open(t.Context(), o)
				if errors.Is(err, publisher.ErrClock) != refused || err != nil && !refused {
					t.Fatal(err)
				}
				if err == nil {
					closePublisher(t, again)
				}
			}
			o.AcceptClock = true
			r, err := open(t, o).Publish(t.Context(), newEvent("a", "COMPLETED", "{}"))
			if err != nil || !r.Duplicate || r.Sequence != 1 {
				t.Errorf("%+v %v", r, err)
			}
		})
	}
}
