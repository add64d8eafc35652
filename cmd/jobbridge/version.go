package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

type versionCmd struct {
	JSON bool `name:"json"`
}

// Run prints what the program was built from.
func (c versionCmd) Run(s streams) error {
	b := readBuild()
	if c.JSON {
		return printJSON(s.out, b)
	}
	_, err := fmt.Fprintf(s.out, "jobbridge %s, commit %s of %s, %s %s\n", b.Version, b.Commit, b.Date, b.Go, b.Platform)
	return err
}

// version, commit and date are set by the linker for a release. Other builds have them from version control.
var version, commit, date string

// build is what the program was built from. A part that is not known is "unknown".
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"` // with "+dirty" if files differed from it
	Date     string `json:"date"`   // of the commit
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func readBuild() build {
	b := build{Version: version, Commit: commit, Date: date, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		b.Version = cmp.Or(b.Version, strings.Trim(info.Main.Version, "()"))
		for _, setting := range info.Settings {
			switch {
			case setting.Key == "vcs.revision":
				b.Commit = cmp.Or(b.Commit, setting.Value)
			case setting.Key == "vcs.time":
				b.Date = cmp.Or(b.Date, setting.Value)
			case setting.Key == "vcs.modified" && setting.Value == "true":
				b.Commit += "+dirty" // the settings come in the order of their names
			}
		}
	}
	for _, part := range []*string{&b.Version, &b.Commit, &b.Date} {
		*part = cmp.Or(*part, "unknown")
	}
	return b
}

// buildMetric returns the metric that says what the bridge was built from.
func buildMetric() prometheus.Collector {
	b := readBuild()
	g := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "jobbridge_build_info", Help: "1, with what the bridge was built from.",
		ConstLabels: prometheus.Labels{"version": b.Version, "commit": b.Commit, "goversion": b.Go},
	})
	g.Set(1)
	return g
}
