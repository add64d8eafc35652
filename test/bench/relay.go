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

// soak samples memory over ten minutes at half the capacity. The window and the
// stream are full after three minutes: they do not grow then.
func soak(ctx context.Context, o options) error {
	return o.halfCapacity(ctx, 10*time.Minute, "--dedupe-window=2m", "--tolerance=2m", "--retention=3m")
}

// relay samples the lag of a remote over a minute at half the capacity.
func relay(ctx context.Context, o options) error {
	remote, err := o.startRemote(ctx, 0)
	if err != nil {
		return err
	}
	return errors.Join(o.halfCapacity(ctx, time.Minute, "--nats-url="+remote.url), remote.stop())
}

// halfCapacity measures the capacity of a bridge in a closed loop, then offers
// half of it, and prints the resident memory and the lag of each tenth of length.
func (o options) halfCapacity(ctx context.Context, length time.Duration, args ...string) error {
	if o.quick {
		length /= 10
	}
	return o.with(ctx, func(p *process) error {
		full, err := p.load(ctx, spec{Connections: 64, Length: o.length, Body: o.body, Prefix: "full-"})
		if err != nil {
			return err
		}
		if err := p.forwarded(ctx); err != nil {
			return err
		}
		fmt.Printf("%.0f deliveries/s, and at half of it:\n     s  RSS MiB  lag median     most\n", full.PerSecond)
		start := time.Now()
		for i := range 10 {
			wait, err := p.startLoad(ctx, spec{
				Connections: 256, Rate: full.PerSecond / 2, Length: length / 12, Body: o.body, Prefix: fmt.Sprintf("half-%d-", i),
			})
			if err != nil {
				return err
			}
			var lags []float64
			tick := time.NewTicker(length / 200)
			for range 16 { // within the load
				<-tick.C
				lag, err := p.lag()
				if err != nil {
					return err
				}
				lags = append(lags, lag)
			}
			tick.Stop()
			l, err := wait()
			if err != nil {
				return err
			}
			if l.Acknowledged < l.Sent {
				return fmt.Errorf("%d of %d deliveries were acknowledged", l.Acknowledged, l.Sent)
			}
			fmt.Printf("%6.0f  %7.0f  %10.0f  %7.0f\n", time.Since(start).Seconds(), p.rss(), median(lags), slices.Max(lags))
		}
		return nil
	}, args...)
}

// catchUp fills a journal whose remote cannot be reached, three adjacent events a
// job, and ends the bridge by SIGKILL. Each start after that has another target,
// so the bridge forwards the whole journal to it.
func catchUp(ctx context.Context, o options) error {
	data, err := os.MkdirTemp(o.dir, "data-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(data)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close() // it accepts nothing, and nobody else gets its port
	p, err := o.bridge(ctx, data, "--nats-url=nats://"+ln.Addr().String())
	if err != nil {
		return err
	}
	err = p.fill(ctx, o.events, spec{Body: o.body, Prefix: "backlog-", Spread: 1})
	p.kill()
	if err != nil {
		return err
	}
	for _, round := range []time.Duration{0, 5 * time.Millisecond} {
		remote, err := o.startRemote(ctx, round)
		if err != nil {
			return err
		}
		_, err = o.catchUp(ctx, data, fmt.Sprintf("remote, round trip %v", round), "--nats-url="+remote.url)
		if err := errors.Join(err, remote.stop()); err != nil {
			return err
		}
	}
	perSecond, err := o.catchUp(ctx, data, "embedded stream")
	if err != nil {
		return err
	}
	must{"into the embedded stream, events/s", 50_000, 0, false}.judge(perSecond)
	return nil
}

// catchUp starts a bridge with a new target and measures how fast the backlog is
// forwarded.
func (o options) catchUp(ctx context.Context, data, target string, args ...string) (perSecond float64, err error) {
	p, err := o.bridge(ctx, data, args...)
	if err != nil {
		return 0, err
	}
	start, backlog := time.Now(), 0.0
	for backlog == 0 && time.Since(start) < 5*time.Second && err == nil {
		time.Sleep(5 * time.Millisecond) // the forwarder may still compare the target with the journal
		backlog, err = p.lag()
	}
	if err == nil {
		err = p.forwarded(ctx)
	}
	perSecond = backlog / time.Since(start).Seconds()
	fmt.Printf("%s: a backlog of %.0f events at %.0f/s\n", target, backlog, perSecond)
	return perSecond, errors.Join(err, p.stop())
}
