package embedded

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// CheckListen reports what is wrong with [Options.Listen] and [Options.Workers];
// above all, it refuses to serve the network without passwords.
func CheckListen(addr string, workers []Worker) error {
	for i, w := range workers {
		if w.User == "" || w.Password == "" {
			return fmt.Errorf("embedded: Options.Workers[%d]: a worker needs a name and a password", i)
		}
	}
	if addr == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return fmt.Errorf("embedded: Options.Listen: %w", err)
	}
	if !IsLoopback(addr) && len(workers) == 0 {
		return fmt.Errorf("embedded: %s is not a loopback address: workers need passwords", addr)
	}
	return nil
}

// IsLoopback reports whether only this machine reaches an address, which is a host
// with or without a port.
func IsLoopback(addr string) bool {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		addr = host
	}
	ip := net.ParseIP(strings.Trim(addr, "[]"))
	return strings.EqualFold(addr, "localhost") || ip != nil && ip.IsLoopback()
}

// serverOptions returns the configuration of nats-server. Once the server has listened,
// it keeps its port.
func (s *Server) serverOptions() (*server.Options, error) {
	opts := &server.Options{
		ServerName:             "jobbridge",
		NoSigs:                 true, // or the server would catch SIGTERM and exit the process
		DisableJetStreamBanner: true,
		MaxPayload:             int32(min(s.opts.MaxPayload, math.MaxInt32)),
		JetStream:              true,
		StoreDir:               s.opts.Dir,
		// The server's own timer compacts blocks by renames that it does not
		// sync. Sync is the only fsync.
		SyncInterval: 8760 * time.Hour,
		// The stream has its own bound. A bound of the server below it would keep
		// the stream from being recovered.
		JetStreamMaxStore:  math.MaxInt64 / 2,
		JetStreamMaxMemory: 64 << 20,
		MaxConn:            s.opts.MaxConnections + 1, // and the owner's
		TLSConfig:          s.opts.TLS,
		DontListen:         s.opts.Listen == "",
		FeatureFlags:       s.opts.featureFlags,
	}
	if opts.DontListen {
		return opts, nil
	}
	host, port, err := net.SplitHostPort(s.opts.Listen)
	if err != nil {
		return nil, fmt.Errorf("embedded: Options.Listen: %w", err)
	}
	opts.Host, opts.Port = host, s.port
	if s.port == 0 {
		if opts.Port, err = strconv.Atoi(port); err != nil {
			return nil, fmt.Errorf("embedded: Options.Listen: port %q", port)
		}
	}
	opts.Port = cmp.Or(opts.Port, server.RANDOM_PORT)
	return opts, nil
}

// SetWorkers replaces the workers that may connect. A worker that is not in the list
// any more, or has another password there, is disconnected; nobody else is. The
// list must not be empty, because then every client would be a worker.
func (s *Server) SetWorkers(workers []Worker) error {
	if err := CheckListen(s.opts.Listen, workers); err != nil {
		return err
	}
	if len(workers) == 0 {
		return errors.New("embedded: no workers: every client would be one")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.Workers = workers // Restart needs them
	if err := s.run.Load().accounts.setWorkers(workers); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	return nil
}
