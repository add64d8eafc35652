package bridge_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/test/bridgetest"
	"github.com/nats-io/nats.go"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// valid returns options that New accepts, on ports that the system chooses.
func valid(t *testing.T) bridge.Options {
	t.Helper()
	return bridge.Options{
		DataDir: t.TempDir(), Secrets: bridge.Value([]string{bridgetest.Secret}),
		Webhook: bridge.WebhookOptions{Listen: "127.0.0.1:0"}, Admin: bridge.AdminOptions{Listen: "127.0.0.1:0"},
		NATS: bridge.NATSOptions{Listen: "127.0.0.1:0"},
	}
}

// TestOptions makes one field wrong at a time, and expects its name in the error.
func TestOptions(t *testing.T) {
	t.Parallel()
	if err := valid(t).Check(); err != nil {
		t.Fatal(err)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	connect := func(...nats.Option) (*nats.Conn, string, error) { return nil, "", errors.New("nobody is there") }
	for field, bend := range map[string]func(o *bridge.Options){
		"Secrets":                func(o *bridge.Options) { o.Secrets = bridge.Source[[]string]{} },
		"Secrets:":               func(o *bridge.Options) { o.Secrets = bridge.Value([]string(nil)) },
		"DataDir is empty":       func(o *bridge.Options) { o.DataDir = "" },
		"DataDir":                func(o *bridge.Options) { o.DataDir = file.Name() },
		"Tolerance":              func(o *bridge.Options) { o.Tolerance = time.Millisecond },
		"Webhook.Path":           func(o *bridge.Options) { o.Webhook.Path = "webhook" },
		"Webhook.Listen":         func(o *bridge.Options) { o.Webhook.Listen = "8080" },
		"Webhook.MaxBody":        func(o *bridge.Options) { o.Webhook.MaxBody = 32 << 20 },
		"Webhook.MaxBodyMemory":  func(o *bridge.Options) { o.Webhook.MaxBodyMemory = -1 },
		"Webhook.MaxInFlight":    func(o *bridge.Options) { o.Webhook.MaxInFlight = -1 },
		"Webhook.MaxConnections": func(o *bridge.Options) { o.Webhook.MaxConnections = -1 },
		"Webhook.ReadTimeout":    func(o *bridge.Options) { o.Webhook.ReadTimeout = -1 },
		"Webhook.ACME.Dir":       func(o *bridge.Options) { o.Webhook.ACME.Domains = []string{"a.example"} },
		"Admin.Listen": func(o *bridge.Options) {
			o.Admin.Listen = "127.0.0.1:4000"
			o.NATS.Listen = "127.0.0.1:4000"
		},
		"Admin.Token":               func(o *bridge.Options) { o.Admin.Token = bridge.Value("short") },
		"Journal.Off":               func(o *bridge.Options) { o.Journal.Off = true },
		"Journal.MaxBytes":          func(o *bridge.Options) { o.Journal.MaxBytes = 1 << 20 },
		"Journal.Durability: want":  func(o *bridge.Options) { o.Journal.Durability = "maybe" },
		"Journal.Durability is":     func(o *bridge.Options) { o.NATS.Connect, o.Journal.Off, o.Journal.Durability = connect, true, event.OS },
		"Stream.Name":               func(o *bridge.Options) { o.Stream.Name = "a.b" },
		"Stream.Retention":          func(o *bridge.Options) { o.Stream.Retention = time.Minute },
		"Stream.Dedupe":             func(o *bridge.Options) { o.Stream.Dedupe = time.Minute },
		"Stream.MaxBytes":           func(o *bridge.Options) { o.Stream.MaxBytes = 1 << 20 },
		"NATS.Listen: 0.0.0.0:4222": func(o *bridge.Options) { o.NATS.Listen = "0.0.0.0:4222" },
		"NATS.Workers: embedded":    func(o *bridge.Options) { o.NATS.Workers = bridge.Value([]publisher.Worker{{User: "ann"}}) },
		"NATS.MaxConnections":       func(o *bridge.Options) { o.NATS.MaxConnections = -1 },
		"NATS.TLS":                  func(o *bridge.Options) { o.NATS.Connect, o.NATS.TLS = connect, bridge.Value(bridge.Certificate{}) },
		"Quarantine.MaxBytes":       func(o *bridge.Options) { o.Quarantine.MaxBytes = 1 },
		"Quarantine.MaxAge":         func(o *bridge.Options) { o.Quarantine.MaxAge = 1 },
		"Quarantine.MaxBody":        func(o *bridge.Options) { o.Quarantine.MaxBody = -1 },
		"Shutdown.Delay":            func(o *bridge.Options) { o.Shutdown.Delay = -1 },
		"Shutdown.Timeout":          func(o *bridge.Options) { o.Shutdown.Timeout = -1 },
	} {
		o := valid(t)
		bend(&o)
		var wrong *bridge.OptionError
		if err := o.Check(); !errors.As(err, &wrong) || !strings.Contains(err.Error(), "Options."+field) {
			t.Errorf("%s: %v", field, err)
		}
		if b, err := bridge.New(o); !errors.As(err, &wrong) || b != nil {
			t.Errorf("New with a wrong %s: %v", field, err)
		}
	}
}

// TestSourceError returns the error of a setting that cannot be read as it is.
func TestSourceError(t *testing.T) {
	t.Parallel()
	o, want := valid(t), errors.New("the vault is closed")
	o.Secrets.Read = func() ([]string, error) { return nil, want }
	if err := o.Check(); !errors.Is(err, want) || strings.Contains(err.Error(), "Options.") {
		t.Error(err)
	}
}

// TestTakenPort expects New to fail before it has started anything, and to leave no port
// bound.
func TestTakenPort(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	o := valid(t)
	o.Webhook.Listen = taken.Addr().String()
	admin, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.Admin.Listener = admin
	if _, err := bridge.New(o); err == nil || !strings.Contains(err.Error(), "Options.Webhook.Listen") ||
		errors.As(err, new(*bridge.OptionError)) {
		t.Fatal(err)
	}
	if _, err := admin.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Error("the admin listener is still open:", err)
	}
	if entries, err := os.ReadDir(o.DataDir); err != nil || len(entries) > 0 {
		t.Error("the data folder was touched:", entries, err)
	}
}

