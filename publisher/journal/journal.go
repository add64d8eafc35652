// Package journal is an embedded NATS server whose acknowledgements are made
// durable by one fsync for all that wait.
//
// It promises that after [Journal.Commit] returned without an error, every
// message that the server had acknowledged before the call is on stable
// storage, and stays there: nothing the journal lets the server do later takes
// it back before its retention ends. A failed fsync is final: the journal then
// commits nothing until it is opened again. One process at a time can hold a
// data folder. Workers that connect over the network can consume, and change
// nothing.
//
// It leaves to others what is published, and when (package publisher).
package journal

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

var (
	// ErrLocked is returned when another process holds the data folder.
	ErrLocked = errors.New("journal: data folder in use")
	// ErrClock is returned when the machine's clock would expire the whole
	// journal, or lies before what the journal has seen.
	ErrClock = errors.New("journal: implausible clock")
	// ErrFailed is returned when the storage failed: nothing is committed any
	// more until the journal is opened again.
	ErrFailed = errors.New("journal: storage failed")
	// ErrClosed is returned when the journal was closed.
	ErrClosed = errors.New("journal: closed")
)

// Method is how a commit reaches the disk.
type Method string

const (
	// Auto takes Blocks if the store looks as it should, else FileSystem where
	// the system has it, else Always.
	Auto Method = ""
	// Blocks syncs the stream's message blocks that changed, and their folder.
	Blocks Method = "blocks"
	// FileSystem syncs the whole file system: syncfs(2), Linux only.
	FileSystem Method = "syncfs"
	// Always leaves it to the server: one fsync per message before its PubAck.
	Always Method = "always"
)

// DefaultMaxConnections is the default of [Options.MaxConnections].
const DefaultMaxConnections = 1024

// Options configures a [Journal]. Only Dir is needed.
type Options struct {
	// Dir is the data folder; it is created with mode 0700.
	Dir string
	// Listen is the TCP address for workers, such as "127.0.0.1:4222"; empty
	// means none. Port 0 lets the system choose.
	Listen string
	// Workers may connect by name and password. Without any, whoever reaches
	// Listen is a worker: Listen must be loopback then.
	Workers []Worker
	// MaxConnections is how many connections of workers the server has open; 0
	// means [DefaultMaxConnections].
	MaxConnections int
	// TLS makes the server speak TLS on Listen; nil means plain.
	TLS *tls.Config
	// Durability is [event.Fsync], the default, or [event.OS].
	Durability event.Durability
	// Stream is the stream of events.
	Stream publisher.StreamOptions
	// Private are further streams, in an account that no worker reaches.
	Private []PrivateStream
	// MaxPayload is the largest event in bytes, without headers; 0 means 1 MiB.
	MaxPayload int
	// AcceptClock opens the journal although its clock check fails.
	AcceptClock bool
	// Logger of the journal and its server; nil means none.
	Logger *zap.Logger
	// Relay says that the journal is copied to a remote stream: what
	// [RelayConsumer] has not taken yet is not trimmed.
	Relay bool
	// OnCommit is called after each commit; it must not block.
	OnCommit func(CommitStats)
	// OnSampled is called for each line of the server's that the Logger does not get
	// because too many of its kind came at once; it must not block. It may be nil.
	OnSampled func()
	// OnFull is called with the reason when the journal begins to refuse events
	// because it is full, and with "" when it has room again; it must not block.
	OnFull func(why string)
	// OnCrowded is called with the reason when the stream comes close to
	// [publisher.MaxConsumers], and with "" when it no longer is; it must not block.
	OnCrowded func(why string)

	// Method forces a way to sync.
	Method Method
	// Sync replaces (*os.File).Sync, so that a test can see and fail it.
	Sync func(*os.File) error
	// Now is the clock of the check at start; nil means time.Now.
	Now func() time.Time
}

// PrivateStream is kept beside the events, where no worker reaches.
type PrivateStream struct {
	Config jetstream.StreamConfig
	// Commit says that [Journal.Commit] covers it. Such a stream must not make
	// the store rewrite its blocks.
	Commit bool
}

// Worker is a name and password for those who consume.
type Worker struct{ User, Password string }

