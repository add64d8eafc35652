package ingress

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestPause has a process that stands still after a tick, and handles one delivery after that: in the instant in which
// the pause ends, or after further ticks.
func TestPause(t *testing.T) {
	t.Parallel()
	const minute = time.Minute
	for name, r := range map[string]struct {
		still    time.Duration // by the wall clock
		process  bool          // the process stood still, not the machine
		after    time.Duration // from the end of the pause to the delivery
		signed   time.Duration // from the beginning of the pause
		explains bool
		reason   string
	}{
		"no pause":                           {time.Second, true, 0, 0, false, ""},
		"shorter than a pause":               {10*time.Second - 1, true, 0, 0, false, ""},
		"the shortest pause":                 {10 * time.Second, true, 0, 0, true, "this process stood still for 10s until"},
		"signed in the pause":                {6 * minute, true, 0, minute, true, "this process stood still for 6m0s until"},
		"the machine stood still":            {6 * minute, false, 0, minute, true, "the machine stood still, or its clock"},
		"on the way when the pause began":    {6 * minute, true, 0, -minute, true, "stood still"},
		"late before the pause":              {6 * minute, true, 0, -minute - 1, false, ""},
		"signed when it ended":               {6 * minute, true, 0, 6 * minute, true, "stood still"},
		"signed after it ended":              {6 * minute, true, 1, 6*minute + 1, false, ""},
		"read a minute after it ended":       {6 * minute, true, minute, minute, true, "stood still"},
		"read more than a minute after":      {6 * minute, true, minute + 1, minute, false, ""},
		"the clock was set back":             {-6 * minute, false, 0, 0, false, ""},
		"a pause of days, signed at its end": {72 * time.Hour, false, minute, 72 * time.Hour, true, "for 72h0m0s until"},
	} {
		synctest.Test(t, func(t *testing.T) {
			var p pause
			start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
			p.observeTick(start)
			if r.process {
				time.Sleep(r.still)
			}
			end := start.Add(r.still)
			for tick := time.Duration(0); r.after > 0 && tick <= r.after; tick += pauseTick {
				p.observeTick(end.Add(tick))
			}
			now := end.Add(r.after)
			if got := p.explains(now, start.Add(r.signed), true); got != r.explains {
				t.Errorf("%s: explains: %v", name, got)
			}
			if got := p.reason(now, 1); (got == "") != (r.reason == "") || !strings.Contains(got, r.reason) {
				t.Errorf("%s: %q, want %q", name, got, r.reason)
			}
		})
	}
}

// TestPauseReason ends the reason: with a quarantine when its stale requests are gone, without one after an hour.
func TestPauseReason(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	end := start.Add(time.Minute)
	paused := func() *pause {
		p := new(pause)
		p.observeTick(start)
		p.explains(end, start, false) // late, but not refused
		if got := p.reason(end, 1); got != "" {
			t.Errorf("nothing was refused: %q", got)
		}
		p.explains(end, start, true)
		p.explains(end, start, true)
		return p
	}
	for name, r := range map[string]struct {
		after   time.Duration
		stale   int
		present bool
	}{
		"stale requests":                   {0, 2, true},
		"stale requests after days":        {72 * time.Hour, 2, true},
		"they are not written yet":         {0, 0, false},
		"they were released":               {11 * time.Second, 0, false},
		"no quarantine":                    {0, -1, true},
		"no quarantine, after an hour":     {time.Hour, -1, true},
		"no quarantine, more than an hour": {time.Hour + 1, -1, false},
	} {
		p := paused()
		got := p.reason(end.Add(r.after), r.stale)
		if (got != "") != r.present || r.present && !strings.Contains(got, " 2 deliveries") {
			t.Errorf("%s: %q", name, got)
		}
		// What was released stays so, and what is written late is not.
		if again := p.reason(end.Add(r.after), 1); (again != "") != (r.present || r.after == 0) {
			t.Errorf("%s, and then one is stale: %q", name, again)
		}
	}
}
