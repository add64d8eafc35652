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
// that none is over its limit, and from one.
func forgeries(ctx context.Context, o options) (any, error) {
	var all []forged
	ratios := make(map[string][]float64)
	for range o.rounds {
		cost := 0.0
		for _, v := range []struct{ sources, flag string }{{"many sources", "--forgery-rate=0"}, {"one source", "--forgery-rate=50"}} {
			f, err := o.forgeries(ctx, v.flag, cost)
			if err != nil {
				return nil, err
			}
			cost, f.Sources = f.Cost, v.sources
			all, ratios[v.sources] = append(all, f), append(ratios[v.sources], f.Ratio)
			fmt.Printf("%s: %.0f good deliveries a second alone, %.0f beside %.0f forgeries of %.0f µs: %.2f\n", v.sources, f.Alone, f.Beside, f.Forgeries, f.Cost, f.Ratio)
		}
	}
	for _, sources := range []string{"many sources", "one source"} {
		fmt.Printf("%s: median %.2f\n", sources, median(ratios[sources]))
	}
	return all, nil
}

// forgeries runs a round; a cost of 0 is to be measured.
func (o options) forgeries(ctx context.Context, flag string, cost float64) (f forged, err error) {
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
