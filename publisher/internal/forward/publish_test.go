package forward

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
)

// TestMakeRoom shows for how many bytes an embedded target is asked, and what follows
// from its refusal.
func TestMakeRoom(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		room, bound, accepts int64
		unsaved              int64
		asked                string
		want                 int64 // room afterwards; -1: refused
	}{
		"it has room":                      {500, 0, 1 << 30, 0, "[]", 500},
		"it has not enough":                {499, 0, 1 << 30, 0, "[262244]", roomBytes},
		"a small stream":                   {0, 64 << 10, 1 << 30, 0, "[1124]", 1024},
		"a record above the share":         {0, 6400, 1 << 30, 0, "[600]", 500},
		"room for one":                     {0, 0, 600, 0, "[262244 600]", 500},
		"no room":                          {0, 0, 599, 0, "[262244 600]", -1},
		"no room, a checkpoint can help":   {0, 0, 599, 1, "[262244 600]", -1},
		"no room left, but what was given": {-10, 0, 599, 0, "[262244 600]", -1},
	} {
		s, g, _, now := newUnit(t)
		var asked []int64
		g.room = func(bytes int64) error {
			asked = append(asked, bytes)
			if bytes > test.accepts {
				return event.ErrFull
			}
			return nil
		}
		s.room, s.plan.info.MaxBytes, s.unsaved, s.p.bytesInFlight = test.room, test.bound, test.unsaved, 100
		i := &item{Record: Record{Payload: make([]byte, 300)}}
		ok := s.makeRoom(t.Context(), i, now)
		if ok != (test.want >= 0) || ok && s.room != test.want || fmt.Sprint(asked) != test.asked {
			t.Errorf("%s: %v, room %d, asked for %d", name, ok, s.room, asked)
		}
		if (s.p.kind == Full) == ok || s.saveAt.Equal(now) != (!ok && test.unsaved > 0) {
			t.Errorf("%s: %v, a checkpoint in %s", name, s.p.kind, s.saveAt.Sub(now))
		}
	}
}

// TestTrimmable shows up to where the stream may be trimmed.
func TestTrimmable(t *testing.T) {
	t.Parallel()
	s, _, _, _ := newUnit(t)
	if got := s.f.trimmable(); got != 0 {
		t.Errorf("without a checkpoint: %d", got)
	}
	for name, test := range map[string]struct {
		change func(c *checkpoint)
		want   uint64
	}{
		"a checkpoint":    {func(c *checkpoint) {}, 7},
		"a refill":        {func(c *checkpoint) { c.Refill = true }, 0},
		"another target":  {func(c *checkpoint) { c.Target = "x" }, 0},
		"another journal": {func(c *checkpoint) { c.Journal = "x" }, 0},
	} {
		s.f.saved = &checkpoint{Target: "embedded/JOBS", Journal: "journal-1", CompareAfter: 7, Sequence: 9}
		test.change(s.f.saved)
		if got := s.f.trimmable(); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

// TestStaleIsNotResent has a record whose first attempt was not answered, although a
// later one of another record was. When it is due again after half of the duplicate
// window, the stream is compared first. Before, it was published again, and stored
// twice if the connection delivered it late.
func TestStaleIsNotResent(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		window time.Duration
		want   error
	}{
		"half of the window is over": {time.Second, errResume},
		"the window is longer":       {time.Minute, nil},
		"the stream has no window":   {0, nil},
	} {
		s, g, _, now := newUnit(t)
		asked := false
		g.room = func(int64) error { asked = true; return event.ErrFull } // what is asked before each publish
		s.plan.info.Duplicates = test.window
		s.nc = new(nats.Conn)
		s.p.admit(Record{Sequence: 1, Key: "a"})
		s.p.admit(Record{Sequence: 2, Key: "b"})
		s.p.next(now)
		s.p.next(now)
		s.p.acknowledged(2, false, 1, false, now.Add(time.Millisecond))
		now = now.Add(s.f.limits.timeout + time.Second)
		s.p.advance(now) // the first record was not answered in time
		now = now.Add(minPause)
		s.step(t.Context(), now)
		if !errors.Is(s.result, test.want) || asked != (test.want == nil) {
			t.Errorf("%s: the session ends with %v, published %v", name, s.result, asked)
		}
	}
}
