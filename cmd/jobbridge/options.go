package main

import (
	"cmp"
	"errors"
	"net"
	"strings"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
)

// options turns the flags into options. The error joins what is wrong with flags that
// no option stands for.
func (f *serveFlags) options(getenv func(string) string) (bridge.Options, error) {
	if f.DataDir == "" && f.Journal == "on" { // config print shows what depends on other flags
		f.DataDir = absolute(defaultDataDir)
	}
	if f.MaxBodyMemory > 0 {
		f.MaxBodyMemory = max(f.MaxBodyMemory, 8*f.MaxBody)
	}
	o := bridge.Options{
		DataDir:   f.DataDir,
		Secrets:   f.secrets(getenv),
		Tolerance: f.Tolerance,
		Webhook: bridge.WebhookOptions{
			Listen: f.Listen, Path: f.Path, MaxBody: int(f.MaxBody), MaxBodyMemory: int(f.MaxBodyMemory), MaxInFlight: f.MaxInFlight,
			MaxConnections: f.MaxConnections, IdleTimeout: f.IdleTimeout, ForgeryRate: cmp.Or(f.ForgeryRate, -1),
		},
		Admin:   bridge.AdminOptions{Listen: f.AdminListen, Profile: f.Pprof},
		Journal: bridge.JournalOptions{Off: f.Journal == "off", MaxBytes: int64(f.JournalMaxBytes), Durability: event.Durability(f.Durability), AcceptClock: f.AcceptClock},
		Stream:  publisher.StreamOptions{Name: f.Stream, Retention: f.Retention, Dedupe: f.DedupeWindow, MaxBytes: int64(f.MaxBytes)},
		NATS:    bridge.NATSOptions{Listen: f.NATSListen, NoListen: f.NATSListen == "", MaxConnections: f.MaxWorkers},
		Quarantine: bridge.QuarantineOptions{
			Off: !f.Quarantine.Enabled, MaxBytes: int64(f.Quarantine.Bytes), MaxAge: f.Quarantine.Age, MaxBody: int(f.Quarantine.MaxBody),
		},
		Shutdown: bridge.ShutdownOptions{Delay: f.DrainDelay, Forward: cmp.Or(f.DrainTimeout, -1)},
	}
	problems := []error{f.check()}
	add := func(err error) { problems = append(problems, err) }
	var err error
	if o.Stream.Subject, err = event.ParseTemplate(f.Subject); err != nil {
		add(usage("--subject: %w", err))
	}
	for _, s := range f.TrustedProxies {
		_, network, err := net.ParseCIDR(strings.TrimSpace(s))
		if err != nil {
			add(usage("--trusted-proxies: %w: want a network such as 10.0.0.0/8, or 10.0.0.1/32 for one address", err))
			continue
		}
		o.Webhook.TrustedProxies = append(o.Webhook.TrustedProxies, network)
	}
	if path := f.AdminTokenFile; path != "" {
		o.Admin.Token = bridge.Files(func() (string, error) { return readToken(path) }, path)
	}
	if path := f.NATSAuthFile; path != "" {
		o.NATS.Workers = bridge.Files(func() ([]publisher.Worker, error) { return readWorkers(path) }, path)
	}
	if f.NATS.Configured() {
		o.NATS.Files = f.NATS.files
		if o.NATS.Connect, err = f.NATS.connector(); err != nil {
			o.NATS.Connect = func(...nats.Option) (*nats.Conn, string, error) { return nil, "", err } // it is a remote NATS all the same
			add(err)
		}
	}
	add(f.certificates(&o))
	return o, errors.Join(problems...)
}

// checked returns the options, and joins all that serve would not start with.
func (f *serveFlags) checked(getenv func(string) string) (bridge.Options, error) {
	o, err := f.options(getenv)
	return o, errors.Join(err, inFlags(o.Check()))
}

// certificates adds the certificates of the listeners to the options.
func (f *serveFlags) certificates(o *bridge.Options) error {
	var problems [4]error
	o.Webhook.ACME, problems[0] = f.ACME.options(f.DataDir)
	o.Webhook.TLS, problems[1] = f.WebhookTLS.source("")
	o.Admin.TLS, problems[2] = f.AdminTLS.source("admin-")
	o.NATS.TLS, problems[3] = f.NATSTLS.source("nats-")
	return errors.Join(problems[:]...)
}

// check refuses what the options cannot express: flags that contradict each other,
// and a 0 that would mean the default there.
func (f *serveFlags) check() error {
	_, err := f.Trace.endpoint()
	problems := []error{err}
	for _, rule := range []struct {
		broken  bool
		message string
	}{
		{f.Dev && (f.WebhookTLS.Configured() || len(f.ACME.Domain) > 0 || f.AdminTLS.Configured() || f.NATSTLS.Configured()), "--dev speaks plainly: leave out the certificates"},
		{f.Dev && f.NATS.Configured(), "--dev is for a try without other servers: leave out --nats-url and --nats-context"},
		{!f.NATS.Configured() && f.NATS.Creds+f.NATS.Nkey+f.NATS.User != "", "there are credentials for NATS, and no server: give --nats-url too"},
		{f.ForgeryRate < 0 || f.DrainTimeout < 0, "--forgery-rate and --drain-timeout must not be below 0"},
	} {
		if rule.broken {
			problems = append(problems, usage("%s", rule.message))
		}
	}
	for _, flag := range []struct {
		name string
		zero bool
	}{
		{"--listen", f.Listen == ""}, {"--admin-listen", f.AdminListen == ""}, {"--stream", f.Stream == ""}, {"--tolerance", f.Tolerance == 0},
		{"--retention", f.Retention == 0}, {"--dedupe-window", f.DedupeWindow == 0}, {"--max-body", f.MaxBody == 0}, {"--max-body-memory", f.MaxBodyMemory == 0},
		{"--max-in-flight", f.MaxInFlight == 0}, {"--max-connections", f.MaxConnections == 0}, {"--max-workers", f.MaxWorkers == 0}, {"--idle-timeout", f.IdleTimeout == 0},
		{"--quarantine-bytes", f.Quarantine.Bytes == 0}, {"--quarantine-age", f.Quarantine.Age == 0}, {"--quarantine-max-body", f.Quarantine.MaxBody == 0},
	} {
		if flag.zero {
			problems = append(problems, usage("%s must not be empty or 0", flag.name))
		}
	}
	return errors.Join(problems...)
}

// inFlags returns an error of the bridge with the names of flags in the place of those
// of options. What is wrong with an option, or with the folder, was asked for wrongly.
func inFlags(err error) error {
	if err == nil {
		return nil
	}
	text := errors.New(flagNames.Replace(strings.ReplaceAll(err.Error(), "bridge: Options.", "Options.")))
	var wrong *bridge.OptionError
	if errors.As(err, &wrong) || errors.Is(err, publisher.ErrOldFolder) { // which needs another --data-dir
		return usageError{text}
	}
	return text
}

// flagNames are the flags of serve by the options that they set. A name comes before
// those that it begins with.
var flagNames = strings.NewReplacer(
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
