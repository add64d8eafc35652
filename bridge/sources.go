package bridge

import (
	"context"
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"
)

// maxSources is how many sources are told apart; the one that was quiet for
// longest is forgotten first.
const maxSources = 4096

// sources gives each source a limit of its own.
type sources struct {
	limiters *lru.Cache[netip.Prefix, *rate.Limiter]
	limit    rate.Limit
	burst    int
}

func newSources(limit rate.Limit, burst int) (*sources, error) {
	limiters, err := lru.New[netip.Prefix, *rate.Limiter](maxSources)
	return &sources{limiters, limit, burst}, err
}

// limiter returns that of a source.
func (s *sources) limiter(source netip.Prefix) *rate.Limiter {
	limiter, ok := s.limiters.Get(source)
	if !ok {
		limiter = rate.NewLimiter(s.limit, s.burst)
		if other, had, _ := s.limiters.PeekOrAdd(source, limiter); had {
			limiter = other
		}
	}
	return limiter
}

// sourceOf returns what counts as one sender: an IPv4 address, or an IPv6
// network of 64 bits.
func sourceOf(remote string) netip.Prefix {
	addr, err := netip.ParseAddr(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr = plain(addr)
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	return netip.PrefixFrom(addr, bits).Masked()
}

// forgers notices sources that send bad signature after bad signature, and lets
// them wait for the answer: a connection that waits costs nothing, where one that
// is closed and made again would cost more than the forgery. Whoever signs well
// from the same address is not concerned.
type forgers struct {
	sources *sources      // nil without a limit
	waiting chan struct{} // one token for each that waits
}

// forgerPause is how long a sender of too many bad signatures waits.
const forgerPause = time.Second

func newForgers(perSecond, maxConnections int) (*forgers, error) {
	if perSecond < 0 {
		return &forgers{}, nil
	}
	s, err := newSources(rate.Limit(perSecond), 10*perSecond)
	// Most of the connections stay for others.
	return &forgers{s, make(chan struct{}, (maxConnections+3)/4)}, err
}

// pause returns after a while, or at once if too many wait already.
func (f *forgers) pause(ctx context.Context) {
	select {
	case f.waiting <- struct{}{}:
		defer func() { <-f.waiting }()
	default:
		return
	}
	over := time.NewTimer(forgerPause)
	defer over.Stop()
	select {
	case <-over.C:
	case <-ctx.Done():
	}
}

// over counts a bad signature, a large body for several, since that is what it
// costs to judge it, and reports whether it is one too many.
func (f *forgers) over(source netip.Prefix, bytes int) bool {
	return f.sources != nil && !f.sources.limiter(source).AllowN(time.Now(), min(1+bytes>>14, f.sources.burst))
}
