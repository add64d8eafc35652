// Package natsd runs real nats-server processes for tests: a single server, a cluster, or a server with the configuration that jobbridge
// ships for operators. A [Proxy] in front of a server fails in the ways that networks fail.
//
// A server is ready when its Start returns. Its ports and its store survive a kill. No process runs longer than its test.
package natsd

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/process"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// patience is the longest time that a test waits, and pause is the time between two checks.
	patience = 30 * time.Second
	pause    = 5 * time.Millisecond
)

var build = sync.OnceValues(func() (string, error) { return process.Build("github.com/nats-io/nats-server/v2") })

// Binary returns the path of the nats-server of the version in go.mod.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// Options describes how to start a Server. The zero value is a server with JetStream and without accounts or passwords.
type Options struct {
	// Conf is the text of the configuration. Empty means JetStream and nothing else. Ports, store and name are flags, and the text must not
	// set the store.
	Conf string
	// File is the path of a configuration file that is used instead of Conf. The variable NATS_STORE_DIR names the store for it.
	File string
	// Dir is the folder of the store. Empty means a new folder.
	Dir string
	// Port is the port for clients on 127.0.0.1. 0 means a free port, see [FreePort].
	Port int
	// TLSFirst must be true if the configuration has handshake_first.
	TLSFirst bool
	// Name is the name of the server. Empty means a random name.
	Name string
	// Args are further flags of nats-server.
	Args []string
	// Env is added to the environment.
	Env []string
	// Passwords are the passwords of the users in the configuration, by name. nil means that clients need no password.
	Passwords map[string]string
}

// Server is a nats-server process. It can be killed and started again.
type Server struct {
	// URL is the URL for clients, without credentials. Monitor is the base URL of the HTTP endpoints. Both stay the same after a restart.
	URL, Monitor string
	// Name is the name of the server, Dir the folder of its store, and Port its port for clients.
	Name, Dir string
	Port      int
	// Cmd is the present process, or the last one.
	Cmd *exec.Cmd

	opts Options
	args []string
	log  process.Buffer
	done chan struct{}
}

// Start starts a server and waits until it accepts clients. The server is killed at the end of the test if it still runs.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	s := prepare(t, o)
	for try := 0; ; try++ {
		err := s.run(t)
		if err == nil {
			return s
		}
		// Between the choice of a port and its use, another process can take it.
		if o.Port != 0 || try == 3 || !strings.Contains(s.Log(), "address already in use") {
			t.Fatal(err)
		}
		s = prepare(t, o)
	}
}

// prepare chooses everything that stays the same after a restart.
func prepare(t testing.TB, o Options) *Server {
	t.Helper()
	scratch := t.TempDir() // before the kill is registered, so that it is removed after it
	if o.Dir == "" {
		o.Dir = filepath.Join(scratch, "store")
	}
	if o.Port == 0 {
		o.Port = FreePort(t)
	}
	if o.Name == "" {
		o.Name = fmt.Sprintf("natsd-%d-%06x", o.Port, rand.Uint32N(1<<24))
	}
	o.Env = append([]string{"NATS_STORE_DIR=" + o.Dir}, o.Env...)
	if o.File == "" {
		// The server refuses a store that is given twice.
		o.Args = append([]string{"--store_dir", o.Dir}, o.Args...)
		o.File = filepath.Join(scratch, "nats.conf")
		if o.Conf == "" {
			o.Conf = "jetstream: enabled\n"
		}
		if err := os.WriteFile(o.File, []byte(o.Conf), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	monitor := FreePort(t)
	s := &Server{
		URL:     "nats://" + loopback(o.Port),
		Monitor: "http://" + loopback(monitor),
		Name:    o.Name, Dir: o.Dir, Port: o.Port, opts: o,
		args: slices.Concat([]string{"--config", o.File, "--name", o.Name, "--addr", "127.0.0.1", "--port", strconv.Itoa(o.Port),
			"--http_port", strconv.Itoa(monitor)}, o.Args),
	}
	return s
}

// run starts the process and waits until it greets a client.
func (s *Server) run(t testing.TB) error {
	t.Helper()
	cmd := exec.Command(Binary(t), s.args...)
	cmd.Env = append(os.Environ(), s.opts.Env...)
	cmd.Stdout, cmd.Stderr = &s.log, &s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a ^C at the terminal is the test's, not the server's
	if err := cmd.Start(); err != nil {
		return err
	}
	done := make(chan struct{})
	s.Cmd, s.done = cmd, done
	go func() { _ = cmd.Wait(); close(done) }() // how it ended is in ProcessState
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // it may have ended
		<-done
	})
	for end := time.Now().Add(patience); !s.greets(); {
		select {
		case <-done:
			return fmt.Errorf("%s ended: %v\n%s", s.Name, cmd.ProcessState, s.Log())
		case <-time.After(pause):
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is not ready after %s:\n%s", s.Name, patience, s.Log())
		}
	}
	return nil
}

