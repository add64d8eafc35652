package main

import (
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

// check refuses flags that are wrong or contradict each other, without an effect,
// and returns the networks of the proxies.
func (c *serveCmd) check() (proxies []*net.IPNet, err error) {
	switch {
	case c.direct() && !c.given():
		return nil, usage("--journal=off needs a remote stream: --nats-url or --nats-context")
	case c.direct() && c.Durability == string(event.OS):
		return nil, usage("--durability=os is about the journal, and --journal=off has none")
	case c.given() && c.NatsTLS.given():
		return nil, usage("--nats-tls-cert is for the embedded NATS server, which does not listen with --nats-url; a certificate for that is --nats-cert")
	case c.Dev && (c.secure() || c.AdminTLS.given() || c.NatsTLS.given()):
		return nil, usage("--dev speaks plainly: leave out the certificates")
	case c.ForgeryRate < 0, c.DrainDelay < 0:
		return nil, usage("--forgery-rate and --drain-delay must not be below 0")
	case c.IdleTimeout < time.Second:
		return nil, usage("--idle-timeout must be at least 1s, and longer than the idle timeout of the load balancer in front")
	case !c.given() && c.NatsCreds+c.NatsNkey+c.NatsUser != "":
		return nil, usage("there are credentials for NATS, and no server: give --nats-url too")
	case c.Stream == "" || strings.ContainsAny(c.Stream, " \t.*>/\\"):
		return nil, usage("--stream: want a name without spaces and any of . * > / \\")
	case c.Dev && c.given():
		return nil, usage("--dev is for a try without other servers: leave out --nats-url and --nats-context")
	case c.QuarantineBytes < 1<<20, c.QuarantineAge < time.Minute, c.QuarantineMaxBody < 1:
		return nil, usage("--quarantine-bytes must be at least 1MiB, --quarantine-age 1m, and --quarantine-max-body above 0; to have none: --no-quarantine")
	}
	if err := (bridge.Config{Path: c.Path}).Check(); err != nil {
		return nil, usage("--path: %w", err)
	}
	type listen struct{ flag, addr string }
	var taken []listen
	for _, l := range []listen{{"--listen", c.Listen}, {"--admin-listen", c.AdminListen}, {"--nats-listen", c.NatsListen}} {
		if l.flag == "--nats-listen" && (l.addr == "" || c.given()) {
			continue // it does not listen
		}
		if err := checkAddress(l.addr); err != nil {
			return nil, usage("%s: %w", l.flag, err)
		}
		for _, other := range taken {
			if sameAddress(other.addr, l.addr) {
				return nil, usage("%s %s and %s %s are the same address: want an address each", other.flag, other.addr, l.flag, l.addr)
			}
		}
		taken = append(taken, l)
	}
	if info, err := os.Stat(c.DataDir); err == nil && !info.IsDir() {
		return nil, usage("--data-dir: %s is no folder", c.DataDir)
	}
	for _, s := range c.TrustedProxies {
		_, network, err := net.ParseCIDR(strings.TrimSpace(s))
		if err != nil {
			return nil, usage("--trusted-proxies: %w: want a network such as 10.0.0.0/8, or 10.0.0.1/32 for one address", err)
		}
		proxies = append(proxies, network)
	}
	if _, err := c.streamOptions(); err != nil {
		return nil, err
	}
	workers, err := readWorkers(c.NatsAuthFile)
	if err != nil {
		return nil, err
	}
	if len(workers) == 0 && !c.given() && !onLoopback(c.NatsListen) {
		return nil, usage("--nats-listen: %s is not a loopback address: name the workers and their passwords with --nats-auth-file", c.NatsListen)
	}
	if err := publisher.CheckListen(c.NatsListen, workers); err != nil && !c.given() {
		return nil, usage("--nats-listen: %w", err)
	}
	if _, err := readToken(c.AdminTokenFile); err != nil {
		return nil, usageError{err}
	}
	if err := c.checkTLS(); err != nil {
		return nil, err
	}
	if _, err := c.endpoint(); err != nil {
		return nil, err
	}
	if c.given() {
		_, err = c.connector()
	}
	return proxies, err
}

// validate does what can be done without an effect: it returns the secrets, or
// what serve would refuse to start for.
func (c *serveCmd) validate(getenv func(string) string) ([]string, error) {
	secrets, err := c.read(getenv)
	switch {
	case err != nil:
		return nil, usageError{err}
	case c.Dev && len(secrets) > 0, !c.Dev && len(secrets) == 0:
		_, _, err := c.verifier(getenv)
		return secrets, err
	}
	_, err = c.check()
	return secrets, err
}

func (c *serveCmd) streamOptions() (publisher.StreamOptions, error) {
	subject, err := event.ParseTemplate(c.Subject)
	if err != nil {
		return publisher.StreamOptions{}, usage("--subject: %w", err)
	}
	switch {
	case c.Tolerance < time.Second:
		return publisher.StreamOptions{}, usage("--tolerance must be at least 1s: a sender signs whole seconds")
	case c.DedupeWindow < c.Tolerance:
		return publisher.StreamOptions{}, usage("--dedupe-window must be at least --tolerance (%s): what can be replayed must be remembered", c.Tolerance)
	case c.Retention < c.Tolerance:
		return publisher.StreamOptions{}, usage("--retention must be at least --tolerance (%s)", c.Tolerance)
	case c.MaxBody < 1, c.MaxBody > publisher.MaxPayload:
		return publisher.StreamOptions{}, usage("--max-body must be between 1B and 31MiB")
	case c.MaxInFlight < 1, c.MaxConnections < 1, c.MaxWorkers < 1, c.MaxBodyMemory < 1:
		return publisher.StreamOptions{}, usage("--max-in-flight, --max-connections, --max-workers and --max-body-memory must be above 0")
	case c.MaxBytes != 0 && (c.MaxBytes < max(publisher.MinMaxBytes, 4*(c.MaxBody+publisher.HeaderRoom)) || c.MaxBytes > 1<<60):
		return publisher.StreamOptions{}, usage("--max-bytes must be between 16MiB, or four times --max-body and 64KiB, and 1EiB")
	}
	if least := publisher.MinJournalBytes(int(c.MaxBody)); c.JournalMaxBytes != 0 && int64(c.JournalMaxBytes) < least {
		return publisher.StreamOptions{}, usage("--journal-max-bytes must be at least %d with this --max-body", least)
	}
	return publisher.StreamOptions{Name: c.Stream, Subject: subject, Retention: c.Retention, Dedupe: c.DedupeWindow, MaxBytes: int64(c.MaxBytes)}, nil
}
