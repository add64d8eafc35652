package main

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/alecthomas/kong"
	"github.com/alecthomas/units"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/jobbridge/jobbridge/bridge"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
)

type serveCmd struct {
	Flags serveFlags `embed:""`
}

// defaultDataDir is the data folder unless another one is given.
const defaultDataDir = "./jobbridge-data"

// serveFlags are the flags of serve, which config check and config print take too.
type serveFlags struct {
	Listen          string           `help:"Address for webhooks." default:"127.0.0.1:8080"`
	Path            string           `help:"Path of the webhook." default:"/webhook"`
	AdminListen     string           `help:"Address for the operator: /healthz, /readyz, /metrics, and the requests of the other commands." default:"127.0.0.1:8081"`
	NATSListen      string           `name:"nats-listen" help:"Address of the embedded NATS server, where workers connect. Other addresses than loopback need --nats-auth-file. Empty: it does not listen. With --nats-url there is no embedded server." default:"127.0.0.1:4222"`
	NATSAuthFile    string           `name:"nats-auth-file" help:"File of name:password lines (the password plain or bcrypt): only these workers may connect to the embedded NATS server, each in an account of its own. Read again when it changes." placeholder:"FILE" type:"path"`
	DataDir         string           `help:"Folder of the journal, the embedded stream and the quarantine, on a local file system; default ./jobbridge-data. With --journal=off the folder holds the quarantine only, and without --data-dir there is no quarantine." placeholder:"DIR" type:"path"`
	Journal         string           `help:"on: a 2xx means that the event is in the journal in the data folder; it is forwarded to the embedded NATS server or to --nats-url. off: a 2xx means that the stream of --nats-url has acknowledged the event." enum:"on,off" default:"on"`
	JournalMaxBytes units.Base2Bytes `help:"Bound of the journal, such as 2GiB. When events that are not forwarded yet fill it, deliveries are refused. Default: the smaller of 4 GiB and a quarter of the free disk." placeholder:"SIZE"`
	Durability      string           `help:"What a stored event survives. fsync: power loss. os: a crash of the process only." enum:"fsync,os" default:"fsync"`
	Stream          string           `help:"Name of the stream that events are published to." default:"JOBS"`
	Subject         string           `help:"Subject of an event, made of {kind}, {status} and {id}." default:"{kind}.{status}"`
	Retention       time.Duration    `help:"How long the embedded stream keeps an event." default:"168h"`
	DedupeWindow    time.Duration    `help:"How long the journal remembers a job and status, to recognize a duplicate." default:"24h"`
	MaxBytes        units.Base2Bytes `help:"Bound of the embedded stream, such as 2GiB. When events that durable consumers have not acknowledged fill it, new events wait in the journal. Default: the smaller of 10 GiB and half of the free disk, when the stream is created." placeholder:"SIZE"`
	MaxBody         units.Base2Bytes `help:"Largest body, on the wire and inflated." default:"1MiB"`
	MaxBodyMemory   units.Base2Bytes `help:"Total size of the request bodies in memory, except bodies up to 8 KiB. One source may use half of it. A request that gets no memory within 1.5 s is answered 503. At least eight times --max-body." default:"32MiB"`
	MaxInFlight     int              `help:"Deliveries that are stored at the same time. A further one waits for 40 ms and is then answered 503." default:"1024"`
	MaxConnections  int              `help:"Open connections of the webhook listener. One source that is no trusted proxy may have half of them. A further connection waits or is closed. Lowered to what the system's limit of open files allows." default:"8192"`
	MaxWorkers      int              `help:"Open connections of workers to the embedded NATS server. Lowered to what the system's limit of open files allows." default:"1024"`
	Tolerance       time.Duration    `help:"How far the time of signing may be in the past or in the future." default:"5m"`
	IdleTimeout     time.Duration    `help:"How long an idle connection of the webhook listener stays open. It must be longer than the idle timeout of the load balancer in front, or a delivery may hit a connection that is just being closed." default:"65m"`
	DrainDelay      time.Duration    `help:"How long deliveries are still accepted after a signal to stop, for a load balancer to notice." default:"0s"`
	DrainTimeout    time.Duration    `help:"How long, after the last delivery, the bridge forwards stored events and the embedded NATS server stays for workers that have events to acknowledge. The rest follows at the next start." default:"5s"`
	ForgeryRate     int              `help:"Bad signatures a second that one source may send. Beyond that it waits a second for each answer, a 429. A delivery with a good signature is never limited. 0: no limit." default:"50"`
	AdminTokenFile  string           `help:"File with the token that operators on other machines send to the admin listener, which should then have --admin-tls-cert. Without a token, other machines get the state and the metrics only." placeholder:"FILE" type:"path"`
	TrustedProxies  []string         `help:"Networks of the proxies in front, such as 10.0.0.0/8: their X-Forwarded-For names the source of a request." placeholder:"CIDR"`
	Pprof           bool             `help:"Serve profiles at /debug/pprof/ of the admin listener, for operators."`
	AcceptClock     bool             `help:"Start although the clock does not fit the time of the newest event in the journal: events in the embedded stream may expire at once."`
	Dev             bool             `help:"To try jobbridge: generate a secret, store it in the data folder, send a first delivery, and print the next commands."`
	Quarantine      quarantineFlags  `embed:""`
	WebhookTLS      tlsFlags         `embed:"" set:"prefix=" set:"listener=webhook listener" set:"clients=whose clients may connect; nobody else may"`
	ACME            acmeFlags        `embed:"" prefix:"acme-"`
	AdminTLS        tlsFlags         `embed:"" prefix:"admin-" set:"prefix=admin-" set:"listener=admin listener" set:"clients=whose clients are operators, from other machines too"`
	NATSTLS         tlsFlags         `embed:"" prefix:"nats-" set:"prefix=nats-" set:"listener=embedded NATS server" set:"clients=whose clients may connect, besides what --nats-auth-file asks for; nobody else may"`
	NATS            natsFlags        `embed:"" prefix:"nats-"`
	Secrets         secretFlags      `embed:""`
	Log             logFlags         `embed:""`
	Trace           traceFlags       `embed:""`
	Config          kong.ConfigFlag  `help:"YAML file with values for these flags, by their names." placeholder:"FILE"`
}

