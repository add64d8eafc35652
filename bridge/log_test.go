package bridge_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/test/bridgetest"
	"github.com/jobbridge/jobbridge/verify"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestFloodHidesNothingElse: what is left out of the log for being too much of
// one kind is counted, and takes no line from another kind.
func TestFloodHidesNothingElse(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	var sampled atomic.Int64
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Bridge.Logger = zap.New(core)
	srv.Config.Bridge.OnSampled = func() { sampled.Add(1) }
	srv.Start()
	get := func(path string) {
		t.Helper()
		resp, err := http.Get(strings.TrimSuffix(srv.URL, bridge.DefaultPath) + path)
		if err != nil || resp.StatusCode != 404 {
			t.Fatal(resp, err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	const n = 1000
	for range n {
		get("/none")
	}
	if r := srv.Deliver(bridgetest.Delivery{Secret: "whsec_rotated"}); r.Code != 400 {
		t.Fatal(r.Code)
	}
	if err := srv.Drain(); err != nil {
		t.Fatal(err)
	}
	lines := logs.FilterMessage(bridge.LogDelivery)
	if lines.FilterField(zap.String("reason", "mismatch")).Len() != 1 {
		t.Error("the mismatch is not logged")
	}
	if got := sampled.Load(); got == 0 || lines.Len()+int(got) != n+1 {
		t.Errorf("%d lines, and %d counted as left out, of %d", lines.Len(), got, n+1)
	}
}

// TestLoggedRequestIsPrintable: a path is anybody's choice, and the log may be
// read on a terminal.
func TestLoggedRequestIsPrintable(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Bridge.Logger = zap.New(core)
	srv.Start()
	resp, err := http.Get(strings.TrimSuffix(srv.URL, bridge.DefaultPath) + "/a%C2%9B31m%1B%5B2J%7F%E2%80%AE%FF" + strings.Repeat("%C3%A9", 1000))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if err := srv.Drain(); err != nil {
		t.Fatal(err)
	}
	lines := logs.FilterMessage(bridge.LogDelivery).All()
	if len(lines) != 1 {
		t.Fatal(lines)
	}
	path, _ := lines[0].ContextMap()["path"].(string)
	if !strings.HasPrefix(path, "/a\ufffd31m") || !strings.HasSuffix(path, "é…") || utf8.RuneCountInString(path) != 129 ||
		strings.ContainsFunc(path, func(r rune) bool { return !unicode.IsPrint(r) }) {
		t.Errorf("%q", path)
	}
}

type refuseAll struct{}

func (refuseAll) VerifyRaw(string, []byte) (verify.Verified, error) {
	return verify.Verified{}, verify.ErrUnsigned
}

func (refuseAll) VerifyStringified(string, []byte) (verify.Verified, error) {
	return verify.Verified{}, verify.ErrUnsigned
}

func (refuseAll) Publish(context.Context, event.Event) (publisher.Receipt, error) {
	return publisher.Receipt{}, event.ErrUnavailable
}

// serve serves a bridge on a port of its own; stop ends it.
func serve(t *testing.T, cfg bridge.Config) (addr string, stop func()) {
	t.Helper()
	b, err := bridge.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, ln) }()
	return ln.Addr().String(), func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestHandshakesAreSampled: failed handshakes come from ports of the sender's
// choice, and are one kind of line all the same.
func TestHandshakesAreSampled(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	var sampled atomic.Int64
	addr, stop := serve(t, bridge.Config{
		Verifier: refuseAll{}, Publisher: refuseAll{}, TLS: &tls.Config{}, //nolint:gosec // no handshake gets that far
		Logger: zap.New(core), OnSampled: func() { sampled.Add(1) },
	})
	const n = 300
	start := time.Now()
	for range n {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, "this is no handshake\n"); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, conn) // it ends after the line is logged
		conn.Close()
	}
	seconds := int(time.Since(start)/time.Second) + 2
	stop()
	lines := logs.FilterMessage("http server")
	if got := lines.Len(); got < 100 || got > 102*seconds || got+int(sampled.Load()) != n {
		t.Errorf("%d of %d logged, %d counted as left out", got, n, sampled.Load())
	}
	if text, _ := lines.All()[0].ContextMap()["error"].(string); !strings.Contains(text, "TLS handshake error from 127.0.0.1:") {
		t.Errorf("%q", text)
	}
}
