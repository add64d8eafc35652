package embedded

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// options returns the options of a small stream in a folder of the test.
func options(t *testing.T) Options {
	return Options{
		Dir: filepath.Join(t.TempDir(), "nats"),
		Stream: jetstream.StreamConfig{
			Name: "JOBS", Subjects: []string{"job.*", "batch.*"}, MaxAge: 24 * time.Hour, MaxBytes: MinMaxBytes, Duplicates: 2 * time.Minute,
		},
	}
}

func open(t *testing.T, o Options) *Server {
	t.Helper()
	s, err := Open(within(t, 20*time.Second), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// pad makes an event big: 170 of them are more than the smallest stream.
var pad = []byte(strings.Repeat("x", 100<<10))

// publish stores the events [from, to) of 100 KiB each, every tenth on job.failed,
// the others on job.completed.
func publish(t *testing.T, s *Server, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		subject := "job.completed"
		if i%10 == 9 {
			subject = "job.failed"
		}
		if _, err := s.JetStream().Publish(within(t, 5*time.Second), subject, pad, jetstream.WithMsgID(fmt.Sprint("job", i))); err != nil {
			t.Fatal(err)
		}
	}
}

// JetStream returns the bridge's JetStream handle.
func (s *Server) JetStream() jetstream.JetStream {
	js, _ := jetstream.New(s.Conn()) // fails for wrong options only
	return js
}

// streamInfo is what tests need of the state of the stream.
type streamInfo struct {
	jetstream.StreamState
	Created    time.Time
	MaxBytes   int64
	Duplicates time.Duration
	Lost       []uint64 // like StreamState.Deleted, but without the 0 that the server lists for a stream without events
	Cluster    *jetstream.ClusterInfo
}

// info asks for the state of the stream.
func info(t *testing.T, s *Server) streamInfo {
	t.Helper()
	i, err := s.Info(within(t, 5*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	lost := slices.DeleteFunc(i.State.Deleted, func(sequence uint64) bool { return sequence == 0 })
	return streamInfo{i.State, i.Created, i.Config.MaxBytes, i.Config.Duplicates, lost, i.Cluster}
}

// connect opens the connection of a worker.
func connect(t *testing.T, s *Server, o ...nats.Option) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(s.URL(), append([]nats.Option{nats.ReconnectWait(10 * time.Millisecond), nats.MaxReconnects(-1)}, o...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

func TestOptions(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		name   string
		change func(*Options)
		want   string
	}{
		{"bound", func(o *Options) { o.Stream.MaxBytes = 1 << 20 }, "Options.Stream.MaxBytes"},
		{"no folder", func(o *Options) { o.Dir = "" }, "Options.Dir"},
		{"no stream", func(o *Options) { o.Stream.Name = "" }, "Options.Stream.Name"},
		{"listen", func(o *Options) { o.Listen = "4222" }, "Options.Listen"},
		{"port", func(o *Options) { o.Listen = "127.0.0.1:x" }, "Options.Listen"},
		{"off loopback", func(o *Options) { o.Listen = "0.0.0.0:0" }, "need passwords"},
		{"off loopback, any address", func(o *Options) { o.Listen = ":0" }, "need passwords"},
		{"off loopback, by name", func(o *Options) { o.Listen = "example.com:0" }, "need passwords"},
		{"worker without password", func(o *Options) { o.Workers = []Worker{{User: "w"}} }, "Options.Workers[0]"},
		{"a file for a folder", func(o *Options) { o.Dir = os.Args[0] }, "not a directory"},
	} {
		t.Run(r.name, func(t *testing.T) {
			o := options(t)
			r.change(&o)
			s, err := Open(within(t, 5*time.Second), o)
			if err == nil {
				s.Close()
			}
			if err == nil || !strings.Contains(err.Error(), r.want) {
				t.Fatalf("%v, want %s", err, r.want)
			}
		})
	}
}

// TestOpenAgain finds the stream as it was, raises its bound, refuses one below what
// the stream holds, and brings the stream back when its meta file was lost.
func TestOpenAgain(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Stream.MaxBytes = 3 * MinMaxBytes
	s := open(t, o)
	publish(t, s, 0, 180)
	created := info(t, s).Created
	again := func(bound int64) error {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		o.Stream.MaxBytes = bound
		next, err := Open(within(t, 10*time.Second), o)
		if err == nil {
			s = next
			t.Cleanup(func() { next.Close() })
		}
		return err
	}
	for _, r := range []struct{ ask, want int64 }{{0, 3 * MinMaxBytes}, {4 * MinMaxBytes, 4 * MinMaxBytes}, {0, 4 * MinMaxBytes}} {
		if err := again(r.ask); err != nil {
			t.Fatal(err)
		}
		i := info(t, s)
		if i.Msgs != 180 || i.LastSeq != 180 || i.MaxBytes != r.want || !i.Created.Equal(created) || i.Duplicates != 2*time.Minute {
			t.Errorf("%+v", i)
		}
	}
	if err := again(MinMaxBytes); err == nil || !strings.Contains(err.Error(), "raise the limit") {
		t.Errorf("a bound below what is held: %v", err)
	}
	if err := os.Remove(filepath.Join(s.sync.stream, "meta.sum")); err != nil {
		t.Fatal(err)
	}
	if err := again(4 * MinMaxBytes); err != nil {
		t.Fatal(err)
	}
	if i := info(t, s); i.Msgs != 180 {
		t.Errorf("%+v", i)
	}
	m, err := s.Get(within(t, 5*time.Second), 10)
	if err != nil || m.Subject != "job.failed" || m.Header.Get(nats.MsgIdHdr) != "job9" || len(m.Data) != len(pad) {
		t.Errorf("%v %v", m, err)
	}
	if _, err := s.Get(within(t, 5*time.Second), 1000); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("%v", err)
	}
}

// TestDefaultBound derives the limit of a stream from the free disk.
func TestDefaultBound(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Stream.MaxBytes = 0
	if got := info(t, open(t, o)).MaxBytes; got < minDefaultBytes || got > defaultMaxBytes {
		t.Errorf("the bound is %d", got)
	}
}

// TestRestart starts the server again: it has the same port and content, workers reconnect, and
// the bridge's connection works.
func TestRestart(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Listen = "127.0.0.1:0"
	s := open(t, o)
	publish(t, s, 0, 3)
	reconnected := make(chan struct{}, 10)
	nc, js := connect(t, s, nats.ReconnectHandler(func(*nats.Conn) { reconnected <- struct{}{} }))
	c, err := js.CreateConsumer(within(t, 5*time.Second), "JOBS", jetstream.ConsumerConfig{Durable: "w"})
	if err != nil {
		t.Fatal(err)
	}
	url, conn := s.URL(), s.Conn()
	if err := s.SyncAll(); err != nil {
		t.Fatal(err)
	}
	if err := s.Restart(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if s.URL() != url || s.Conn() == conn || !conn.IsClosed() {
		t.Errorf("%s, was %s", s.URL(), url)
	}
	select {
	case <-reconnected:
	case <-time.After(10 * time.Second):
		t.Fatalf("the worker is %s", nc.Status())
	}
	publish(t, s, 3, 5)
	for i := range 5 {
		m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		if meta, err := m.Metadata(); err != nil || meta.Sequence.Stream != uint64(i+1) {
			t.Errorf("%+v %v", meta, err)
		}
	}
	if err := errors.Join(s.Sync(), s.Health()); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Health(); err == nil {
		t.Error("healthy after Close")
	}
	if err := s.Restart(within(t, time.Second)); err == nil {
		t.Error("restarted after Close")
	}
}

// TestConsumerLimit refuses one consumer too many, by name of the limit.
func TestConsumerLimit(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Listen, o.Stream.MaxConsumers = "127.0.0.1:0", 3
	s := open(t, o)
	_, js := connect(t, s)
	for i := range 3 {
		if _, err := js.CreateConsumer(within(t, 5*time.Second), "JOBS", jetstream.ConsumerConfig{Durable: fmt.Sprint("w", i)}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := js.CreateConsumer(within(t, 5*time.Second), "JOBS", jetstream.ConsumerConfig{Durable: "w3"})
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != 10026 || !strings.Contains(err.Error(), "maximum consumers limit") {
		t.Errorf("%v", err)
	}
	stats, err := s.Stats(within(t, 5*time.Second))
	if err != nil || stats.Consumers != 3 || stats.MaxConsumers != 3 || stats.Connections != 1 {
		t.Errorf("%+v %v", stats, err)
	}
	// An update of one that is there is none more, and one that goes makes room.
	failed := jetstream.ConsumerConfig{Durable: "w0", FilterSubject: "job.failed"}
	if _, err := js.UpdateConsumer(within(t, 5*time.Second), "JOBS", failed); err != nil {
		t.Error(err)
	}
	if err := js.DeleteConsumer(within(t, 5*time.Second), "JOBS", "w0"); err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateConsumer(within(t, 5*time.Second), "JOBS", jetstream.ConsumerConfig{Durable: "w3"}); err != nil {
		t.Error(err)
	}
}

// TestSecondAckForm acknowledges with the form of acknowledgement that becomes the
// default of nats-server (case C15), and with the first one.
func TestSecondAckForm(t *testing.T) {
	t.Parallel()
	for _, second := range []bool{false, true} {
		o := options(t)
		o.Listen, o.featureFlags = "127.0.0.1:0", map[string]bool{"js_ack_fc_v2": second}
		s := open(t, o)
		publish(t, s, 0, 2)
		_, js := connect(t, s)
		c, err := js.CreateConsumer(within(t, 5*time.Second), "JOBS", jetstream.ConsumerConfig{Durable: "w"})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
			if err != nil {
				t.Fatal(err)
			}
			if is := !strings.HasPrefix(m.Reply(), "$JS.ACK.JOBS."); is != second {
				t.Errorf("the reply subject is %s", m.Reply())
			}
			if err := m.DoubleAck(within(t, 5*time.Second)); err != nil {
				t.Fatal(err)
			}
		}
		if i, err := c.Info(within(t, 5*time.Second)); err != nil || i.NumAckPending != 0 {
			t.Errorf("%+v %v", i, err)
		}
	}
}
