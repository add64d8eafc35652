// Command jobbridge receives signed webhooks and publishes them to NATS.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
)

func main() {
	tune(os.Getenv)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	os.Exit(exitCode(run(ctx, os.Args[1:], os.Getenv, os.Stdin, os.Stdout, os.Stderr), os.Stderr))
}

// cli is every knob there is; flags win over the environment, and that over
// the configuration file.
type cli struct {
	Serve      serveCmd      `cmd:"" help:"Receive webhooks, store them durably and publish them to NATS."`
	Send       sendCmd       `cmd:"" help:"Sign a delivery and post it, as the provider would."`
	Tail       tailCmd       `cmd:"" help:"Print the events that workers get."`
	Verify     verifyCmd     `cmd:"" help:"Say why a captured delivery does or does not verify."`
	Stream     streamCmd     `cmd:"" help:"Make, audit or print the stream on a NATS of yours."`
	Quarantine quarantineCmd `cmd:"" help:"Look at what was refused for its signature, and release what is good after all."`
	Parked     parkedCmd     `cmd:"" help:"Look at events that the remote stream is too small for, and publish them again."`
	Version    versionCmd    `cmd:"" help:"Print the version."`
}

// streams are what a command reads and writes.
type streams struct {
	getenv func(string) string
	in     io.Reader
	out    io.Writer
	err    io.Writer
}

// usageError is a mistake in what was asked for, not in doing it.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run parses args and runs the command they name.
func run(ctx context.Context, args []string, getenv func(string) string, in io.Reader, out, errOut io.Writer) error {
	var c cli
	exited := false
	parser, err := kong.New(&c, kong.Name("jobbridge"),
		kong.Description("A bridge from signed webhooks to NATS: verified, durable, once per job and status.\n\n"+
			"Start with:  jobbridge serve --dev"),
		kong.DefaultEnvars("JOBBRIDGE"), kong.Configuration(loadYAML), kong.Writers(out, errOut),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Exit(func(int) { exited = true }), // --help
		kong.UsageOnError())
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, err := parser.Parse(args)
	if exited {
		return nil
	}
	if err != nil {
		return usageError{err}
	}
	k.BindTo(ctx, (*context.Context)(nil))
	return k.Run(streams{getenv, in, out, errOut})
}

// exitCode tells the user what went wrong: 1 if it failed, 2 if it was asked
// for wrongly.
func exitCode(err error, w io.Writer) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(w, "jobbridge: %v\n", err)
	var u usageError
	if errors.As(err, &u) {
		fmt.Fprintln(w, "See jobbridge --help, or --help of the command.")
		return 2
	}
	return 1
}
