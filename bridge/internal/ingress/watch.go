package ingress

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/verify"
)

// observeSignature records what the result of verifying a request tells about the clock, pauses and the secrets.
func (in *Ingress) observeSignature(now time.Time, verified verify.Verified, err error) {
	switch {
	case verified.Fingerprint != "": // authentic, though perhaps too old or too new
		in.silence.authentic(now)
		if !in.pause.explains(now, verified.SignedAt, errors.Is(err, verify.ErrTooOld)) {
			in.clock.observe(now, verified)
		}
	case errors.Is(err, verify.ErrMismatch):
		in.silence.mismatch(now)
	}
}

// Reasons returns what needs an operator although deliveries are accepted.
func (in *Ingress) Reasons() []string {
	now, stale := in.cfg.Now(), -1
	var reasons []string
	if in.cfg.Quarantine != nil {
		stale = in.cfg.Quarantine.Stale()
		reasons = in.cfg.Quarantine.Reasons()
	}
	for _, reason := range []string{in.clock.reason(), in.silence.reason(now), in.pause.reason(now, stale)} {
		if reason != "" {
			reasons = append(reasons, reason)
		}
	}
	return reasons
}

// remindInterval is how often the log repeats a reason.
const remindInterval = time.Hour

// watch notices pauses, and logs each reason when it begins and once an hour, until ctx ends.
func (in *Ingress) watch(ctx context.Context) {
	tick := time.NewTicker(pauseTick)
	defer tick.Stop()
	logged := make(map[string]time.Time)
	for {
		present := make(map[string]time.Time)
		for _, reason := range in.Reasons() {
			key := strings.Map(withoutFigures, reason)
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
			in.pause.observeTick(in.cfg.Now())
		case <-ctx.Done():
			return
		}
	}
}

// withoutFigures is for [strings.Map]: two reasons that differ only in a number or a duration are the same reason.
func withoutFigures(r rune) rune {
	if strings.ContainsRune("0123456789hms", r) {
		return -1
	}
	return r
}
