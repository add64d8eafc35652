//go:build linux

package main

import (
	"context"
	"fmt"
)

var floods = []struct {
	name, flag string
	large      bool
}{
	{"many sources", "--forgery-rate=0", false},
	{"one source", "--forgery-rate=50", false},
	{"one source, large", "--forgery-rate=50", true},
}

// forgeries measures the cost of a forgery, and then the good deliveries beside
// as many forgeries as use one processor: from so many sources that none exceeds
// its limit, and from one. The third flood has 256 connections of one source,
// which send the body that takes longest to verify as fast as they are answered.
func forgeries(ctx context.Context, o options) error {
	ratios := make(map[string][]float64)
	for range o.rounds {
		cost := 0.0 // µs of processor time of a small forgery; 0 until it was measured
		for _, f := range floods {
			if err := o.with(ctx, func(p *process) error {
				good := spec{Connections: 64, Length: o.length, Body: o.body, Prefix: "alone-"}
				alone, err := p.load(ctx, good)
				if err != nil {
					return err
				}
				forge := spec{Connections: 64, Length: o.length, Body: o.body, Prefix: "forged-", Forged: true}
				if cost == 0 {
					l, err := p.load(ctx, forge)
					if err != nil {
						return err
					}
					cost = perDelivery(l.ServerCPU, l.Sent)
				}
				forge.Rate = 1e6 / cost
				if f.large {
					forge.Rate, forge.Connections, forge.Costly = 0, 256, true
				}
				wait, err := p.startLoad(ctx, forge)
				if err != nil {
					return err
				}
				good.Prefix = "beside-"
				beside, err := p.load(ctx, good)
				if err != nil {
					return err
				}
				flood, err := wait()
				ratios[f.name] = append(ratios[f.name], beside.PerSecond/alone.PerSecond)
				fmt.Printf("%s: %.0f good deliveries a second alone, %.0f beside %.0f forgeries (a small one costs %.0f µs)\n",
					f.name, alone.PerSecond, beside.PerSecond, flood.Offered, cost)
				return err
			}, f.flag); err != nil {
				return err
			}
		}
	}
	for _, f := range floods {
		low, median, high := quartiles(ratios[f.name])
		fmt.Printf("%s: good deliveries keep %.2f (%.2f–%.2f)\n", f.name, median, low, high)
	}
	return nil
}
