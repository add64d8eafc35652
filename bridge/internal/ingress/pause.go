package ingress

import (
	"fmt"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
)

// pause notices that the process stood still: a laptop was closed, a virtual machine was stopped, or the process got
// SIGSTOP. Deliveries of that time are read late and refused as too old, although the clock is right.
type pause struct {
	mu        sync.Mutex
	tick      time.Time // when the process ran last, by the wall clock; zero before the first tick
	monotonic time.Time // the same moment by the monotonic clock

	from, until time.Time // the last pause
	stopped     bool      // the process stood still; otherwise the machine did, or its clock was set
	late        int       // deliveries that were refused because of the pause
	lateAt      time.Time // when the last of them was refused
}

const (
	pauseTick = time.Second
	// minPause is the shortest time between two ticks that counts as a pause.
	minPause = 10 * time.Second
	// pauseEffect is how long after its end a pause explains that deliveries are late.
	pauseEffect = time.Minute
	// pauseShown is how long a pause is a reason if there is no quarantine.
	pauseShown = time.Hour
)

// observeTick records that the process runs at now.
func (p *pause) observeTick(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.detect(now.Round(0))
	p.tick, p.monotonic = now.Round(0), time.Now()
}

// detect looks for a pause that ended at now, which has no monotonic reading. The caller holds p.mu.
func (p *pause) detect(now time.Time) {
	if p.tick.IsZero() || now.Sub(p.tick) < minPause || !now.After(p.until) {
		return
	}
	p.from, p.until, p.late = p.tick, now, 0
	p.stopped = time.Since(p.monotonic) >= minPause
	p.tick, p.monotonic = now, time.Now()
}

// explains reports whether a pause is why a delivery that was signed at signed arrived at now. tooOld says that the
// delivery is refused because of that.
func (p *pause) explains(now, signed time.Time, tooOld bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now = now.Round(0)
	p.detect(now) // this delivery may be handled before the next tick
	if p.until.IsZero() || now.Sub(p.until) > pauseEffect || signed.Before(p.from.Add(-pauseEffect)) || signed.After(p.until) {
		return false
	}
	if tooOld {
		p.late, p.lateAt = p.late+1, now
	}
	return true
}

// reason returns what an operator should know about the last pause, or "". stale is how many requests the quarantine
// holds that were refused for their time, or -1 without a quarantine. Releasing them ends the reason.
func (p *pause) reason(now time.Time, stale int) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	now = now.Round(0)
	if stale < 0 && now.Sub(p.until) > pauseShown || stale == 0 && now.Sub(p.lateAt) > minPause { // later, none is still to be written
		p.late = 0
	}
	if p.late == 0 || stale == 0 {
		return ""
	}
	what := "the machine stood still, or its clock was set forward,"
	if p.stopped {
		what = "this process stood still"
	}
	return fmt.Sprintf("paused: %s for %s until %s; %d deliveries of that time were read late and refused as too old: "+
		operator.DoReleaseStale+" publishes them",
		what, p.until.Sub(p.from).Round(time.Second), p.until.UTC().Format(time.RFC3339), p.late)
}
