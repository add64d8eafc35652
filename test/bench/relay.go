//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"time"
)

// relayed is the lag of a remote at half the capacity.
type relayed struct {
	Capacity float64 // deliveries per second in a closed loop, with the relay beside it
	Rate     float64
	// Lag in events, each second: median and most of each half of a minute.
	FirstMedian, FirstMost, SecondMedian, SecondMost float64
}

// relay runs a bridge in front of a NATS server that is another process.
func relay(ctx context.Context, o options) (_ any, err error) {
	length := time.Minute
	if o.quick {
		length = 10 * time.Second
	}
	remote, err := o.startRemote(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remote.stop()) }()
	var r relayed
	err = o.with(ctx, func(p *process) error {
		full, err := p.load(ctx, spec{Connections: 64, Length: o.length, Body: o.body, Prefix: "full-"})
		if err != nil {
			return err
		}
		if err := p.forwarded(ctx); err != nil {
			return err
		}
		r.Capacity = full.PerSecond
		_, wait, err := p.startLoad(ctx, spec{Connections: 256, Rate: r.Capacity / 2, Length: length, Body: o.body, Prefix: "half-"})
		if err != nil {
			return err
		}
		var lags []float64
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for end := time.Now().Add(length); time.Now().Before(end); <-tick.C {
			lag, err := p.lag()
			if err != nil {
				return err
			}
			lags = append(lags, lag)
		}
		half, err := wait()
		if err != nil {
			return err
		}
		first, second := lags[:len(lags)/2], lags[len(lags)/2:]
		r.Rate = half.PerSecond
		r.FirstMost, r.SecondMost = slices.Max(first), slices.Max(second)
		r.FirstMedian, r.SecondMedian = median(first), median(second)
		fmt.Printf("capacity %.0f/s with the relay beside it; at %.0f/s for %v the lag was %.0f events (most %.0f) in the first half, %.0f (most %.0f) in the second\n",
			r.Capacity, r.Rate, length, r.FirstMedian, r.FirstMost, r.SecondMedian, r.SecondMost)
		return nil
	}, "--nats-url="+remote.url)
	return r, err
}

// caughtUp is how fast a backlog was forwarded.
type caughtUp struct {
	Target    string
	Backlog   float64 // events
	PerSecond float64
}

// catchUp fills a journal whose remote cannot be reached, three adjacent events a
// job, and ends the bridge by SIGKILL. Each start after that has another target,
// so the bridge forwards the whole journal to it.
func catchUp(ctx context.Context, o options) (_ any, err error) {
	data, err := os.MkdirTemp(o.dir, "data-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(data)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close() // it accepts nothing, and nobody else gets its port
	p, err := o.bridge(ctx, data, "--nats-url=nats://"+ln.Addr().String())
	if err != nil {
		return nil, err
	}
	err = p.fill(ctx, o.events, spec{Body: o.body, Prefix: "backlog-", Spread: 1})
	p.kill()
	if err != nil {
		return nil, err
	}
	var all []caughtUp
	for _, round := range []time.Duration{0, 5 * time.Millisecond} {
		remote, err := o.startRemote(ctx, round)
		if err != nil {
			return nil, err
		}
		c, err := o.catchUp(ctx, data, fmt.Sprintf("remote, round trip %v", round), "--nats-url="+remote.url)
		if err := errors.Join(err, remote.stop()); err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	c, err := o.catchUp(ctx, data, "embedded stream")
	if err != nil {
		return nil, err
	}
	must{"into the embedded stream, events/s", 50_000, 0, false}.judge(c.PerSecond)
	return append(all, c), nil
}

func (o options) catchUp(ctx context.Context, data, target string, args ...string) (c caughtUp, err error) {
	p, err := o.bridge(ctx, data, args...)
	if err != nil {
		return c, err
	}
	start := time.Now()
	c.Target = target
	if c.Backlog, err = p.lag(); err == nil {
		err = p.forwarded(ctx)
	}
	c.PerSecond = c.Backlog / time.Since(start).Seconds()
	fmt.Printf("%s: a backlog of %.0f events at %.0f/s\n", target, c.Backlog, c.PerSecond)
	return c, errors.Join(err, p.stop())
}
