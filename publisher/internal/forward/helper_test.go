package forward

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

const (
	patience   = 10 * time.Second
	streamName = "JOBS"
)

// memory is a journal in memory.
type memory struct {
	id string

	mu       sync.Mutex
	first    uint64
	records  []Record
	next     uint64
	changed  chan struct{}
	released uint64
	skipped  uint64
}

func newMemory(id string) *memory {
	return &memory{id: id, first: 1, next: 1, changed: make(chan struct{})}
}

func (m *memory) ID() string { return m.id }

func (m *memory) First() uint64 { m.mu.Lock(); defer m.mu.Unlock(); return m.first }

func (m *memory) Durable() uint64 { m.mu.Lock(); defer m.mu.Unlock(); return m.durable() }

func (m *memory) durable() uint64 {
	if len(m.records) == 0 {
		return max(m.first-1, m.skipped)
	}
	return max(m.records[len(m.records)-1].Sequence, m.skipped)
}

func (m *memory) Release(through uint64) {
	m.mu.Lock()
	m.released = max(m.released, through)
	m.mu.Unlock()
}

func (m *memory) Skip(above uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.skipped = above
	m.next = max(m.next, above+1)
}

// add appends records and gives them sequences.
func (m *memory) add(records ...Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range records {
		r.Sequence = m.next
		m.next++
		m.records = append(m.records, r)
	}
	close(m.changed)
	m.changed = make(chan struct{})
}

// drop deletes the records before first.
func (m *memory) drop(first uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.records) > 0 && m.records[0].Sequence < first {
		m.records = m.records[1:]
	}
	m.first = first
}

func (m *memory) NewReader(after uint64) Reader { return &memoryReader{m, after, 0} }

type memoryReader struct {
	m     *memory
	after uint64
	at    int
}

func (r *memoryReader) Next(ctx context.Context) (Record, error) {
	for {
		r.m.mu.Lock()
		for r.at = min(r.at, len(r.m.records)); r.at < len(r.m.records) && r.m.records[r.at].Sequence <= r.after; r.at++ {
		}
		if r.at < len(r.m.records) {
			record := r.m.records[r.at]
			r.m.mu.Unlock()
			r.after = record.Sequence
			return record, nil
		}
		changed := r.m.changed
		r.m.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return Record{}, ctx.Err()
		}
	}
}

// record returns the event of a job.
func record(job, status string) Record {
	return recordOf(job, status, fmt.Sprintf(`{"id":%q,"status":%q}`, job, status))
}

func recordOf(job, status, payload string) Record {
	e := event.Event{Status: status, ID: job, Payload: []byte(payload), Signature: "t=1,v1=00", ReceivedAt: time.Now()}
	return Record{
		Time: time.Now(), Key: e.Key(), ID: e.MessageID(), Digest: sha256.Sum256(e.Payload), Subject: "job." + lower(status),
		Header: e.AppendHeader(nil), Payload: e.Payload,
	}
}

func lower(s string) string {
	b := []byte(s)
	for i := range b {
		b[i] |= 0x20
	}
	return string(b)
}

// jobs returns three events of each of n jobs, adjacent.
func jobs(n int) []Record { return jobsFrom(0, n) }

// jobsFrom is jobs with numbers from first on.
func jobsFrom(first, n int) []Record {
	records := make([]Record, 0, 3*n)
	for i := range n {
		job := fmt.Sprintf("job-%d", first+i)
		records = append(records, record(job, "QUEUED"), record(job, "PROCESSING"), record(job, "COMPLETED"))
	}
	return records
}

// target is a stream of a real server.
type target struct {
	t      testing.TB
	name   string
	exact  bool
	config jetstream.StreamConfig
	dir    string
	port   int
	url    string // that clients use, "" for in the process

	mu  sync.Mutex
	srv *server.Server
	nc  *nats.Conn
	js  jetstream.JetStream

	syncErr, syncAllErr, failed, roomErr, restartErr atomic.Pointer[error]

	info                   func(Info) Info
	get                    func(uint64) error
	syncs, restarts, infos atomic.Int64
	roomed, checkpoint     atomic.Int64
	onSync                 func()
}

// newTarget starts a server with a stream.
func newTarget(t testing.TB, change ...func(*jetstream.StreamConfig)) *target {
	t.Helper()
	g := &target{t: t, name: "embedded/JOBS", exact: true, dir: t.TempDir(), port: -1, config: streamConfig()}
	for _, c := range change {
		c(&g.config)
	}
	g.start()
	t.Cleanup(g.stop)
	return g
}

