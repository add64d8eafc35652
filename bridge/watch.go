package bridge

import (
	"context"
	"strings"
	"time"
)

// remindInterval is how often the log repeats a reason that needs an operator.
const remindInterval = time.Hour

// reasons says in words what needs an operator although deliveries are accepted.
func (b *Bridge) reasons() []string {
	now, stale := b.cfg.Now(), -1
	if b.cfg.Quarantine != nil {
		stale = b.cfg.Quarantine.Stats().Stale
	}
	reasons := b.quarantineReasons()
	for _, reason := range []string{b.silence.reason(now), b.pause.reason(now, stale)} {
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// watch notices pauses, and logs each reason that needs an operator when it begins
// and once an hour, until ctx ends.
func (b *Bridge) watch(ctx context.Context) {
	tick := time.NewTicker(pauseTick)
	defer tick.Stop()
	logged := make(map[string]time.Time)
	for {
		present := make(map[string]time.Time)
		for _, reason := range b.reasons() {
			key := strings.Map(withoutDigits, reason)
			at, known := logged[key]
			if !known || time.Since(at) >= remindInterval {
				at = time.Now()
				b.log.Warn(reason)
			}
			present[key] = at
		}
		logged = present
		select {
		case <-tick.C:
			b.pause.tick(b.cfg.Now())
		case <-ctx.Done():
			return
		}
	}
}

// withoutDigits makes two texts equal that differ in their figures alone.
func withoutDigits(r rune) rune {
	if '0' <= r && r <= '9' {
		return -1
	}
	return r
}
