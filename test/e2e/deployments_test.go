package e2e

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/authority"
	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

var metricName = regexp.MustCompile(`\bjobbridge_[a-z_]+`)

// TestMetrics scrapes a bridge with an embedded stream and a bridge with a remote stream. Together they export all metrics. The alerts,
// the dashboard and the guide name exactly these metrics.
func TestMetrics(t *testing.T) {
	t.Parallel()
	remote := natsd.Start(t, natsd.Options{})
	natsd.CreateStream(t, remote.AdminJS(t), 1)
	dir, ca := t.TempDir(), authority.New(t, "ca")
	cert, key := ca.Issue("127.0.0.1")
	for name, text := range map[string]string{"cert": cert, "key": key, "secret": process.Secret} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b := process.Start(t, process.Options{Args: []string{
		"--nats-url", remote.As(""), "--tls-cert", filepath.Join(dir, "cert"), "--tls-key", filepath.Join(dir, "key"),
		"--secret-file", filepath.Join(dir, "secret"),
	}, Env: []string{"SYNC_WEBHOOK_SECRET="}})
	client := ca.Client("", "", 0)
	for _, id := range []string{"a", "b", "c"} { // enough to tell the time
		if code, err := deliver(client, b.Webhook, process.Secret, id); code != 200 {
			t.Fatal(code, err)
		}
	}
	standalone := process.Start(t, process.Options{})
	scraped := get(t, b.Admin+"/metrics")
	for name, admin := range map[string]string{"relay": b.Admin, "standalone": standalone.Admin} {
		lint(t, name, get(t, admin+"/metrics"))
	}
	scraped += get(t, standalone.Admin+"/metrics")
	exported := make(map[string]bool)
	for line := range strings.Lines(scraped) {
		if f := strings.Fields(line); len(f) == 4 && f[1] == "TYPE" && strings.HasPrefix(f[2], "jobbridge_") {
			exported[f[2]] = true
		}
	}
	if len(exported) < 20 {
		t.Fatal(scraped)
	}
	base := func(name string) string {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			if short, ok := strings.CutSuffix(name, suffix); ok && exported[short] {
				return short
			}
		}
		return name
	}
	shown := make(map[string]bool)
	for _, file := range []string{"prometheus/alerts.yaml", "grafana/jobbridge.json"} {
		for _, name := range metricName.FindAllString(read(t, filepath.Join("../../deployments", file)), -1) {
			if name = base(name); !exported[name] {
				t.Errorf("%s: nobody exports %s", file, name)
			}
			shown[name] = true
		}
	}
	for name := range exported {
		if !shown[name] {
			t.Errorf("%s is neither on the dashboard nor in an alert", name)
		}
	}
	documented := metricsOfGuide(t)
	for name := range exported {
		if !documented[name] {
			t.Errorf("deployments/README.md does not list %s", name)
		}
	}
	for name := range documented {
		if !exported[name] {
			t.Errorf("deployments/README.md lists %s, which nobody exports", name)
		}
	}
	// Every label has all its values from the start.
	values := make(map[string]bool)
	for _, line := range regexp.MustCompile(`(?m)^(jobbridge_\w+)\{(.*)\} `).FindAllStringSubmatch(scraped, -1) {
		for _, label := range regexp.MustCompile(`(\w+)="([^"]*)"`).FindAllStringSubmatch(line[2], -1) {
			values[base(line[1])+" "+label[1]+" "+label[2]] = true
		}
	}
	asked := 0
	for _, file := range []string{"prometheus/alerts.yaml", "grafana/jobbridge.json"} {
		text := strings.ReplaceAll(read(t, filepath.Join("../../deployments", file)), `\"`, `"`)
		for _, selector := range regexp.MustCompile(`\b(jobbridge_[a-z_]+)\{([^{}]*)\}`).FindAllStringSubmatch(text, -1) {
			for _, m := range regexp.MustCompile(`(\w+)(?:=|=~|!=)"([^"]*)"`).FindAllStringSubmatch(selector[2], -1) {
				for _, value := range strings.Split(m[2], "|") {
					if m[1] == "instance" || values[base(selector[1])+" "+m[1]+" "+value] {
						continue
					}
					t.Errorf("%s: %s never has %s=%q", file, selector[1], m[1], value)
				}
				asked++
			}
		}
	}
	if asked < 20 {
		t.Errorf("only %d labels were found", asked)
	}
	b.Stop(t)
	standalone.Stop(t)
}

// lint checks the names and texts of jobbridge's metrics.
func lint(t *testing.T, name, scraped string) {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(scraped)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "jobbridge_") {
			t.Errorf("promlint: %s: %s: %s", name, p.Metric, p.Text)
		}
	}
}

