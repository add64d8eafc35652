// Package traffic is the load of the fault tests, and it judges the result. Many senders deliver signed events to a bridge. The package
// records each answer and compares the answers with a stream, event by event.
//
// [Load.Check] passes only if every acknowledged event is stored, in the bytes that were signed, if nothing is stored twice, and if nothing
// is stored that was not signed. The tests inject the faults.
package traffic

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Statuses are the statuses of each job, in the order in which they are sent.
var Statuses = []string{"PENDING", "PROCESSING", "COMPLETED"}

// Options configures a Load. URL and Secret are required.
type Options struct {
	// URL returns the URL of the webhook. It is called for each delivery, because a bridge that was started again has another URL.
	URL func() string
	// Secret signs the deliveries.
	Secret string
	// Senders is the number of concurrent senders. 0 means 8.
	Senders int
	// Pad bounds the padding of a payload, in bytes. The padding is random below that.
	Pad int
	// Jobs is the number of jobs that each sender sends. 0 means that it sends until Stop.
	Jobs int
	// Pace is how long a sender rests after each delivery.
	Pace time.Duration
	// NoKeepAlive opens a new connection for each delivery.
	NoKeepAlive bool
	// Forge sends a request with a bad signature after each delivery.
	Forge bool
}

// Answer is the result of one delivery.
type Answer struct {
	// Code is the status code of the answer. 0 means that there was no answer.
	Code int
	// Sequence is the sequence of an acknowledged event in the journal. In direct mode it is the sequence in the stream.
	Sequence uint64 `json:"sequence"`
	// Duplicate says that the event had been stored before.
	Duplicate bool `json:"duplicate"`
	// At is the time of the answer. Took is the time between the delivery and its answer.
	At   time.Time
	Took time.Duration
	// Err says why there was no answer.
	Err error
}

// Load sends deliveries and records their answers.
type Load struct {
	opts   Options
	client *http.Client
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex
	signed  map[string][]byte // by message id
	answers map[string]Answer
	codes   map[int]int // how many answers have each code
	forged  int
	wrong   []string // forgeries that were not refused
}

var loads = struct {
	sync.Mutex
	n int
}{}

// Start begins to send deliveries. They stop at the end of the test, or with [Load.Stop].
func Start(t testing.TB, o Options) *Load {
	t.Helper()
	if o.Senders == 0 {
		o.Senders = 8
	}
	loads.Lock()
	loads.n++
	prefix := fmt.Sprintf("load%d", loads.n)
	loads.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{
		opts: o, cancel: cancel, signed: make(map[string][]byte), answers: make(map[string]Answer), codes: make(map[int]int),
		client: &http.Client{Timeout: 15 * time.Second,
			Transport: &http.Transport{MaxIdleConnsPerHost: o.Senders, DisableKeepAlives: o.NoKeepAlive}},
	}
	for w := range o.Senders {
		l.work.Go(func() {
			for job := 0; (o.Jobs == 0 || job < o.Jobs) && ctx.Err() == nil; job++ {
				for _, status := range Statuses {
					if ctx.Err() == nil {
						l.deliver(fmt.Sprintf("%s-%d-%d", prefix, w, job), status)
					}
				}
			}
		})
	}
	t.Cleanup(l.Stop)
	return l
}

// Stop ends the load and waits for the answers that are still missing.
func (l *Load) Stop() {
	l.cancel()
	l.work.Wait()
	l.client.CloseIdleConnections()
}

// Wait waits until a load with a fixed number of jobs has sent all deliveries.
func (l *Load) Wait() { l.work.Wait() }

func (l *Load) deliver(id, status string) {
	pad := 0
	if l.opts.Pad > 0 {
		pad = rand.IntN(l.opts.Pad)
	}
	payload := fmt.Appendf(nil, `{"id":%q,"status":%q,"pad":"%s"}`, id, status, strings.Repeat("x", pad))
	key := "sync:" + id + ":" + status
	l.mu.Lock()
	l.signed[key] = payload
	l.mu.Unlock()
	answer := l.post(l.opts.Secret, payload)
	l.mu.Lock()
	l.answers[key] = answer
	l.codes[answer.Code]++
	l.mu.Unlock()
	if l.opts.Forge {
		forgery := fmt.Appendf(nil, `{"id":%q,"status":"FORGED"}`, id)
		if a := l.post("whsec_forged", forgery); a.Err == nil {
			l.mu.Lock()
			l.forged++
			if a.Code != http.StatusBadRequest && a.Code != http.StatusTooManyRequests && a.Code != http.StatusServiceUnavailable {
				l.wrong = append(l.wrong, fmt.Sprint(id, ": ", a.Code))
			}
			l.mu.Unlock()
		}
	}
	time.Sleep(l.opts.Pace) // the rate of the load
}

