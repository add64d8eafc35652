package remote

import (
	"time"

	"golang.org/x/time/rate"
)

// reminderInterval is how often the log repeats a problem that lasts.
const reminderInterval = time.Minute

// reminder limits the log lines about one kind of problem. Each change of the problem is one line. A problem that lasts
// is one line a minute. Changes in quick succession are ten lines, and then one line a minute.
type reminder struct {
	last    time.Time
	state   string
	changes *rate.Limiter
}

func newReminder() reminder {
	return reminder{changes: rate.NewLimiter(rate.Every(reminderInterval), 10)}
}

// due reports whether the log gets a line at now. A state other than that of the last call is a change.
func (r *reminder) due(state string, now time.Time) bool {
	changed, repeated := state != r.state, now.Sub(r.last) >= reminderInterval
	r.state = state
	if !changed && !repeated || !r.changes.AllowN(now, 1) && !repeated {
		return false
	}
	r.last = now
	return true
}
