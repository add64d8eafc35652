// Package e2e tests the jobbridge program from outside: it runs the binary as an operator does.
package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
)

func TestMain(m *testing.M) { process.Main(m, 6) }

// post delivers an event of a job and returns the status code of the answer. The event has pad bytes more than it needs.
func post(url, id string, pad int) (int, error) {
	return send(http.DefaultClient, url, process.Secret, fmt.Sprintf(`{"id":%q,"status":"COMPLETED","pad":%q}`, id, strings.Repeat("x", pad)))
}

// deliver delivers an event of a job, signed with secret, and returns the status code of the answer.
func deliver(client *http.Client, url, secret, id string) (int, error) {
	return send(client, url, secret, fmt.Sprintf(`{"id":%q,"status":"COMPLETED"}`, id))
}

func send(client *http.Client, url, secret, body string) (int, error) {
	code, _, err := traffic.Send(client, traffic.Request(url, secret, body))
	return code, err
}

// TestLife starts a bridge, delivers, stops the bridge and starts it again.
func TestLife(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	for round, want := range []string{`"duplicate":false`, `"duplicate":true`} {
		b := process.Start(t, process.Options{Dir: dir})
		out, stderr, code := process.Run(t, nil, "send", "--url", b.Webhook, "--file", "testdata/completed.json")
		if code != 0 || !strings.Contains(out, want) {
			t.Fatalf("round %d: exit %d: %s%s", round, code, out, stderr)
		}
		resp, err := http.Get(b.Admin + "/readyz")
		if err != nil || resp.StatusCode != 200 {
			t.Fatal(resp, err)
		}
		resp.Body.Close()
		b.Stop(t)
		if !strings.Contains(b.Log(), `"msg":"stopped"`) {
			t.Error("the log does not say that the bridge stopped")
		}
		for line := range strings.Lines(b.Log()) {
			if !json.Valid([]byte(line)) {
				t.Errorf("not JSON in the log: %s", line)
			}
		}
	}
}

// TestKilled kills bridges under load. Each delivery that was answered 200 is a duplicate for the next bridge.
func TestKilled(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	var acked []string
	for round := range 4 {
		b := process.Start(t, process.Options{Dir: dir})
		for _, id := range acked {
			out, _, code := process.Run(t, strings.NewReader(fmt.Sprintf(`{"id":%q,"status":"COMPLETED","pad":""}`, id)),
				"send", "--url", b.Webhook, "--file", "-")
			if code != 0 || !strings.Contains(out, `"duplicate":true`) {
				t.Fatalf("%s was acknowledged before the kill, now: %s", id, out)
			}
		}
		acked = nil
		var mu sync.Mutex
		var wg sync.WaitGroup
		enough := make(chan struct{})
		for w := range 8 {
			wg.Go(func() {
				for i := 0; ; i++ {
					id := fmt.Sprintf("r%d-w%d-%d", round, w, i)
					code, err := post(b.Webhook, id, 0)
					if err != nil {
						return
					}
					if code != 200 {
						t.Errorf("%s: %d", id, code)
						return
					}
					mu.Lock()
					acked = append(acked, id)
					if len(acked) == 20+5*round {
						close(enough)
					}
					mu.Unlock()
				}
			})
		}
		<-enough
		b.Signal(t, syscall.SIGKILL)
		b.Wait(t)
		wg.Wait()
		acked = acked[max(0, len(acked)-30):] // the last ones are those at risk
	}
}

// TestSecondProcess: a second process cannot open the folder of a running bridge.
func TestSecondProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	b := process.Start(t, process.Options{Dir: dir})
	second := process.Launch(t, process.Options{Dir: dir})
	state := second.Wait(t)
	if want := fmt.Sprint("process ", b.Cmd.Process.Pid); state.ExitCode() != 1 || !strings.Contains(second.Log(), want) {
		t.Fatalf("%v, want exit 1 and %q in\n%s", state, want, second.Log())
	}
	if code, err := post(b.Webhook, "a", 0); code != 200 {
		t.Fatal("the first one is disturbed:", code, err)
	}
	b.Stop(t)
}

// TestOldFolder: the bridge refuses the data folder of the first version, and names the ways out.
func TestOldFolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "jetstream", "EVENTS"), 0o700); err != nil {
		t.Fatal(err)
	}
	b := process.Launch(t, process.Options{Dir: dir})
	if state := b.Wait(t); state.ExitCode() != 2 || !strings.Contains(b.Log(), "move the folder away") {
		t.Fatalf("%v\n%s", state, b.Log())
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("a refused folder was changed: %v %v", entries, err)
	}
}

