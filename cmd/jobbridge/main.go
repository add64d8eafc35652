// Command jobbridge receives signed webhooks and publishes them to NATS.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/alecthomas/units"
)

func main() {
	tune(os.Getenv)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	hangup := make(chan os.Signal, 1)
	heed := func() <-chan os.Signal { signal.Notify(hangup, syscall.SIGHUP); return hangup }
	outlive := func() { signal.Ignore(syscall.SIGPIPE) }
	os.Exit(exitCode(run(ctx, os.Args[1:], streams{os.Getenv, os.Stdin, os.Stdout, os.Stderr, heed, outlive}), os.Stderr))
}

// cli is every knob there is; flags win over the environment, and that over
// the configuration file.
type cli struct {
	Serve      serveCmd      `cmd:"" help:"Receive webhooks, store them durably and publish them to NATS."`
	Send       sendCmd       `cmd:"" help:"Sign a delivery and post it, as the provider does."`
	Tail       tailCmd       `cmd:"" help:"Print the events that workers get."`
	Verify     verifyCmd     `cmd:"" help:"Say why a captured delivery does or does not verify."`
	Stream     streamCmd     `cmd:"" help:"Create, audit or print the stream on your own NATS server."`
	Quarantine quarantineCmd `cmd:"" help:"List, show, release or remove what was refused or could not be published."`
	Journal    journalCmd    `cmd:"" help:"List the events in the journal of a data folder, or check the journal for damage."`
	Config     configCmd     `cmd:"" help:"Check or print the configuration that serve would run with."`
	Status     statusCmd     `cmd:"" help:"Show a running bridge: its state, lag, quarantine, consumers and last delivery."`
	Health     healthCmd     `cmd:"" help:"Ask a running bridge whether it is well; for a container's health check."`
	Drain      drainCmd      `cmd:"" help:"Take a running bridge out of service, and wait until its stream has all events."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
}

// streams are what a command reads and writes, and what it is told meanwhile.
type streams struct {
	getenv func(string) string
	in     io.Reader
	out    io.Writer
	err    io.Writer
	// hangup makes SIGHUP mean that files are to be read again, where it would
	// end the process, and returns where it comes.
	hangup func() <-chan os.Signal
	// outlive makes a write to out or err fail when its reader is gone, where it
	// would end the process.
	outlive func()
}

// usageError is a mistake in what was asked for, not in doing it.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run parses args and runs the command they name.
func run(ctx context.Context, args []string, s streams) error {
	var c cli
	exited := false
	parser, err := kong.New(&c, kong.Name("jobbridge"),
		kong.Description("A bridge from signed webhooks to NATS: verified, durable, once per job and status.\n\n"+
			"Start with:  jobbridge serve --dev"),
		kong.DefaultEnvars("JOBBRIDGE"), kong.Configuration(loadYAML), kong.Writers(s.out, s.err),
		kong.NamedMapper("path", kong.MapperFunc(decodePath)),
		kong.TypeMapper(reflect.TypeFor[units.Base2Bytes](), kong.MapperFunc(decodeSize)),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(decodeDuration)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Exit(func(int) { exited = true }), // --help
		kong.UsageOnError())
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	if args[0] == "--version" {
		args[0] = "version"
	}
	limitVariables(parser.Model)
	ignoreEmpty(parser.Model)
	k, err := parser.Parse(args)
	if exited {
		return nil
	}
	if err != nil {
		return usageError{err}
	}
	k.BindTo(ctx, (*context.Context)(nil))
	return k.Run(s)
}

// exitCode tells the user what went wrong: 1 if it failed, 2 if it was asked
// for wrongly.
func exitCode(err error, w io.Writer) int {
	if err == nil {
		return 0
	}
	text, code := redact(fmt.Sprintf("jobbridge: %v\n", err)), 1
	var u usageError
	if errors.As(err, &u) {
		text, code = text+"See jobbridge --help, or --help of the command.\n", 2
	}
	told := make(chan struct{})
	go func() { defer close(told); _, _ = io.WriteString(w, text) }()
	select {
	case <-told:
	case <-time.After(flushTimeout): // nobody reads it
	}
	return code
}
