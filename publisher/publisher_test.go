package publisher_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// faulty answers a publish with an error, or with a PubAck.
type faulty struct {
	ack *jetstream.PubAck
	err error
}

func (f faulty) PublishMsg(context.Context, *nats.Msg, ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	return f.ack, f.err
}

func (f faulty) GetMsg(context.Context, uint64, ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	return nil, f.err
}

func (f faulty) Commit(context.Context) error { return f.err }
func (faulty) Err() error                     { return nil }
func (faulty) Durability() event.Durability   { return event.Fsync }

func api(code jetstream.ErrorCode, description string) error {
	return fmt.Errorf("nats: %w", &jetstream.APIError{Code: 503, ErrorCode: code, Description: description})
}

// TestErrorClasses maps what the client and the server say; codes and texts are
// those of nats-server's errors.json and store.go.
func TestErrorClasses(t *testing.T) {
	for _, r := range []struct {
		err  error
		want error
	}{
		{nats.ErrMaxPayload, event.ErrTooLarge},
		{api(10054, "message size exceeds maximum allowed"), event.ErrTooLarge},
		{api(10097, "header size exceeds maximum allowed of 64k"), event.ErrTooLarge},
		{api(10077, "message too large"), event.ErrTooLarge},
		{api(10077, "maximum bytes exceeded"), event.ErrFull},
		{api(10077, "maximum messages exceeded"), event.ErrFull},
		{api(10077, "something new"), event.ErrUnavailable},
		{api(10002, "resource limits exceeded for account"), event.ErrFull},
		{api(10047, "insufficient storage resources available"), event.ErrFull},
		{api(10060, "expected stream does not match"), event.ErrMisconfigured},
		{api(10109, "invalid operation on sealed stream"), event.ErrMisconfigured},
		{nats.ErrPermissionViolation, event.ErrMisconfigured},
		{jetstream.ErrInvalidJSAck, event.ErrMisconfigured},
		{jetstream.ErrNoStreamResponse, event.ErrUnavailable},
		{nats.ErrConnectionClosed, event.ErrUnavailable},
		{nats.ErrReconnectBufExceeded, event.ErrUnavailable},
		{context.DeadlineExceeded, event.ErrUnavailable},
		{api(10008, "JetStream system temporarily unavailable"), event.ErrUnavailable},
		{api(10158, "duplicate message id is in process"), event.ErrUnavailable},
	} {
		f := faulty{err: r.err}
		p, err := publisher.New(publisher.Options{JetStream: f, Stored: f, Stream: "JOBS", Commit: f})
		if err != nil {
			t.Fatal(err)
		}
		_, err = p.Publish(t.Context(), event.Event{ID: "a", Status: "COMPLETED"})
		if !errors.Is(err, r.want) || !errors.Is(err, r.err) {
			t.Errorf("%v became %v, want %v", r.err, err, r.want)
		}
	}
}

// TestForeignAck is a PubAck of another stream than expected.
func TestForeignAck(t *testing.T) {
	f := faulty{ack: &jetstream.PubAck{Stream: "OTHER", Sequence: 1}}
	p, err := publisher.New(publisher.Options{JetStream: f, Stored: f, Stream: "JOBS", Commit: f})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := p.Publish(t.Context(), event.Event{}); !errors.Is(err, event.ErrMisconfigured) {
		t.Errorf("%+v %v", r, err)
	}
}

func TestOptions(t *testing.T) {
	f := faulty{}
	for name, bend := range map[string]func(*publisher.Options){
		"JetStream": func(o *publisher.Options) { o.JetStream = nil },
		"Stored":    func(o *publisher.Options) { o.Stored = nil },
		"Stream":    func(o *publisher.Options) { o.Stream = "" },
		"Commit":    func(o *publisher.Options) { o.Commit = nil },
	} {
		o := publisher.Options{JetStream: f, Stored: f, Stream: "JOBS", Commit: f}
		bend(&o)
		if _, err := publisher.New(o); err == nil || err.Error()[:len("publisher: Options."+name)] != "publisher: Options."+name {
			t.Errorf("without %s: %v", name, err)
		}
	}
}
