package embedded

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system with this number of bytes and returns its folder.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", bytes)); err != nil {
		t.Skip("mounting a small disk needs root:", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// ballast fills the disk except for this number of bytes, and returns the file.
func ballast(t *testing.T, dir string, leave int64) string {
	t.Helper()
	d, err := readDisk(dir)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "ballast")
	if err := os.WriteFile(path, make([]byte, d.free-leave), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestRestartAfterFullDisk: a write that found no space is sticky and answered to
// nobody. Health reports it, and a restart ends it once there is space.
func TestRestartAfterFullDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 64<<20)
	o := options(t)
	o.Dir, o.Listen = filepath.Join(dir, "nats"), "127.0.0.1:0"
	s := open(t, o)
	nc, js := connect(t, s)
	publish(t, s, 0, 5)
	file := ballast(t, dir, 1<<20)
	stored := 5
	full := func() bool {
		err := s.Health()
		return err != nil && strings.Contains(err.Error(), "no space left on device")
	}
	for !full() && stored < 100 {
		// A publish without an answer is tried again under its id.
		ctx := within(t, 500*time.Millisecond)
		if _, err := s.JetStream().Publish(ctx, "job.completed", pad, jetstream.WithMsgID(fmt.Sprint("job", stored))); err == nil {
			stored++
		}
	}
	if !full() || stored == 5 {
		t.Fatalf("%d events were stored: %v", stored, s.Health())
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := s.Health(); err == nil {
		t.Error("the error is not sticky any more: Restart may not be needed")
	}
	if err := s.Restart(within(t, 20*time.Second)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Health(), s.SyncAll()); err != nil {
		t.Error(err)
	}
	if i := info(t, s); i.LastSeq != uint64(stored) || len(i.Lost) != 0 {
		t.Errorf("%d were acknowledged: %+v", stored, i)
	}
	publish(t, s, stored, stored+5)
	if i := info(t, s); i.Msgs != uint64(stored+5) || len(i.Lost) != 0 {
		t.Errorf("%+v", i)
	}
	// By the count: a client that has not noticed yet that the server is gone says that it is connected.
	for late := within(t, 10*time.Second); nc.Stats().Reconnects != 1 || nc.Status() != nats.CONNECTED; {
		if late.Err() != nil {
			t.Fatalf("the worker is %s", nc.Status())
		}
	}
	if _, err := js.Stream(within(t, 5*time.Second), "JOBS"); err != nil {
		t.Error(err)
	}
}

// TestRoomOnSmallDisk refuses to send while the disk is below its reserve, long
// before a write fails, and trims what may go to make space.
func TestRoomOnSmallDisk(t *testing.T) {
	t.Parallel()
	dir := smallDisk(t, 128<<20)
	o := options(t)
	o.Dir, o.Stream.MaxBytes = filepath.Join(dir, "nats"), -1
	s := open(t, o)
	createConsumer(t, s, jetstream.ConsumerConfig{Durable: "slow"})
	publish(t, s, 0, 200) // 20 MB
	file := ballast(t, dir, 5<<20)
	err := s.Room(within(t, 5*time.Second), 2*roomStep, 200)
	if !errors.Is(err, event.ErrFull) || !strings.Contains(err.Error(), "the disk has") || !strings.Contains(err.Error(), `"slow"`) {
		t.Fatalf("%v", err)
	}
	if i := info(t, s); i.FirstSeq != 1 {
		t.Errorf("%+v", i)
	}
	if err := s.Stream().DeleteConsumer(within(t, 5*time.Second), "slow"); err != nil {
		t.Fatal(err)
	}
	if err := s.Room(within(t, 5*time.Second), 2*roomStep, 200); err != nil {
		t.Errorf("nobody holds the stream: %v", err)
	}
	if i := info(t, s); i.FirstSeq == 1 {
		t.Errorf("nothing was trimmed: %+v", i)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if at, err := fill(t, s, 200, 250); err != nil {
		t.Errorf("event %d: %v", at, err)
	}
}
