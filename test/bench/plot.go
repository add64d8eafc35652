package main

import (
	"bytes"
	"fmt"
)

// plot draws the medians of the ratios as an SVG.
func plot(variants []variant, all []result) []byte {
	const width, height, left, bottom = 640, 360, 60, 40
	colours := []string{"#c0392b", "#7f8c8d", "#2471a3", "#27ae60", "#8e44ad", "#d35400"}
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	x := func(i int) float64 { return left + float64(i)*(width-left-140)/float64(len(concurrencies)-1) }
	y := func(ratio float64) float64 { return height - bottom - ratio*(height-bottom-20) }
	for tick := 0; tick <= 5; tick++ {
		v := float64(tick) / 5
		fmt.Fprintf(&b, `<line x1="%d" x2="%d" y1="%.0f" y2="%.0f" stroke="#ddd"/><text x="%d" y="%.0f" text-anchor="end">%.1f</text>`+"\n", left, width-130, y(v), y(v), left-8, y(v)+4, v)
	}
	for i, c := range concurrencies {
		fmt.Fprintf(&b, `<text x="%.0f" y="%d" text-anchor="middle">%d</text>`+"\n", x(i), height-bottom+18, c)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d">concurrent deliveries; acknowledged per second as a ratio to bare HTTP</text>`+"\n", left, height-6)
	for n, v := range variants[1:] {
		var points bytes.Buffer
		var last float64
		for i, c := range concurrencies {
			var ratios []float64
			for _, r := range all {
				if r.Variant == v.name && r.Concurrency == c {
					ratios = append(ratios, r.Ratio)
				}
			}
			last = median(ratios)
			fmt.Fprintf(&points, "%.0f,%.0f ", x(i), y(last))
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/><text x="%.0f" y="%.0f" fill="%s">%s</text>`+"\n",
			&points, colours[n%len(colours)], x(len(concurrencies)-1)+8, y(last)+4, colours[n%len(colours)], v.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}
