package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/process"
	"github.com/jobbridge/jobbridge/test/traffic"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/nats-io/nats.go"
)

// kubernetes is a mounted Secret of Kubernetes. Its files are links into the folder ..data, which is itself a link. One rename replaces
// that link.
type kubernetes struct {
	t   *testing.T
	dir string
	n   int
}

func (k *kubernetes) put(files map[string]string) {
	k.t.Helper()
	k.n++
	version := fmt.Sprintf("..version-%d", k.n)
	must := func(err error) {
		if err != nil {
			k.t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(k.dir, version), 0o700))
	for name, text := range files {
		must(os.WriteFile(filepath.Join(k.dir, version, name), []byte(text), 0o600))
	}
	must(os.Symlink(version, filepath.Join(k.dir, "..data_tmp")))
	must(os.Rename(filepath.Join(k.dir, "..data_tmp"), filepath.Join(k.dir, "..data")))
	if k.n == 1 {
		for name := range files {
			must(os.Symlink(filepath.Join("..data", name), filepath.Join(k.dir, name)))
		}
		return
	}
	must(os.RemoveAll(filepath.Join(k.dir, fmt.Sprintf("..version-%d", k.n-1))))
}

func get(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// await waits until a condition holds.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	traffic.Eventually(t, 20*time.Second, func() error {
		if !holds() {
			return errors.New(what)
		}
		return nil
	})
}

// TestSecretsRotate rotates the secret under load, as Kubernetes does. First both secrets are accepted, then only the new one. No delivery
// is refused.
func TestSecretsRotate(t *testing.T) {
	t.Parallel()
	k := &kubernetes{t: t, dir: t.TempDir()}
	k.put(map[string]string{"secret": "whsec_old\n"})
	b := process.Start(t, process.Options{Args: []string{"--secret-file", filepath.Join(k.dir, "secret")},
		Env: []string{"SYNC_WEBHOOK_SECRET="}})
	var secret atomic.Pointer[string]
	use := func(s string) { secret.Store(&s) }
	use("whsec_old")
	stop := make(chan struct{})
	var sent atomic.Int64
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if code, err := deliver(http.DefaultClient, b.Webhook, *secret.Load(), fmt.Sprintf("w%d-%d", w, i)); err != nil || code != 200 {
					t.Error(code, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	more := func() {
		n := sent.Load() + 100
		await(t, "the load has stopped", func() bool { return sent.Load() >= n || t.Failed() })
	}
	counts := func(secret string) string {
		for line := range strings.Lines(get(t, b.Admin+"/metrics")) {
			if rest, ok := strings.CutPrefix(line, fmt.Sprintf("jobbridge_secret_deliveries_total{secret=%q} ", verify.Fingerprint(secret))); ok {
				return rest
			}
		}
		return ""
	}
	more()
	k.put(map[string]string{"secret": "whsec_new\nwhsec_old\n"})
	await(t, "both secrets are not in force", func() bool { return strings.Count(b.Log(), `"reloaded"`) == 1 })
	use("whsec_new")
	more()
	if counts("whsec_new") == "" || counts("whsec_old") == "" {
		t.Error("the metric does not tell the secrets apart")
	}
	k.put(map[string]string{"secret": "whsec_new\n"})
	await(t, "the new secret is not in force alone", func() bool { return strings.Count(b.Log(), `"reloaded"`) == 2 })
	was := counts("whsec_old")
	more()
	close(stop)
	wg.Wait()
	if !t.Failed() {
		t.Logf("%d deliveries, none refused", sent.Load())
	}
	if now := counts("whsec_old"); now != was {
		t.Errorf("the old secret counts on: %s, %s", was, now)
	}
	if code, err := deliver(http.DefaultClient, b.Webhook, "whsec_old", "late"); code != 400 || err != nil {
		t.Error("the old secret is still good:", code, err)
	}
	// The fingerprints in force show that a rotation has arrived, without an event that
	// workers would process (case C24).
	running, _, _ := process.Run(t, nil, "config", "running", "--admin", b.Admin)
	if !regexp.MustCompile(`(?m)^secrets +`+verify.Fingerprint("whsec_new")+` +`+regexp.QuoteMeta(k.dir)).MatchString(running) ||
		!regexp.MustCompile(`(?m)^tolerance +5m0s +default$`).MatchString(running) {
		t.Errorf("what is in force:\n%s", running)
	}
	if strings.Contains(b.Log()+running, "whsec_") {
		t.Error("a secret is in the log or the settings")
	}
	b.Stop(t)
}

// TestSecretsAreSeen changes the secret without writing to its file, for example by replacing a folder, while other files beside it change
// all the time.
func TestSecretsAreSeen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	secret := func() string { n++; return fmt.Sprint("whsec_number_", n) }
	// folder makes one with a new secret in it.
	folder := func(name string) string {
		s := secret()
		must(os.MkdirAll(in(name), 0o700))
		must(os.WriteFile(in(name)+"/secret", []byte(s), 0o600))
		return s
	}
	link := func(to, name string) {
		must(os.Symlink(to, in("link")))
		must(os.Rename(in("link"), in(name)))
	}
	first := folder("v1")
	link("v1", "current")
	link("current/secret", "secret")
	b := process.Start(t, process.Options{Args: []string{"--secret-file", in("secret")}, Env: []string{"SYNC_WEBHOOK_SECRET="}})
	stop := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
				must(os.WriteFile(in("busy"), []byte(time.Now().String()), 0o600))
			}
		}
	})
	defer func() { close(stop); busy.Wait() }()
	for _, c := range []struct {
		name   string
		change func() string
	}{
		{"the link above it", func() string { s := folder("v2"); link("v2", "current"); return s }},
		{"a folder made anew", func() string {
			must(os.RemoveAll(in("v1")))
			s := folder("v1")
			link("v1", "current")
			return s
		}},
		{"in that folder", func() string { s := secret(); must(os.WriteFile(in("current/secret"), []byte(s), 0o600)); return s }},
		{"another folder in its place", func() string {
			s := folder("v3")
			must(os.RemoveAll(in("current")))
			must(os.Rename(in("v3"), in("current")))
			return s
		}},
		{"a file instead of a link", func() string {
			s := secret()
			must(os.WriteFile(in("new"), []byte(s), 0o600))
			must(os.Rename(in("new"), in("secret")))
			return s
		}},
	} {
		now := c.change()
		await(t, c.name+": the new secret is not in force", func() bool {
			code, err := deliver(http.DefaultClient, b.Webhook, now, now)
			return code == 200 && err == nil
		})
		if code, err := deliver(http.DefaultClient, b.Webhook, first, "old"); code != 400 {
			t.Errorf("%s: the old one is: %d %v", c.name, code, err)
		}
	}
	// What would have to be waited for is not read.
	must(os.Remove(in("secret")))
	must(syscall.Mkfifo(in("secret"), 0o600))
	await(t, "a pipe is not reported", func() bool { return strings.Contains(get(t, b.Admin+"/readyz"), "no regular file") })
	b.Stop(t)
}