func streamConfig() jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: streamName, Subjects: []string{"job.>"}, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew,
		Duplicates: 2 * time.Minute,
	}
}

func (g *target) start() {
	g.t.Helper()
	o := &server.Options{
		Host: "127.0.0.1", Port: g.port, JetStream: true, StoreDir: g.dir, NoSigs: true, NoLog: true, SyncInterval: time.Hour,
		DontListen: g.url == "",
	}
	srv, err := server.NewServer(o)
	if err != nil {
		g.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(patience) {
		g.t.Fatal("the server is not ready")
	}
	g.use(srv)
}

// use connects to the server and creates the stream.
func (g *target) use(srv *server.Server) {
	g.t.Helper()
	options := []nats.Option{
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.ReconnectWait(10 * time.Millisecond), nats.ReconnectJitter(0, 0),
	}
	if g.url == "" {
		options = append(options, nats.InProcessServer(srv))
	}
	nc, err := nats.Connect(g.url, options...)
	if err != nil {
		g.t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		g.t.Fatal(err)
	}
	if _, err := js.CreateOrUpdateStream(g.t.Context(), g.config); err != nil {
		g.t.Fatal(err)
	}
	g.mu.Lock()
	g.srv, g.nc, g.js = srv, nc, js
	g.mu.Unlock()
}

func (g *target) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.srv == nil {
		return
	}
	g.nc.Close()
	g.srv.Shutdown()
	g.srv.WaitForShutdown()
	g.srv = nil
}

func (g *target) jetStream() jetstream.JetStream { g.mu.Lock(); defer g.mu.Unlock(); return g.js }

func (g *target) conn() *nats.Conn { g.mu.Lock(); defer g.mu.Unlock(); return g.nc }

func (g *target) Name() string   { return g.name }
func (g *target) Stream() string { return streamName }
func (g *target) Exact() bool    { return g.exact }

func (g *target) Conn(ctx context.Context) (*nats.Conn, error) {
	nc := g.conn()
	status := nc.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer nc.RemoveStatusListener(status)
	for !nc.IsConnected() {
		select {
		case <-status:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return nc, nil
}

func (g *target) Info(ctx context.Context) (Info, error) {
	g.infos.Add(1)
	stream, err := g.jetStream().Stream(ctx, streamName)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return Info{}, fmt.Errorf("%w: %w", event.ErrMisconfigured, err)
	}
	if err != nil {
		return Info{}, err
	}
	i := stream.CachedInfo()
	info := Info{
		Created: i.Created, FirstSeq: i.State.FirstSeq, LastSeq: i.State.LastSeq, Msgs: i.State.Msgs, Bytes: i.State.Bytes,
		MaxMsgs: i.Config.MaxMsgs, MaxBytes: i.Config.MaxBytes, Duplicates: i.Config.Duplicates, HasLeader: true,
	}
	g.mu.Lock()
	change := g.info
	g.mu.Unlock()
	if change != nil {
		info = change(info)
	}
	return info, nil
}

func (g *target) Get(ctx context.Context, sequence uint64) (*nats.Msg, error) {
	if g.get != nil {
		if err := g.get(sequence); err != nil {
			return nil, err
		}
	}
	m, err := g.conn().RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+streamName, []byte(fmt.Sprintf(`{"seq":%d}`, sequence)))
	if err != nil {
		return nil, err
	}
	return decodeGet(m.Data)
}

func (g *target) Room(_ context.Context, bytes int64, checkpoint uint64) error {
	g.roomed.Add(bytes)
	g.checkpoint.Store(int64(checkpoint))
	return value(&g.roomErr)
}

func (g *target) Sync(context.Context) error {
	g.syncs.Add(1)
	if g.onSync != nil {
		g.onSync()
	}
	return value(&g.syncErr)
}

func (g *target) SyncAll(context.Context) error { return value(&g.syncAllErr) }
func (g *target) Failed() error                 { return value(&g.failed) }

func (g *target) Restart(context.Context) error {
	g.restarts.Add(1)
	if err := value(&g.restartErr); err != nil {
		return err
	}
	g.failed.Store(nil)
	g.stop()
	g.start()
	return nil
}

func value(p *atomic.Pointer[error]) error {
	if err := p.Load(); err != nil {
		return *err
	}
	return nil
}

func set(p *atomic.Pointer[error], text string) {
	err := errors.New(text)
	p.Store(&err)
}

