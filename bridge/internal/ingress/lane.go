package ingress

import (
	"net/netip"
	"sync"
	"time"
)

// lane lets so many in at once, and of one source half of that: whoever comes in
// numbers leaves room for others. It may be used concurrently.
type lane struct {
	all chan struct{} // one token for each that is in

	mu      sync.Mutex
	sources map[netip.Prefix]*share
}

// share is one source's half.
type share struct {
	in    chan struct{}
	users int // who are in, or wait; guarded by the lane's mu
}

func newLane(most int) *lane {
	return &lane{all: make(chan struct{}, most), sources: make(map[netip.Prefix]*share)}
}

// enter waits for room, for as long as patience, and reports whether there is.
// Whoever is let in leaves.
func (l *lane) enter(source netip.Prefix, patience time.Duration) bool {
	l.mu.Lock()
	s := l.sources[source]
	if s == nil {
		s = &share{in: make(chan struct{}, (cap(l.all)+1)/2)}
		l.sources[source] = s
	}
	s.users++
	l.mu.Unlock()
	end := time.Now().Add(patience)
	if !take(s.in, patience) {
		l.forget(source)
		return false
	}
	if !take(l.all, time.Until(end)) {
		<-s.in
		l.forget(source)
		return false
	}
	return true
}

func (l *lane) leave(source netip.Prefix) {
	<-l.all
	l.mu.Lock()
	s := l.sources[source]
	l.mu.Unlock()
	<-s.in
	l.forget(source)
}

func (l *lane) forget(source netip.Prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.sources[source]
	if s.users--; s.users == 0 {
		delete(l.sources, source)
	}
}

// take puts a token into a channel, waiting for as long as patience, and reports
// whether it could.
func take(tokens chan struct{}, patience time.Duration) bool {
	select {
	case tokens <- struct{}{}:
		return true
	default:
	}
	if patience <= 0 {
		return false
	}
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case tokens <- struct{}{}:
		return true
	case <-late.C:
		return false
	}
}
