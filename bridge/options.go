package bridge

import (
	"crypto/x509"
	"net"
	"os"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/acme"
	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
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

	DefaultPath           = ingress.DefaultPath           // "/webhook"
	DefaultMaxBody        = ingress.DefaultMaxBody        // 1 MiB
	DefaultMaxBodyMemory  = ingress.DefaultMaxBodyMemory  // 32 MiB
	DefaultMaxInFlight    = ingress.DefaultMaxInFlight    // 1024
	DefaultMaxConnections = ingress.DefaultMaxConnections // 8192
	DefaultIdleTimeout    = ingress.DefaultIdleTimeout    // 65 minutes
	DefaultForgeryRate    = ingress.DefaultForgeryRate    // 50 a second
	DefaultACMECA         = acme.DefaultCA                // the directory of Let's Encrypt

	DefaultQuarantineBytes   = 64 << 20
	DefaultQuarantineAge     = 7 * 24 * time.Hour
	DefaultQuarantineMaxBody = 64 << 10

	DefaultForwardTimeout = 5 * time.Second
)

// Source is where a setting comes from that can change while the bridge runs. The zero Source means that the setting is
// not given.
type Source[T any] struct {
	// Read returns the present value. Its error must say which file or variable is wrong.
	Read func() (T, error)
	// Files returns the names of the files that Read reads. When one of them changes, the bridge calls Read again. nil
	// means that the value never changes.
	Files func() []string
}

// Value returns a [Source] whose value never changes.
func Value[T any](v T) Source[T] {
	return Source[T]{Read: func() (T, error) { return v, nil }}
}

// Files returns a [Source] that calls read again when one of the named files changes.
func Files[T any](read func() (T, error), names ...string) Source[T] {
	return Source[T]{Read: read, Files: func() []string { return names }}
}

// IsZero reports whether the setting is not given.
func (s Source[T]) IsZero() bool { return s.Read == nil }

// Options configures a [Bridge]. Secrets is required, and so is DataDir unless Journal.Off is set. The zero value of
// every other field means its default.
type Options struct {
	// DataDir is the folder of the journal, the embedded stream and the quarantine. It must be on a local file system.
	// The bridge creates it with mode 0700. With Journal.Off it holds only the quarantine; if it is empty, there is no
	// quarantine.
	DataDir string
	// Secrets are the signing secrets that are accepted. At least one is needed.
	Secrets Source[[]string]
	// Tolerance is how far the time of signing may be in the past or in the future, at least one second. 0 means
	// [verify.DefaultTolerance].
	Tolerance time.Duration

	Webhook    WebhookOptions
	Admin      AdminOptions
	Journal    JournalOptions
	Stream     publisher.StreamOptions // the stream that events are published to
	NATS       NATSOptions
	Quarantine QuarantineOptions
	Shutdown   ShutdownOptions

	// Logger gets one line for each delivery. nil means that nothing is logged.
	Logger *zap.Logger
	// OnSampled is called for each line that is not written to Logger because there were too many lines of its kind
	// within a second. It must not block. It may be nil.
	OnSampled func()
	// Translate rewrites the texts that tell an operator what to do: the warnings and errors in the log, and the
	// reasons on /readyz. The texts name an option by its Go field, such as Options.DataDir, and an action by the value
	// of its constant in package [operator], such as [operator.DoRelease]. Translate replaces these names with names
	// that your users know, such as --data-dir. nil leaves the texts as they are.
	Translate func(text string) string
	// Metrics is where the bridge registers its metrics, and what the admin listener serves. Each Bridge needs a
	// registry of its own. nil means a new registry.
	Metrics *prometheus.Registry
	// Tracer makes the spans of deliveries. nil means that there are no spans.
	Tracer trace.TracerProvider

	// OnReady is called once, just before the first delivery is accepted. OnStopping is called once, when the bridge
	// begins to drain. Both may be nil.
	OnReady, OnStopping func()

	// Now and Sync are for tests. Now is the clock of signatures and of the quarantine; nil means time.Now. Sync
	// replaces (*os.File).Sync in the journal, the embedded stream and the quarantine.
	Now  func() time.Time
	Sync func(*os.File) error
}

// WebhookOptions configures the listener for deliveries, and what it accepts.
type WebhookOptions struct {
	// Listen is the TCP address. With port 0 the system chooses a port. Empty means [DefaultListen].
	Listen string
	// Listener is used instead of Listen unless it is nil. The bridge closes it.
	Listener net.Listener
	// TLS makes the listener speak HTTPS. If it has ClientCAs, a client needs a certificate of one of them.
	TLS Source[Certificate]
	// ACME makes the listener speak HTTPS with certificates that it gets itself, if there are domains. TLS must not be
	// given then.
	ACME ACMEOptions

	// Path is the path of the webhook. One slash more at its end makes no difference. Empty means [DefaultPath].
	Path string
	// MaxBody is the largest body in bytes: as sent, after decompression, and after it is re-serialized as compact JSON. 0
	// means [DefaultMaxBody].
	MaxBody int
	// MaxBodyMemory is the total number of bytes that request bodies may occupy at once. Uncompressed bodies up to 8
	// KiB are not counted. One source (an IPv4 address or an IPv6 /64) may use at most half. A request that gets no memory
	// within 1.5 s is answered 503. 0 means [DefaultMaxBodyMemory]. A smaller value than eight times MaxBody is raised to
	// that.
	MaxBodyMemory int
	// MaxInFlight is the number of authentic deliveries that are stored at the same time. One more waits for 40 ms and
	// is then answered 503. 0 means [DefaultMaxInFlight].
	MaxInFlight int
	// MaxConnections is the number of connections that may be open at once. One source that is not in TrustedProxies may
	// have at most half of them. The bridge lowers the number to what the limit of open files allows. 0 means
	// [DefaultMaxConnections].
	MaxConnections int
	// ReadTimeout is how long a sender may take to send a whole request. 0 means 15 s.
	ReadTimeout time.Duration
	// IdleTimeout is how long a connection stays open between two requests. It must be longer than the idle timeout of
	// the load balancer in front. Otherwise a request that the load balancer sends just when the bridge closes the
	// connection gets no answer. 0 means [DefaultIdleTimeout].
	IdleTimeout time.Duration
	// ForgeryRate is the number of bad signatures per second that one source may send. More are answered 429, each after a
	// second. Good signatures are never limited. 0 means [DefaultForgeryRate], and a negative value means no limit.
	ForgeryRate int
	// TrustedProxies are the networks of the proxies in front. The bridge believes the client address that they send in
	// X-Forwarded-For.
	TrustedProxies []*net.IPNet
}

