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
	os.Exit(exitCode(run(ctx, os.Args[1:], streams{os.Getenv, os.Stdin, os.Stdout, os.Stderr}), os.Stderr))
}

// cli has all commands. A flag wins over the environment, and the environment over the configuration file. help.yaml has the texts.
type cli struct {
	Serve      serveCmd      `cmd:""`
	Send       sendCmd       `cmd:""`
	Tail       tailCmd       `cmd:""`
	Verify     verifyCmd     `cmd:""`
	Stream     streamCmd     `cmd:""`
	Quarantine quarantineCmd `cmd:""`
	Journal    journalCmd    `cmd:""`
	Config     configCmd     `cmd:""`
	Status     statusCmd     `cmd:""`
	Health     healthCmd     `cmd:""`
	Drain      drainCmd      `cmd:""`
	Version    versionCmd    `cmd:""`
	Completion completionCmd `cmd:""`
	Man        manCmd        `cmd:""`
}

// streams are the environment, the input and the outputs of a command.
type streams struct {
	getenv func(string) string
	in     io.Reader
	out    io.Writer
	err    io.Writer
}

// usageError is a mistake in what was asked for, not a failure while doing it.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// newParser returns the parser that fills c.
func newParser(c *cli, options ...kong.Option) (parser *kong.Kong, err error) {
	load := func(r io.Reader) (kong.Resolver, error) { return readConfig(r, parser) }
	parser, err = kong.New(c, append([]kong.Option{
		kong.Name("jobbridge"),
		kong.Description("A bridge from signed webhooks to NATS: verified, durable, each event stored once."),
		defaults, kong.DefaultEnvars("JOBBRIDGE"), kong.Configuration(load),
		kong.NamedMapper("path", kong.MapperFunc(decodePath)),
		kong.TypeMapper(reflect.TypeFor[units.Base2Bytes](), kong.MapperFunc(decodeSize)),
		kong.TypeMapper(reflect.TypeFor[time.Duration](), kong.MapperFunc(decodeDuration)),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ValueFormatter(func(value *kong.Value) string { return value.Help }),
		kong.UsageOnError(),
	}, options...)...)
	if err != nil {
		return nil, err
	}
	limitVariables(parser.Model)
	ignoreEmpty(parser.Model)
	return parser, addHelp(parser.Model)
}

// run parses args and runs the command that they name.
func run(ctx context.Context, args []string, s streams) error {
	var c cli
	exited := false
	parser, err := newParser(&c, kong.Writers(s.out, s.err), kong.Exit(func(int) { exited = true })) // --help exits
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	if args[0] == "--version" {
		args[0] = "version"
	}
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

// exitCode prints the error, and returns the exit code: 1 for a failure, 2 for a mistake in what was asked for. It does not wait for
// a reader of w that does not read.
func exitCode(err error, w io.Writer) int {
	if err == nil {
		return 0
	}
	text, code := redact(translate(fmt.Sprintf("jobbridge: %v\n", err))), 1
	var u usageError
	if errors.As(err, &u) {
		text, code = text+"See jobbridge --help, or --help of the command.\n", 2
	}
	printed := make(chan struct{})
	go func() { defer close(printed); _, _ = io.WriteString(w, text) }()
	select {
	case <-printed:
	case <-time.After(flushTimeout):
	}
	return code
}
