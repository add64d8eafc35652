//go:build linux

package main

import (
	"context"
	"fmt"
)

// forged is a round of good deliveries, alone and beside forged ones.
type forged struct {
	Sources   string
	Alone     float64 // good deliveries per second
	Beside    float64
	Ratio     float64
	Forgeries float64 // per second
	Cost      float64 // processor time of a small one, in microseconds
}

var floods = []string{"many sources", "one source", "one source, large"}

// forgeries measures the cost of a forgery, and then the good deliveries beside
// as many forgeries as use one processor: from so many sources that none exceeds
// its limit, and from one. The third flood has 256 connections of one source,
// which send the body that takes longest to verify as fast as they are answered.
func forgeries(ctx context.Context, o options) (any, error) {
	var all []forged
	ratios := make(map[string][]float64)
	for range o.rounds {
		cost := 0.0
		for i, name := range floods {
			flag := "--forgery-rate=50"
			if i == 0 {
				flag = "--forgery-rate=0"
			}
			f := forged{Sources: name, Cost: cost}
			if err := o.with(ctx, func(p *process) error { return o.flood(ctx, p, &f, i == 2) }, flag); err != nil {
				return nil, err
			}
			cost = f.Cost
			all, ratios[name] = append(all, f), append(ratios[name], f.Ratio)
			fmt.Printf("%s: %.0f good deliveries a second alone, %.0f beside %.0f forgeries (a small one costs %.0f µs): %.2f\n", name, f.Alone, f.Beside, f.Forgeries, f.Cost, f.Ratio)
		}
	}
	for _, name := range floods {
		low, median, high := quartiles(ratios[name])
		fmt.Printf("%s: median %.2f (%.2f–%.2f)\n", name, median, low, high)
	}
	return all, nil
}

// flood runs one round. It measures a cost of 0 first.
func (o options) flood(ctx context.Context, p *process, f *forged, large bool) error {
	good := spec{Connections: 64, Length: o.length, Body: o.body, Prefix: "alone-"}
	alone, err := p.load(ctx, good)
	if err != nil {
		return err
	}
	forge := spec{Connections: 64, Length: o.length, Body: o.body, Prefix: "forged-", Forged: true}
	if f.Cost == 0 {
		l, err := p.load(ctx, forge)
		if err != nil {
			return err
		}
		f.Cost = perDelivery(l.ServerCPU, l.Sent)
	}
	forge.Rate = 1e6 / f.Cost
	if large {
		forge.Rate, forge.Connections, forge.Costly = 0, 256, true
	}
	_, wait, err := p.startLoad(ctx, forge)
	if err != nil {
		return err
	}
	good.Prefix = "beside-"
	beside, err := p.load(ctx, good)
	if err != nil {
		return err
	}
	flood, err := wait()
	f.Alone, f.Beside, f.Ratio, f.Forgeries = alone.PerSecond, beside.PerSecond, beside.PerSecond/alone.PerSecond, flood.Offered
	return err
}