// TestSecondSignal: after a second signal the bridge ends without waiting for the drain.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	b := process.Start(t, process.Options{Args: []string{"--drain-delay", "10m"}})
	b.Signal(t, syscall.SIGTERM)
	b.AwaitLog(t, "draining")
	if code, err := post(b.Webhook, "late", 0); code != 200 {
		t.Fatal("while draining:", code, err)
	}
	b.Signal(t, syscall.SIGTERM)
	if state := b.Wait(t); state.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Fatal(state)
	}
}

// TestMistakes: for each mistake on the command line, the error says what to do.
func TestMistakes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	empty, unknown := write("empty", "\n"), write("unknown.yaml", "liste: 127.0.0.1:0\n")
	noSecret := append(process.Environ(), "SYNC_WEBHOOK_SECRET=")
	for _, r := range []struct {
		name string
		args []string
		env  []string
		code int
		want string
	}{
		{"no secret", []string{"serve"}, noSecret, 2, "SYNC_WEBHOOK_SECRET"},
		{"an empty secret file", []string{"serve", "--secret-file", empty}, nil, 2, "is empty"},
		{"no secret file", []string{"serve", "--secret-file", "none"}, nil, 2, "none"},
		{"dev and a secret", []string{"serve", "--dev"}, nil, 2, "--dev"},
		{"unknown flag", []string{"serve", "--nats-listn", "x"}, nil, 2, "--nats-listen"},
		{"unknown key", []string{"serve", "--config", unknown}, nil, 2, "liste"},
		{"durability", []string{"serve", "--durability", "maybe"}, nil, 2, "fsync"},
		{"subject", []string{"serve", "--subject", "job"}, nil, 2, "{status}"},
		{"off loopback", []string{"serve", "--nats-listen", "0.0.0.0:0"}, nil, 2, "--nats-auth-file"},
		{"one address twice", []string{"serve", "--listen=127.0.0.1:4000", "--nats-listen=127.0.0.1:4000"}, nil, 2,
			"--listen 127.0.0.1:4000 and --nats-listen 127.0.0.1:4000 are the same address"},
		{"a web page's URL", []string{"serve", "--nats-url", "http://127.0.0.1:4222"}, nil, 2, "want nats://host:port"},
		{"credentials that are none", []string{"serve", "--nats-url", "nats://127.0.0.1:1", "--nats-creds", unknown}, nil, 2, "--nats-creds"},
		{"window", []string{"serve", "--dedupe-window", "1s"}, nil, 2, "--tolerance"},
		{"tolerance", []string{"serve", "--tolerance", "0s"}, nil, 2, "--tolerance"},
		{"path", []string{"serve", "--path", "webhook"}, nil, 2, "path"},
		{"size", []string{"serve", "--max-body", "many"}, nil, 2, "--max-body"},
		{"command", []string{"srve"}, nil, 2, "serve"},
		{"send without a secret", []string{"send"}, noSecret, 2, "SYNC_WEBHOOK_SECRET"},
		{"send to nobody", []string{"send", "--url", "http://127.0.0.1:1/webhook"}, nil, 1, "refused"},
		{"send with half a certificate", []string{"send", "--cert", unknown}, nil, 2, "--cert and --key"},
		{"send at no time", []string{"send", "--at", "yesterday"}, nil, 2, "--at"},
		{"tail of nobody", []string{"tail", "--nats-url", "nats://127.0.0.1:1"}, nil, 1, "jobbridge serve"},
		{"verify without a header", []string{"verify"}, nil, 2, "--header"},
	} {
		env := r.env
		if env == nil {
			env = process.Environ()
		}
		args := r.args
		if args[0] == "serve" {
			args = append([]string{"serve", "--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0"}, args[1:]...)
		}
		out, stderr, code := process.RunIn(t, dir, env, strings.NewReader(""), args...)
		if code != r.code || !strings.Contains(stderr, r.want) {
			t.Errorf("%s: exit %d, want %d and %q in:\n%s%s", r.name, code, r.code, r.want, out, stderr)
		}
	}
}

