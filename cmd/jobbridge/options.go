package main

import (
	"cmp"
	"errors"
	"net"
	"strings"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
)

// options turns the flags into options. The error joins the problems of flags that no option stands for.
func (f *serveFlags) options(getenv func(string) string) (bridge.Options, error) {
	if f.Storage.DataDir == "" && f.Storage.Journal == "on" { // config print shows what depends on other flags
		f.Storage.DataDir = absolute(defaultDataDir)
	}
	if f.Webhook.MaxBodyMemory > 0 {
		f.Webhook.MaxBodyMemory = max(f.Webhook.MaxBodyMemory, 8*f.Webhook.MaxBody)
	}
	w := f.Webhook
	o := bridge.Options{
		DataDir:   f.Storage.DataDir,
		Secrets:   f.secrets(getenv),
		Tolerance: w.Tolerance,
		Webhook: bridge.WebhookOptions{
			Listen: w.Listen, Path: w.Path, MaxBody: int(w.MaxBody), MaxBodyMemory: int(w.MaxBodyMemory), MaxInFlight: w.MaxInFlight,
			MaxConnections: w.MaxConnections, IdleTimeout: w.IdleTimeout, ForgeryRate: cmp.Or(w.ForgeryRate, -1),
		},
		Admin: bridge.AdminOptions{Listen: f.Admin.Listen, Profile: f.Admin.Pprof},
		Journal: bridge.JournalOptions{
			Off: f.Storage.Journal == "off", MaxBytes: int64(f.Storage.MaxBytes),
			Durability: event.Durability(f.Storage.Durability), AcceptClock: f.Storage.AcceptClock,
		},
		Stream: publisher.StreamOptions{
			Name: f.Stream.Stream, Retention: f.Stream.Retention, Dedupe: f.Storage.DedupeWindow, MaxBytes: int64(f.Stream.MaxBytes),
		},
		NATS: bridge.NATSOptions{Listen: f.Workers.Listen, NoListen: f.Workers.Listen == "", MaxConnections: f.Workers.Max},
		Quarantine: bridge.QuarantineOptions{
			Off: !f.Quarantine.Enabled, MaxBytes: int64(f.Quarantine.Bytes), MaxAge: f.Quarantine.Age, MaxBody: int(f.Quarantine.MaxBody),
		},
		Shutdown: bridge.ShutdownOptions{Delay: f.Shutdown.DrainDelay, Forward: cmp.Or(f.Shutdown.DrainTimeout, -1)},
	}
	problems := []error{f.check(), f.checkZeros()}
	add := func(err error) { problems = append(problems, err) }
	var err error
	if o.Stream.Subject, err = event.ParseTemplate(f.Stream.Subject); err != nil {
		add(usage("--subject: %w", err))
	}
	for _, s := range w.TrustedProxies {
		_, network, err := net.ParseCIDR(strings.TrimSpace(s))
		if err != nil {
			add(usage("--trusted-proxies: %w: want a network such as 10.0.0.0/8, or 10.0.0.1/32 for one address", err))
			continue
		}
		o.Webhook.TrustedProxies = append(o.Webhook.TrustedProxies, network)
	}
	if path := f.Admin.TokenFile; path != "" {
		o.Admin.Token = bridge.Files(func() (string, error) { return readToken(path) }, path)
	}
	if path := f.Workers.AuthFile; path != "" {
		o.NATS.Workers = bridge.Files(func() ([]publisher.Worker, error) { return readWorkers(path) }, path)
	}
	if f.NATS.Configured() {
		o.NATS.Files = f.NATS.files
		if o.NATS.Connect, err = f.NATS.connector(); err != nil {
			o.NATS.Connect = func(...nats.Option) (*nats.Conn, string, error) { return nil, "", err } // it is a remote NATS all the same
			add(err)
		}
	}
	var certificates [4]error
	o.Webhook.ACME, certificates[0] = f.ACME.options(f.Storage.DataDir)
	o.Webhook.TLS, certificates[1] = f.TLS.source("")
	o.Admin.TLS, certificates[2] = f.AdminTLS.source("admin-")
	o.NATS.TLS, certificates[3] = f.WorkersTLS.source("nats-")
	return o, errors.Join(append(problems, certificates[:]...)...)
}

// checked returns the options. The error joins all problems that would keep serve from starting.
func (f *serveFlags) checked(getenv func(string) string) (bridge.Options, error) {
	o, err := f.options(getenv)
	return o, errors.Join(err, inFlags(o.Check()))
}

// check refuses flags that contradict each other in a way that the options cannot express.
func (f *serveFlags) check() error {
	_, err := f.Trace.endpoint()
	problems := []error{err}
	refuse := func(broken bool, message string) {
		if broken {
			problems = append(problems, usage("%s", message))
		}
	}
	refuse(f.Dev && (f.TLS.Configured() || len(f.ACME.Domain) > 0 || f.AdminTLS.Configured() || f.WorkersTLS.Configured()),
		"--dev does not use TLS: leave out the certificates")
	refuse(f.Dev && f.NATS.Configured(), "--dev is for a try without other servers: leave out --nats-url and --nats-context")
	refuse(!f.NATS.Configured() && f.NATS.Creds+f.NATS.Nkey+f.NATS.User != "",
		"there are credentials for NATS, and no server: give --nats-url too")
	refuse(f.Webhook.ForgeryRate < 0 || f.Shutdown.DrainTimeout < 0, "--forgery-rate and --drain-timeout must not be below 0")
	return errors.Join(problems...)
}

