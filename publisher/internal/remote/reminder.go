package remote

import (
	"time"

	"golang.org/x/time/rate"
)

// remindEvery is how often the log repeats a trouble that lasts.
const remindEvery = time.Minute

// reminder bounds the lines of one kind of trouble: each change has a line, and one
// that lasts has a line a minute, whatever its text says. Changes that come quickly
// after one another have ten lines, and then one a minute.
type reminder struct {
	last    time.Time
	state   string
	changes *rate.Limiter
}

func newReminder() reminder { return reminder{changes: rate.NewLimiter(rate.Every(remindEvery), 10)} }

// due reports whether the log gets a line at now. state tells a change from a
// repetition.
func (r *reminder) due(state string, now time.Time) bool {
	changed := state != r.state
	r.state = state
	if now.Sub(r.last) < remindEvery && !changed {
		return false
	}
	if !r.changes.AllowN(now, 1) && now.Sub(r.last) < remindEvery {
		return false
	}
	r.last = now
	return true
}
