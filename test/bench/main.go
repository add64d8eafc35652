// Command bench measures what a durable acknowledgement costs beside bare HTTP,
// and what becomes of it under load of other kinds:
//
//	go run ./test/bench [EXPERIMENT] [flags]
//
// Every figure comes from a jobbridge of its own, built from this tree and run
// as a process with all that a production one has on, with the load as another
// process. Machines drift, so that what matters is given as a ratio to
// something measured in the same round.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// experiments by name; the first is run if none is named.
var experiments = []struct {
	name, help string
	run        func(ctx context.Context, o options) (figures any, err error)
}{
	{"table", "acknowledgements per second as a ratio to bare HTTP", table},
	{"overload", "four times the capacity, in an open loop", overload},
	{"slowdisk", "256 deliveries in flight while each fsync takes 5 or 20 ms", slowDisk},
	{"forgeries", "good deliveries beside a core's worth of forged ones", forgeries},
	{"relay", "the lag at half the capacity, and a backlog caught up", relays},
	{"memory", "memory and disk by the number of events, and the start with them", memory},
	{"soak", "memory over ten minutes at half the capacity", soak},
	{"subscribers", "from the POST to a worker's callback", subscribers},
	{"scale", "throughput by events, jobs and consumers stored", scale},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	name := experiments[0].name
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		name, args = args[0], args[1:]
	}
	// The processes that the experiments start.
	switch name {
	case "server":
		return serve(ctx, args)
	case "load":
		return load(args)
	case "nats":
		return natsServer(ctx, args)
	}
	i := slices.IndexFunc(experiments, func(e struct {
		name, help string
		run        func(ctx context.Context, o options) (any, error)
	}) bool {
		return e.name == name
	})
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
	if err := o.build(ctx); err != nil {
		return err
	}
	figures, err := experiments[i].run(ctx, o)
	if err != nil || o.json == "" {
		return err
	}
	data, err := json.MarshalIndent(figures, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(o.json, append(data, '\n'), 0o600)
}

// options of all experiments.
type options struct {
	quick          bool
	rounds, body   int
	length         time.Duration
	events         int
	json, svg, dir string
	only           string
	others         []string // name=[VAR=VALUE …] binary
	binary         string
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
	flags.BoolVar(&o.quick, "quick", false, "fewer rounds, shorter runs, less data")
	flags.IntVar(&o.rounds, "rounds", 5, "rounds, of which medians are taken")
	flags.DurationVar(&o.length, "length", 3*time.Second, "length of one run")
	flags.IntVar(&o.body, "body", 1024, "size of a body in bytes")
	flags.IntVar(&o.events, "events", 1_000_000, "relay, memory, scale: events to store")
	flags.StringVar(&o.json, "json", "", "file for every figure, as JSON")
	flags.StringVar(&o.svg, "svg", "", "table: file for a plot")
	flags.StringVar(&o.dir, "dir", "", "where the journals are made; default: the system's folder for temporary files, which may be in memory")
	flags.StringVar(&o.only, "only", "", "table: run these variants beside the ceiling, by comma")
	flags.Func("binary", "table: another variant, `name=[VAR=VALUE ...] PATH` of a jobbridge; may be repeated", func(s string) error {
		if name, command, _ := strings.Cut(s, "="); name == "" || command == "" {
			return errors.New("want name=[VAR=VALUE ...] PATH")
		}
		o.others = append(o.others, s)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%s takes no argument %q", name, flags.Arg(0))
	}
	if o.quick {
		o.rounds, o.length, o.events = 3, 1500*time.Millisecond, min(o.events, 100_000)
	}
	return o, nil
}

// folder makes one for a journal.
func (o options) folder() (string, error) {
	dir, err := os.MkdirTemp(o.dir, "run-")
	return filepath.Join(dir, "data"), err
}
