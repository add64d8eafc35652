package remote_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/internal/remote"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func api(code jetstream.ErrorCode, description string) error {
	return fmt.Errorf("nats: %w", &jetstream.APIError{Code: 503, ErrorCode: code, Description: description})
}

// TestErrorClasses maps errors of the client and the server. The codes and texts are those of nats-server's errors.json and
// store.go.
func TestErrorClasses(t *testing.T) {
	t.Parallel()
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
		if got := remote.Class(r.err); got != r.want {
			t.Errorf("%v became %v, want %v", r.err, got, r.want)
		}
	}
}

// TestDuplicate publishes a message twice, and then other data under its id. Then the first message is deleted, and at last the user
// may not read the stream any more. What cannot be compared is a conflict.
func TestDuplicate(t *testing.T) {
	t.Parallel()
	srv := natsd.Start(t, natsd.Options{})
	stream := natsd.CreateStream(t, srv.AdminJS(t), 1)
	r := open(t, srv.URL)
	await(t, r, "audited", func(s remote.Status) bool { return s.Audited })
	conflict := func(data string) func() *nats.Msg {
		return func() *nats.Msg {
			return &nats.Msg{Subject: "job.conflict", Header: nats.Header{jetstream.MsgIDHeader: {"digest of " + data}}, Data: []byte(data)}
		}
	}
	publish := func(data string, want remote.Ack) {
		t.Helper()
		msg := message("a")
		msg.Data = []byte(data)
		if got, err := r.Publish(t.Context(), msg, conflict(data)); err != nil || got != want {
			t.Errorf("%s: %+v %v, want %+v", data, got, err, want)
		}
	}
	publish("one", remote.Ack{Sequence: 1})
	publish("one", remote.Ack{Sequence: 1, Duplicate: true})
	publish("two", remote.Ack{Sequence: 2, Conflict: true})
	publish("two", remote.Ack{Sequence: 2, Duplicate: true, Conflict: true})
	if err := stream.DeleteMsg(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	publish("one", remote.Ack{Sequence: 3, Conflict: true})
	if _, err := r.Get(t.Context(), 1); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Error(err)
	}
	remote.Refuse(r, "$JS.API.STREAM.MSG.GET.JOBS")
	publish("three", remote.Ack{Sequence: 4, Conflict: true})
}

// TestForeignStream publishes to a subject that belongs to another stream than the configured one.
func TestForeignStream(t *testing.T) {
	t.Parallel()
	srv := natsd.Start(t, natsd.Options{})
	other := jetstream.StreamConfig{Name: "OTHER", Subjects: []string{"job.>", "batch.>"}}
	if _, err := srv.AdminJS(t).CreateStream(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	r := open(t, srv.URL)
	if ack, err := r.Publish(t.Context(), message("a"), nil); !errors.Is(err, event.ErrMisconfigured) {
		t.Errorf("%+v %v", ack, err)
	}
}
