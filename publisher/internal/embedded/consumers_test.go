package embedded

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// TestWaitUnacknowledged returns when the last delivered event is acknowledged, at
// once when no worker is there to do it, and names the consumer when time is up
// (case C21).
func TestWaitUnacknowledged(t *testing.T) {
	t.Parallel()
	o := options(t)
	o.Listen = "127.0.0.1:0"
	s := open(t, o)
	publish(t, s, 0, 3)
	nc, js := connect(t, s)
	c, err := js.CreateConsumer(within(t, 5*time.Second), "JOBS", jetstream.ConsumerConfig{Durable: "w"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.WaitUnacknowledged(within(t, time.Second)); err != nil {
		t.Errorf("events to fetch count: %v", err)
	}
	var fetched []jetstream.Msg
	for range 2 {
		m, err := c.Next(jetstream.FetchMaxWait(5 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		fetched = append(fetched, m)
	}
	err = s.WaitUnacknowledged(within(t, 3*acknowledgedInterval))
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), `"w" (2)`) {
		t.Errorf("%v", err)
	}
	done := make(chan error, 1)
	go func() { done <- s.WaitUnacknowledged(within(t, 20*time.Second)) }()
	for _, m := range fetched {
		select {
		case err := <-done:
			t.Fatalf("returned before all was acknowledged: %v", err)
		default:
		}
		if err := m.DoubleAck(within(t, 5*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := c.Next(jetstream.FetchMaxWait(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	nc.Close()
	if err := s.WaitUnacknowledged(within(t, 10*time.Second)); err != nil {
		t.Errorf("no worker is connected: %v", err)
	}
}

// TestDeletedConsumer warns of a durable that a worker deleted, with what it had not
// acknowledged (case C19).
func TestDeletedConsumer(t *testing.T) {
	t.Parallel()
	logged := make(chan string, 1000)
	encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	o := options(t)
	o.Listen = "127.0.0.1:0"
	o.Logger = zap.New(zapcore.NewCore(encoder, zapcore.AddSync(lines(logged)), zap.InfoLevel))
	s := open(t, o)
	publish(t, s, 0, 10)
	_, js := connect(t, s)
	for _, name := range []string{"done", "busy", "stays"} {
		c, err := js.CreateConsumer(within(t, 5*time.Second), "JOBS", jetstream.ConsumerConfig{Durable: name})
		if err != nil {
			t.Fatal(err)
		}
		acknowledge := map[string]int{"done": 10, "busy": 3}[name]
		consume(t, c, acknowledge)
		if name == "busy" {
			if _, err := c.Next(jetstream.FetchMaxWait(5 * time.Second)); err != nil {
				t.Fatal(err)
			}
		}
	}
	seen := make(map[string]*jetstream.ConsumerInfo)
	look := func() { // what the watch does every second
		t.Helper()
		var err error
		if seen, err = s.reportDeleted(within(t, 5*time.Second), seen); err != nil || len(seen) == 0 {
			t.Fatal(seen, err)
		}
	}
	look()
	for _, name := range []string{"done", "busy"} {
		if err := js.DeleteConsumer(within(t, 5*time.Second), "JOBS", name); err != nil {
			t.Fatal(err)
		}
	}
	// Another one of the same name does not hide what is gone.
	if _, err := js.CreateConsumer(within(t, 5*time.Second), "JOBS", jetstream.ConsumerConfig{Durable: "busy"}); err != nil {
		t.Fatal(err)
	}
	look()
	want := map[string]string{
		`"consumer":"done","to_fetch":0,"to_acknowledge":0,"as_of":`: `"level":"info"`,
		`"consumer":"busy","to_fetch":6,"to_acknowledge":1,"as_of":`: `"level":"warn"`,
	}
	for late := time.After(10 * time.Second); len(want) > 0; {
		select {
		case line := <-logged:
			for text, level := range want {
				if strings.Contains(line, text) && strings.Contains(line, level) {
					delete(want, text)
				}
			}
			if strings.Contains(line, "stays") {
				t.Errorf("it was not deleted: %s", line)
			}
		case <-late:
			t.Fatalf("not logged: %v", want)
		}
	}
}

// lines is a writer that sends what is written.
type lines chan string

func (l lines) Write(p []byte) (int, error) { l <- string(p); return len(p), nil }

// TestWatchTrims: a stream that is nearly full is trimmed although nobody asks for
// room, up to the last checkpoint.
func TestWatchTrims(t *testing.T) {
	t.Parallel()
	s := open(t, options(t))
	publish(t, s, 0, 100)
	if err := s.Room(within(t, 5*time.Second), 1, 100); err != nil {
		t.Fatal(err)
	}
	if first := info(t, s).FirstSeq; first != 1 {
		t.Fatalf("trimmed too early: %d", first)
	}
	publish(t, s, 100, 160)
	for end := within(t, 20*time.Second); info(t, s).FirstSeq == 1; {
		if end.Err() != nil {
			t.Fatal("not trimmed")
		}
	}
}

// TestGaps reports the sequences that damage took from the middle of the stream.
func TestGaps(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]struct {
		index, running bool // the index is there; the damage happens while the server runs
		damage         func(path string) error
		from           uint64 // the first sequence that is lost, counted from the block's first
	}{
		"a block is missing":    {damage: os.Remove},
		"a bit flipped":         {damage: flip, from: 20},
		"a bit flipped, index":  {damage: flip, from: 20, index: true},
		"a bit flips meanwhile": {damage: flip, from: 20, running: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := options(t)
			s := open(t, o)
			if i := info(t, s); len(i.Lost) != 0 {
				t.Fatalf("a new stream: %+v", i)
			}
			publish(t, s, 0, 100)
			if i := info(t, s); len(i.Lost) != 0 || i.Cluster != nil && i.Cluster.Leader == "" || i.LastSeq != 100 {
				t.Fatalf("%+v", i)
			}
			blocks, err := listBlocks(s.sync.messages)
			if err != nil || len(blocks) < 3 {
				t.Fatal(blocks, err)
			}
			second, err := readBorder(blocks[1].path)
			if err != nil {
				t.Fatal(err)
			}
			third, err := readBorder(blocks[2].path)
			if err != nil {
				t.Fatal(err)
			}
			if !r.running {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			if err := r.damage(blocks[1].path); err != nil {
				t.Fatal(err)
			}
			if !r.running {
				if !r.index {
					if err := os.Remove(filepath.Join(s.sync.messages, "index.db")); err != nil {
						t.Fatal(err)
					}
				}
				s = open(t, o)
			}
			var want []uint64
			for seq := second.seq; seq < third.seq; seq++ { // the server notices a flipped bit when it reads
				_, err := s.Get(within(t, 5*time.Second), seq)
				lost := errors.Is(err, jetstream.ErrMsgNotFound)
				if lost != (seq >= second.seq+r.from) {
					t.Errorf("read %d: %v", seq, err)
				}
				if lost {
					want = append(want, seq)
				}
			}
			for late := within(t, 10*time.Second); len(info(t, s).Lost) == 0 && late.Err() == nil; {
			}
			if i := info(t, s); !slices.Equal(i.Lost, want) || i.LastSeq != 100 {
				t.Errorf("lost %v, want %v; last %d", i.Lost, want, i.LastSeq)
			}
		})
	}
}

// flip damages the byte in the middle of a file.
func flip(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	var b [1]byte
	_, err = f.ReadAt(b[:], info.Size()/2)
	if err == nil {
		_, err = f.WriteAt([]byte{b[0] ^ 1}, info.Size()/2)
	}
	return err
}