// checkZeros refuses a value that is empty or 0 where the options would replace it with the default.
func (f *serveFlags) checkZeros() error {
	w := f.Webhook
	var problems []error
	for _, flag := range []struct {
		name string
		zero bool
	}{
		{"--listen", w.Listen == ""}, {"--admin-listen", f.Admin.Listen == ""}, {"--stream", f.Stream.Stream == ""},
		{"--tolerance", w.Tolerance == 0}, {"--retention", f.Stream.Retention == 0}, {"--dedupe-window", f.Storage.DedupeWindow == 0},
		{"--max-body", w.MaxBody == 0}, {"--max-body-memory", w.MaxBodyMemory == 0}, {"--max-in-flight", w.MaxInFlight == 0},
		{"--max-connections", w.MaxConnections == 0}, {"--idle-timeout", w.IdleTimeout == 0}, {"--max-workers", f.Workers.Max == 0},
		{"--quarantine-bytes", f.Quarantine.Bytes == 0}, {"--quarantine-age", f.Quarantine.Age == 0},
		{"--quarantine-max-body", f.Quarantine.MaxBody == 0},
	} {
		if flag.zero {
			problems = append(problems, usage("%s must not be empty or 0", flag.name))
		}
	}
	return errors.Join(problems...)
}

// inFlags returns an error of the bridge in the words of the command line. A wrong option, and a data folder of the first version,
// are mistakes in what was asked for.
func inFlags(err error) error {
	if err == nil {
		return nil
	}
	text := errors.New(translate(err.Error()))
	var wrong *bridge.OptionError
	if errors.As(err, &wrong) || errors.Is(err, publisher.ErrOldFolder) { // which needs another --data-dir
		return usageError{text}
	}
	return text
}

// translate replaces what the libraries name in their texts with what it is on the command line: a field with the flag that sets it,
// and a request or a function with the command that calls it.
func translate(text string) string {
	return commandLine.Replace(strings.NewReplacer("bridge: Options.", "Options.", "publisher.Options.", "Options.").Replace(text))
}

// commandLine does the work of [translate]. A longer name comes before its own beginning.
var commandLine = strings.NewReplacer(
	operator.DoReleaseStale, "jobbridge quarantine release --stale",
	operator.DoRelease, "jobbridge quarantine release",
	operator.DoPurge, "jobbridge quarantine purge",
	operator.DoList, "jobbridge quarantine list",
	operator.DoCancelDrain, "jobbridge drain --cancel",
	"stale=true", "--stale",
	"force=true", "--force",
	"publisher.CreateStream", "jobbridge stream create",
	"nats.TLSHandshakeFirst", "--nats-tls-first",
	"Options.MaxPayload", "--max-body",
	"Options.AcceptClock", "--accept-clock",
	"Options.DataDir", "--data-dir",
	"Options.Secrets", "--secret-file",
	"Options.Tolerance", "--tolerance",
	"Options.Webhook.Listen", "--listen",
	"Options.Webhook.TLS", "--tls-cert",
	"Options.Webhook.ACME.Domains", "--acme-domain",
	"Options.Webhook.ACME.CA", "--acme-ca",
	"Options.Webhook.ACME.Dir", "--acme-dir",
	"Options.Webhook.Path", "--path",
	"Options.Webhook.MaxBodyMemory", "--max-body-memory",
	"Options.Webhook.MaxBody", "--max-body",
	"Options.Webhook.MaxInFlight", "--max-in-flight",
	"Options.Webhook.MaxConnections", "--max-connections",
	"Options.Webhook.IdleTimeout", "--idle-timeout",
	"Options.Admin.Listen", "--admin-listen",
	"Options.Admin.TLS", "--admin-tls-cert",
	"Options.Admin.Token", "--admin-token-file",
	"Options.Journal.Off", "--journal=off",
	"Options.Journal.MaxBytes", "--journal-max-bytes",
	"Options.Journal.Durability", "--durability",
	"Options.Stream.Name", "--stream",
	"Options.Stream.Retention", "--retention",
	"Options.Stream.Dedupe", "--dedupe-window",
	"Options.Stream.MaxBytes", "--max-bytes",
	"Options.NATS.Listen", "--nats-listen",
	"Options.NATS.Workers", "--nats-auth-file",
	"Options.NATS.MaxConnections", "--max-workers",
	"Options.NATS.TLS", "--nats-tls-cert",
	"Options.NATS.Connect", "--nats-url or --nats-context",
	"Options.Quarantine.Off", "--no-quarantine",
	"Options.Quarantine.MaxBytes", "--quarantine-bytes",
	"Options.Quarantine.MaxAge", "--quarantine-age",
	"Options.Quarantine.MaxBody", "--quarantine-max-body",
	"Options.Shutdown.Delay", "--drain-delay",
)