// TestTakenNATSPort expects Run to name the option if another program has the port of the embedded server.
func TestTakenNATSPort(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	o := valid(t)
	o.NATS.Listen = taken.Addr().String()
	b, err := bridge.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "Options.NATS.Listen: ") {
		t.Error(err)
	}
}

// TestEndedContext expects Run to close the listeners of a Bridge that nobody needs.
func TestEndedContext(t *testing.T) {
	t.Parallel()
	o := valid(t)
	for _, given := range []*net.Listener{&o.Webhook.Listener, &o.Admin.Listener} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		*given = ln
	}
	b, err := bridge.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Run(ended); err != nil {
		t.Error(err)
	}
	for name, ln := range map[string]net.Listener{"webhook": o.Webhook.Listener, "admin": o.Admin.Listener} {
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Error("still open:", name, err)
		}
	}
}

// TestRun starts and ends a bridge. The bridge returns its URLs, calls OnReady and
// OnStopping, and leaves nothing running.
func TestRun(t *testing.T) {
	before := goleak.IgnoreCurrent()
	o := valid(t)
	ready, stopping := make(chan struct{}), make(chan struct{})
	o.OnReady, o.OnStopping = func() { close(ready) }, func() { close(stopping) }
	b, err := bridge.New(o)
	if err != nil {
		t.Fatal(err)
	}
	if addrs := b.Addrs(); !strings.HasPrefix(addrs.Webhook, "http://127.0.0.1:") || !strings.HasSuffix(addrs.Webhook, "/webhook") ||
		!strings.HasPrefix(addrs.Admin, "http://127.0.0.1:") || addrs.NATS != "" {
		t.Errorf("%+v", addrs)
	}
	if got := b.Report().State; got != operator.Starting {
		t.Errorf("before Run: %s", got)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-ready
	if addrs := b.Addrs(); !strings.HasPrefix(addrs.NATS, "nats://127.0.0.1:") {
		t.Errorf("%+v", addrs)
	}
	resp, err := http.Get(b.Addrs().Admin + operator.PathReady)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	resp.Body.Close()
	if err := b.Drain(); err != nil {
		t.Fatal(err)
	}
	<-stopping
	if got := b.Report().State; got != operator.Draining {
		t.Errorf("drained: %s", got)
	}
	nc, err := nats.Connect(b.Addrs().NATS)
	if err != nil {
		t.Fatal("NATS ends with Drain:", err)
	}
	nc.Close()
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t, before)
}

