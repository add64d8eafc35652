package bridge

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/bridge/internal/logging"
	"github.com/jobbridge/jobbridge/bridge/internal/reload"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// OptionError is the error of [New] and [Options.Check] for one field that is wrong. Its text names the field, unless
// it is the error of a [Source].
type OptionError struct{ err error }

// Error implements [error].
func (e *OptionError) Error() string { return e.err.Error() }

// Unwrap returns the error that the OptionError reports, for example that of a [Source].
func (e *OptionError) Unwrap() error { return e.err }

// wrong returns an [OptionError].
func wrong(format string, args ...any) error {
	return &OptionError{fmt.Errorf("bridge: "+format, args...)}
}

// withDefaults replaces zero values.
func (o Options) withDefaults() Options {
	o.Tolerance = cmp.Or(o.Tolerance, verify.DefaultTolerance)
	o.Webhook.Listen = cmp.Or(o.Webhook.Listen, DefaultListen)
	o.Webhook.Path = cmp.Or(o.Webhook.Path, DefaultPath)
	o.Webhook.MaxBody = cmp.Or(o.Webhook.MaxBody, DefaultMaxBody)
	if o.Webhook.MaxBodyMemory >= 0 { // else it is refused
		o.Webhook.MaxBodyMemory = max(cmp.Or(o.Webhook.MaxBodyMemory, DefaultMaxBodyMemory), 8*o.Webhook.MaxBody)
	}
	o.Webhook.MaxInFlight = cmp.Or(o.Webhook.MaxInFlight, DefaultMaxInFlight)
	o.Webhook.MaxConnections = cmp.Or(o.Webhook.MaxConnections, DefaultMaxConnections)
	o.Webhook.ReadTimeout = cmp.Or(o.Webhook.ReadTimeout, ingress.DefaultReadTimeout)
	o.Webhook.IdleTimeout = cmp.Or(o.Webhook.IdleTimeout, DefaultIdleTimeout)
	o.Webhook.ForgeryRate = cmp.Or(o.Webhook.ForgeryRate, DefaultForgeryRate)
	o.Admin.Listen = cmp.Or(o.Admin.Listen, DefaultAdminListen)
	o.Journal.Durability = cmp.Or(o.Journal.Durability, event.Fsync)
	o.Stream.Name = cmp.Or(o.Stream.Name, publisher.DefaultStream)
	o.Stream.Retention = cmp.Or(o.Stream.Retention, publisher.DefaultRetention)
	o.Stream.Dedupe = cmp.Or(o.Stream.Dedupe, publisher.DefaultDedupe)
	o.NATS.MaxConnections = cmp.Or(o.NATS.MaxConnections, publisher.DefaultMaxConnections)
	switch {
	case o.NATS.Connect != nil || o.NATS.NoListen:
		o.NATS.Listen = ""
	case o.NATS.Listen == "":
		o.NATS.Listen = DefaultNATSListen
	}
	o.Quarantine.MaxBytes = cmp.Or(o.Quarantine.MaxBytes, DefaultQuarantineBytes)
	o.Quarantine.MaxAge = cmp.Or(o.Quarantine.MaxAge, DefaultQuarantineAge)
	o.Quarantine.MaxBody = cmp.Or(o.Quarantine.MaxBody, DefaultQuarantineMaxBody)
	o.Quarantine.Off = o.Quarantine.Off || o.DataDir == ""
	o.Shutdown.Forward = max(0, cmp.Or(o.Shutdown.Forward, DefaultForwardTimeout))
	o.Shutdown.Timeout = cmp.Or(o.Shutdown.Timeout, o.Shutdown.Delay+o.Shutdown.Forward+30*time.Second)
	if o.Translate == nil {
		o.Translate = func(text string) string { return text }
	}
	o.Logger = logging.Translated(cmp.Or(o.Logger, zap.NewNop()), o.Translate)
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	for _, f := range []*func(){&o.OnSampled, &o.OnReady, &o.OnStopping} {
		if *f == nil {
			*f = func() {}
		}
	}
	return o
}

// Check returns an error if [New] would not accept the options. The error joins one [OptionError] for each problem.
// Check reads the settings and does nothing else.
func (o Options) Check() error {
	o = o.withDefaults()
	_, err := o.read()
	return errors.Join(o.check(), err)
}