// TestBadReload: if the file is wrong, the bridge keeps the old secret and says so until the file is correct. SIGHUP makes it read the
// file again.
func TestBadReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("whsec_one")
	b := process.Start(t, process.Options{Args: []string{"--secret-file", file}, Env: []string{"SYNC_WEBHOOK_SECRET="}})
	ready := func() string { return get(t, b.Admin+"/readyz") }
	put("\n")
	await(t, "an empty file is not reported", func() bool { return strings.Contains(ready(), "secrets: not reloaded") })
	const good = `jobbridge_reload_successful{what="secrets"}`
	if metric(t, b, good) != 0 {
		t.Error("the metric says that it is in force")
	}
	if code, err := deliver(http.DefaultClient, b.Webhook, "whsec_one", "1"); code != 200 {
		t.Fatal(code, err)
	}
	put("whsec_xxxxxxxx\n") // a placeholder (case C4)
	await(t, "a placeholder is not reported", func() bool { return strings.Contains(ready(), "is masked") })
	if code, err := deliver(http.DefaultClient, b.Webhook, "whsec_xxxxxxxx", "placeholder"); code != 400 {
		t.Fatal("a placeholder is in force", code, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b.Signal(t, syscall.SIGHUP)
	await(t, "a missing file is not reported", func() bool { return strings.Contains(ready(), "no such file") })
	if code, err := deliver(http.DefaultClient, b.Webhook, "whsec_one", "2"); code != 200 {
		t.Fatal(code, err)
	}
	put("whsec_two")
	await(t, "the mended file is not in force", func() bool { return !strings.Contains(ready(), "not reloaded") })
	if metric(t, b, good) != 1 {
		t.Error("the metric says that it is not in force")
	}
	if code, err := deliver(http.DefaultClient, b.Webhook, "whsec_two", "3"); code != 200 {
		t.Fatal(code, err)
	}
	b.Stop(t)
}

// TestWorkersReload removes a worker from the file. The worker is disconnected.
func TestWorkersReload(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "workers")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("ann:one\nbob:two\n")
	b := process.Start(t, process.Options{Args: []string{"--nats-auth-file", file}})
	gone := make(chan struct{})
	bob, err := nats.Connect(b.NATS, nats.UserInfo("bob", "two"), nats.NoReconnect(), nats.ClosedHandler(func(*nats.Conn) { close(gone) }))
	if err != nil {
		t.Fatal(err)
	}
	defer bob.Close()
	ann, err := nats.Connect(b.NATS, nats.UserInfo("ann", "one"))
	if err != nil {
		t.Fatal(err)
	}
	defer ann.Close()
	put("ann:one\nbob\n")
	await(t, "a bad line is not reported", func() bool { return strings.Contains(get(t, b.Admin+"/readyz"), "workers: not reloaded") })
	put("ann:one\n")
	select {
	case <-gone:
	case <-time.After(20 * time.Second):
		t.Fatal("bob is still connected")
	}
	if err := ann.Flush(); err != nil || ann.Stats().Reconnects != 0 {
		t.Error("ann was disturbed", err)
	}
	if code, err := post(b.Webhook, "a", 0); code != 200 {
		t.Error(code, err)
	}
	b.Stop(t)
}
