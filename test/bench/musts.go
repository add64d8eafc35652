//go:build linux

package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"
)

// must is what a figure has to reach.
type must struct {
	what       string
	bound, aim float64 // an aim of 0 is none
	atMost     bool    // the figure must not exceed bound; else it must reach it
}

// String returns the bound and the aim.
func (m must) String() string {
	sign := "≥"
	if m.atMost {
		sign = "≤"
	}
	s := sign + " " + short(m.bound)
	if m.aim > 0 {
		s += ", aim " + short(m.aim)
	}
	return s
}

// verdict judges the figures of all rounds. A must is missed only if three
// quarters of the rounds miss it: one round says little on a shared machine.
func (m must) verdict(values []float64) string {
	low, median, high := quartiles(values)
	better := func(v, than float64) bool { return v >= than }
	best := high
	if m.atMost {
		best, better = low, func(v, than float64) bool { return v <= than }
	}
	switch {
	case !better(best, m.bound):
		return "MISSED"
	case m.aim > 0 && better(median, m.aim):
		return "aim reached"
	case !better(median, m.bound):
		return "met by the best quarter"
	}
	return "met"
}

// judge prints a figure beside its must.
func (m must) judge(values ...float64) {
	_, median, _ := quartiles(values)
	fmt.Printf("%s: %s (%v): %s\n", m.what, short(median), m, m.verdict(values))
}

// short prints three significant digits.
func short(v float64) string {
	if v >= 1000 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func median(values []float64) float64 {
	_, m, _ := quartiles(values)
	return m
}

// quartiles returns the lower quartile, the median and the upper quartile, each
// one of the values.
func quartiles(values []float64) (low, median, high float64) {
	sorted := slices.Sorted(slices.Values(values))
	last := len(sorted) - 1
	return sorted[last/4], sorted[(last+1)/2], sorted[last-last/4]
}

// columns returns a writer that aligns columns; the caller flushes it.
func columns(w io.Writer) *tabwriter.Writer {
	return tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
}