// Warnings returns sentences about options that work and are a risk, such as a token that is sent in plain text.
func (o Options) Warnings() (list []string) {
	o = o.withDefaults()
	if !o.Admin.Token.IsZero() && o.Admin.TLS.IsZero() && !publisher.IsLoopback(o.Admin.Listen) {
		list = append(list, "the admin token goes over the network in plain text: give the admin listener a certificate")
	}
	if !o.NATS.Workers.IsZero() && o.NATS.TLS.IsZero() && o.NATS.Listen != "" && !publisher.IsLoopback(o.NATS.Listen) {
		list = append(list, "the passwords of workers go over the network in plain text: give the NATS listener a certificate")
	}
	return list
}

// problems collects what is wrong with the options.
type problems []error

// add adds an [OptionError] if broken is true.
func (p *problems) add(broken bool, format string, args ...any) {
	if broken {
		*p = append(*p, wrong(format, args...))
	}
}

// check returns the fields that are wrong or contradict each other. Zero values were replaced before.
func (o Options) check() error {
	remote, acme := o.NATS.Connect != nil, o.Webhook.ACME
	info, statErr := os.Stat(o.DataDir)
	pathErr := ingress.CheckPath(o.Webhook.Path)
	ca, caErr := url.Parse(acme.CA)
	var p problems
	p.add(o.Secrets.IsZero(), "Options.Secrets is missing")
	p.add(o.DataDir == "" && !o.Journal.Off, "Options.DataDir is empty")
	p.add(statErr == nil && !info.IsDir(), "Options.DataDir: %s is no folder", o.DataDir)
	p.add(o.Journal.Off && !remote, "Options.Journal.Off needs a remote stream: Options.NATS.Connect")
	p.add(o.Journal.Off && o.Journal.Durability == event.OS,
		"Options.Journal.Durability is about the journal, and with Options.Journal.Off there is none")
	p.add(o.Journal.Durability != event.Fsync && o.Journal.Durability != event.OS,
		"Options.Journal.Durability: want %s or %s", event.Fsync, event.OS)
	p.add(remote && !o.NATS.TLS.IsZero(),
		"Options.NATS.TLS is for the embedded NATS server, which does not run with Options.NATS.Connect")
	p.add(strings.ContainsAny(o.Stream.Name, " \t.*>/\\"), "Options.Stream.Name: want a name without spaces and any of . * > / \\")
	p.add(pathErr != nil, "Options.Webhook.Path: %w", pathErr)
	p.add(len(acme.Domains) > 0 && !o.Webhook.TLS.IsZero(), "Options.Webhook.ACME.Domains and Options.Webhook.TLS exclude each other")
	p.add(len(acme.Domains) > 0 && acme.Dir == "", "Options.Webhook.ACME.Dir is empty: want a folder for the certificates")
	p.add(acme.CA != "" && (caErr != nil || ca.Host == "" || ca.User != nil),
		"Options.Webhook.ACME.CA: want a URL such as https://ca.example/directory")
	return errors.Join(append(p, o.checkLimits(), o.checkAddresses())...)
}

// checkLimits returns the limits with which the bridge could never work.
func (o Options) checkLimits() error {
	body, stream, journal := o.Webhook.MaxBody, o.Stream.MaxBytes, o.Journal.MaxBytes
	fits := body >= 1 && body <= publisher.MaxPayload
	var least int64
	if fits {
		least = publisher.MinJournalBytes(body)
	}
	var p problems
	p.add(o.Tolerance < time.Second, "Options.Tolerance must be at least 1s: a sender signs whole seconds")
	p.add(o.Stream.Dedupe < o.Tolerance,
		"Options.Stream.Dedupe must be at least Options.Tolerance (%s): what can be replayed must be remembered", o.Tolerance)
	p.add(o.Stream.Retention < o.Tolerance, "Options.Stream.Retention must be at least Options.Tolerance (%s)", o.Tolerance)
	p.add(!fits, "Options.Webhook.MaxBody must be between 1B and 31MiB")
	p.add(stream != 0 && (stream < int64(max(publisher.MinMaxBytes, 4*(body+publisher.HeaderRoom))) || stream > 1<<60),
		"Options.Stream.MaxBytes must be between 16MiB, or four times Options.Webhook.MaxBody and 64KiB, and 1EiB")
	p.add(journal != 0 && journal < least, "Options.Journal.MaxBytes must be at least %d with this Options.Webhook.MaxBody", least)
	p.add(o.Webhook.IdleTimeout < time.Second,
		"Options.Webhook.IdleTimeout must be at least 1s, and longer than the idle timeout of the load balancer in front")
	p.add(o.Quarantine.MaxBytes < 1<<20,
		"Options.Quarantine.MaxBytes must be at least 1MiB; to have no quarantine: Options.Quarantine.Off")
	p.add(o.Quarantine.MaxAge < time.Minute, "Options.Quarantine.MaxAge must be at least 1m; to have no quarantine: Options.Quarantine.Off")
	for _, limit := range []struct {
		field string
		n     int64
	}{
		{"Webhook.MaxBodyMemory", int64(o.Webhook.MaxBodyMemory)}, {"Webhook.MaxInFlight", int64(o.Webhook.MaxInFlight)},
		{"Webhook.MaxConnections", int64(o.Webhook.MaxConnections)}, {"Webhook.ReadTimeout", int64(o.Webhook.ReadTimeout)},
		{"NATS.MaxConnections", int64(o.NATS.MaxConnections)}, {"Quarantine.MaxBody", int64(o.Quarantine.MaxBody)},
		{"Shutdown.Delay", int64(o.Shutdown.Delay)}, {"Shutdown.Timeout", int64(o.Shutdown.Timeout)},
	} {
		p.add(limit.n < 0, "Options.%s must not be below 0", limit.field)
	}
	return errors.Join(p...)
}

