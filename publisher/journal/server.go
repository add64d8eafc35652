package journal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// CheckListen refuses what [Open] does of [Options.Listen] and [Options.Workers]:
// above all, to serve the network without passwords.
func CheckListen(addr string, workers []Worker) error {
	for i, w := range workers {
		if w.User == "" || w.Password == "" || w.User == bridgeUser || w.User == keeperUser {
			return fmt.Errorf("journal: Options.Workers[%d]: a worker needs a name, other than %q and %q, and a password", i, bridgeUser, keeperUser)
		}
	}
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("journal: Options.Listen: %w", err)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && len(workers) == 0 {
		return fmt.Errorf("journal: %s is off loopback: workers need passwords (--nats-auth-file)", addr)
	}
	return nil
}

// start runs a server on the folder, connects to it and ensures the stream.
func (j *Journal) start(ctx context.Context, syncAlways bool) error {
	j.syncAlways, j.password = syncAlways, rand.Text()
	opts, err := j.serverOptions()
	if err != nil {
		return err
	}
	if j.srv, err = server.NewServer(opts); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	if err := j.accounts.start(j.srv, j.opts.Workers); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	logger := newServerLogger(j.log.Named("nats"), j.opts.OnSampled)
	j.srv.SetLoggerV2(logger, false, false, false)
	started := make(chan struct{})
	go func() { defer close(started); j.srv.Start() }()
	// Start returns when it listens or has failed; recovery of a large stream
	// takes part of that time.
	select {
	case <-started:
	case <-ctx.Done():
		return fmt.Errorf("embedded NATS server: %w", context.Cause(ctx))
	}
	if err := logger.fatal(); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	if !j.srv.ReadyForConnections(5*time.Second) || !j.srv.JetStreamEnabled() {
		return errors.New("embedded NATS server: it did not start; its log says why")
	}
	if err := j.connect(ctx); err != nil {
		return err
	}
	return j.keep(ctx)
}