// metricsOfGuide returns the names in the tables of the section "Metrics" of the guide. If a name begins with …, the … stands for the
// first two words of the name before it in its row.
func metricsOfGuide(t *testing.T) map[string]bool {
	t.Helper()
	_, section, _ := strings.Cut(read(t, "../../deployments/README.md"), "\n## Metrics\n")
	section, _, _ = strings.Cut(section, "\n## ")
	names := make(map[string]bool)
	for _, row := range regexp.MustCompile("(?m)^\\| (`jobbridge_.*?) \\|").FindAllStringSubmatch(section, -1) {
		family := regexp.MustCompile(`^jobbridge_[a-z]+`).FindString(row[1][1:])
		for _, name := range regexp.MustCompile("`([a-z_…]+)").FindAllStringSubmatch(row[1], -1) {
			names[strings.Replace(name[1], "…", family, 1)] = true
		}
	}
	return names
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestDeployedFlags: jobbridge accepts the variables of each manifest. The test replaces the paths that do not exist on this machine.
func TestDeployedFlags(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := filepath.Join(dir, "webhook")
	for _, name := range []string{"webhook", "nats-password", "nats-bridge"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("whsec_deployed"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	variable := regexp.MustCompile(`(?m)name: (JOBBRIDGE_\w+), value: "?([^"}\n]*)"?\}|^      (JOBBRIDGE_\w+): (\S+)$`)
	for _, file := range []string{
		"kubernetes/sidecar/statefulset.yaml", "kubernetes/gateway-direct/deployment.yaml",
		"kubernetes/gateway-journal/statefulset.yaml", "docker/compose.yaml",
	} {
		text := read(t, filepath.Join("../../deployments", file))
		if _, after, ok := strings.Cut(text, "\n  bridge:\n"); ok {
			text, _, _ = strings.Cut(after, "\n  worker:\n")
		}
		env := []string{"PATH=" + os.Getenv("PATH")}
		n := 0
		for _, m := range variable.FindAllStringSubmatch(text, -1) {
			name, value := m[1]+m[3], m[2]+m[4]
			value = strings.NewReplacer("/secrets/", dir+"/", "/run/secrets/", dir+"/", "/data", dir+"/data").Replace(value)
			env = append(env, name+"="+value)
			n++
		}
		args := []string{"config", "print"}
		if strings.Contains(text, "--journal=off") {
			args = append(args, "--journal=off")
		}
		out, stderr, code := process.RunIn(t, dir, env, nil, args...)
		if code != 0 || n < 4 || strings.Count(out, "JOBBRIDGE_") < n-1 {
			t.Errorf("%s: %d variables, exit %d: %s\n%s", file, n, code, stderr, out)
		}
		if strings.Contains(text, "--journal=off") && !regexp.MustCompile(`(?m)^data-dir +JOBBRIDGE_DATA_DIR *$`).MatchString(out) {
			t.Errorf("%s: a direct bridge has a folder:\n%s", file, out)
		}
	}
	out, stderr, code := process.RunIn(t, dir, []string{"SYNC_WEBHOOK_SECRET=whsec_test", "PATH=" + os.Getenv("PATH")}, nil, "config", "check",
		"--config", absolute(t, "../../deployments/systemd/jobbridge.yaml"), "--secret-file", secret)
	if code != 0 {
		t.Errorf("systemd: %s%s", out, stderr)
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// command runs a program to its end and returns what it printed.
func command(dir string, env []string, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestGuide runs the commands of the guide that need no cluster: the blocks that are marked "sh", in their order, against a bridge.
func TestGuide(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("whsec_guide\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := process.Start(t, process.Options{Dir: filepath.Join(dir, "data"), Args: []string{"--secret-file", secret},
		Env: []string{"SYNC_WEBHOOK_SECRET="}})
	bin := t.TempDir()
	if err := os.Symlink(process.Binary(t), filepath.Join(bin, "jobbridge")); err != nil {
		t.Fatal(err)
	}
	env := []string{"PATH=" + bin + ":" + os.Getenv("PATH"), "HOME=" + dir, "ADMIN=" + b.Admin,
		"SECRET=" + secret, "DATA=" + filepath.Join(dir, "data")}
	blocks := regexp.MustCompile("(?s)```sh\n(.*?)```").FindAllStringSubmatch(read(t, "../../deployments/README.md"), -1)
	if len(blocks) < 3 {
		t.Fatal("the guide has no commands")
	}
	for _, block := range blocks {
		if strings.Contains(block[1], "cp -a") && b.Cmd.ProcessState == nil {
			b.Stop(t) // as the guide says
		}
		script := filepath.Join(dir, "script")
		if err := os.WriteFile(script, []byte("set -euo pipefail\n"+block[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := command(dir, env, "bash", script)
		if err != nil {
			t.Errorf("%s%s%v", block[1], out, err)
		}
	}
}
