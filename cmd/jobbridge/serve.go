package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/alecthomas/kong"
	"github.com/alecthomas/units"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/jobbridge/jobbridge/bridge"
	"go.uber.org/zap"
)

type serveCmd struct {
	Listen         string           `help:"Address for webhooks." default:"127.0.0.1:8080"`
	Path           string           `help:"Path of the webhook." default:"/webhook"`
	AdminListen    string           `help:"Address for the operator: /healthz, /readyz, /metrics, and what the other commands ask." default:"127.0.0.1:8081"`
	NatsListen     string           `help:"Address of the embedded NATS server for workers; off loopback only with --nats-auth-file. Empty: none. With --nats-url it does not listen." default:"127.0.0.1:4222"`
	NatsAuthFile   string           `help:"File of name:password lines (the password plain or bcrypt): only these workers may connect." placeholder:"FILE" type:"path"`
	DataDir        string           `help:"Folder of the journal; default ./jobbridge-data. With --journal=off: of the quarantine, which is off without it." placeholder:"DIR" type:"path"`
	Journal        string           `help:"on: a 2xx means stored in the journal, which --nats-url copies to the remote stream. off: a 2xx means stored in the remote stream of --nats-url." enum:"on,off" default:"on"`
	Durability     string           `help:"What a 2xx survives: fsync, power loss; os, a crash of the process only." enum:"fsync,os" default:"fsync"`
	CommitMethod   string           `help:"How --durability=fsync reaches the disk: ${enum}. blocks syncs the files that changed, syncfs their file system, always makes the server sync each event by itself; auto is the cheapest that is known to be right." enum:"auto,blocks,syncfs,always" default:"auto"`
	Stream         string           `help:"Name of the stream." default:"JOBS"`
	Subject        string           `help:"Subject of an event, made of {kind}, {status} and {id}." default:"{kind}.{status}"`
	Retention      time.Duration    `help:"How long events are kept." default:"168h"`
	DedupeWindow   time.Duration    `help:"How long a job and status are remembered." default:"24h"`
	MaxBytes       units.Base2Bytes `help:"Bound of the stream, such as 2GiB; when it is full of events that are younger than --retention, deliveries are refused. Default: the smaller of 10 GiB and half the free disk, when the stream is created." placeholder:"SIZE"`
	MaxBody        units.Base2Bytes `help:"Largest body, on the wire and inflated." default:"1MiB"`
	MaxBodyMemory  units.Base2Bytes `help:"What bodies of more than 8 KiB take together while they are read, judged and stored, half of it for one source; what comes on top waits a moment and is answered 503. It is eight times --max-body at the least." default:"32MiB"`
	MaxInFlight    int              `help:"Deliveries stored at once; what comes on top waits a moment and is answered 503." default:"1024"`
	MaxConnections int              `help:"Open connections of the webhook listener, half of them for one source that is no trusted proxy; what comes on top waits, or is closed. Lowered to what the system's limit of open files allows." default:"8192"`
	MaxWorkers     int              `help:"Open connections of the embedded NATS server; lowered likewise." default:"1024"`
	Tolerance      time.Duration    `help:"How far the time of signing may be from now, both ways." default:"5m"`
	DrainDelay     time.Duration    `help:"How long deliveries are still taken after a signal to stop, for a load balancer to notice." default:"0s"`
	ForgeryRate    int              `help:"Bad signatures a second that one source may send before it waits a second for each answer, a 429; good ones are never limited. 0: no limit." default:"50"`
	AdminTokenFile string           `help:"File with the token that operators on other machines send to the admin listener, which should have --admin-tls-cert then; without it, everything there but the state and the metrics is for loopback." placeholder:"FILE" type:"path"`
	TrustedProxies []string         `help:"Networks of the proxies in front, such as 10.0.0.0/8: their X-Forwarded-For tells the source of a request." placeholder:"CIDR"`
	Pprof          bool             `help:"Serve profiles at /debug/pprof/ of the admin listener, for operators."`
	AcceptClock    bool             `help:"Start although the clock looks wrong beside the journal."`
	Dev            bool             `help:"For a try: make a secret, keep it in the data folder, send a first delivery, and print the commands to go on with."`
	quarantineFlags
	WebhookTLS tlsFlags `embed:"" set:"prefix=" set:"listener=webhook listener" set:"clients=whose clients may connect; nobody else may"`
	acmeFlags
	AdminTLS tlsFlags `embed:"" prefix:"admin-" set:"prefix=admin-" set:"listener=admin listener" set:"clients=whose clients are operators, from other machines too"`
	NatsTLS  tlsFlags `embed:"" prefix:"nats-" set:"prefix=nats-" set:"listener=embedded NATS server" set:"clients=whose clients may connect, besides what --nats-auth-file asks for; nobody else may"`
	natsFlags
	secretFlags
	logFlags
	traceFlags
	Config kong.ConfigFlag `help:"YAML file with values for these flags, by their names." placeholder:"FILE"`
}

// quarantineFlags bound what is kept of the requests that were refused for
// their signature or their clock.
type quarantineFlags struct {
	Quarantine        bool             `help:"Keep requests that are refused for their signature or their clock: jobbridge quarantine releases them." default:"true" negatable:""`
	QuarantineBytes   units.Base2Bytes `help:"Bound of the quarantine; the oldest is dropped first. One source fills a quarter at once and a quarter an hour at the most." default:"64MiB"`
	QuarantineAge     time.Duration    `help:"How long it keeps a request." default:"168h"`
	QuarantineMaxBody units.Base2Bytes `help:"Largest body it keeps." default:"64KiB"`
}

