package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/journal"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const secret = "whsec_bench"

// serve runs one variant until SIGTERM, and prints its URL.
func serve(args []string) error {
	if len(args) != 2 {
		return errors.New("server: want a variant and a folder")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	verifier, err := verify.New([]string{secret}, verify.Options{})
	if err != nil {
		return err
	}
	if args[0] == "ceiling" {
		return ceiling(ctx, ln, verifier)
	}
	o := journal.Options{Dir: args[1], Listen: "127.0.0.1:0"}
	switch args[0] {
	case "sync-always":
		o.Method = journal.Always
	case "os":
		o.Durability = publisher.OS
	case "fsync":
	default:
		return fmt.Errorf("no variant %q", args[0])
	}
	return bridged(ctx, ln, verifier, o)
}

// ceiling is what no bridge can be faster than: echo, the signature, a 200.
func ceiling(ctx context.Context, ln net.Listener, verifier *verify.Verifier) error {
	e := echo.New()
	e.POST("/webhook", func(c echo.Context) error {
		body, err := io.ReadAll(c.Request().Body)
		if err != nil {
			return err
		}
		if _, err := verifier.Verify(c.Request().Header.Get(verify.HeaderName), body); err != nil {
			return echo.NewHTTPError(http.StatusBadRequest)
		}
		return c.JSON(http.StatusOK, map[string]string{"message": "Webhook signature verified"})
	})
	srv := &http.Server{Handler: e} //nolint:gosec // for one client, of our own
	context.AfterFunc(ctx, func() { _ = srv.Close() })
	fmt.Printf("http://%s/webhook\n", ln.Addr())
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// bridged is a bridge with all that a production one has on: a line of log per
// delivery, metrics, headers, limits.
func bridged(ctx context.Context, ln net.Listener, verifier *verify.Verifier, o journal.Options) (err error) {
	sink, err := os.Create(o.Dir + ".log")
	if err != nil {
		return err
	}
	defer sink.Close()
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(sink), zap.InfoLevel))
	o.Logger = log
	j, err := journal.Open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	p, err := publisher.New(publisher.Options{JetStream: j.JetStream(), Stored: j.Stream(), Stream: publisher.DefaultStream, Commit: j, Room: j.Room})
	if err != nil {
		return err
	}
	b, err := bridge.New(bridge.Config{Verifier: verifier, Publisher: p, Registerer: prometheus.NewRegistry(), Logger: log})
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/webhook\n", ln.Addr())
	return b.Serve(ctx, ln)
}