// freePort returns a port that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// fast returns short times for tests. What must not happen in a test happens after an hour.
func fast() timing {
	return timing{
		timeout: 2 * time.Second, connect: 50 * time.Millisecond, checkpoint: time.Hour, inspect: time.Hour,
		confirm: 20 * time.Millisecond, health: 20 * time.Millisecond, silence: 5 * time.Second, summary: time.Hour,
	}
}

// rig is a forwarder in a test.
type rig struct {
	t       testing.TB
	opts    Options
	journal *memory
	target  *target
	f       *Forwarder
	logs    *observer.ObservedLogs
	states  chan State
	cancel  context.CancelFunc
	done    chan error
	parked  chan Record
}

// newRig returns a forwarder that does not run.
func newRig(t testing.TB, g *target, change ...func(*Options)) *rig {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	r := &rig{t: t, target: g, journal: newMemory("journal-1"), logs: logs, states: make(chan State, 10_000), parked: make(chan Record, 1000)}
	times := fast()
	r.opts = Options{
		Dir: t.TempDir(), Journal: r.journal, Target: g, timing: &times, Logger: zap.New(core),
		Conflict: func(r Record) string { return "job.conflict" },
		Park:     func(_ context.Context, record Record, _ string) error { r.parked <- record; return nil },
		onState:  func(s State) { r.states <- s },
	}
	for _, c := range change {
		c(&r.opts)
	}
	if j, ok := r.opts.Journal.(*memory); ok {
		r.journal = j
	}
	return r
}

// run starts the forwarder, for at most as long as the test.
func (r *rig) run() *rig {
	r.t.Helper()
	f, err := New(r.opts)
	if err != nil {
		r.t.Fatal(err)
	}
	return r.start(f)
}

func (r *rig) start(f *Forwarder) *rig {
	r.t.Helper()
	r.f = f
	ctx, cancel := context.WithCancel(context.Background())
	r.cancel, r.done = cancel, make(chan error, 1)
	done := r.done
	r.t.Cleanup(func() {
		if r.t.Failed() {
			for _, l := range r.logs.All() {
				r.t.Log(l.Message, l.ContextMap())
			}
		}
	})
	ended := make(chan struct{})
	go func() {
		done <- f.Run(ctx)
		close(ended)
	}()
	r.t.Cleanup(func() {
		cancel()
		<-ended
	})
	return r
}

// end stops the forwarder as a shutdown does.
func (r *rig) end() {
	r.t.Helper()
	r.cancel()
	if err := r.wait(); err != nil {
		r.t.Fatal(err)
	}
}

// crash stops the forwarder without a last checkpoint: forward.json is put back.
func (r *rig) crash() {
	r.t.Helper()
	before, _ := readCheckpoint(r.opts.Dir)
	r.cancel()
	_ = r.wait()
	if before != nil {
		if err := before.write(r.opts.Dir); err != nil {
			r.t.Fatal(err)
		}
	} else {
		removeCheckpoint(r.t, r.opts.Dir)
	}
}

func (r *rig) wait() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		return err
	case <-time.After(patience):
		r.t.Fatalf("Run does not return: %+v", r.f.Stats())
		return nil
	}
}

// drain waits until everything is forwarded.
func (r *rig) drain() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := r.f.Drain(ctx); err != nil {
		r.t.Fatalf("%v: %+v", err, r.f.Stats())
	}
}

// until waits until the statistics are as wanted.
func (r *rig) until(ok func(Stats) bool) {
	r.t.Helper()
	for end := time.Now().Add(patience); !ok(r.f.Stats()); {
		if time.Now().After(end) {
			r.t.Fatalf("stats %+v", r.f.Stats())
		}
		<-time.After(100 * time.Microsecond)
	}
}

// save writes a checkpoint.
func (r *rig) save() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	if err := r.f.Checkpoint(ctx); err != nil {
		r.t.Fatal(err)
	}
}

// await waits for a state.
func (r *rig) await(k Kind) State {
	r.t.Helper()
	end := time.After(patience)
	for {
		select {
		case s := <-r.states:
			if s.Kind == k {
				return s
			}
		case <-end:
			r.t.Fatalf("state %s did not come: %+v", k, r.f.Stats())
		}
	}
}