// Help implements kong's long help.
func (serveCmd) Help() string {
	return `A 2xx answer means that the event is on stable storage, once per job and status, in the bytes that were signed. ` +
		`SIGTERM or SIGINT drains and stops; a second one stops at once. Every flag is also an environment variable, ` +
		`and a key of the file given with --config; a flag wins over the variable, and that over the file.`
}

// Run serves until ctx ends or the storage fails.
func (c *serveCmd) Run(ctx context.Context, k *kong.Context, s streams) (err error) {
	s.outlive()
	hangup := s.hangup()
	log, lines := c.logger(s.err)
	defer lines.close()
	defer context.AfterFunc(ctx, lines.hasten)() // a second signal ends the process as it is
	warnings := c.warnings()
	for _, hint := range append(misspelt(k.Model, os.Environ()), warnings...) {
		log.Warn(hint)
	}
	c.fillIn()
	verifier, secrets, err := c.verifier(s.getenv)
	if err != nil {
		return err
	}
	proxies, err := c.check()
	if err != nil {
		return err
	}
	if err := c.fit(log); err != nil {
		return err
	}
	traces, stopTraces, err := c.tracer(ctx, s.getenv, log)
	if err != nil {
		return err
	}
	defer stopTraces()
	// The listeners first: a taken port fails before anything has begun, and a
	// delivery that comes while the journal opens waits instead of failing.
	listener, adminListener, err := c.listen(ctx)
	if err != nil {
		return err
	}
	defer listener.Close() // the bridge has closed it, unless it never began
	o, closeOperator, err := c.openOperator(ctx, adminListener, log, traces, lines.dropped)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeOperator()) }()
	o.health.Set(configPart, bridge.Ready, warnings...)
	c.reloadSecrets(o, s.getenv, verifier, secrets)
	o.admin.Operate("GET /config", func(context.Context, url.Values) (any, error) {
		return c.settings(k, s.getenv, verifier.Fingerprints()), nil
	})

	store, err := c.openStorage(ctx, verifier, o)
	if err != nil {
		if ctx.Err() != nil {
			return nil // it was asked to stop before it had begun
		}
		return err
	}
	defer func() { err = errors.Join(err, store.close()) }()
	serving, stop := context.WithCancel(ctx)
	defer stop()
	https, err := c.https(serving, o, listener)
	if err != nil {
		return err
	}
	var quarantine bridge.Quarantine
	if store.quarantine != nil {
		quarantine = store.quarantine
	}
	b, err := bridge.New(bridge.Config{
		Verifier: verifier, Publisher: store.publisher, Path: c.Path, MaxBody: int(c.MaxBody), MaxBodyMemory: int(c.MaxBodyMemory), MaxInFlight: c.MaxInFlight, MaxConnections: c.MaxConnections,
		DrainDelay: c.DrainDelay, Quarantine: quarantine, Tolerance: c.Tolerance, TrustedProxies: proxies, Health: o.health, Registerer: o.registry, Logger: log, OnSampled: o.sampled,
		TLS: https, ForgeryRate: cmp.Or(c.ForgeryRate, -1), Tracer: traces,
	})
	if err != nil {
		return usageError{err}
	}
	o.health.Start(store.durability)
	webhook, admin := urlOf(c.secure(), listener), urlOf(c.AdminTLS.given(), adminListener)
	log.Info("ready", zap.String("webhook", webhook+c.Path), zap.String("nats", store.natsURL()), zap.String("admin", admin),
		zap.String("durability", string(store.durability)), zap.Strings("secrets", verifier.Fingerprints()))
	notify(log, daemon.SdNotifyReady)
	var beside sync.WaitGroup
	beside.Go(func() {
		select {
		case <-store.failed: // drain, and let a supervisor start over
			stop()
		case <-serving.Done():
		}
		notify(log, daemon.SdNotifyStopping)
	})
	reloaded := make(chan struct{})
	go func() { defer close(reloaded); o.reload.run(serving, hangup) }()
	if c.Dev {
		beside.Go(func() { c.welcome(serving, s, secrets[0], webhook+c.Path, admin, store.natsURL()) })
	}
	err = b.Serve(serving, listener)
	stop()
	beside.Wait()
	select {
	case <-reloaded:
	case <-time.After(reloadWait):
	}
	return err
}

// reloadWait is how long the end waits for the reading of files: one may be on a
// file system that hangs.
const reloadWait = 3 * time.Second

// urlOf is where a listener is reached.
func urlOf(secure bool, ln net.Listener) string {
	if secure {
		return "https://" + ln.Addr().String()
	}
	return "http://" + ln.Addr().String()
}

// notify tells systemd, if it asked to be told. One that does not listen must
// not hold up deliveries.
func notify(log *zap.Logger, state string) {
	told := make(chan error, 1)
	go func() {
		_, err := daemon.SdNotify(false, state)
		told <- err
	}()
	select {
	case err := <-told:
		if err != nil {
			log.Warn("notify systemd", zap.Error(err))
		}
	case <-time.After(200 * time.Millisecond):
		log.Warn("notify systemd: it does not listen")
	}
}