// Journal is an open journal.
type Journal struct {
	opts   Options
	log    *zap.Logger
	lock   *lock
	srv    *server.Server
	conn   *nats.Conn
	js     jetstream.JetStream
	stream jetstream.Stream
	keeper *nats.Conn // for the private streams, if there are any
	keepJS jetstream.JetStream
	commit *committer
	// accounts decides who may connect to srv.
	accounts *accounts
	// What the server was started with.
	syncAlways bool
	password   string

	trimming chan struct{} // holds a token while the journal is trimmed
	fullness string        // why it is full, or ""; guarded by trimming
	crowded  string        // why there are too many consumers soon, or ""; of watchConsumers alone
	full     atomic.Bool   // fullness is not ""
	trimmed  atomic.Uint64 // bytes

	salvaged []salvage
	damage   []string // in words

	fail   sync.Once
	failed chan struct{}
	err    error // why it failed; set before failed is closed
	// failedAt is when; failedBefore, when an earlier run did.
	failedAt, failedBefore time.Time
	noted                  chan struct{} // closed when the failure is, for the next run

	stop   chan struct{}
	watch  sync.WaitGroup
	close  sync.Once
	closed error
}

// Open locks the data folder, starts the server on it, creates or updates the
// stream and syncs the whole folder. ctx bounds the opening only.
func Open(ctx context.Context, o Options) (_ *Journal, err error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	j := &Journal{opts: o, log: o.Logger, failed: make(chan struct{}), noted: make(chan struct{}), stop: make(chan struct{}), trimming: make(chan struct{}, 1)}
	created, err := makeFolder(o.Dir)
	if err != nil {
		return nil, err
	}
	if j.lock, err = acquire(o.Dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			j.shutdown()
			err = errors.Join(err, j.lock.release())
		}
	}()
	if err := j.lock.checkClock(o); err != nil {
		return nil, err
	}
	j.recallFailure()
	if err := j.lookForDamage(); err != nil {
		return nil, fmt.Errorf("read the journal: %w", err)
	}
	method := o.Method
	if err := j.start(ctx, method == Always && o.Durability == event.Fsync); err != nil {
		return nil, err
	}
	if method == Auto {
		if method = j.chooseMethod(); method == Always && o.Durability == event.Fsync {
			j.shutdown()
			if err := j.start(ctx, true); err != nil {
				return nil, err
			}
		}
	}
	if err := errors.Join(j.checkEnd(ctx), j.restoreDamaged(ctx)); err != nil {
		return nil, err
	}
	// A stream whose meta.inf never reached the disk loses all that is in it.
	if err := syncTree(o.Dir, created, o.Sync); err != nil {
		return nil, fmt.Errorf("sync %s: %w", o.Dir, err)
	}
	if j.commit, err = newCommitter(j, method); err != nil {
		return nil, err
	}
	advisories, err := j.subscribeConsumers()
	if err != nil {
		return nil, errors.Join(err, j.commit.files.close())
	}
	j.watch.Go(j.commit.run)
	j.watch.Go(func() { j.watchConsumers(advisories) })
	j.watch.Go(j.watchHealth)
	j.watch.Go(j.watchSize)
	if why := volatile(j.opts.Dir); why != "" {
		j.log.Warn("the data folder is on " + why)
	}
	j.log.Info("journal open", zap.String("dir", o.Dir), zap.String("durability", string(o.Durability)),
		zap.String("method", string(method)), zap.String("nats", j.URL()))
	return j, nil
}

