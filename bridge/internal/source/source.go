// Package source tells senders apart and gives each a rate limit of its own.
//
// It leaves to its callers what is limited and what happens above the limit.
package source

import (
	"net/netip"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// maxSources is the number of sources that [Limiters] distinguishes. The source
// that was quiet for longest is forgotten first.
const maxSources = 4096

// Of returns what counts as one sender: an IPv4 address, or an IPv6 network of
// 64 bits. It returns the zero Prefix if remote is no address.
func Of(remote string) netip.Prefix {
	addr, err := netip.ParseAddr(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

// Limiters gives each source a limiter of its own. It may be used concurrently.
type Limiters struct {
	limiters *lru.Cache[netip.Prefix, *rate.Limiter]
	limit    rate.Limit
	burst    int
}

// NewLimiters returns Limiters whose sources may each use limit tokens a second,
// and burst tokens at once.
func NewLimiters(limit rate.Limit, burst int) (*Limiters, error) {
	limiters, err := lru.New[netip.Prefix, *rate.Limiter](maxSources)
	return &Limiters{limiters, limit, burst}, err
}

// Of returns the limiter of a source.
func (l *Limiters) Of(source netip.Prefix) *rate.Limiter {
	limiter, ok := l.limiters.Get(source)
	if !ok {
		limiter = rate.NewLimiter(l.limit, l.burst)
		if other, had, _ := l.limiters.PeekOrAdd(source, limiter); had {
			limiter = other
		}
	}
	return limiter
}

// Burst returns the number of tokens that one source may use at once.
func (l *Limiters) Burst() int { return l.burst }