// checkAddresses returns the addresses that nobody can listen on.
func (o Options) checkAddresses() error {
	type listen struct{ field, addr string }
	var taken []listen
	var p problems
	if o.Webhook.Listener != nil {
		o.Webhook.Listen = ""
	}
	if o.Admin.Listener != nil {
		o.Admin.Listen = ""
	}
	for _, l := range []listen{
		{"Options.Webhook.Listen", o.Webhook.Listen}, {"Options.Admin.Listen", o.Admin.Listen}, {"Options.NATS.Listen", o.NATS.Listen},
	} {
		if l.addr == "" { // it does not listen, or has a listener already
			continue
		}
		if err := checkAddress(l.addr); err != nil {
			p.add(true, "%s: %w", l.field, err)
			continue
		}
		for _, other := range taken {
			p.add(sameAddress(other.addr, l.addr),
				"%s %s and %s %s are the same address: want an address each", other.field, other.addr, l.field, l.addr)
		}
		if l.field == "Options.NATS.Listen" {
			p.add(o.NATS.Workers.IsZero() && !publisher.IsLoopback(l.addr),
				"Options.NATS.Listen: %s is not a loopback address: name the workers and their passwords with Options.NATS.Workers", l.addr)
		}
		taken = append(taken, l)
	}
	return errors.Join(p...)
}

// checkToken returns an error if a token could be guessed.
func checkToken(token string) error {
	if len(token) < 16 {
		return errors.New("want at least 16 characters, such as those of: openssl rand -hex 32")
	}
	return nil
}

// settings are the values of the sources.
type settings struct {
	secrets  reload.Setting[[]string]
	token    reload.Setting[string]
	workers  reload.Setting[[]publisher.Worker]
	webhook  reload.Setting[Certificate]
	admin    reload.Setting[Certificate]
	nats     reload.Setting[Certificate]
	remote   reload.Setting[struct{}] // what Connect reads
	verifier *verify.Verifier
}

// open reads one source. It adds the error of the source, which says what is wrong.
func open[T any](p *problems, s Source[T]) reload.Setting[T] {
	setting, err := reload.Source[T](s).Open()
	if err != nil {
		*p = append(*p, &OptionError{err})
	}
	return setting
}

// read reads the sources.
func (o Options) read() (s settings, err error) {
	var p problems
	s.secrets = open(&p, o.Secrets)
	if len(p) == 0 {
		s.verifier, err = verify.New(s.secrets.Value,
			verify.Options{Tolerance: o.Tolerance, MaxPayload: max(0, o.Webhook.MaxBody), Now: o.Now})
		p.add(err != nil && !o.Secrets.IsZero(), "Options.Secrets: %w", err)
	}
	s.token = open(&p, o.Admin.Token)
	s.workers = open(&p, o.NATS.Workers)
	s.webhook = open(&p, o.Webhook.TLS)
	s.admin = open(&p, o.Admin.TLS)
	s.nats = open(&p, o.NATS.TLS)
	if o.NATS.Connect != nil {
		s.remote = open(&p, Source[struct{}]{Read: func() (none struct{}, err error) { return none, nil }, Files: o.NATS.Files})
	}
	if len(p) > 0 {
		return s, errors.Join(p...)
	}
	err = checkToken(s.token.Value)
	p.add(err != nil && !s.token.IsZero(), "Options.Admin.Token: %w", err)
	if len(s.workers.Value) > 0 {
		err = publisher.CheckListen(o.NATS.Listen, s.workers.Value)
		p.add(err != nil, "Options.NATS.Workers: %w", err)
	}
	return s, errors.Join(p...)
}