func (l *Load) post(secret string, body []byte) (a Answer) {
	start := time.Now()
	defer func() { a.At = time.Now(); a.Took = a.At.Sub(start) }()
	code, data, err := Send(l.client, Request(l.opts.URL(), secret, string(body)))
	if a.Code, a.Err = code, err; err == nil && code == http.StatusOK {
		a.Err = json.Unmarshal(data, &a)
	}
	return a
}

// Request returns a delivery of body as the provider sends it, signed now with secret.
func Request(url, secret, body string) *http.Request {
	r, err := http.NewRequest(http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		panic(err) // the URL of a bridge is a URL
	}
	r.Header.Set(verify.HeaderName, verify.Sign(secret, time.Now(), []byte(body)))
	return r
}

// Send sends a request and returns the status code and the body of the answer. Without an answer the code is 0.
func Send(client *http.Client, r *http.Request) (code int, body []byte, err error) {
	resp, err := client.Do(r)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// Acked returns how many deliveries were acknowledged so far.
func (l *Load) Acked() int { return l.Codes()[http.StatusOK] }

// Codes returns how many answers have each status code. Code 0 means that there was no answer.
func (l *Load) Codes() map[int]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.codes)
}

// Slowest returns the longest time that any answer took.
func (l *Load) Slowest() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	var longest time.Duration
	for _, a := range l.answers {
		longest = max(longest, a.Took)
	}
	return longest
}

// Errors returns the errors of deliveries that had no answer.
func (l *Load) Errors() (errs []error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, a := range l.answers {
		if a.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", key, a.Err))
		}
	}
	return errs
}

// Each calls f for each delivery that was answered. id is its message id.
func (l *Load) Each(f func(id string, a Answer)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, a := range l.answers {
		f(id, a)
	}
}

// AckedAfter considers the deliveries that were sent after t, and returns the time of the first acknowledgement among them. Zero means
// that there is none.
func (l *Load) AckedAfter(t time.Time) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	var first time.Time
	for _, a := range l.answers {
		if a.Code == http.StatusOK && a.At.Add(-a.Took).After(t) && (first.IsZero() || a.At.Before(first)) {
			first = a.At
		}
	}
	return first
}

// AwaitAcked waits until n more deliveries are acknowledged.
func (l *Load) AwaitAcked(t testing.TB, n int) {
	t.Helper()
	want := l.Acked() + n
	Eventually(t, 30*time.Second, func() error {
		if got := l.Acked(); got < want {
			return fmt.Errorf("%d acknowledged, want %d; answers %v", got, want, l.Codes())
		}
		return nil
	})
}

// Eventually waits until f returns nil. It calls f less and less often, down to every 50 ms, because f may cost the bridge a request.
func Eventually(t testing.TB, patience time.Duration, f func() error) {
	t.Helper()
	end := time.Now().Add(patience)
	for pause := 2 * time.Millisecond; ; pause = min(pause*3/2, 50*time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("after %s: %v", patience, err)
		}
		time.Sleep(pause) // between two polls
	}
}

// Message is a message in a stream.
type Message struct {
	// Sequence is the sequence in the stream. Journal is the sequence in the journal, and 0 in direct mode.
	Sequence, Journal uint64
	ID                string
	Subject           string
	Data              []byte
	Stored            time.Time
}