// TestShutdownOnAHangingDisk has every sync hang from some moment on, while refused
// requests wait to be written and an event to be stored. Run returns at its deadline
// all the same, says what it abandoned, and what had been acknowledged is stored (case
// R2).
func TestShutdownOnAHangingDisk(t *testing.T) {
	before := goleak.IgnoreCurrent()
	core, logs := observer.New(zap.DebugLevel)
	srv := bridgetest.NewUnstartedServer(t) // it only posts
	o := valid(t)
	var hangs atomic.Bool
	release := make(chan struct{})
	o.Sync = func(f *os.File) error {
		if hangs.Load() {
			<-release
		}
		return f.Sync()
	}
	o.Logger = zap.New(core)
	o.Shutdown = bridge.ShutdownOptions{Forward: 200 * time.Millisecond, Timeout: 5500 * time.Millisecond}
	ready := make(chan struct{})
	o.OnReady = func() { close(ready) }
	b, err := bridge.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-ready
	srv.URL = b.Addrs().Webhook
	if r := srv.Deliver(bridgetest.Delivery{ID: "before"}); r.Code != 200 {
		t.Fatal(r.Code)
	}
	hangs.Store(true)
	var posts sync.WaitGroup
	posts.Go(func() {
		if r, err := srv.Post(bridgetest.Delivery{ID: "during"}); err != nil || r.Code != 503 {
			t.Errorf("a delivery that could not be stored: %d %v", r.Code, err)
		}
	})
	for i := range 20 {
		if r := srv.Deliver(bridgetest.Delivery{ID: fmt.Sprint("refused-", i), Secret: "whsec_other"}); r.Code != 400 {
			t.Fatal(r.Code)
		}
	}
	start := time.Now()
	stop()
	err = <-done
	took := time.Since(start)
	if took > o.Shutdown.Timeout+5*time.Second {
		t.Errorf("it took %s", took)
	}
	if err == nil || !strings.Contains(err.Error(), "publisher did not end in time") {
		t.Errorf("%v", err)
	}
	posts.Wait()
	lines := logs.FilterMessage("shutdown")
	for _, step := range []string{"webhook listener", "reading of files", "refused requests", "publisher", "quarantine", "admin listener",
		"listeners"} {
		if lines.FilterField(zap.String("step", step)).Len() != 1 {
			t.Errorf("no line of %q", step)
		}
	}
	close(release)
	http.DefaultClient.CloseIdleConnections()
	for end := time.Now().Add(bridgetest.Patience); goleak.Find(before) != nil && time.Now().Before(end); { // what was abandoned ends now
		time.Sleep(10 * time.Millisecond)
	}
	p, err := publisher.Open(t.Context(), publisher.Options{Dir: o.DataDir})
	if err != nil {
		t.Fatal(err)
	}
	if records, err := p.Lookup(t.Context(), "before"); err != nil || len(records) != 1 {
		t.Errorf("%v %v", records, err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestReloadOfSecrets reads a setting again: at once when Reload is called, though no
// file has changed its size or time in a way that could be seen.
func TestReloadOfSecrets(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/secret"
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("whsec_one")
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Secrets = bridge.Files(func() ([]string, error) {
		text, err := os.ReadFile(path)
		return []string{string(text)}, err
	}, path)
	srv.Start()
	if r := srv.Deliver(bridgetest.Delivery{Secret: "whsec_one"}); r.Code != 200 {
		t.Fatal(r.Code)
	}
	write("whsec_two")
	srv.Bridge.Reload()
	end := time.Now().Add(bridgetest.Patience)
	for ; srv.Deliver(bridgetest.Delivery{Secret: "whsec_two"}).Code != 200; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the new secret is not in force")
		}
	}
	if r := srv.Deliver(bridgetest.Delivery{Secret: "whsec_one"}); r.Code != 400 {
		t.Error("the old secret is still in force:", r.Code)
	}
}
