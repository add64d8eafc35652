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

// CheckListen returns an error if [Options].Listen or Workers is wrong, and if the network could be served without passwords.
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

// IsLoopback reports whether only this machine can reach an address, which is a host with or without a port.
func IsLoopback(addr string) bool {
	if host, _, err := net.SplitHostPort(addr); err == nil {
		addr = host
	}
	ip := net.ParseIP(strings.Trim(addr, "[]"))
	return strings.EqualFold(addr, "localhost") || ip != nil && ip.IsLoopback()
}

// serverOptions returns the configuration of nats-server. A server that is started again uses the port that it had before.
func (s *Server) serverOptions() (*server.Options, error) {
	opts := &server.Options{
		ServerName:             "jobbridge",
		NoSigs:                 true, // otherwise the server would handle SIGTERM and exit the process
		DisableJetStreamBanner: true,
		MaxPayload:             int32(min(s.opts.MaxPayload, math.MaxInt32)),
		JetStream:              true,
		StoreDir:               s.opts.Dir,
		// The server's own timer compacts blocks by renames that it does not sync. Only the syncer calls fsync.
		SyncInterval: 8760 * time.Hour,
		// The stream has its own limit. The server would not recover a stream that is larger than the server's limit.
		JetStreamMaxStore:  math.MaxInt64 / 2,
		JetStreamMaxMemory: 64 << 20,
		MaxConn:            s.opts.MaxConnections + 1, // one for the bridge
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

// SetWorkers replaces the workers that may connect. It disconnects the workers that are not in the list any more, or have another
// password there, and nobody else. The list must not be empty, because then every client would be a worker.
func (s *Server) SetWorkers(workers []Worker) error {
	if err := CheckListen(s.opts.Listen, workers); err != nil {
		return err
	}
	if len(workers) == 0 {
		return errors.New("embedded: no workers: then every client would be a worker")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opts.Workers = workers // Restart needs them
	if err := s.run.Load().accounts.setWorkers(workers); err != nil {
		return fmt.Errorf("embedded NATS server: %w", err)
	}
	return nil
}
