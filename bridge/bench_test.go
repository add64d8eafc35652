package bridge_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/bridgetest"
)

// BenchmarkForgeries measures what a flood of bad signatures, kept in the
// quarantine as far as its limits allow, does to good deliveries: their median
// and 99th percentile with the flood, as a ratio to those without, in rounds
// that alternate.
func BenchmarkForgeries(b *testing.B) {
	for _, r := range []struct {
		perSecond  int
		quarantine bool
	}{{500, true}, {2000, true}, {2000, false}} {
		perSecond := r.perSecond
		b.Run(fmt.Sprintf("%d/s,quarantine=%v", perSecond, r.quarantine), func(b *testing.B) {
			srv := bridgetest.NewUnstartedServer(b)
			srv.Config.Quarantine.Off = !r.quarantine
			srv.Start()
			var quiet, flooded []time.Duration
			for b.Loop() {
				quiet = append(quiet, deliverFor(b, srv, 500*time.Millisecond)...)
				stop := flood(srv, perSecond)
				flooded = append(flooded, deliverFor(b, srv, 500*time.Millisecond)...)
				stop()
			}
			slices.Sort(quiet)
			slices.Sort(flooded)
			at := func(times []time.Duration, q float64) float64 { return float64(times[int(q*float64(len(times)-1))]) }
			b.ReportMetric(at(flooded, .5)/at(quiet, .5), "p50-ratio")
			b.ReportMetric(at(flooded, .99)/at(quiet, .99), "p99-ratio")
			b.ReportMetric(at(flooded, .5)/1e6, "p50-ms")
		})
	}
}

// deliverFor delivers from 4 senders, 50 times a second each.
func deliverFor(b *testing.B, srv *bridgetest.Server, d time.Duration) []time.Duration {
	var mu sync.Mutex
	var times []time.Duration
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for end := time.Now().Add(d); time.Now().Before(end); <-tick.C {
				start := time.Now()
				if r, err := srv.Post(bridgetest.Delivery{}); err != nil || r.Code != 200 {
					b.Error(r.Code, err)
				}
				mu.Lock()
				times = append(times, time.Since(start))
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return times
}

// flood forges at a rate, whatever the answers.
func flood(srv *bridgetest.Server, perSecond int) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			tick := time.NewTicker(8 * time.Second / time.Duration(perSecond))
			defer tick.Stop()
			for ctx.Err() == nil {
				_, _ = srv.Post(bridgetest.Delivery{Secret: "whsec_forged"}) // whatever it says
				<-tick.C
			}
		})
	}
	return func() { cancel(); wg.Wait() }
}