// TestConfig sets one flag in the file, in the environment and on the command line, and checks which value wins.
func TestConfig(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "jobbridge.yaml")
	if err := os.WriteFile(file, []byte("path: /file\ndrain-delay: 1ms\nmax-in-flight: 7\nmax-body: 64KiB\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		args, env []string
		path      string
	}{
		{[]string{"--config", file}, nil, "/file"},
		{nil, []string{"JOBBRIDGE_CONFIG=" + file}, "/file"},
		{[]string{"--config", file}, []string{"JOBBRIDGE_PATH=/env"}, "/env"},
		{[]string{"--config", file, "--path", "/flag"}, []string{"JOBBRIDGE_PATH=/env"}, "/flag"},
	} {
		b := process.Start(t, process.Options{Args: r.args, Env: r.env})
		if !strings.HasSuffix(b.Webhook, r.path) {
			t.Errorf("%v %v: %s, want %s", r.args, r.env, b.Webhook, r.path)
		}
		b.Stop(t)
	}
}

// TestDev runs the commands that serve --dev prints, as a newcomer does in the first minute.
func TestDev(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "my data")
	program := filepath.Join(t.TempDir(), "jobbridge") // from the folder of go run, jobbridge would print go run
	if text, err := command("", nil, "/bin/cp", process.Binary(t), program); err != nil {
		t.Fatal(text, err)
	}
	var out process.Buffer
	b := process.Start(t, process.Options{Program: program, Dir: dir, Args: []string{"--dev"},
		Env: []string{"SYNC_WEBHOOK_SECRET="}, Stdout: &out})
	info, err := os.Stat(filepath.Join(dir, "dev-secret"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	var commands []string
	await(t, "serve --dev does not print two commands", func() bool {
		commands = nil
		for line := range strings.Lines(out.String()) {
			if command, ok := strings.CutPrefix(line, "  "+program+" "); ok && strings.HasSuffix(line, "\n") {
				commands = append(commands, command)
			}
		}
		return len(commands) >= 2
	})
	tail, send := commands[0], commands[1]
	shell := func(command string) string {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", program+" "+command)
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", command, err, text)
		}
		return string(text)
	}
	if got := shell(strings.TrimSpace(send)); !strings.Contains(got, "200 in") || !strings.Contains(got, `"durability":"fsync"`) {
		t.Errorf("%s: %s", send, got)
	}
	if got := shell(strings.TrimSpace(send) + " --id same --count 100 --concurrency 100"); !strings.Contains(got, "200 duplicate    99\n") {
		t.Errorf("100 of one id: %s", got)
	}
	if got := shell(strings.TrimSpace(tail) + " --from-start --count 2"); strings.Count(got, "job.completed") != 2 {
		t.Errorf("%s: %s", tail, got)
	}
	if !strings.Contains(out.String(), "verified the signature again") {
		t.Errorf("no first delivery:\n%s", out.String())
	}
	secret, err := os.ReadFile(filepath.Join(dir, "dev-secret"))
	if err != nil || strings.Contains(b.Log()+out.String(), strings.TrimSpace(string(secret))) {
		t.Fatal("the secret is said aloud", err)
	}
	b.Stop(t)
}

// TestOpenFiles allows the bridge few open files, and one source opens as many connections as it can. The journal and other senders are
// not affected.
func TestOpenFiles(t *testing.T) {
	t.Parallel()
	limited := func(n string) []string {
		return []string{"sh", "-c", "ulimit -n " + n + `; exec "$@"`, "sh"}
	}
	b := process.Start(t, process.Options{Wrap: limited("600")})
	b.AwaitLog(t, "limit of open files: raise it (ulimit -n, LimitNOFILE) for as many connections as were asked for")
	var held []net.Conn
	hold := func(url string, n int) {
		for range n {
			conn, err := net.Dial("tcp", strings.TrimSuffix(strings.SplitN(url, "://", 2)[1], "/webhook"))
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, conn)
		}
	}
	hold(b.Webhook, 400)
	hold(b.Admin, 300)
	hold(b.NATS, 300)
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	other := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}
	for i := range 20 {
		if code, err := deliver(other, b.Webhook, process.Secret, fmt.Sprint("few-", i)); code != 200 {
			t.Fatal(code, err)
		}
	}
	if strings.Contains(b.Log(), "too many open files") {
		t.Error(b.Log())
	}
	for _, conn := range held {
		conn.Close()
	}
	b.Stop(t)
	few := process.Launch(t, process.Options{Wrap: limited("300")})
	if state := few.Wait(t); state.ExitCode() != 1 || !strings.Contains(few.Log(), "at least 512 are needed") {
		t.Errorf("%v\n%s", state, few.Log())
	}
}
