package ingress

import (
	"context"
	"strings"
	"time"
)

// remindInterval is how often the log repeats a reason that needs an operator.
const remindInterval = time.Hour

// Reasons says in words what needs an operator although deliveries are accepted.
func (in *Ingress) Reasons() []string { return append(in.skew.reasons(), in.reminders()...) }

// reminders are the reasons that the log repeats. The clock logs its own.
func (in *Ingress) reminders() []string {
	now, stale := in.cfg.Now(), -1
	var reasons []string
	if in.cfg.Quarantine != nil {
		stale = in.cfg.Quarantine.Stale()
		reasons = in.cfg.Quarantine.Reasons()
	}
	for _, reason := range []string{in.silence.reason(now), in.pause.reason(now, stale)} {
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// watch notices pauses, and logs each reason that needs an operator when it begins
// and once an hour, until ctx ends.
func (in *Ingress) watch(ctx context.Context) {
	tick := time.NewTicker(pauseTick)
	defer tick.Stop()
	logged := make(map[string]time.Time)
	for {
		present := make(map[string]time.Time)
		for _, reason := range in.reminders() {
			key := strings.Map(withoutDigits, reason)
			at, known := logged[key]
			if !known || time.Since(at) >= remindInterval {
				at = time.Now()
				in.log.Warn(reason)
			}
			present[key] = at
		}
		logged = present
		select {
		case <-tick.C:
			in.pause.tick(in.cfg.Now())
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