// check fills in the defaults.
func (o *Options) check() error {
	if o.Dir == "" {
		return errors.New("journal: Options.Dir is empty")
	}
	switch o.Durability {
	case "":
		o.Durability = event.Fsync
	case event.Fsync, event.OS:
	default:
		return fmt.Errorf("journal: Options.Durability is %q: want %s or %s", o.Durability, event.Fsync, event.OS)
	}
	switch o.Method {
	case Auto, Blocks, FileSystem, Always:
	default:
		return fmt.Errorf("journal: Options.Method is %q", o.Method)
	}
	if o.MaxPayload == 0 {
		o.MaxPayload = 1 << 20
	}
	if least := max(MinMaxBytes, 4*int64(o.MaxPayload)); o.Stream.MaxBytes != 0 && o.Stream.MaxBytes < least {
		return fmt.Errorf("journal: Options.Stream.MaxBytes is %d: want at least %d", o.Stream.MaxBytes, least)
	}
	if o.MaxConnections == 0 {
		o.MaxConnections = DefaultMaxConnections
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Sync == nil {
		o.Sync = (*os.File).Sync
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	o.Dir = dir
	return CheckListen(o.Listen, o.Workers)
}

// JetStream returns the owner's handle, over a connection in process.
func (j *Journal) JetStream() jetstream.JetStream { return j.js }

// Stream returns the stream of events.
func (j *Journal) Stream() jetstream.Stream { return j.stream }

// Private returns the handle for the private streams; nil if there are none.
func (j *Journal) Private() jetstream.JetStream { return j.keepJS }

// Durability is what [Journal.Commit] reaches.
func (j *Journal) Durability() event.Durability { return j.opts.Durability }

// Method is how a commit reaches the disk.
func (j *Journal) Method() Method { return j.commit.method }

// Dir is the data folder, absolute.
func (j *Journal) Dir() string { return j.opts.Dir }

// SyncAlways reports whether the server syncs each message by itself.
func (j *Journal) SyncAlways() bool { return j.syncAlways }

// Warnings are, in words, what makes the journal worth less than its
// [Journal.Durability] says.
func (j *Journal) Warnings() []string {
	if why := volatile(j.opts.Dir); why != "" {
		return append([]string{"the data folder " + j.opts.Dir + " is on " + why + ": choose a folder on a disk"}, j.damage...)
	}
	return j.damage
}

// URL is where workers connect, or "" if the journal does not listen.
func (j *Journal) URL() string {
	if j.opts.Listen == "" {
		return ""
	}
	if j.opts.TLS != nil {
		return "tls://" + j.srv.Addr().String()
	}
	return "nats://" + j.srv.Addr().String()
}

// Failed is closed when the storage failed; [Journal.Err] then says why.
func (j *Journal) Failed() <-chan struct{} { return j.failed }

// Err returns nil, or why the storage failed, wrapped in [ErrFailed].
func (j *Journal) Err() error {
	select {
	case <-j.failed:
		return j.err
	default:
		return nil
	}
}

// setFailed makes the failure final.
func (j *Journal) setFailed(err error) {
	j.fail.Do(func() {
		j.err, j.failedAt = fmt.Errorf("%w: %w", ErrFailed, err), time.Now()
		j.log.Error("journal failed: nothing is acknowledged until a restart", zap.Error(err))
		close(j.failed)
		// The server answers nobody any more; whoever waits hears it now.
		j.conn.Close()
		go func() { defer close(j.noted); j.noteFailure(err) }() // the disk may hang
	})
}

// Stats is the state of the stream.
type Stats struct {
	Messages, Bytes uint64
	MaxBytes        int64
	Consumers       int
	Connections     int // of workers
	// Full says that events are refused because nothing more can be trimmed.
	Full bool
	// Free is how many bytes the disk has left.
	Free int64
	// Trimmed is how many bytes of events that everyone has had were removed
	// before their retention ended, since the journal was opened.
	Trimmed uint64
}

// Stats asks the server for the state of the stream.
func (j *Journal) Stats(ctx context.Context) (Stats, error) {
	info, err := j.stream.Info(ctx)
	if err != nil {
		return Stats{}, fmt.Errorf("stream info: %w", err)
	}
	free, err := freeBytes(j.opts.Dir)
	if err != nil {
		return Stats{}, fmt.Errorf("free space of %s: %w", j.opts.Dir, err)
	}
	return Stats{
		Messages: info.State.Msgs, Bytes: info.State.Bytes, MaxBytes: info.Config.MaxBytes, Consumers: info.State.Consumers, Connections: max(0, j.srv.NumClients()-j.own()),
		Full: j.full.Load(), Free: free, Trimmed: j.trimmed.Load(),
	}, nil
}

// Close drains the connection, commits once more, stops the server and gives
// the folder back. It may be called again.
func (j *Journal) Close() error {
	j.close.Do(func() {
		close(j.stop)
		j.watch.Wait() // the committer's last act is a commit
		if j.Err() != nil {
			select {
			case <-j.noted:
			case <-time.After(time.Second):
			}
		}
		j.beat(false)
		j.shutdown()
		j.closed = errors.Join(j.commit.files.close(), j.lock.release())
	})
	return j.closed
}
