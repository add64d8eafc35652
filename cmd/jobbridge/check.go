package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// fillIn gives flags their defaults that depend on others.
func (c *serveCmd) fillIn() {
	if c.DataDir == "" && !c.direct() {
		c.DataDir = absolute(defaultDataDir)
	}
	if c.MaxBodyMemory > 0 { // else it is refused
		c.MaxBodyMemory = max(c.MaxBodyMemory, 8*c.MaxBody)
	}
}

// warnings are, in words, what works and should not be so.
func (c *serveCmd) warnings() (list []string) {
	if c.AdminTokenFile != "" && !c.AdminTLS.given() && !onLoopback(c.AdminListen) {
		list = append(list, "the admin token goes over the network in plain text: give --admin-tls-cert and --admin-tls-key")
	}
	if c.NatsAuthFile != "" && !c.NatsTLS.given() && !c.given() && !onLoopback(c.NatsListen) {
		list = append(list, "the passwords of workers go over the network in plain text: give --nats-tls-cert and --nats-tls-key")
	}
	return list
}

// onLoopback reports whether only this machine reaches an address.
func onLoopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr) // it was checked
	ip := net.ParseIP(host)
	return addr == "" || host == "localhost" || ip != nil && ip.IsLoopback()
}

// rule is a combination of flags that is wrong, and the message for it.
type rule struct {
	broken  bool
	message string
}

// broken returns the messages of the rules that are broken, as one usage error each.
func broken(rules []rule) error {
	var list []error
	for _, r := range rules {
		if r.broken {
			list = append(list, usage("%s", r.message))
		}
	}
	return errors.Join(list...)
}

// check refuses flags that are wrong or contradict each other, without an effect,
// and returns the networks of the proxies. The error joins all problems, so that one
// try shows them all.
func (c *serveCmd) check() (proxies []*net.IPNet, err error) {
	problems := []error{broken([]rule{
		{c.direct() && !c.given(), "--journal=off needs a remote stream: --nats-url or --nats-context"},
		{c.direct() && c.Durability == string(event.OS), "--durability=os is about the journal, and --journal=off has none"},
		{c.given() && c.NatsTLS.given(), "--nats-tls-cert is for the embedded NATS server, which does not listen with --nats-url; a certificate for that is --nats-cert"},
		{c.Dev && (c.secure() || c.AdminTLS.given() || c.NatsTLS.given()), "--dev speaks plainly: leave out the certificates"},
		{c.ForgeryRate < 0 || c.DrainDelay < 0 || c.DrainTimeout < 0, "--forgery-rate, --drain-delay and --drain-timeout must not be below 0"},
		{c.IdleTimeout < time.Second, "--idle-timeout must be at least 1s, and longer than the idle timeout of the load balancer in front"},
		{!c.given() && c.NatsCreds+c.NatsNkey+c.NatsUser != "", "there are credentials for NATS, and no server: give --nats-url too"},
		{c.Stream == "" || strings.ContainsAny(c.Stream, " \t.*>/\\"), "--stream: want a name without spaces and any of . * > / \\"},
		{c.Dev && c.given(), "--dev is for a try without other servers: leave out --nats-url and --nats-context"},
		{c.QuarantineBytes < 1<<20 || c.QuarantineAge < time.Minute || c.QuarantineMaxBody < 1,
			"--quarantine-bytes must be at least 1MiB, --quarantine-age 1m, and --quarantine-max-body above 0; to have none: --no-quarantine"},
	})}
	add := func(err error) { problems = append(problems, err) }
	if err := (bridge.Config{Path: c.Path}).Check(); err != nil {
		add(usage("--path: %w", err))
	}
	add(c.checkListeners())
	if info, err := os.Stat(c.DataDir); err == nil && !info.IsDir() {
		add(usage("--data-dir: %s is no folder", c.DataDir))
	}
	for _, s := range c.TrustedProxies {
		_, network, err := net.ParseCIDR(strings.TrimSpace(s))
		if err != nil {
			add(usage("--trusted-proxies: %w: want a network such as 10.0.0.0/8, or 10.0.0.1/32 for one address", err))
		}
		proxies = append(proxies, network)
	}
	_, err = c.streamOptions()
	add(err)
	if _, err := readToken(c.AdminTokenFile); err != nil {
		add(usageError{err})
	}
	add(c.checkTLS())
	_, err = c.endpoint()
	add(err)
	if c.given() {
		_, err = c.connector()
		add(err)
	}
	return proxies, errors.Join(problems...)
}

