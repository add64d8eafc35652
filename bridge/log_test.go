package bridge_test

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/test/bridgetest"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// TestFloodHidesNothingElse causes too many lines of one kind. The lines that are left
// out are counted, and the lines of other kinds are all written.
func TestFloodHidesNothingElse(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	var sampled atomic.Int64
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Logger = zap.New(core)
	srv.Config.OnSampled = func() { sampled.Add(1) }
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

// TestLoggedRequestIsPrintable requests a path with control characters. The log, which
// may be read on a terminal, has none of them.
func TestLoggedRequestIsPrintable(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zapcore.InfoLevel)
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Logger = zap.New(core)
	srv.Start()
	resp, err := http.Get(strings.TrimSuffix(srv.URL, bridge.DefaultPath) +
		"/a%C2%9B31m%1B%5B2J%7F%E2%80%AE%FF" + strings.Repeat("%C3%A9", 1000))
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
