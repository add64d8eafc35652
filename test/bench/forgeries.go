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
	Alone, Beside float64 // good deliveries per second
	Ratio         float64
	Forgeries     float64 // per second
	Cost          float64 // processor time of one, in microseconds
}

// forgeries measures what a forgery costs, and then what good deliveries are
// left with beside as many as would take one processor.
func forgeries(ctx context.Context, o options) (any, error) {
	var all []forged
	var ratios []float64
	for range o.rounds {
		f, err := o.forgeries(ctx)
		if err != nil {
			return nil, err
		}
		all, ratios = append(all, f), append(ratios, f.Ratio)
		fmt.Printf("%.0f good deliveries a second alone, %.0f beside %.0f forgeries of %.0f µs: %.2f\n", f.Alone, f.Beside, f.Forgeries, f.Cost, f.Ratio)
	}
	fmt.Printf("median %.2f\n", median(ratios))
	return all, nil
}

func (o options) forgeries(ctx context.Context) (f forged, err error) {
	data, err := o.folder()
	if err != nil {
		return f, err
	}
	defer os.RemoveAll(filepath.Dir(data))
	p, err := o.bridge(ctx, data)
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
	before := p.cpu()
	flood, err := forge.run(ctx)
	if err != nil {
		return f, err
	}
	f.Cost = float64((p.cpu() - before).Microseconds()) / (float64(flood.Forged) * (1 + 1.0/warmUp))
	forge.Rate = 1e6 / f.Cost
	wait, err := forge.start(ctx)
	if err != nil {
		return f, err
	}
	good.Prefix = "beside-"
	beside, err := good.run(ctx)
	if err != nil {
		return f, err
	}
	if flood, err = wait(); err != nil {
		return f, err
	}
	f.Alone, f.Beside, f.Forgeries = alone.PerSecond, beside.PerSecond, flood.Offered
	f.Ratio = f.Beside / f.Alone
	return f, nil
}
