package ingress

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
)

// pause notices that the process stood still, as on a laptop that was closed, a
// virtual machine that was stopped, or after SIGSTOP. Deliveries that came
// meanwhile are read late and refused as too old, although no clock is wrong.
type pause struct {
	ticked atomic.Int64 // the wall clock at the last tick, in Unix nanoseconds; 0 before the first

	mu          sync.Mutex
	tickedAt    time.Time // the same moment on the monotonic clock
	from, until time.Time // the last pause
	stopped     bool      // the process stood still; else it was the machine, or its clock was set
	late        int       // deliveries that were refused because of it
	lateAt      time.Time // the last of them
}

const (
	pauseTick = time.Second
	// pauseLeast is the shortest time between two ticks that counts as a pause.
	pauseLeast = 10 * time.Second
	// pauseAfter is how long after its end a pause explains late deliveries.
	pauseAfter = time.Minute
	// pauseShown is how long a pause is a reason where there is no quarantine.
	pauseShown = time.Hour
)

// tick records that the process runs at now.
func (p *pause) tick(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notice(now)
	p.ticked.Store(now.UnixNano())
	p.tickedAt = time.Now()
}

// notice looks for a pause that ended with now. The caller holds p.mu.
func (p *pause) notice(now time.Time) {
	last := p.ticked.Load()
	from, until := time.Unix(0, last), time.Unix(0, now.UnixNano())
	if last == 0 || until.Sub(from) < pauseLeast || !until.After(p.until) {
		return
	}
	p.from, p.until, p.late = from, until, 0
	p.stopped = time.Since(p.tickedAt) >= pauseLeast
	p.ticked.Store(now.UnixNano())
	p.tickedAt = time.Now()
}

// explains reports whether a delivery that came at now is late because of a pause.
// tooOld tells that it is refused for that.
func (p *pause) explains(now, signed time.Time, tooOld bool) bool {
	last := p.ticked.Load()
	if last == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notice(now) // the process may have got here before its next tick
	now = time.Unix(0, now.UnixNano())
	if p.until.IsZero() || now.Sub(p.until) > pauseAfter || signed.Before(p.from.Add(-pauseAfter)) || signed.After(p.until) {
		return false
	}
	if tooOld {
		p.late++
		p.lateAt = now
	}
	return true
}

// reason says in words what the pause did, or returns "". stale is how many
// requests the quarantine holds that were refused for their time, or -1 without a
// quarantine: a release clears the reason.
func (p *pause) reason(now time.Time, stale int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now = time.Unix(0, now.UnixNano())
	switch {
	case p.late == 0:
		return ""
	case stale < 0 && now.Sub(p.until) > pauseShown, stale == 0 && now.Sub(p.lateAt) > pauseLeast: // after what waits to be written
		p.late = 0
		return ""
	case stale == 0:
		return ""
	}
	who := "the machine stood still, or its clock was set forward"
	if p.stopped {
		who = "this process stood still"
	}
	return fmt.Sprintf("paused: %s for %s until %s; %d deliveries of that time were read late and refused as too old: "+
		operator.DoReleaseStale+" publishes them",
		who, p.until.Sub(p.from).Round(time.Second), p.until.UTC().Format(time.RFC3339), p.late)
}
