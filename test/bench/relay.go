package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/nats-io/nats.go/jetstream"
)

// relayed is how the relay kept up, and caught up.
type relayed struct {
	// Ingest is per second in a closed loop, with the relay beside it; Rate is
	// half of it.
	Ingest, Rate float64
	// Lag in events, each second: median and most of each half.
	FirstMedian, FirstMost, SecondMedian, SecondMost float64
	// Backlog in events, and how fast it went; OneByOne is how fast a publisher
	// is that waits for each PubAck.
	Backlog                   int
	CaughtUp, OneByOne, Ratio float64
}

// relays runs a bridge that copies to a NATS server, another process.
func relays(ctx context.Context, o options) (_ any, err error) {
	length := time.Minute
	if o.quick {
		length = 10 * time.Second
	}
	data, err := o.folder()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	remote, err := o.self("nats", "127.0.0.1:0", data+"-remote")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remote.stop()) }()
	var r relayed
	if r.OneByOne, err = oneByOne(ctx, remote.url, o.length, o.body); err != nil {
		return nil, err
	}
	p, err := o.bridge(ctx, data, "--nats-url="+remote.url)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	full, err := spec{URL: p.url, Connections: 64, Length: o.length, Body: o.body, Prefix: "full-"}.run(ctx)
	if err != nil {
		return nil, err
	}
	r.Ingest = full.PerSecond
	if err := p.awaitRelay(ctx); err != nil {
		return nil, err
	}

	r.Rate = r.Ingest / 2
	wait, err := spec{URL: p.url, Connections: 256, Rate: r.Rate, Length: length, Body: o.body, Prefix: "half-"}.start(ctx)
	if err != nil {
		return nil, err
	}
	var lags []float64
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for end := time.Now().Add(length); time.Now().Before(end); <-tick.C {
		m, err := p.metrics()
		if err != nil {
			return nil, err
		}
		lags = append(lags, m["jobbridge_relay_lag_events"])
	}
	half, err := wait()
	if err != nil {
		return nil, err
	}
	first, second := lags[:len(lags)/2], lags[len(lags)/2:]
	r.FirstMost, r.SecondMost = slices.Max(first), slices.Max(second)
	r.FirstMedian, r.SecondMedian = median(first), median(second)
	fmt.Printf("ingest %.0f/s with the relay beside it; at %.0f/s for %v the lag was %.0f events (most %.0f) in the first half, %.0f (most %.0f) in the second\n",
		r.Ingest, half.PerSecond, length, r.FirstMedian, r.FirstMost, r.SecondMedian, r.SecondMost)

	// The remote goes away, and a backlog grows.
	if err := p.awaitRelay(ctx); err != nil {
		return nil, err
	}
	if err := remote.stop(); err != nil {
		return nil, err
	}
	if _, err := (spec{URL: p.url, Connections: 256, Length: time.Hour, Count: o.events, Body: o.body, Prefix: "backlog-"}).run(ctx); err != nil {
		return nil, err
	}
	m, err := p.metrics()
	if err != nil {
		return nil, err
	}
	r.Backlog = int(m["jobbridge_relay_lag_events"])
	again, err := o.self("nats", strings.TrimPrefix(remote.url, "nats://"), data+"-remote")
	if err != nil {
		return nil, err
	}
	remote = again
	start := time.Now()
	if err := p.awaitRelay(ctx); err != nil {
		return nil, err
	}
	r.CaughtUp = float64(r.Backlog) / time.Since(start).Seconds()
	r.Ratio = r.CaughtUp / r.OneByOne
	fmt.Printf("a backlog of %d events went at %.0f/s, the reconnect included; published one by one: %.0f/s; ratio %.1f\n", r.Backlog, r.CaughtUp, r.OneByOne, r.Ratio)
	return r, nil
}

// awaitRelay waits until nothing is left to be relayed.
func (p *process) awaitRelay(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * patience); time.Now().Before(end); <-tick.C {
		m, err := p.metrics()
		if err != nil {
			return err
		}
		if lag, ok := m["jobbridge_relay_lag_events"]; ok && lag == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return errors.New("the relay did not catch up in time")
}

// oneByOne makes the stream that the bridge copies to, and publishes to it,
// each event after the PubAck of the one before.
func oneByOne(ctx context.Context, url string, length time.Duration, size int) (float64, error) {
	nc, js, err := connect(url)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	if _, _, err := publisher.EnsureStream(ctx, js, publisher.StreamOptions{}.Config()); err != nil {
		return 0, err
	}
	n, start := 0, time.Now()
	for ; time.Since(start) < length; n++ {
		if _, err := js.Publish(ctx, "job.completed", make([]byte, size), jetstream.WithMsgID(fmt.Sprintf("one-%d", n))); err != nil {
			return 0, err
		}
	}
	return float64(n) / time.Since(start).Seconds(), nil
}
