package bridge

import (
	"crypto/x509"
	"net"
	"os"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/acme"
	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/bridge/internal/quarantine"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// The defaults of [Options].
const (
	DefaultListen      = "127.0.0.1:8080"
	DefaultAdminListen = "127.0.0.1:8081"
	DefaultNATSListen  = "127.0.0.1:4222"

	DefaultPath           = ingress.DefaultPath
	DefaultMaxBody        = ingress.DefaultMaxBody
	DefaultMaxBodyMemory  = ingress.DefaultMaxBodyMemory
	DefaultMaxInFlight    = ingress.DefaultMaxInFlight
	DefaultMaxConnections = ingress.DefaultMaxConnections
	DefaultIdleTimeout    = ingress.DefaultIdleTimeout
	DefaultForgeryRate    = ingress.DefaultForgeryRate
	DefaultACMECA         = acme.DefaultCA

	DefaultQuarantineBytes   = quarantine.DefaultMaxBytes
	DefaultQuarantineAge     = quarantine.DefaultMaxAge
	DefaultQuarantineMaxBody = quarantine.DefaultMaxBody

	DefaultForwardTimeout = 5 * time.Second
)

// Source is a setting that can change while the bridge runs. The zero Source is no
// setting.
type Source[T any] struct {
	// Read returns the present value. Its error says which file or variable is wrong.
	Read func() (T, error)
	// Files returns the names of the files that Read reads. When one of them changes,
	// Read is called again. nil means that the value does not change.
	Files func() []string
}

// Value returns a [Source] whose value does not change.
func Value[T any](v T) Source[T] {
	return Source[T]{Read: func() (T, error) { return v, nil }}
}

// Files returns a [Source] that is read from the files with these names.
func Files[T any](read func() (T, error), names ...string) Source[T] {
	return Source[T]{Read: read, Files: func() []string { return names }}
}

// IsZero reports whether the Source is no setting.
func (s Source[T]) IsZero() bool { return s.Read == nil }

// Options configures a [Bridge]. Secrets is needed, and DataDir unless Journal.Off
// is set; the zero value of everything else is its default.
type Options struct {
	// DataDir is the folder of the journal, the embedded stream and the quarantine, on
	// a local file system. It is created with mode 0700. With Journal.Off it holds the
	// quarantine only, and without a DataDir there is no quarantine.
	DataDir string
	// Secrets are the signing secrets that are accepted; at least one.
	Secrets Source[[]string]
	// Tolerance is how far the time of signing may be in the past or in the future; 0
	// means [verify.DefaultTolerance]. It is at least one second.
	Tolerance time.Duration

	Webhook    WebhookOptions
	Admin      AdminOptions
	Journal    JournalOptions
	Stream     publisher.StreamOptions // the stream that events are published to
	NATS       NATSOptions
	Quarantine QuarantineOptions
	Shutdown   ShutdownOptions

	// Logger gets one line per delivery; nil means no log.
	Logger *zap.Logger
	// OnSampled is called for each line that Logger does not get because too many of
	// its kind came at once. It must not block, and may be nil.
	OnSampled func()
	// Translate rewrites the texts that tell an operator what to do: the warnings and errors in the log, and the reasons on
	// /readyz. They name what to change as a field, such as Options.DataDir or publisher.Options.MaxPayload, and what to do as
	// a request of package [operator], such as [operator.DoRelease]. A program with names of its own puts them in their place.
	// nil leaves the texts as they are.
	Translate func(text string) string
	// Metrics takes the metrics and is served on the admin listener; nil means a new
	// registry. A registry serves one Bridge.
	Metrics *prometheus.Registry
	// Tracer makes the spans of deliveries; nil means none.
	Tracer trace.TracerProvider

	// OnReady is called once, just before the first delivery is accepted, and
	// OnStopping once, when the bridge begins to drain. Both may be nil.
	OnReady, OnStopping func()

	// The rest is for tests. Now is the clock of signatures and of the quarantine; nil
	// means time.Now. Sync replaces (*os.File).Sync in the journal, the embedded
	// stream and the quarantine.
	Now  func() time.Time
	Sync func(*os.File) error
}

// WebhookOptions configures the listener for deliveries, and what it accepts.
type WebhookOptions struct {
	// Listen is the TCP address; empty means [DefaultListen]. Port 0 lets the system
	// choose. Listener replaces it; the bridge closes the listener.
	Listen   string
	Listener net.Listener
	// TLS makes the listener speak HTTPS. Only clients with a certificate of its
	// ClientCAs may connect, if there are any. ACME gets a certificate instead, if it
	// has domains; its Dir is needed.
	TLS  Source[Certificate]
	ACME ACMEOptions

	// Path of the webhook; empty means [DefaultPath]. With or without one slash at its
	// end it is the same.
	Path string
	// MaxBody is the largest body in bytes, on the wire and inflated; 0 means
	// [DefaultMaxBody].
	MaxBody int
	// MaxBodyMemory is the total number of bytes that request bodies may occupy at
	// once, except bodies up to 8 KiB. One source may use half of it. A request that
	// gets no memory within 1.5 s is answered 503. 0 means [DefaultMaxBodyMemory]; it
	// is at least eight times MaxBody.
	MaxBodyMemory int
	// MaxInFlight is how many authentic deliveries are stored at the same time. A
	// further one waits for 40 ms and is then answered 503. 0 means
	// [DefaultMaxInFlight].
	MaxInFlight int
	// MaxConnections is how many connections are open at once. One source may have half
	// of them. It is lowered to what the limit of open files allows. 0 means
	// [DefaultMaxConnections].
	MaxConnections int
	// ReadTimeout is how long a sender may take for a whole request; 0 means 15 s.
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection stays open between two requests. It must be
	// longer than the idle timeout of the load balancer in front: a request that is
	// sent in the instant in which the bridge closes the connection gets no answer. 0
	// means [DefaultIdleTimeout].
	IdleTimeout time.Duration
	// ForgeryRate is how many bad signatures a second one source may send: further ones
	// wait for a second and are answered 429. A good signature is never limited. 0
	// means [DefaultForgeryRate], a negative value no limit.
	ForgeryRate int
	// TrustedProxies are the networks of proxies whose X-Forwarded-For names the source
	// of a request.
	TrustedProxies []*net.IPNet
}

// ACMEOptions say which certificates are needed, and from which CA.
type ACMEOptions struct {
	// Domains that the certificates are for. Port 443 of each must lead to the webhook
	// listener. Setting Domains means that you agree to the CA's terms.
	Domains []string
	// Email is where the CA reaches the operator; it may be empty.
	Email string
	// CA is the URL of the ACME directory; empty means [DefaultACMECA], that of Let's Encrypt.
	CA string
	// Roots are what the directory's own certificate is checked against; nil means the
	// system's.
	Roots *x509.CertPool
	// Dir is the folder for the account and the certificates.
	Dir string
}

// AdminOptions configures the listener for the operator.
type AdminOptions struct {
	// Listen is the TCP address; empty means [DefaultAdminListen]. Port 0 lets the
	// system choose. Listener replaces it; the bridge closes the listener.
	Listen   string
	Listener net.Listener
	// TLS makes the listener speak HTTPS. A client with a certificate of its ClientCAs
	// is an operator, from other machines too.
	TLS Source[Certificate]
	// Token is what operators on other machines show, at least 16 characters.
	Token Source[string]
	// Profile serves the profiles of net/http/pprof at /debug/pprof/, for operators.
	Profile bool
	// Settings returns what /config shows, as JSON, besides the fingerprints of the
	// secrets in force, which it is given. nil means that there is no /config.
	Settings func(secrets []string) any
}

// JournalOptions configures the journal.
type JournalOptions struct {
	// Off means that there is no journal: a 2xx waits until the stream of NATS.Connect
	// has acknowledged the event.
	Off bool
	// MaxBytes is the bound of the journal; 0 means the smaller of 4 GiB and a quarter
	// of the free disk.
	MaxBytes int64
	// Durability is what a stored event survives: [event.Fsync], the default, or
	// [event.OS].
	Durability event.Durability
	// AcceptClock starts although the clock does not fit the newest event in the
	// journal.
	AcceptClock bool
}

// NATSOptions say which NATS server the events are published to: the embedded one,
// or with Connect the operator's own.
type NATSOptions struct {
	// Listen is the address of the embedded server, where workers connect; empty means
	// [DefaultNATSListen]. Port 0 lets the system choose. NoListen makes it reachable
	// for nobody.
	Listen   string
	NoListen bool
	// Workers may connect by name and password. Without Workers, everybody who reaches
	// Listen is a worker, so it must be a loopback address.
	Workers Source[[]publisher.Worker]
	// MaxConnections is how many connections of workers are open at once. It is lowered
	// to what the limit of open files allows. 0 means
	// [publisher.DefaultMaxConnections].
	MaxConnections int
	// TLS makes the embedded server speak TLS. Only clients with a certificate of its
	// ClientCAs may connect, if there are any.
	TLS Source[Certificate]

	// Connect connects to the operator's NATS with the options given, and returns the
	// JetStream domain, or "". It is called again when one of the files that Files
	// returns changes.
	Connect func(...nats.Option) (conn *nats.Conn, domain string, err error)
	Files   func() []string
}

// QuarantineOptions bound the quarantine.
type QuarantineOptions struct {
	// Off means that there is no quarantine.
	Off bool
	// MaxBytes bounds the quarantine on disk; 0 means [DefaultQuarantineBytes]. It is
	// at least 1 MiB.
	MaxBytes int64
	// MaxAge is how long a refused request is kept; 0 means [DefaultQuarantineAge]. It
	// is at least one minute.
	MaxAge time.Duration
	// MaxBody is the largest body of a refused request that is kept; 0 means
	// [DefaultQuarantineMaxBody].
	MaxBody int
}

// ShutdownOptions bound the end of [Bridge.Run].
type ShutdownOptions struct {
	// Delay is how long deliveries are still accepted after the bridge was told to
	// stop, for a load balancer to notice.
	Delay time.Duration
	// Forward is how long, after the last delivery, stored events are forwarded, and
	// the embedded NATS server stays for workers that have events to acknowledge. 0
	// means [DefaultForwardTimeout], a negative value not at all.
	Forward time.Duration
	// Timeout bounds the whole shutdown, whatever the disk does: what has not ended by
	// then is abandoned, and Run returns an error that names it. 0 means 30 s more
	// than Delay and Forward together.
	Timeout time.Duration
}
