package source

import (
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

var (
	// ErrSource is returned when the source has used its share.
	ErrSource = errors.New("limit of one source reached")
	// ErrTotal is returned when all sources together have used the total.
	ErrTotal = errors.New("limit of all sources reached")
)

// Limits configures a [Limiter]. A limit of 0 means no limit.
type Limits struct {
	// Total is how much all sources together may use, and PerSource how much one source may use.
	Total, PerSource int
	// Period is the time after which a full usage has ended by itself: usage decreases evenly, by the limit in each
	// Period. 0 means that usage ends with [Limiter.Release] only.
	Period time.Duration
}

// Limiter limits what sources use, in units of the caller. It remembers a source only while the source uses something
// or waits. Its methods may be called concurrently.
type Limiter struct {
	perSource int
	period    time.Duration

	mu      sync.Mutex
	total   account
	sources map[netip.Prefix]*account
	cleanup int // the number of sources at which those without usage are removed
}

// minCleanup is the smallest number of sources at which a Limiter looks for sources whose usage has ended by itself.
const minCleanup = 1024

// NewLimiter returns a Limiter in which nothing is used.
func NewLimiter(l Limits) *Limiter {
	return &Limiter{
		perSource: l.PerSource, period: l.Period, cleanup: minCleanup,
		total: account{limit: l.Total}, sources: make(map[netip.Prefix]*account),
	}
}

// TryAcquire adds n to the usage of source. It returns [ErrSource] or [ErrTotal], and changes nothing, if a limit would
// be exceeded.
func (l *Limiter) TryAcquire(source netip.Prefix, n int) error { return l.Acquire(source, n, 0) }

// Acquire is like TryAcquire, but waits up to the given time until others have released enough. The first to wait is
// the first to acquire.
func (l *Limiter) Acquire(source netip.Prefix, n int, wait time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	start := time.Now()
	a := l.account(source, start)
	if !l.add(a, n, start, wait) {
		l.forget(source, a)
		return ErrSource
	}
	if !l.add(&l.total, n, start, wait) {
		a.release(n)
		l.forget(source, a)
		return ErrTotal
	}
	return nil
}

// Release ends a usage of n that source has acquired.
func (l *Limiter) Release(source netip.Prefix, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.total.release(n)
	if a := l.sources[source]; a != nil {
		a.release(n)
		l.forget(source, a)
	}
}

// account returns the account of source. The caller holds l.mu.
func (l *Limiter) account(source netip.Prefix, now time.Time) *account {
	if a := l.sources[source]; a != nil {
		return a
	}
	if len(l.sources) >= l.cleanup {
		for s, a := range l.sources {
			a.decrease(now, l.period)
			l.forget(s, a)
		}
		l.cleanup = max(minCleanup, 2*len(l.sources))
	}
	a := &account{limit: l.perSource, at: now}
	if source == Shared {
		a.limit = 0
	}
	l.sources[source] = a
	return a
}

// forget removes the account of a source that uses nothing and does not wait. The caller holds l.mu.
func (l *Limiter) forget(source netip.Prefix, a *account) {
	if a.used == 0 && len(a.waiting) == 0 {
		delete(l.sources, source)
	}
}

// add adds n to the usage in a, and reports whether it could before the time had passed since start. The caller holds
// l.mu, which add unlocks while it waits.
func (l *Limiter) add(a *account, n int, start time.Time, wait time.Duration) bool {
	a.decrease(start, l.period)
	if len(a.waiting) == 0 && a.fits(n) {
		a.used += float64(n)
		return true
	}
	left := wait - time.Since(start)
	if wait <= 0 || left <= 0 {
		return false
	}
	w := &waiter{n: n, acquired: make(chan struct{})}
	a.waiting = append(a.waiting, w)
	l.mu.Unlock()
	timeout := time.NewTimer(left)
	select {
	case <-w.acquired:
	case <-timeout.C:
	}
	timeout.Stop()
	l.mu.Lock()
	i := slices.Index(a.waiting, w)
	if i < 0 {
		return true
	}
	a.waiting = slices.Delete(a.waiting, i, i+1)
	a.release(0) // others may have waited for this one only
	return false
}

// account is what one source uses, or all of them together.
type account struct {
	limit   int // 0 means no limit
	used    float64
	at      time.Time // when used was decreased
	waiting []*waiter // in the order in which they came
}

// waiter waits for a usage of n. acquired is closed when the account holds the usage.
type waiter struct {
	n        int
	acquired chan struct{}
}

func (a *account) fits(n int) bool { return a.limit == 0 || a.used+float64(n) <= float64(a.limit) }

// release ends a usage of n, and gives what is available then to those who wait.
func (a *account) release(n int) {
	a.used -= float64(n)
	for len(a.waiting) > 0 && a.fits(a.waiting[0].n) {
		a.used += float64(a.waiting[0].n)
		close(a.waiting[0].acquired)
		a.waiting = slices.Delete(a.waiting, 0, 1)
	}
}

// decrease lowers the usage by what has ended by itself since the last call: in an account without a limit, all of it.
func (a *account) decrease(now time.Time, period time.Duration) {
	if period <= 0 || !now.After(a.at) {
		return
	}
	ended := a.used
	if a.limit > 0 {
		ended = float64(a.limit) * float64(now.Sub(a.at)) / float64(period)
	}
	a.used, a.at = max(0, a.used-ended), now
}