// connect opens the owner's connection and ensures the stream.
func (j *Journal) connect(ctx context.Context) (err error) {
	j.conn, err = nats.Connect("", nats.InProcessServer(j.srv), nats.Name("jobbridge"), nats.UserInfo(bridgeUser, j.password),
		nats.CustomInboxPrefix(bridgeInbox), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { j.log.Error("journal connection", zap.Error(err)) }))
	if err != nil {
		return fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	if j.js, err = jetstream.New(j.conn); err != nil {
		return fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	want, err := j.streamConfig(ctx)
	if err != nil {
		return err
	}
	// If the stream is missing but its folder is there, its meta files were
	// lost: creating it again brings its messages back.
	j.stream, _, err = publisher.EnsureStream(ctx, j.js, want)
	return err
}

// own is how many of the server's connections are the journal's.
func (j *Journal) own() int {
	if len(j.opts.Private) > 0 {
		return 2
	}
	return 1
}

// keep opens the private streams.
func (j *Journal) keep(ctx context.Context) (err error) {
	if len(j.opts.Private) == 0 {
		return nil
	}
	j.keeper, err = nats.Connect("", nats.InProcessServer(j.srv), nats.Name("jobbridge"), nats.UserInfo(keeperUser, j.password),
		nats.MaxReconnects(-1), nats.ReconnectBufSize(-1))
	if err != nil {
		return fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	if j.keepJS, err = jetstream.New(j.keeper); err != nil {
		return fmt.Errorf("connect to the embedded NATS server: %w", err)
	}
	for _, p := range j.opts.Private {
		if _, _, err := publisher.EnsureStream(ctx, j.keepJS, p.Config); err != nil {
			return err
		}
	}
	return nil
}

// Bounds of a stream that was given none.
const (
	defaultMaxBytes = 10 << 30
	minMaxBytes     = 64 << 20
)

// streamConfig decides the stream's size. A bound that nobody asked for stays
// as it was created: the free disk shrinks by what the journal itself holds.
// A bound is not lowered below what is held, for trimming would soon take it.
// The stream may be above the one it has: after a power cut the blocks that were
// trimmed last are back.
func (j *Journal) streamConfig(ctx context.Context) (jetstream.StreamConfig, error) {
	want := j.opts.Stream.Config()
	s, err := j.js.Stream(ctx, want.Name)
	switch {
	case err == nil:
		held, bound := int64(s.CachedInfo().State.Bytes), s.CachedInfo().Config.MaxBytes
		if j.opts.Stream.MaxBytes == 0 {
			want.MaxBytes = bound
		}
		lowered := want.MaxBytes > 0 && (bound <= 0 || want.MaxBytes < bound)
		if lowered && want.MaxBytes < held {
			return want, fmt.Errorf("journal: the stream holds %d bytes: a bound of %d would have events trimmed that were acknowledged: raise --max-bytes", held, want.MaxBytes)
		}
	case !errors.Is(err, jetstream.ErrStreamNotFound):
		return want, fmt.Errorf("look up stream %s: %w", want.Name, err)
	case j.opts.Stream.MaxBytes == 0:
		free, err := freeBytes(j.opts.Dir)
		if err != nil {
			return want, fmt.Errorf("free space of %s: %w", j.opts.Dir, err)
		}
		want.MaxBytes = min(defaultMaxBytes, max(free/2, minMaxBytes))
	}
	return want, nil
}

func (j *Journal) serverOptions() (_ *server.Options, err error) {
	opts := new(server.Options)
	config := j.opts.Stream.Config()
	if j.accounts, err = newAccounts(opts, config.Name, config.Subjects, j.password); err != nil {
		return nil, err
	}
	opts.ServerName = "jobbridge"
	opts.NoSigs = true // or the server would catch SIGTERM and exit the process
	opts.DisableJetStreamBanner = true
	opts.MaxPayload = int32(min(j.opts.MaxPayload+publisher.HeaderRoom, math.MaxInt32))
	opts.JetStream = true
	opts.StoreDir = j.opts.Dir
	opts.SyncAlways = j.syncAlways
	// The timer of the store compacts blocks by renames that it does not sync.
	// The commit is the only fsync.
	opts.SyncInterval = 8760 * time.Hour
	// The streams carry their own bounds. A bound of the server below one of
	// them would keep that stream from being recovered.
	opts.JetStreamMaxStore = math.MaxInt64 / 2
	opts.JetStreamMaxMemory = 64 << 20
	opts.MaxConn = j.opts.MaxConnections + j.own()
	opts.TLSConfig = j.opts.TLS
	opts.DontListen = j.opts.Listen == ""
	if !opts.DontListen {
		host, port, err := net.SplitHostPort(j.opts.Listen)
		if err != nil {
			return nil, fmt.Errorf("journal: Options.Listen: %w", err)
		}
		opts.Host = host
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("journal: Options.Listen: port %q", port)
		}
		if opts.Port == 0 {
			opts.Port = server.RANDOM_PORT
		}
	}
	return opts, nil
}

// SetWorkers replaces the workers that may connect. A worker that is no longer
// among them, or has another password, is disconnected; nobody else is disturbed.
func (j *Journal) SetWorkers(workers []Worker) error {
	if err := CheckListen(j.opts.Listen, workers); err != nil {
		return err
	}
	if len(workers) == 0 {
		return errors.New("journal: no workers: everybody would be one")
	}
	if err := j.accounts.setWorkers(workers); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	return nil
}

// shutdown closes the connection and stops the server, if they run.
func (j *Journal) shutdown() {
	for _, c := range []*nats.Conn{j.conn, j.keeper} {
		if c != nil {
			c.Close()
		}
	}
	if j.srv != nil {
		j.srv.Shutdown()
		j.srv.WaitForShutdown()
	}
}

// messages is the folder of the stream's message blocks.
func (j *Journal) messages() string { return j.folder(eventsAccount, j.streamName()) }

// folder is where the server keeps the message blocks of a stream.
func (j *Journal) folder(account, stream string) string {
	return filepath.Join(j.opts.Dir, "jetstream", account, "streams", stream, "msgs")
}

// serverLogger hands the server's log on, at a lower level: what is notice to
// a server is detail to a bridge. It keeps the last fatal error, which the
// server itself would exit on or lose. What anybody who reaches the port can cause
// is sampled by its kind, and cut short.
type serverLogger struct {
	log   *zap.SugaredLogger
	kinds *zap.Logger
	mu    sync.Mutex
	last  error
}

func newServerLogger(log *zap.Logger, onSampled func()) *serverLogger {
	kinds := log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, time.Second, 10, 100, zapcore.SamplerHook(func(_ zapcore.Entry, d zapcore.SamplingDecision) {
			if d&zapcore.LogDropped != 0 && onSampled != nil {
				onSampled()
			}
		}))
	}))
	return &serverLogger{log: log.Sugar(), kinds: kinds}
}

// mostSaid is how many bytes of a line of the server's are logged.
const mostSaid = 300

// say logs a line by its kind: its form, without the client that the server puts
// in front.
func (l *serverLogger) say(level zapcore.Level, format string, v []any) {
	kind := format[strings.LastIndex(format, " - ")+1:]
	if len(v) == 0 { // a finished text, which may quote what a stranger sent
		kind = "text"
	}
	if line := l.kinds.Check(level, strings.TrimPrefix(kind, "- ")); line != nil {
		text := strconv.QuoteToGraphic(fmt.Sprintf(format, v...))
		line.Message = "NATS server"
		line.Write(zap.String("said", text[1:min(len(text)-1, mostSaid)]))
	}
}

func (l *serverLogger) fatal() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}

func (l *serverLogger) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = fmt.Errorf(format, v...)
}
func (l *serverLogger) Noticef(format string, v ...any) { l.log.Debugf(format, v...) }
func (l *serverLogger) Warnf(format string, v ...any) {
	if strings.HasPrefix(format, "Plaintext passwords") {
		return // random ones, made in this process, or what the operator wrote
	}
	l.say(zap.WarnLevel, format, v)
}
func (l *serverLogger) Errorf(format string, v ...any) { l.say(zap.ErrorLevel, format, v) }
func (l *serverLogger) Debugf(format string, v ...any) { l.log.Debugf(format, v...) }
func (l *serverLogger) Tracef(format string, v ...any) { l.log.Debugf(format, v...) }