// stored returns the messages of the stream, oldest first.
func (g *target) stored() []*nats.Msg {
	g.t.Helper()
	stream, err := g.jetStream().Stream(g.t.Context(), streamName)
	if err != nil {
		g.t.Fatal(err)
	}
	count := stream.CachedInfo().State.Msgs
	consumer, err := stream.OrderedConsumer(g.t.Context(), jetstream.OrderedConsumerConfig{})
	if err != nil {
		g.t.Fatal(err)
	}
	var all []*nats.Msg
	for uint64(len(all)) < count {
		batch, err := consumer.Fetch(int(count)-len(all), jetstream.FetchMaxWait(patience))
		if err != nil {
			g.t.Fatal(err)
		}
		for m := range batch.Messages() {
			all = append(all, &nats.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()})
		}
		if err := batch.Error(); err != nil {
			g.t.Fatal(err)
		}
	}
	return all
}

// has fails unless the stream holds each record of the journal exactly once, the
// records of each job in order, and nothing else.
func (r *rig) has(records []Record) {
	r.t.Helper()
	count := make(map[string]int)
	last := make(map[string]uint64)
	stored := r.target.stored()
	if len(stored) != len(records) {
		r.t.Errorf("the stream has %d messages, want %d", len(stored), len(records))
	}
	for _, m := range stored {
		_, sequence := origin(m)
		count[string(m.Data)]++
		job := m.Header.Get(event.JobIDHeader)
		if sequence <= last[job] {
			r.t.Errorf("job %s: sequence %d comes after %d", job, sequence, last[job])
		}
		last[job] = sequence
	}
	for _, record := range records {
		if n := count[string(record.Payload)]; n != 1 {
			r.t.Errorf("the stream has %s %d times, want once", record.ID, n)
		}
	}
}

// holds fails unless the stream holds each record exactly once, in any order, and
// nothing else.
func (r *rig) holds(records []Record) {
	r.t.Helper()
	count := make(map[string]int)
	for _, m := range r.target.stored() {
		count[string(m.Data)]++
	}
	for _, record := range records {
		if n := count[string(record.Payload)]; n != 1 {
			r.t.Errorf("the stream has %s %d times, want once", record.ID, n)
		}
	}
	if len(count) != len(records) {
		r.t.Errorf("the stream has %d different messages, want %d", len(count), len(records))
	}
}

// logged returns how many lines of the log are the message.
func (r *rig) logged(message string) int { return r.logs.FilterMessage(message).Len() }

// has reports whether the journal has a message id.
func (m *memory) has(id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.records {
		if r.ID == id {
			return true
		}
	}
	return false
}

// resize changes how many messages the stream may hold.
func (g *target) resize(messages int64) {
	g.t.Helper()
	g.config.MaxMsgs = messages
	if _, err := g.jetStream().UpdateStream(g.t.Context(), g.config); err != nil {
		g.t.Fatal(err)
	}
}

// hook sets a function that changes the result of Info.
func (g *target) hook(change func(Info) Info) { g.mu.Lock(); g.info = change; g.mu.Unlock() }

// delete loses a message of the stream.
func (g *target) delete(sequence uint64) error {
	stream, err := g.jetStream().Stream(g.t.Context(), streamName)
	if err != nil {
		return err
	}
	return stream.DeleteMsg(g.t.Context(), sequence)
}

// mute makes the stream answer nothing, as a failed store does: it stores what is
// published without an answer.
func (g *target) mute() error {
	g.config.NoAck = true
	_, err := g.jetStream().UpdateStream(g.t.Context(), g.config)
	g.config.NoAck = false // a restart heals it
	return err
}

// beside returns the same target with another connection, which does not use a proxy.
func (g *target) beside() *target {
	g.t.Helper()
	nc, err := nats.Connect("", nats.InProcessServer(g.srv))
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		g.t.Fatal(err)
	}
	return &target{t: g.t, js: js}
}

// rename replaces the stream by an empty one under another name.
func (g *target) rename(name string) error {
	if err := g.jetStream().DeleteStream(g.t.Context(), g.config.Name); err != nil {
		return err
	}
	g.config.Name = name
	// The server removes the folder of a deleted stream in the background, and
	// cannot create the store in that moment.
	_, err := g.jetStream().CreateStream(g.t.Context(), g.config)
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); {
		<-time.After(10 * time.Millisecond)
		_, err = g.jetStream().CreateStream(g.t.Context(), g.config)
	}
	return err
}

// writeCheckpoint writes forward.json for the rig's journal and target.
func writeCheckpoint(t testing.TB, r *rig, c checkpoint) {
	t.Helper()
	info, err := r.target.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.Created.IsZero() {
		c.Created = info.Created
	}
	if c.Target == "" {
		c.Target = r.target.name
	}
	if c.Journal == "" {
		c.Journal = r.journal.id
	}
	c.Written = time.Now()
	if err := c.write(r.opts.Dir); err != nil {
		t.Fatal(err)
	}
}
