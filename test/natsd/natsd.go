// Package natsd runs real nats-server processes for tests: alone, as a cluster,
// or with the configuration that jobbridge ships for operators. It also puts a
// proxy in front of one, which fails in the ways that networks do.
//
// It promises that a server which was started is ready, that its ports and its
// store survive a kill, and that no process outlives its test. What is stored
// and how is left to the tests.
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
	// patience bounds every wait, and pause is how often one looks.
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

// Options says how to start a Server; the zero value is one with JetStream and
// without accounts or passwords.
type Options struct {
	// Conf is the text of the configuration; empty means JetStream and nothing
	// else. Ports, store and name are given as flags; the store must not be in
	// it.
	Conf string
	// File is the path of a configuration file, in place of Conf. It finds the
	// store in the environment, as NATS_STORE_DIR.
	File string
	// Dir is the store; empty means a new one.
	Dir string
	// Port for clients, on 127.0.0.1; 0 means a free one, see [FreePort].
	Port int
	// TLSFirst says that the configuration has handshake_first.
	TLSFirst bool
	// Name of the server; empty means a random one.
	Name string
	// Args are further flags of nats-server.
	Args []string
	// Env is added to the environment.
	Env []string
	// Passwords of the users in the configuration, by name; nil means that
	// nobody needs one.
	Passwords map[string]string
}

// Server is a nats-server process, or one that was.
type Server struct {
	// URL for clients, without credentials, and Monitor, the base of its HTTP
	// endpoints. Both stay the same for life.
	URL, Monitor string
	// Name of the server, Dir its store, Port its clients' port.
	Name, Dir string
	Port      int
	// Cmd is the present process, or the last one.
	Cmd *exec.Cmd

	opts Options
	args []string
	log  process.Buffer
	done chan struct{}
}

// Start starts a server and waits until it takes clients. It is killed with the
// test, if it still runs then.
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

// prepare decides everything that a restart repeats.
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

// greets reports whether this very server answers on its port: it listens only
// after its streams are recovered.
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

// Log is what all processes of the server wrote so far.
func (s *Server) Log() string { return s.log.String() }

// Running reports whether the process has not ended. A stopped one
// ([syscall.SIGSTOP]) runs.
func (s *Server) Running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// Signal sends a signal to the process: SIGSTOP and SIGCONT freeze and thaw it,
// for one.
func (s *Server) Signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := s.Cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// Kill ends the process as a power cut would, except that the page cache
// survives, and waits for its end.
func (s *Server) Kill(t testing.TB) { t.Helper(); s.end(t, syscall.SIGKILL) }

// Stop asks the process to shut down, and waits for its end.
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

// Restart starts the server again on the same ports and store, and waits until
// it takes clients. If it still runs, it is killed before.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.Kill(t)
	if err := s.run(t); err != nil {
		t.Fatal(err)
	}
}

// As returns the URL with a user's credentials; where nobody needs any, without.
func (s *Server) As(user string) string {
	password, ok := s.opts.Passwords[user]
	if !ok {
		return s.URL
	}
	return (&url.URL{Scheme: "nats", User: url.UserPassword(user, password), Host: loopback(s.Port)}).String()
}

// Connect connects as a user of the configuration, for as long as the test.
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

// AdminJS returns JetStream as the user "admin", who may do everything there.
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

// CreateStream creates the stream of events that jobbridge expects, with a
// number of replicas.
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

// FreePort returns a port on which nobody listens. It is below those that the
// system hands out for outgoing connections: it would otherwise be lost while
// its server is down, and even to a client that tries to connect to it, which
// can then end up connected to itself.
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