// quarantineFlags bound the quarantine.
type quarantineFlags struct {
	Enabled bool             `name:"quarantine" help:"Store requests that are refused for their signature or their clock, and events that the stream can never accept: jobbridge quarantine lists and releases them." default:"true" negatable:""`
	Bytes   units.Base2Bytes `name:"quarantine-bytes" help:"Bound of the quarantine. The oldest refused request is dropped first; events are never dropped. One source can fill a quarter at once and a quarter an hour." default:"64MiB"`
	Age     time.Duration    `name:"quarantine-age" help:"How long the quarantine keeps a refused request." default:"168h"`
	MaxBody units.Base2Bytes `name:"quarantine-max-body" help:"Largest body of a refused request that the quarantine stores." default:"64KiB"`
}

// Help implements kong's long help.
func (serveCmd) Help() string {
	return `A 2xx answer means that the event is on stable storage in the journal, once per job and status, in the bytes that were signed. ` +
		`It is then published to NATS; while NATS is down, deliveries are still accepted. ` +
		`After SIGTERM or SIGINT the bridge finishes what is in flight, forwards what is stored for at most --drain-timeout, and stops; a second one stops it at once. Every flag is also an environment variable, ` +
		`and a key of the file given with --config; a flag wins over the variable, and the variable over the file.`
}

// Run serves until ctx ends or the storage fails.
func (c *serveCmd) Run(ctx context.Context, k *kong.Context, s streams) error {
	s.outlive()
	hangup := s.hangup()
	log, lines := c.Flags.Log.logger(s.err)
	defer lines.close()
	defer context.AfterFunc(ctx, lines.hasten)() // a second signal ends the process as it is
	for _, hint := range misspelt(k.Model, os.Environ()) {
		log.Warn(hint)
	}
	o, err := c.Flags.options(s.getenv)
	if err != nil {
		return err
	}
	devSecret := ""
	if c.Flags.Dev {
		if devSecret, err = makeDevSecret(o); err != nil {
			return err
		}
		o.Secrets = bridge.Value([]string{devSecret})
	}
	var stopTraces func()
	if o.Tracer, stopTraces, err = c.Flags.Trace.tracer(ctx, s.getenv, log); err != nil {
		return err
	}
	defer stopTraces()
	if o.Webhook.Listener, o.Admin.Listener, err = inherited(); err != nil {
		return err
	}
	o.Logger, o.OnSampled, o.Metrics = log, lines.dropped.WithLabelValues(whySampled).Inc, prometheus.NewRegistry()
	o.Metrics.MustRegister(buildInfo(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), collectors.NewBuildInfoCollector(), lines.dropped)
	o.Admin.Settings = func(secrets []string) any { return c.Flags.settings(k, s.getenv, secrets) }
	ready := make(chan struct{})
	var beside sync.WaitGroup
	o.OnReady = func() { notify(log, daemon.SdNotifyReady); close(ready) }
	o.OnStopping = func() { beside.Go(func() { notify(log, daemon.SdNotifyStopping) }) }
	b, err := bridge.New(o)
	if err != nil {
		return inFlags(err)
	}
	running, stop := context.WithCancel(ctx)
	beside.Go(func() {
		for {
			select {
			case <-hangup:
				log.Info("SIGHUP: reading files again")
				b.Reload()
			case <-running.Done():
				return
			}
		}
	})
	if c.Flags.Dev {
		beside.Go(func() {
			select {
			case <-ready:
				c.Flags.welcome(running, s, devSecret, b.Addrs())
			case <-running.Done():
			}
		})
	}
	err = b.Run(ctx)
	stop()
	beside.Wait()
	return inFlags(err)
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