// ACMEOptions says for which domains the bridge gets certificates, and from which CA.
type ACMEOptions struct {
	// Domains are the names in the certificates. Port 443 of each domain must lead to the webhook listener. With
	// domains, you agree to the CA's terms.
	Domains []string
	// Email is the address at which the CA reaches you. It may be empty.
	Email string
	// CA is the URL of the CA's ACME directory. Empty means Let's Encrypt.
	CA string
	// Roots are the authorities that sign the certificate of the directory's server. nil means those of the system.
	Roots *x509.CertPool
	// Dir is the folder for the account and the certificates. It is required with domains.
	Dir string
}

// AdminOptions configures the listener for the operator.
type AdminOptions struct {
	// Listen is the TCP address. With port 0 the system chooses a port. Empty means [DefaultAdminListen].
	Listen string
	// Listener is used instead of Listen unless it is nil. The bridge closes it.
	Listener net.Listener
	// TLS makes the listener speak HTTPS. A client with a certificate of one of its ClientCAs counts as an operator,
	// even on another machine.
	TLS Source[Certificate]
	// Token is what an operator on another machine must send, at least 16 characters.
	Token Source[string]
	// Profile serves the profiles of net/http/pprof at /debug/pprof/ to operators.
	Profile bool
	// Settings returns what /config answers as JSON. It is given the fingerprints of the secrets in force. nil means
	// that there is no /config.
	Settings func(secrets []string) any
}

// JournalOptions configures the journal.
type JournalOptions struct {
	// Off means that there is no journal. A delivery is then answered with 2xx when the stream of NATS.Connect has
	// acknowledged its event.
	Off bool
	// MaxBytes bounds the journal on disk. 0 means 4 GiB or a quarter of the free disk, whichever is smaller.
	MaxBytes int64
	// Durability is what a stored event survives: [event.Fsync] or [event.OS]. Empty means [event.Fsync].
	Durability event.Durability
	// AcceptClock lets the bridge start although the clock is implausible, compared with the newest event in the
	// journal.
	AcceptClock bool
}

// NATSOptions says which NATS server the events are published to: the embedded server, or with Connect a server of
// yours.
type NATSOptions struct {
	// Listen is the TCP address of the embedded server, where workers connect. With port 0 the system chooses a port.
	// Empty means [DefaultNATSListen].
	Listen string
	// NoListen means that the embedded server does not listen.
	NoListen bool
	// Workers are the names and passwords of those who may connect. Without Workers, everybody who reaches Listen is a
	// worker, so Listen must be a loopback address.
	Workers Source[[]publisher.Worker]
	// MaxConnections is the number of connections of workers that may be open at once. The bridge lowers the number to
	// what the limit of open files allows. 0 means [publisher.DefaultMaxConnections].
	MaxConnections int
	// TLS makes the embedded server speak TLS. If it has ClientCAs, a worker needs a certificate of one of them.
	TLS Source[Certificate]

	// Connect connects to your NATS with the given options. It returns the connection and the JetStream domain, which
	// may be empty.
	Connect func(...nats.Option) (conn *nats.Conn, domain string, err error)
	// Files returns the names of the files that Connect reads. When one of them changes, the bridge calls Connect
	// again. It may be nil.
	Files func() []string
}

// QuarantineOptions bounds the quarantine.
type QuarantineOptions struct {
	// Off means that there is no quarantine.
	Off bool
	// MaxBytes bounds the quarantine on disk, at least 1 MiB. 0 means [DefaultQuarantineBytes].
	MaxBytes int64
	// MaxAge is how long a refused request is kept, at least one minute. 0 means [DefaultQuarantineAge].
	MaxAge time.Duration
	// MaxBody is the largest body in bytes of a refused request that is kept. 0 means [DefaultQuarantineMaxBody].
	MaxBody int
}

// ShutdownOptions bounds the steps that end [Bridge.Run].
type ShutdownOptions struct {
	// Delay is how long deliveries are still accepted after the context of Run has ended. In this time a load balancer
	// notices that the bridge is not ready.
	Delay time.Duration
	// Forward is how long stored events are still forwarded after the last delivery was answered. For as long, the
	// embedded NATS server waits for the workers to acknowledge what they have got. 0 means [DefaultForwardTimeout],
	// and a negative value means no time.
	Forward time.Duration
	// Timeout bounds the whole shutdown. A step that has not ended by then is abandoned, and the error of Run names it.
	// 0 means Delay, Forward and another 30 s.
	Timeout time.Duration
}
