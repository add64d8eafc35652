package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/jobbridge/jobbridge/bridge"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
)

type serveCmd struct {
	Flags serveFlags `embed:""`
}

// Run serves until ctx ends or the storage fails.
func (c *serveCmd) Run(ctx context.Context, k *kong.Context, s streams) error {
	signal.Ignore(syscall.SIGPIPE) // a write to a log without a reader fails instead
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	log, lines := c.Flags.Log.logger(s.err)
	defer lines.close()
	defer context.AfterFunc(ctx, lines.writeImmediately)() // a second signal ends the process at once
	for _, hint := range misspelled(k.Kong, os.Environ()) {
		log.Warn(hint)
	}
	o, err := c.Flags.options(s.getenv)
	if err != nil {
		return err
	}
	devSecret := ""
	if c.Flags.Dev {
		if devSecret, err = makeDevSecret(o); err != nil {
			return err
		}
		o.Secrets = bridge.Value([]string{devSecret})
	}
	var stopTraces func()
	if o.Tracer, stopTraces, err = c.Flags.Trace.tracer(ctx, s.getenv, log); err != nil {
		return err
	}
	defer stopTraces()
	if o.Webhook.Listener, o.Admin.Listener, err = inherited(); err != nil {
		return err
	}
	o.Logger, o.OnSampled, o.Metrics = log, lines.dropped.WithLabelValues(whySampled).Inc, prometheus.NewRegistry()
	o.Metrics.MustRegister(buildMetric(), collectors.NewBuildInfoCollector(), collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), lines.dropped)
	o.Translate = translate
	o.Admin.Settings = func(secrets []string) any { return c.Flags.settings(k, s.getenv, secrets) }
	ready := make(chan struct{})
	var background sync.WaitGroup
	o.OnReady = func() { notify(log, daemon.SdNotifyReady); close(ready) }
	o.OnStopping = func() { background.Go(func() { notify(log, daemon.SdNotifyStopping) }) }
	b, err := bridge.New(o)
	if err != nil {
		return inFlags(err)
	}
	running, stop := context.WithCancel(ctx)
	background.Go(func() {
		for {
			select {
			case <-hangup:
				log.Info("SIGHUP: reading files again")
				b.Reload()
			case <-running.Done():
				return
			}
		}
	})
	if c.Flags.Dev {
		background.Go(func() {
			select {
			case <-ready:
				c.Flags.welcome(running, s, devSecret, b.Addrs())
			case <-running.Done():
			}
		})
	}
	err = b.Run(ctx)
	stop()
	background.Wait()
	return inFlags(err)
}

// notify tells systemd the state if systemd runs this process. It does not wait for a systemd that does not listen.
func notify(log *zap.Logger, state string) {
	notified := make(chan error, 1)
	go func() {
		_, err := daemon.SdNotify(false, state)
		notified <- err
	}()
	select {
	case err := <-notified:
		if err != nil {
			log.Warn("notify systemd", zap.Error(err))
		}
	case <-time.After(200 * time.Millisecond):
		log.Warn("notify systemd: it does not listen")
	}
}
