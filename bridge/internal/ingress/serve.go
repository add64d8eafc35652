package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/listener"
	"github.com/jobbridge/jobbridge/bridge/internal/logging"
	"github.com/labstack/echo/v4"
	"go.uber.org/zap"
)

const (
	headerTimeout = 5 * time.Second
	// answerTimeout is the longest time from the last byte of a body to the answer.
	answerTimeout = 4500 * time.Millisecond
	// writeTimeout is the longest time that writing the answer takes.
	writeTimeout = 10 * time.Second
	maxHeader    = 16 << 10
)

// ServeHTTP makes an Ingress usable behind another server. That server must set its own timeouts.
func (in *Ingress) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	// Over HTTP/2 this header would end the connection, and refuse what the client has sent meanwhile.
	if in.draining.Load() && r.ProtoMajor == 1 {
		w.Header().Set(echo.HeaderConnection, "close")
	}
	in.echo.ServeHTTP(w, r)
}

// Serve accepts deliveries from ln until ctx ends, and then drains: for the drain delay it still accepts deliveries, then
// the listener closes, and the deliveries in flight are finished. Serve closes ln.
func (in *Ingress) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           in,
		ReadHeaderTimeout: min(headerTimeout, in.cfg.ReadTimeout),
		ReadTimeout:       in.cfg.ReadTimeout,
		WriteTimeout:      in.cfg.ReadTimeout + answerTimeout + writeTimeout, // it begins with the header
		IdleTimeout:       in.cfg.IdleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          logging.ErrorLog(in.sampled),
	}
	connections := listener.New(srv, ln, in.cfg.MaxConnections, in.cfg.TrustedProxies, func(at string) {
		in.metrics.rejected.WithLabelValues(at).Inc()
	})
	in.connections.Store(connections)
	watching, stopWatching := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stopWatching()
	in.pause.observeTick(in.cfg.Now())
	watch.Go(func() { in.watch(watching) })
	served := make(chan error, 1)
	go func() { served <- srv.Serve(in.secure(connections)) }()
	select {
	case err := <-served: // the listener failed for good
		in.draining.Store(true)
		in.cfg.OnDrain()
		_ = connections.Close() // it may have closed itself
		return errors.Join(fmt.Errorf("serve %s: %w", ln.Addr(), err), in.finish(ctx, srv, connections))
	case <-ctx.Done():
	}
	in.log.Info("draining", zap.Duration("delay", in.cfg.DrainDelay))
	in.draining.Store(true)
	in.cfg.OnDrain()
	time.Sleep(in.cfg.DrainDelay)
	connections.Drain()
	in.log.Debug("listener closed", zap.Error(<-served))
	return in.finish(ctx, srv, connections)
}

// finish waits for the deliveries in flight, within the time that they may take. ctx has ended, so finish uses only its
// values.
func (in *Ingress) finish(ctx context.Context, srv *http.Server, connections *listener.Connections) error {
	connections.Linger(answerTimeout)
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), in.cfg.ReadTimeout+answerTimeout)
	defer cancel()
	if err := srv.Shutdown(stop); err != nil {
		return errors.Join(fmt.Errorf("drain: %w", err), srv.Close())
	}
	return nil
}

// secure returns ln, or a listener over it that speaks TLS.
func (in *Ingress) secure(ln net.Listener) net.Listener {
	if in.cfg.TLS == nil {
		return ln
	}
	return tls.NewListener(ln, in.cfg.TLS)
}

// openConnections returns the number of open connections.
func (in *Ingress) openConnections() int {
	if c := in.connections.Load(); c != nil {
		return c.Open()
	}
	return 0
}
