package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/journal"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/labstack/echo/v4"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const secret = "whsec_bench"

// patience bounds every wait.
const patience = time.Minute

// process is a server under measurement.
type process struct {
	cmd *exec.Cmd
	// URLs; those of a ceiling and a NATS server are the first alone.
	url, nats, admin string
	log              string // path
}

// build makes the jobbridge that is measured.
func (o *options) build(ctx context.Context) error {
	o.binary = filepath.Join(o.dir, "jobbridge")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", o.binary, "github.com/jobbridge/jobbridge/cmd/jobbridge").CombinedOutput()
	if err != nil {
		return fmt.Errorf("build jobbridge: %s", out)
	}
	return nil
}

// bridge starts a jobbridge on a data folder and waits until it is ready. Its
// log, a line per delivery, goes to a file.
func (o options) bridge(ctx context.Context, data string, args ...string) (*process, error) {
	return o.command(ctx, []string{o.binary}, data, args...)
}

// command is a jobbridge that is started by other words: VAR=VALUE, and the
// binary last.
func (o options) command(ctx context.Context, words []string, data string, args ...string) (*process, error) {
	last := len(words) - 1
	args = append([]string{"serve", "--log-format=json", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--nats-listen=127.0.0.1:0", "--data-dir=" + data}, args...)
	p := &process{cmd: exec.Command(words[last], args...), log: data + ".log"}
	p.cmd.Env = append(append(os.Environ(), "SYNC_WEBHOOK_SECRET="+secret), words[:last]...)
	sink, err := os.OpenFile(p.log, os.O_CREATE|os.O_TRUNC|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	p.cmd.Stderr = sink
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	// Polled, not piped: a pipe's reader would share the processors.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end) && ctx.Err() == nil; <-tick.C {
		text, err := os.ReadFile(p.log)
		if err != nil {
			return nil, errors.Join(err, p.stop())
		}
		if i := bytes.Index(text, []byte(`"msg":"ready"`)); i >= 0 {
			line := text[bytes.LastIndexByte(text[:i], '\n')+1:]
			var ready struct{ Webhook, NATS, Admin string }
			if json.NewDecoder(bytes.NewReader(line)).Decode(&ready) == nil {
				p.url, p.nats, p.admin = ready.Webhook, ready.NATS, ready.Admin
				return p, nil
			}
		}
		if p.exited() {
			return nil, fmt.Errorf("jobbridge did not start: %s", text)
		}
	}
	return nil, errors.Join(errors.New("jobbridge was not ready in time"), p.stop())
}

// self starts this program as a server, which prints its URL.
func (o options) self(args ...string) (*process, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(path, args...)}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.cmd.Stderr = os.Stderr
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := fmt.Fscanln(out, &p.url); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", args[0], err), p.stop())
	}
	return p, nil
}

// exited reports whether the process has ended, without waiting for it.
func (p *process) exited() bool {
	var info syscall.WaitStatus
	pid, err := syscall.Wait4(p.cmd.Process.Pid, &info, syscall.WNOHANG, nil)
	return err != nil || pid != 0
}

// stop ends a process that may have ended, by SIGTERM.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	kill := time.AfterFunc(patience, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	if err := p.cmd.Wait(); err != nil && p.cmd.ProcessState != nil {
		return fmt.Errorf("server: %w", err)
	}
	return nil
}

// rss returns the resident memory in MiB; 0 if it cannot be told.
func (p *process) rss() float64 {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}

// cpu returns the processor time that the process has used; 0 if it cannot be
// told.
func (p *process) cpu() time.Duration {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	// After the name in brackets: user time is the 12th field, system time the
	// 13th, in hundredths of a second.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// metrics returns the admin listener's, by name with labels.
func (p *process) metrics() (map[string]float64, error) {
	resp, err := http.Get(p.admin + "/metrics") //nolint:noctx // of our own process; it answers or has ended
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	values := make(map[string]float64)
	for scan := bufio.NewScanner(resp.Body); scan.Scan(); {
		line := scan.Text()
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			values[line[:i]], _ = strconv.ParseFloat(line[i+1:], 64)
		}
	}
	return values, nil
}

// serve runs one of the servers that are no jobbridge until SIGTERM, and prints
// its URL: the ceiling, or a bridge on a disk that is slow and with room for few
// deliveries in flight.
func serve(ctx context.Context, args []string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	verifier, err := verify.New([]string{secret}, verify.Options{})
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "ceiling":
		return ceiling(ctx, ln, verifier)
	case len(args) == 4 && args[0] == "slow":
		delay, err := time.ParseDuration(args[1])
		if err != nil {
			return err
		}
		inFlight, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return slow(ctx, ln, verifier, delay, inFlight, args[3])
	}
	return errors.New("server: want ceiling, or slow with a delay, a bound and a folder")
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

// slow is a bridge whose fsync takes delay on top of its own time.
func slow(ctx context.Context, ln net.Listener, verifier *verify.Verifier, delay time.Duration, inFlight int, dir string) (err error) {
	sink, err := os.Create(dir + ".log")
	if err != nil {
		return err
	}
	defer sink.Close()
	log := zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.Lock(sink), zap.InfoLevel))
	j, err := journal.Open(ctx, journal.Options{Dir: dir, Logger: log, Sync: func(f *os.File) error {
		time.Sleep(delay)
		return f.Sync()
	}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, j.Close()) }()
	p, err := publisher.New(publisher.Options{JetStream: j.JetStream(), Stored: j.Stream(), Stream: publisher.DefaultStream, Commit: j, Room: j.Room})
	if err != nil {
		return err
	}
	b, err := bridge.New(bridge.Config{Verifier: verifier, Publisher: p, MaxInFlight: inFlight, Registerer: prometheus.NewRegistry(), Logger: log})
	if err != nil {
		return err
	}
	fmt.Printf("http://%s/webhook\n", ln.Addr())
	return b.Serve(ctx, ln)
}

// natsServer runs a NATS server with JetStream on an address and a folder until
// SIGTERM, and prints its URL.
func natsServer(ctx context.Context, args []string) error {
	if len(args) != 2 {
		return errors.New("nats: want an address and a folder")
	}
	host, port, err := net.SplitHostPort(args[0])
	if err != nil {
		return err
	}
	o := &server.Options{Host: host, Port: server.RANDOM_PORT, JetStream: true, StoreDir: args[1], NoSigs: true, NoLog: true}
	if port != "0" {
		if o.Port, err = strconv.Atoi(port); err != nil {
			return err
		}
	}
	s, err := server.NewServer(o)
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		return errors.New("nats: not ready in time")
	}
	fmt.Println(s.ClientURL())
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

// connect returns a connection to a NATS server, for the caller to close, and
// its JetStream.
func connect(url string) (*nats.Conn, jetstream.JetStream, error) {
	nc, err := nats.Connect(url)
	if err != nil {
		return nil, nil, err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		nc.Close()
	}
	return nc, js, err
}
