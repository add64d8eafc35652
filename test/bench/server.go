//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	secret = "whsec_bench"
	stream = "JOBS"
	// patience bounds every wait that is not measured.
	patience = time.Minute
)

// build is a jobbridge that is measured.
type build struct {
	name  string
	words []string // VAR=VALUE, and the binary last
}

// process is a server that is measured.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended, with err
	err  error
	// URLs; ceilings and NATS servers have the first alone.
	url, nats, admin string
}

// run starts a command whose end is awaited in the background. It does not outlast
// this program.
func run(cmd *exec.Cmd) (*process, error) {
	p := &process{cmd: cmd, done: make(chan struct{})}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	return p, nil
}

// bridge starts the jobbridge on a data folder and waits until it is ready. Its
// log, a line per delivery, goes to a file beside the folder.
func (o options) bridge(ctx context.Context, data string, args ...string) (*process, error) {
	last := len(o.words) - 1
	args = append([]string{
		"serve", "--log-format=json", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--nats-listen=127.0.0.1:0", "--data-dir=" + data,
	}, args...)
	cmd := exec.Command(o.words[last], args...)
	cmd.Env = append(append(os.Environ(), "SYNC_WEBHOOK_SECRET="+secret), o.words[:last]...)
	sink, err := os.Create(o.dir + "/log")
	if err != nil {
		return nil, err
	}
	defer sink.Close()
	cmd.Stderr = sink
	p, err := run(cmd)
	if err != nil {
		return nil, err
	}
	// The log is a file and not a pipe, whose reader would share the processors.
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); time.Now().Before(end) && ctx.Err() == nil; {
		text, err := os.ReadFile(sink.Name())
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
		select {
		case <-p.done:
			return nil, fmt.Errorf("jobbridge did not start: %s", text)
		case <-tick.C:
		}
	}
	return nil, errors.Join(errors.New("jobbridge was not ready in time"), p.stop())
}

// with starts the jobbridge on a new data folder, calls use, and ends it.
func (o options) with(ctx context.Context, use func(p *process) error, args ...string) (err error) {
	data, err := os.MkdirTemp(o.dir, "data-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(data)
	p, err := o.bridge(ctx, data, args...)
	if err != nil {
		return err
	}
	return errors.Join(use(p), p.stop())
}

// self starts this program as a server that prints its URL.
func self(args ...string) (*process, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, args...)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, os.Stderr
	p, err := run(cmd)
	w.Close()
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fscanln(r, &p.url); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", args[0], err), p.stop())
	}
	return p, nil
}

// stop ends the process by SIGTERM, and by SIGKILL if that takes too long.
func (p *process) stop() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	kill := time.AfterFunc(patience, p.kill)
	defer kill.Stop()
	<-p.done
	if p.err != nil {
		return fmt.Errorf("server: %w", p.err)
	}
	return nil
}

// kill ends the process by SIGKILL.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// rss returns the resident memory in MiB; 0 if the process has ended.
func (p *process) rss() float64 {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kb, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb / 1024
		}
	}
	return 0
}

// cpu returns the processor time that the process has used, to 10 ms; 0 if it
// has ended.
func (p *process) cpu() time.Duration {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	// After the name in brackets, user time is the 12th field, system time the 13th.
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
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

// lag returns how many events are durable and not yet forwarded. Builds without
// a journal in front of NATS have no lag, or one of the relay.
func (p *process) lag() (events float64, err error) {
	m, err := p.metrics()
	if err != nil {
		return 0, err
	}
	return m["jobbridge_forward_lag_events"] + m["jobbridge_relay_lag_events"], nil
}

// forwarded waits until the lag is 0.
func (p *process) forwarded(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * patience); time.Now().Before(end); {
		if lag, err := p.lag(); err != nil || lag == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.done:
			return errors.New("the bridge ended before it had forwarded everything")
		case <-tick.C:
		}
	}
	return errors.New("not everything was forwarded in time")
}

// stored returns how many events the stream holds, once everything is forwarded.
func (p *process) stored(ctx context.Context) (int, error) {
	if err := p.forwarded(ctx); err != nil {
		return 0, err
	}
	nc, js, err := connect(p.nats)
	if err != nil {
		return 0, err
	}
	defer nc.Close()
	s, err := js.Stream(ctx, stream)
	if err != nil {
		return 0, err
	}
	return int(s.CachedInfo().State.Msgs), nil
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
