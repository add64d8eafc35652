//go:build linux

// Command bench measures what a durable acknowledgement costs beside bare HTTP,
// and how jobbridge behaves under other loads:
//
//	go run ./test/bench [EXPERIMENT] [flags]
//
// Every figure comes from a jobbridge that runs as a process, with everything
// that production has on; the load is another process on the same machine.
// Machines drift, so throughput is given as a ratio to the ceiling of the same
// round: echo, the signature check and a 200.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

type experiment struct {
	name, help string
	run        func(ctx context.Context, o options) error
}

// experiments by name; the first runs if none is named. It measures all builds in
// the same rounds, the others measure one build after the other.
var experiments = []experiment{
	{"table", "acknowledgements per second as a ratio to bare HTTP", table},
	{"slowdisk", "256 deliveries at once while each fsync takes 5 or 20 ms", slowDisks},
	{"subscribers", "from the POST to a worker's callback", subscribers},
	{"memory", "memory, disk and time to start by the number of events", memory},
	{"catchup", "a backlog, into the embedded stream and to a remote", catchUp},
	{"relay", "the lag of a remote at half the capacity, for a minute", relay},
	{"overload", "four times the capacity, in an open loop", overload},
	{"forgeries", "good deliveries beside a processor's worth of forged ones", forgeries},
	{"soak", "memory over ten minutes at half the capacity", soak},
	{"scale", "throughput by events, jobs and consumers stored", scale},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := start(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, args []string) error {
	name := experiments[0].name
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	switch name { // the processes that the experiments start
	case "ceiling":
		return serveCeiling(ctx)
	case "load":
		return load(args)
	case "nats":
		return serveNATS(ctx, args)
	}
	i := slices.IndexFunc(experiments, func(e experiment) bool { return e.name == name })
	if i < 0 {
		return fmt.Errorf("no experiment %q; see --help", name)
	}
	o, err := parse(name, args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(o.dir, "jobbridge-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	o.dir = tmp
	if o.tree {
		binary := filepath.Join(o.dir, "jobbridge")
		out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "github.com/jobbridge/jobbridge/cmd/jobbridge").CombinedOutput()
		if err != nil {
			return fmt.Errorf("build jobbridge: %s", out)
		}
		o.builds = append([]build{{"", []string{binary}}}, o.builds...)
	}
	if len(o.builds) == 0 {
		return errors.New("--tree=false needs a --binary")
	}
	if i == 0 {
		return table(ctx, o)
	}
	for _, o.build = range o.builds {
		if len(o.builds) > 1 {
			fmt.Printf("== %s\n", cmp.Or(o.name, "this tree"))
		}
		if err := experiments[i].run(ctx, o); err != nil {
			return err
		}
	}
	return nil
}

// options of all experiments.
type options struct {
	quick         bool
	rounds, body  int
	length, burst time.Duration
	events        int
	dir           string
	only          []string
	tree          bool
	builds        []build
	build         // the one that runs
}

func parse(name string, args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "go run ./test/bench [EXPERIMENT] [flags]\n\n")
		for _, e := range experiments {
			fmt.Fprintf(flags.Output(), "  %-12s %s\n", e.name, e.help)
		}
		fmt.Fprintln(flags.Output())
		flags.PrintDefaults()
	}
	flags.BoolVar(&o.quick, "quick", false, "three short rounds, at most 100,000 events")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds, of which medians and quartiles are printed")
	flags.DurationVar(&o.length, "length", 2*time.Second, "length of one run")
	flags.DurationVar(&o.burst, "burst", 10*time.Second, "table: length of a run with fsync")
	flags.IntVar(&o.body, "body", 1024, "size of a body in bytes")
	flags.IntVar(&o.events, "events", 1_000_000, "catchup, memory, scale: events to store")
	flags.StringVar(&o.dir, "dir", "", "where data folders are made; default: the folder for temporary files, which may be in memory")
	flags.Func("only", "table: rows beside the ceiling, separated by commas: os, fsync, direct", func(s string) error {
		o.only = strings.Split(s, ",")
		return nil
	})
	flags.BoolVar(&o.tree, "tree", true, "build this tree and measure it")
	flags.Func("binary", "measure another build too, `NAME=[VAR=VALUE ...] PATH` of a jobbridge; may be repeated", func(s string) error {
		name, command, _ := strings.Cut(s, "=")
		if name == "" || command == "" {
			return errors.New("want NAME=[VAR=VALUE ...] PATH")
		}
		o.builds = append(o.builds, build{name, strings.Fields(command)})
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%s takes no argument %q", name, flags.Arg(0))
	}
	if o.rounds < 1 {
		return o, errors.New("--rounds must be above 0")
	}
	if o.quick {
		o.rounds, o.length, o.burst, o.events = min(o.rounds, 3), time.Second, 2*time.Second, min(o.events, 100_000)
	}
	return o, nil
}
