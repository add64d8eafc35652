package ingress

import (
	"context"
	"net/netip"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
	"golang.org/x/time/rate"
)

// forgers delays the answers to sources that keep sending bad signatures. It does
// not close their connections: a new connection costs more than a waiting one.
// Deliveries with a valid signature from the same address are not delayed.
type forgers struct {
	sources *source.Limiters // nil without a limit
	waiting chan struct{}    // one token for each that waits
}

// forgerPause is how long a sender of too many bad signatures waits.
const forgerPause = time.Second

func newForgers(perSecond, maxConnections int) (*forgers, error) {
	if perSecond < 0 {
		return &forgers{}, nil
	}
	s, err := source.NewLimiters(rate.Limit(perSecond), 10*perSecond)
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
func (f *forgers) over(sender netip.Prefix, bytes int) bool {
	return f.sources != nil && !f.sources.Of(sender).AllowN(time.Now(), min(1+bytes>>14, f.sources.Burst()))
}