// Stored returns all messages of a stream.
func Stored(ctx context.Context, nc *nats.Conn, name string) ([]Message, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return nil, err
	}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", name, err)
	}
	left := int(stream.CachedInfo().State.Msgs)
	if left == 0 {
		return nil, nil
	}
	consumer, err := js.OrderedConsumer(ctx, name, jetstream.OrderedConsumerConfig{})
	if err != nil {
		return nil, fmt.Errorf("consumer: %w", err)
	}
	var all []Message
	for left > 0 {
		batch, err := consumer.Fetch(min(left, 500), jetstream.FetchMaxWait(10*time.Second))
		if err != nil {
			return nil, fmt.Errorf("fetch: %w", err)
		}
		got := 0
		for m := range batch.Messages() {
			meta, err := m.Metadata()
			if err != nil {
				return nil, err
			}
			journal, _ := strconv.ParseUint(m.Headers().Get(event.SequenceHeader), 10, 64) // absent in direct mode
			all = append(all, Message{meta.Sequence.Stream, journal, m.Headers().Get(jetstream.MsgIDHeader),
				m.Subject(), bytes.Clone(m.Data()), meta.Timestamp})
			got++
		}
		if left -= got; got == 0 {
			return nil, fmt.Errorf("%d messages did not come: %w", left, batch.Error())
		}
	}
	return all, nil
}

// Verdict counts what [Load.Judge] found.
type Verdict struct {
	Signed, Acked, Stored, Forged    int
	Lost, Twice, Foreign, OutOfOrder []string
}

// String returns the counts.
func (v Verdict) String() string {
	return fmt.Sprintf("%d signed, %d acknowledged, %d stored, %d forged: %d lost, %d twice, %d foreign, %d out of order",
		v.Signed, v.Acked, v.Stored, v.Forged,
		len(v.Lost), len(v.Twice), len(v.Foreign), len(v.OutOfOrder))
}

// Err returns an error with examples of what is wrong, or nil.
func (v Verdict) Err() error {
	var errs []error
	for what, list := range map[string][]string{"acknowledged and lost": v.Lost, "stored twice": v.Twice,
		"stored, but never signed": v.Foreign, "out of order": v.OutOfOrder} {
		if len(list) > 0 {
			slices.Sort(list)
			errs = append(errs, fmt.Errorf("%s: %d, such as %v", what, len(list), list[:min(len(list), 5)]))
		}
	}
	return errors.Join(errs...)
}

// Judge compares the deliveries with the messages of a stream. owed reports whether an acknowledged delivery must be stored. If owed
// is nil, each of them must be.
func (l *Load) Judge(stored []Message, owed func(Answer) bool) Verdict {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := Verdict{Signed: len(l.signed), Stored: len(stored), Forged: l.forged}
	v.Foreign = append(v.Foreign, l.wrong...)
	seen := make(map[string]bool, len(stored))
	last := make(map[string]int) // job → index of its last status
	for _, m := range stored {
		if seen[m.ID] {
			v.Twice = append(v.Twice, m.ID)
		}
		seen[m.ID] = true
		if payload, ok := l.signed[m.ID]; !ok || !bytes.Equal(payload, m.Data) {
			v.Foreign = append(v.Foreign, m.ID)
		}
		// Only acknowledged events have an order: nobody knows when an unanswered event is stored.
		if at := strings.LastIndexByte(m.ID, ':'); at > 0 && l.answers[m.ID].Code == http.StatusOK {
			job, rank := m.ID[:at], slices.Index(Statuses, m.ID[at+1:])
			if rank < last[job] {
				v.OutOfOrder = append(v.OutOfOrder, m.ID)
			}
			last[job] = max(last[job], rank)
		}
	}
	for key, a := range l.answers {
		if a.Code != http.StatusOK {
			continue
		}
		v.Acked++
		if !seen[key] && (owed == nil || owed(a)) {
			v.Lost = append(v.Lost, key)
		}
	}
	return v
}

// Check reads the stream and judges the load. It fails the test unless the verdict is good.
func (l *Load) Check(t testing.TB, nc *nats.Conn, stream string) Verdict {
	t.Helper()
	var stored []Message
	Eventually(t, time.Minute, func() (err error) { // a cluster may be electing a leader still
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		stored, err = Stored(ctx, nc, stream)
		return err
	})
	v := l.Judge(stored, nil)
	if err := v.Err(); err != nil {
		t.Errorf("%s:\n%v", v, err)
	}
	return v
}
