package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// forged is a round of good deliveries, alone and beside forged ones.
type forged struct {
	Sources   string
	Alone     float64 // good deliveries per second
	Beside    float64
	Ratio     float64
	Forgeries float64 // per second
	Cost      float64 // processor time of one, in microseconds
}

// forgeries measures what a forgery costs, and then what good deliveries are
// left with beside as many as would take one processor: from so many sources
// that none is over its limit, and from one. And then beside 256 connections of
// one source that send what takes longest to judge, as fast as they are answered.
func forgeries(ctx context.Context, o options) (any, error) {
	var all []forged
	ratios := make(map[string][]float64)
	for range o.rounds {
		cost := 0.0
		for i, name := range flood {
			flag := "--forgery-rate=50"
			if i == 0 {
				flag = "--forgery-rate=0"
			}
			f, err := o.forgeries(ctx, flag, cost, i == 2)
			if err != nil {
				return nil, err
			}
			cost, f.Sources = f.Cost, name
			all, ratios[name] = append(all, f), append(ratios[name], f.Ratio)
			fmt.Printf("%s: %.0f good deliveries a second alone, %.0f beside %.0f forgeries (a small one takes %.0f µs): %.2f\n", name, f.Alone, f.Beside, f.Forgeries, f.Cost, f.Ratio)
		}
	}
	for _, name := range flood {
		fmt.Printf("%s: median %.2f\n", name, median(ratios[name]))
	}
	return all, nil
}

var flood = []string{"many sources", "one source", "one source, large"}

// forgeries runs a round; a cost of 0 is to be measured.
func (o options) forgeries(ctx context.Context, flag string, cost float64, large bool) (f forged, err error) {
	data, err := o.folder()
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	p, err := o.bridge(ctx, data, flag)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	good := spec{URL: p.url, Connections: 64, Length: o.length, Body: o.body, Prefix: "alone-"}
	alone, err := good.run(ctx)
	if err != nil {
		return f, err
	}
	forge := spec{URL: p.url, Connections: 64, Length: o.length, Body: o.body, Prefix: "forged-", Forged: true}
	if cost == 0 {
		before := p.cpu()
		flood, err := forge.run(ctx)
		if err != nil {
			return f, err
		}
		cost = float64((p.cpu() - before).Microseconds()) / (float64(flood.Forged) * (1 + 1.0/warmUp))
	}
	forge.Rate = 1e6 / cost
	if large {
		forge.Rate, forge.Connections, forge.Costly = 0, 256, true
	}
	wait, err := forge.start(ctx)
	if err != nil {
		return f, err
	}
	good.Prefix = "beside-"
	beside, err := good.run(ctx)
	if err != nil {
		return f, err
	}
	flood, err := wait()
	if err != nil {
		return f, err
	}
	return forged{Alone: alone.PerSecond, Beside: beside.PerSecond, Ratio: beside.PerSecond / alone.PerSecond, Forgeries: flood.Offered, Cost: cost}, nil
}
