// Command examples is a worker in Go, to be copied as a template. worker.mjs
// and worker.py are the same worker in JavaScript and Python. README.md says how
// to run them.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// The server remembers under this name which events the worker has
	// acknowledged. Give each worker its own name; processes that share the name
	// share the events.
	durable = "example-go"

	maxAttempts    = 10               // with the delays below, 17 minutes
	handlerTimeout = 10 * time.Minute // progress reports must not hide a handler that hangs
	fetchWait      = 5 * time.Second  // at most so long does an idle worker take to stop
)

var (
	ackWait    = milliseconds("ACK_WAIT_MS", 30_000) // the server delivers an event again after so long without a sign of life
	firstRetry = milliseconds("RETRY_MS", 1_000)     // delay before the second attempt; it doubles with each attempt
	folder     = env("WORKER_DIR", durable)          // one file per job with its last status, one with its output

	usableID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
	// A status replaces only one of a lower rank: what is final stays.
	rank = map[string]int{"PENDING": 1, "PROCESSING": 2, "COMPLETED": 3, "FAILED": 3, "REJECTED": 3, "CANCELED": 3, "TIMED_OUT": 3}
)

type job struct{ ID, Status, OutputURL string }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, func() {
		log.Print("stopping after the present event")
		stop() // a second signal ends the process at once
	})
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

// run works until ctx is done, then finishes the event that it holds.
func run(ctx context.Context) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	// During a rotation, both secrets: the stream has events signed with either.
	secrets := strings.FieldsFunc(os.Getenv("SYNC_WEBHOOK_SECRET"), func(r rune) bool { return r == ',' || r == '\n' })
	// The age of a signature is not checked again: the bridge did so when the
	// event came, and since then the event may have waited for days.
	verifier, err := verify.New(secrets, verify.Options{Tolerance: verify.AnyAge})
	if err != nil {
		return err
	}
	log.Print("connecting")
	nc, err := nats.Connect(env("NATS_URL", "nats://127.0.0.1:4222"), nats.UserInfo(os.Getenv("NATS_USER"), os.Getenv("NATS_PASSWORD")),
		nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1)) // for ever: the bridge may start later, or restart
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		if err := work(ctx, js, verifier); err != nil {
			log.Printf("trying again in a second: %v", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
	return nil
}

// work creates the consumer if it does not exist, and processes its events one
// after the other. For more at once, run more processes: an event that waits in
// a local buffer loses its AckWait there.
func work(ctx context.Context, js jetstream.JetStream, verifier *verify.Verifier) error {
	consumer, err := js.CreateOrUpdateConsumer(ctx, "JOBS", jetstream.ConsumerConfig{
		Durable: durable, FilterSubject: "job.>", AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait,
		// No MaxDeliver: the server would drop the event without telling the worker.
	})
	if err == nil {
		log.Printf("waiting for events as %s", durable)
	}
	for err == nil && ctx.Err() == nil {
		var m jetstream.Msg
		if m, err = consumer.Next(jetstream.FetchMaxWait(fetchWait)); errors.Is(err, nats.ErrTimeout) {
			err = nil // no event came
		} else if err == nil {
			err = processEvent(m, verifier)
		}
	}
	return err
}

// processEvent handles an event and acknowledges it after that, never before. An
// event whose handler fails, or whose worker dies, is delivered again.
func processEvent(m jetstream.Msg, verifier *verify.Verifier) error {
	meta, err := m.Metadata()
	if err != nil {
		return err
	}
	if meta.NumDelivered > maxAttempts {
		// The event stays in the stream, for a person to look at.
		log.Printf("event %d: given up after %d attempts; see it with: nats stream get JOBS %[1]d", meta.Sequence.Stream, maxAttempts)
		return m.Term()
	}
	ctx, cancel := context.WithTimeout(context.Background(), handlerTimeout) // SIGTERM does not interrupt the handler
	defer cancel()
	stopReports := reportProgress(m)
	err = once(ctx, m, verifier)
	stopReports()
	if err != nil {
		delay := firstRetry << (meta.NumDelivered - 1)
		log.Printf("event %d, attempt %d: %v; again in %s", meta.Sequence.Stream, meta.NumDelivered, err, delay)
		return m.NakWithDelay(delay)
	}
	return m.DoubleAck(context.Background()) // waits up to 5 s for the server to confirm
}

// reportProgress tells the server that the handler works, so that the server does not
// give the event to another process, until the returned function is called.
func reportProgress(m jetstream.Msg) (stop func()) {
	var reports sync.WaitGroup
	done := make(chan struct{})
	reports.Go(func() {
		for tick := time.Tick(ackWait / 3); ; {
			select {
			case <-done:
				return
			case <-tick:
				_ = m.InProgress() // if this one is lost, the next one may arrive
			}
		}
	})
	return func() { close(done); reports.Wait() }
}

// once verifies an event and handles it, unless it is old news.
func once(ctx context.Context, m jetstream.Msg, verifier *verify.Verifier) error {
	// Everything below is read from the signed data: nobody signs the headers.
	// A bad signature is tried again like any failure, because the usual cause is
	// a secret that this worker does not have yet.
	signed, err := verifier.Verify(m.Headers().Get(event.SignatureHeader), m.Data())
	if err != nil {
		return err
	}
	var j job
	if err := json.Unmarshal(signed.Payload, &j); err != nil {
		return err
	}
	if !usableID.MatchString(j.ID) || rank[j.Status] == 0 {
		log.Printf("%s is nothing for this worker: %s", m.Subject(), m.Data())
		return nil
	}
	last, err := os.ReadFile(statusFile(j))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if rank[j.Status] <= rank[string(last)] {
		log.Printf("job %s is %s already: %s changes nothing", j.ID, last, j.Status)
		return nil // a repeat, or older than what is known
	}
	if err := handle(ctx, j); err != nil {
		return err
	}
	// With several processes, use a database, and check and store the status in one
	// transaction: two of them can have events of one job at the same time.
	return replace(statusFile(j), strings.NewReader(j.Status))
}

// handle is the work: put yours here. This one downloads what a completed job
// made. If the process dies before the status is stored, handle runs again for
// the same event: doing it twice must be as good as once.
func handle(ctx context.Context, j job) error {
	if j.Status != "COMPLETED" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.OutputURL, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", j.OutputURL, resp.Status)
	}
	return replace(filepath.Join(folder, j.ID+".output"), resp.Body)
}

func statusFile(j job) string { return filepath.Join(folder, j.ID+".status") }

// replace writes a file that a crash leaves either old or new.
func replace(path string, from io.Reader) error {
	f, err := os.Create(path + ".tmp")
	if err != nil {
		return err
	}
	_, err = io.Copy(f, from)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}

func milliseconds(name string, otherwise int) time.Duration {
	n, err := strconv.Atoi(env(name, strconv.Itoa(otherwise)))
	if err != nil || n <= 0 {
		log.Fatalf("%s must be a number of milliseconds", name)
	}
	return time.Duration(n) * time.Millisecond
}
