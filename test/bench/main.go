// Command bench measures what a durable acknowledgement costs beside bare HTTP:
//
//	go run ./test/bench            five rounds
//	go run ./test/bench --quick    two minutes
//
// In each round it runs, one after the other, the ceiling (echo, the signature,
// and a 200 with nothing published), a journal that syncs every message, one
// that does not sync, and the group commit; each as a process of its own, with
// the load as another one. It prints medians and their spread, as a ratio to the
// ceiling of the same round: machines drift, and a ratio drifts less.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	if err := run(context.Background(), os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "server" {
		return profiled(func() error { return serve(args[1:]) })
	}
	if len(args) > 0 && args[0] == "load" {
		return load(args[1:])
	}
	o := options{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.BoolVar(&o.quick, "quick", false, "three rounds of shorter runs")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds")
	flags.DurationVar(&o.length, "length", 3*time.Second, "length of one run")
	flags.IntVar(&o.body, "body", 1024, "size of a body in bytes")
	flags.StringVar(&o.json, "json", "", "file for every figure, as JSON")
	flags.StringVar(&o.svg, "svg", "", "file for a plot")
	flags.StringVar(&o.dir, "dir", "", "where the journals are made; default: the system's folder for temporary files, which may be in memory")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if o.quick {
		o.rounds, o.length = 3, 1500*time.Millisecond
	}
	return o.measure(ctx)
}

type options struct {
	quick          bool
	rounds, body   int
	length         time.Duration
	json, svg, dir string
}

// variants in the order they run; the first is what the others are compared to.
var variants = []string{"ceiling", "sync-always", "os", "fsync"}

var concurrencies = []int{1, 16, 64, 256}

// result is one run.
type result struct {
	Variant     string  `json:"variant"`
	Concurrency int     `json:"concurrency"`
	Round       int     `json:"round"`
	PerSecond   float64 `json:"per_second"`
	// Ratio to the ceiling of the same round and concurrency.
	Ratio float64 `json:"ratio"`
	// Latencies in microseconds.
	P50 float64 `json:"p50_us"`
	P99 float64 `json:"p99_us"`
	Bad int     `json:"bad"`
	// CPU of the server per delivery, in microseconds.
	CPU float64 `json:"cpu_us"`
	// RSS of the server at the end, in MiB.
	RSS float64 `json:"rss_mib"`
}

func (o options) measure(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	var all []result
	for round := range o.rounds {
		for _, c := range concurrencies {
			ceiling := 0.0
			for _, v := range variants {
				r, err := o.one(ctx, self, v, c)
				if err != nil {
					return fmt.Errorf("%s at c=%d: %w", v, c, err)
				}
				r.Round = round
				if v == variants[0] {
					ceiling = r.PerSecond
				}
				r.Ratio = r.PerSecond / ceiling
				all = append(all, r)
				fmt.Fprintf(os.Stderr, "\rround %d of %d, c=%-4d %-12s %8.0f/s ", round+1, o.rounds, c, v, r.PerSecond)
			}
		}
	}
	fmt.Fprintln(os.Stderr)
	report(os.Stdout, all)
	if o.json != "" {
		data, err := json.MarshalIndent(all, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(o.json, append(data, '\n'), 0o600); err != nil {
			return err
		}
	}
	if o.svg != "" {
		return os.WriteFile(o.svg, plot(all), 0o600)
	}
	return nil
}

// one runs a server and a load against it.
func (o options) one(ctx context.Context, self, variant string, concurrency int) (result, error) {
	dir, err := os.MkdirTemp(o.dir, "jobbridge-bench-")
	if err != nil {
		return result{}, err
	}
	defer os.RemoveAll(dir)
	server := exec.CommandContext(ctx, self, "server", variant, filepath.Join(dir, "data"))
	out, err := server.StdoutPipe()
	if err != nil {
		return result{}, err
	}
	server.Stderr = os.Stderr
	if err := server.Start(); err != nil {
		return result{}, err
	}
	defer func() { _ = server.Process.Kill() }() // if it runs still
	var url string
	if _, err := fmt.Fscanln(out, &url); err != nil {
		return result{}, fmt.Errorf("server: %w", err)
	}
	data, err := exec.CommandContext(ctx, self, "load", url, strconv.Itoa(concurrency), o.length.String(), strconv.Itoa(o.body)).Output()
	if err != nil {
		return result{}, fmt.Errorf("load: %w", err)
	}
	var r result
	if err := json.Unmarshal(data, &r); err != nil {
		return result{}, fmt.Errorf("load: %w", err)
	}
	r.Variant, r.Concurrency = variant, concurrency
	if r.Bad > 0 {
		return result{}, fmt.Errorf("%d answers were no 200", r.Bad)
	}
	r.RSS = rss(server.Process.Pid)
	if err := server.Process.Signal(syscall.SIGTERM); err != nil {
		return result{}, err
	}
	if err := server.Wait(); err != nil {
		return result{}, fmt.Errorf("server: %w", err)
	}
	// The server also worked while the load warmed up.
	deliveries := r.PerSecond * (o.length + o.length/warmUp).Seconds()
	r.CPU = float64((server.ProcessState.UserTime() + server.ProcessState.SystemTime()).Microseconds()) / deliveries
	return r, nil
}

// rss returns the resident memory of a process in MiB, 0 if it cannot be told.
func rss(pid int) float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}

// report prints the medians over the rounds, and how far they spread.
func report(w *os.File, all []result) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "variant\tc\t/s\tratio\tleast\tmost\tp50 ms\tp99 ms\tCPU µs\tRSS MiB\t")
	for _, v := range variants {
		for _, c := range concurrencies {
			var runs []result
			for _, r := range all {
				if r.Variant == v && r.Concurrency == c {
					runs = append(runs, r)
				}
			}
			of := func(f func(result) float64) []float64 {
				values := make([]float64, len(runs))
				for i, r := range runs {
					values[i] = f(r)
				}
				slices.Sort(values)
				return values
			}
			ratios := of(func(r result) float64 { return r.Ratio })
			median := func(f func(result) float64) float64 { return of(f)[len(runs)/2] }
			fmt.Fprintf(t, "%s\t%d\t%.0f\t%.2f\t%.2f\t%.2f\t%.2f\t%.2f\t%.1f\t%.0f\t\n", v, c,
				median(func(r result) float64 { return r.PerSecond }), ratios[len(runs)/2], ratios[0], ratios[len(runs)-1],
				median(func(r result) float64 { return r.P50 })/1e3, median(func(r result) float64 { return r.P99 })/1e3,
				median(func(r result) float64 { return r.CPU }), median(func(r result) float64 { return r.RSS }))
		}
	}
	_ = t.Flush() // of standard output
}