// checkListeners checks the addresses, and whom the embedded NATS server lets in.
func (c *serveCmd) checkListeners() error {
	type listen struct{ flag, addr string }
	var problems []error
	var taken []listen
	for _, l := range []listen{{"--listen", c.Listen}, {"--admin-listen", c.AdminListen}, {"--nats-listen", c.NatsListen}} {
		if l.flag == "--nats-listen" && (l.addr == "" || c.given()) {
			continue // it does not listen
		}
		if err := checkAddress(l.addr); err != nil {
			problems = append(problems, usage("%s: %w", l.flag, err))
			continue
		}
		for _, other := range taken {
			if sameAddress(other.addr, l.addr) {
				problems = append(problems, usage("%s %s and %s %s are the same address: want an address each", other.flag, other.addr, l.flag, l.addr))
			}
		}
		taken = append(taken, l)
	}
	workers, err := readWorkers(c.NatsAuthFile)
	switch {
	case err != nil:
		problems = append(problems, err)
	case c.given(), c.NatsListen != "" && checkAddress(c.NatsListen) != nil:
	case len(workers) == 0 && !onLoopback(c.NatsListen):
		problems = append(problems, usage("--nats-listen: %s is not a loopback address: name the workers and their passwords with --nats-auth-file", c.NatsListen))
	default:
		if err := publisher.CheckListen(c.NatsListen, workers); err != nil {
			problems = append(problems, usage("--nats-listen: %w", err))
		}
	}
	return errors.Join(problems...)
}

// validate does what can be done without an effect: it returns the secrets, and all
// that serve would refuse to start for.
func (c *serveCmd) validate(getenv func(string) string) ([]string, error) {
	secrets, err := c.read(getenv)
	switch {
	case err != nil:
		err = usageError{err}
	case c.Dev && len(secrets) > 0, !c.Dev && len(secrets) == 0:
		_, _, err = c.verifier(getenv)
	}
	_, flags := c.check()
	return secrets, errors.Join(err, flags)
}

// streamOptions returns the options of the stream, and joins what is wrong with the
// limits.
func (c *serveCmd) streamOptions() (publisher.StreamOptions, error) {
	var problems []error
	subject, err := event.ParseTemplate(c.Subject)
	if err != nil {
		problems = append(problems, usage("--subject: %w", err))
	}
	problems = append(problems, broken([]rule{
		{c.Tolerance < time.Second, "--tolerance must be at least 1s: a sender signs whole seconds"},
		{c.DedupeWindow < c.Tolerance, fmt.Sprintf("--dedupe-window must be at least --tolerance (%s): what can be replayed must be remembered", c.Tolerance)},
		{c.Retention < c.Tolerance, fmt.Sprintf("--retention must be at least --tolerance (%s)", c.Tolerance)},
		{c.MaxBody < 1 || c.MaxBody > publisher.MaxPayload, "--max-body must be between 1B and 31MiB"},
		{c.MaxInFlight < 1 || c.MaxConnections < 1 || c.MaxWorkers < 1 || c.MaxBodyMemory < 1,
			"--max-in-flight, --max-connections, --max-workers and --max-body-memory must be above 0"},
		{c.MaxBytes != 0 && (c.MaxBytes < max(publisher.MinMaxBytes, 4*(c.MaxBody+publisher.HeaderRoom)) || c.MaxBytes > 1<<60),
			"--max-bytes must be between 16MiB, or four times --max-body and 64KiB, and 1EiB"},
	}))
	if c.MaxBody >= 1 && c.MaxBody <= publisher.MaxPayload {
		if least := publisher.MinJournalBytes(int(c.MaxBody)); c.JournalMaxBytes != 0 && int64(c.JournalMaxBytes) < least {
			problems = append(problems, usage("--journal-max-bytes must be at least %d with this --max-body", least))
		}
	}
	if err := errors.Join(problems...); err != nil {
		return publisher.StreamOptions{}, err
	}
	return publisher.StreamOptions{Name: c.Stream, Subject: subject, Retention: c.Retention, Dedupe: c.DedupeWindow, MaxBytes: int64(c.MaxBytes)}, nil
}