// greets reports whether this server, and no other one, answers on its port. A server listens after it has recovered its streams.
func (s *Server) greets() bool {
	conn, err := net.DialTimeout("tcp", loopback(s.Port), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second)) // it is open
	if s.opts.TLSFirst {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true}) // the name in INFO identifies the server
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return err == nil && strings.HasPrefix(line, "INFO ") && strings.Contains(line, strconv.Quote(s.Name))
}

// Log returns what all processes of the server have written so far.
func (s *Server) Log() string { return s.log.String() }

// Running reports whether the process has not ended. A process that was stopped with [syscall.SIGSTOP] still runs.
func (s *Server) Running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal to the process. SIGSTOP freezes it, and SIGCONT lets it continue.
func (s *Server) Signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := s.Cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Kill kills the process and waits until it has ended. Unlike after a power cut, the page cache survives.
func (s *Server) Kill(t testing.TB) { t.Helper(); s.end(t, syscall.SIGKILL) }

// Stop asks the process to shut down, and waits until it has ended.
func (s *Server) Stop(t testing.TB) { t.Helper(); s.end(t, syscall.SIGTERM) }

func (s *Server) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := s.Cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	select {
	case <-s.done:
	case <-time.After(patience):
		t.Fatalf("%s did not end within %s:\n%s", s.Name, patience, s.Log())
	}
}

// Restart starts the server again with the same ports and store, and waits until it accepts clients. A server that still runs is killed
// first.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Kill(t)
	if err := s.run(t); err != nil {
		t.Fatal(err)
	}
}

// As returns the URL with the credentials of a user. It returns the plain URL if the server asks for no credentials.
func (s *Server) As(user string) string {
	password, ok := s.opts.Passwords[user]
	if !ok {
		return s.URL
	}
	return (&url.URL{Scheme: "nats", User: url.UserPassword(user, password), Host: loopback(s.Port)}).String()
}

// Connect connects as a user of the configuration. The connection closes at the end of the test.
func (s *Server) Connect(t testing.TB, user string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	return connect(t, s.As(user), opts...)
}

func connect(t testing.TB, servers string, opts ...nats.Option) *nats.Conn {
	t.Helper()
	nc, err := nats.Connect(servers, append([]nats.Option{nats.Timeout(patience)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	return nc
}

// AdminJS returns JetStream as the user "admin", who may do everything.
func (s *Server) AdminJS(t testing.TB) jetstream.JetStream {
	t.Helper()
	return jetStream(t, s.Connect(t, "admin"))
}

func jetStream(t testing.TB, nc *nats.Conn) jetstream.JetStream {
	t.Helper()
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(patience))
	if err != nil {
		t.Fatal(err)
	}
	return js
}

// CreateStream creates the stream that jobbridge expects, with a number of replicas.
func CreateStream(t testing.TB, js jetstream.JetStream, replicas int) jetstream.Stream {
	t.Helper()
	// Written out, because the tests of package publisher's own parts use this package.
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{
		Name: "JOBS", Subjects: []string{"job.>", "batch.>"}, Storage: jetstream.FileStorage,
		Discard: jetstream.DiscardNew, MaxAge: 7 * 24 * time.Hour,
		MaxBytes: 256 << 20, Duplicates: 24 * time.Hour, Replicas: replicas, AllowDirect: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

var taken struct {
	sync.Mutex
	ports map[int]bool
}

// FreePort returns a port on which nobody listens. The port is below the range of outgoing connections. Otherwise another connection could
// take the port while its server is down, and a client that connects to the port could even be connected to itself.
func FreePort(t testing.TB) int {
	t.Helper()
	taken.Lock()
	defer taken.Unlock()
	for range 1000 {
		port := 20000 + rand.IntN(12000)
		if taken.ports[port] {
			continue
		}
		l, err := net.Listen("tcp", loopback(port))
		if err != nil {
			continue
		}
		l.Close()
		if taken.ports == nil {
			taken.ports = make(map[int]bool)
		}
		taken.ports[port] = true
		return port
	}
	t.Fatal("no free port")
	return 0
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
