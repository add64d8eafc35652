package ingress

import (
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
	"github.com/jobbridge/jobbridge/test/traffic"
)

// TestBodyMemory reads bodies from one source, which may use 1 MiB. Each row gives what the body holds when so many bytes
// have arrived, and when it is complete: nothing while it is small, then what has arrived, and above largeStep everything.
func TestBodyMemory(t *testing.T) {
	t.Parallel()
	sender := source.Of("192.0.2.1")
	const limit, share = 400 << 10, 1 << 20
	for name, r := range map[string]struct {
		size      int
		announced bool
		encoding  string
		arrived   int
		holds     int // when so many bytes have arrived
		complete  int // when all have
	}{
		"small":                {8<<10 - 1, false, "", 8<<10 - 1, 0, 0},
		"small, announced":     {4 << 10, true, "", 1 << 10, 0, 0},
		"slow":                 {300 << 10, true, "", 9 << 10, 16 << 10, 300<<10 + 1},
		"half":                 {100 << 10, false, "", 50 << 10, 64 << 10, 128 << 10},
		"large, announced":     {300 << 10, true, "", 129 << 10, 300<<10 + 1, 300<<10 + 1},
		"large, not announced": {300 << 10, false, "", 129 << 10, limit + 1, limit + 1},
		"compressed, small":    {7 << 10, false, "gzip", 0, 0, 0},
		"compressed":           {20 << 10, false, "gzip", 0, 0, 32 << 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				memory := source.NewLimiter(source.Limits{Total: 2 * share, PerSource: share})
				b := bodies{limit, memory}
				expect := func(when string, held int) {
					t.Helper()
					if memory.TryAcquire(sender, share-held) != nil {
						t.Errorf("%s: more than %d bytes are held", when, held)
					} else if memory.Release(sender, share-held); memory.TryAcquire(sender, share-held+1) == nil {
						t.Errorf("%s: fewer than %d bytes are held", when, held)
					}
				}
				content := strings.Repeat("x", r.size)
				wire := content
				if r.encoding != "" {
					wire = string(traffic.Zip(t, []byte(content), false))
				}
				in, out := io.Pipe()
				request := httptest.NewRequest("POST", DefaultPath, in)
				request.Header.Set("Content-Encoding", r.encoding)
				if request.ContentLength = -1; r.announced {
					request.ContentLength = int64(r.size)
				}
				go func() {
					io.WriteString(out, wire[:r.arrived])
					time.Sleep(time.Second)
					io.WriteString(out, wire[r.arrived:])
					out.Close()
				}()
				var got *body
				done := make(chan error, 1)
				go func() {
					var err error
					got, err = b.read(httptest.NewRecorder(), request, sender)
					done <- err
				}()
				synctest.Wait()
				expect("arriving", r.holds)
				if err := <-done; err != nil || string(got.bytes) != content {
					t.Fatal(err)
				}
				expect("complete", r.complete)
				got.release()
				got.release()
				expect("released", 0)
			})
		})
	}
}

// TestBodyErrors leaves no memory in use, whatever is wrong with the body.
func TestBodyErrors(t *testing.T) {
	t.Parallel()
	sender := source.Of("192.0.2.1")
	const limit, share = 64 << 10, 256 << 10
	zeros := traffic.Zip(t, make([]byte, limit+1), false)
	for name, r := range map[string]struct {
		header, value string
		body          io.Reader
		used          int // by others
		want          error
	}{
		"too large":               {"", "", strings.NewReader(strings.Repeat("x", limit+1)), 0, errBodyTooLarge},
		"too large, decompressed": {"Content-Encoding", "gzip", strings.NewReader(string(zeros)), 0, errBodyTooLarge},
		"encoding":                {"Content-Encoding", "br", strings.NewReader("x"), 0, errEncoding},
		"two encodings":           {"Content-Encoding", "gzip, gzip", strings.NewReader("x"), 0, errEncoding},
		"charset":                 {"Content-Type", "application/json; charset=UTF-16", strings.NewReader("x"), 0, errEncoding},
		"not compressed":          {"Content-Encoding", "deflate", strings.NewReader("x"), 0, errBody},
		"cut off": {"", "", io.MultiReader(strings.NewReader(strings.Repeat("x", limit/2)),
			iotest.ErrReader(io.ErrUnexpectedEOF)), 0, errBody},
		"no memory": {"", "", strings.NewReader(strings.Repeat("x", limit/2)), share - 16<<10, errNoMemory},
	} {
		synctest.Test(t, func(t *testing.T) {
			memory := source.NewLimiter(source.Limits{PerSource: share})
			if err := memory.TryAcquire(sender, r.used); err != nil {
				t.Fatal(err)
			}
			request := httptest.NewRequest("POST", DefaultPath, r.body)
			request.ContentLength = -1
			request.Header.Set(r.header, r.value)
			start := time.Now()
			if _, err := (bodies{limit, memory}).read(httptest.NewRecorder(), request, sender); !errors.Is(err, r.want) {
				t.Errorf("%s: %v, want %v", name, err, r.want)
			}
			if waited := time.Since(start); waited != 0 && (!errors.Is(r.want, errNoMemory) || waited != memoryWait) {
				t.Errorf("%s: waited for %s", name, waited)
			}
			if err := memory.TryAcquire(sender, share-r.used); err != nil {
				t.Errorf("%s: memory stays in use", name)
			}
		})
	}
}

// TestMemoryWait has a body that waits for memory twice: it may wait for memoryWait in total.
func TestMemoryWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		sender, memory := source.Of("192.0.2.1"), source.NewLimiter(source.Limits{PerSource: 64 << 10})
		if err := memory.TryAcquire(sender, 48<<10); err != nil {
			t.Fatal(err)
		}
		b := &body{bodies: bodies{1 << 20, memory}, source: sender}
		time.AfterFunc(time.Second, func() { memory.Release(sender, 16<<10) })
		start := time.Now()
		if err := b.hold(32 << 10); err != nil || time.Since(start) != time.Second || b.waited != time.Second {
			t.Errorf("first: %v after %s, of which %s for memory", err, time.Since(start), b.waited)
		}
		if err := b.hold(33 << 10); !errors.Is(err, errNoMemory) || time.Since(start) != memoryWait {
			t.Errorf("second: %v after %s", err, time.Since(start))
		}
	})
}
