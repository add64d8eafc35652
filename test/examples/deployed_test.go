package main

import (
	"errors"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/jobbridge/jobbridge/test/natsd"
	"github.com/jobbridge/jobbridge/test/process"
	"go.yaml.in/yaml/v3"
)

// container is what a test needs of a container in a Kubernetes manifest.
type container struct {
	Name string
	Env  []struct {
		Name, Value string
		ValueFrom   struct {
			SecretKeyRef struct{ Name, Key string } `yaml:"secretKeyRef"`
		} `yaml:"valueFrom"`
	}
	LivenessProbe  probe `yaml:"livenessProbe"`
	ReadinessProbe probe `yaml:"readinessProbe"`
}

type probe struct {
	HTTPGet struct{ Path, Port string } `yaml:"httpGet"`
}

// block returns the only block of README.md in a language.
func block(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(text), -1)
	if len(blocks) != 1 {
		t.Fatalf("README.md has %d blocks in %s", len(blocks), language)
	}
	return blocks[0][1]
}

// sidecar returns the containers of deployments/kubernetes/sidecar: the bridge,
// and the worker that README.md puts in the place of the one there.
func sidecar(t *testing.T) (bridge, worker container) {
	t.Helper()
	text, err := os.ReadFile("../../deployments/kubernetes/sidecar/statefulset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var manifest struct {
		Spec struct {
			Template struct {
				Spec struct {
					InitContainers []container `yaml:"initContainers"`
					Containers     []container
				}
			}
		}
	}
	var workers []container
	if err := yaml.Unmarshal(text, &manifest); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte(block(t, "yaml")), &workers); err != nil {
		t.Fatal(err)
	}
	pod := manifest.Spec.Template.Spec
	if len(pod.InitContainers) != 1 || len(pod.Containers) != 1 || len(workers) != 1 || pod.Containers[0].Name != workers[0].Name {
		t.Fatalf("the containers are %+v, and README.md has %+v", pod, workers)
	}
	return pod.InitContainers[0], workers[0]
}

// onLoopback returns the address at which a test reaches a listener, and fails the
// test unless the listener is open to others.
func onLoopback(t *testing.T, address string) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	if ip := net.ParseIP(u.Hostname()); ip == nil || !ip.IsUnspecified() {
		t.Errorf("%s is not open to probes and deliveries from outside of the pod", address)
	}
	u.Host = net.JoinHostPort("127.0.0.1", u.Port())
	return u.String()
}

// TestSidecar runs the pod's two containers as processes, asks what its probes ask,
// and ends both at once while the worker handles an event: nothing is lost, and
// nothing is delivered twice.
func TestSidecar(t *testing.T) {
	t.Parallel()
	bridge, ours := sidecar(t)
	dir := t.TempDir()
	secret := filepath.Join(dir, "webhook")
	if err := os.WriteFile(secret, []byte(process.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	here := strings.NewReplacer("/secrets/webhook", secret, "/data/", dir+"/", ":8080", ":0", ":8081", ":0")
	options := process.Options{Dir: dir}
	for _, v := range bridge.Env {
		value := here.Replace(v.Value)
		// A flag, because process.Start has flags of its own, which a variable would
		// not override.
		if name, ok := strings.CutPrefix(v.Name, "JOBBRIDGE_"); ok {
			options.Args = append(options.Args, "--"+strings.ReplaceAll(strings.ToLower(name), "_", "-")+"="+value)
		} else {
			options.Env = append(options.Env, v.Name+"="+value)
		}
	}
	options.Args = append(options.Args, "--drain-delay=100ms") // for load balancers, of which there is none here
	release := make(chan struct{})
	s := newSite(t, func(_ string, _ int, _ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})

	b := process.Start(t, options)
	for _, p := range []probe{bridge.LivenessProbe, bridge.ReadinessProbe} {
		resp, err := http.Get(onLoopback(t, b.Admin) + p.HTTPGet.Path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK || p.HTTPGet.Port != "admin" {
			t.Errorf("the probe %+v gets %s", p, resp.Status)
		}
	}
	ready := onLoopback(t, b.Admin) + bridge.ReadinessProbe.HTTPGet.Path
	var settings []string
	for _, v := range ours.Env {
		value := here.Replace(v.Value)
		if ref := v.ValueFrom.SecretKeyRef; ref.Name == "jobbridge" && ref.Key == "webhook" {
			value = process.Secret
		}
		settings = append(settings, v.Name+"="+value)
	}
	results := filepath.Join(dir, "worker")
	w := start(t, inGo, results, append(settings, "NATS_URL="+b.NATS)...)
	deliver(t, onLoopback(t, b.Webhook), s.event("a", "COMPLETED"), s.event("b", "COMPLETED"))
	s.awaitRequest(t, "a")
	b.Signal(t, syscall.SIGTERM)
	w.signal(t, syscall.SIGTERM)
	w.awaitLog(t, "stopping after the present event")
	await(t, func() error {
		resp, err := http.Get(ready)
		if err == nil { // otherwise the listener is closed already
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return errors.New("the bridge does not drain")
			}
		}
		return nil
	})
	close(release)
	w.ends(t)
	if state := b.Wait(t); state.ExitCode() != 0 {
		t.Errorf("the bridge ends with %s\n%s", state, b.Log())
	}
	compare(t, "stored", stored(t, results), map[string]string{"a": "COMPLETED"})

	b = process.Start(t, options)
	start(t, inGo, results, append(settings, "NATS_URL="+b.NATS)...)
	if info := settled(t, connect(t, b), inGo, 2); info.Delivered.Consumer != 2 {
		t.Errorf("2 events were delivered %d times", info.Delivered.Consumer)
	}
	compare(t, "requests", s.all(), map[string]int{"a": 1, "b": 1})
	compare(t, "stored", stored(t, results), map[string]string{"a": "COMPLETED", "b": "COMPLETED"})
}

// TestCluster runs the two commands of README.md with three NATS servers, and kills
// the one that leads the stream while the worker handles an event.
func TestCluster(t *testing.T) {
	t.Parallel()
	nodes := natsd.Cluster(t, 3)
	var urls []string
	for _, node := range nodes {
		urls = append(urls, node.URL)
	}
	dir := t.TempDir()
	var words []string
	for _, user := range []string{"admin", "bridge"} {
		file := filepath.Join(dir, user)
		if err := os.WriteFile(file, []byte(natsd.Password(user)), 0o600); err != nil {
			t.Fatal(err)
		}
		words = append(words, user+"-password", file)
	}
	words = append(words, `"$NATS_URL"`, strings.Join(urls, ","))
	commands := strings.Split(strings.TrimSpace(strings.NewReplacer(words...).Replace(block(t, "sh"))), "\n")
	if len(commands) != 2 {
		t.Fatalf("README.md has the commands %q", commands)
	}
	if out, stderr, code := process.Run(t, nil, strings.Fields(commands[0])[1:]...); code != 0 {
		t.Fatalf("%s: %d\n%s%s", commands[0], code, out, stderr)
	}
	serve, ok := strings.CutPrefix(commands[1], "jobbridge serve ")
	if !ok {
		t.Fatalf("the second command is %s", commands[1])
	}
	b := process.Start(t, process.Options{Args: strings.Fields(serve)})

	release := make(chan struct{})
	s := newSite(t, func(id string, _ int, _ http.ResponseWriter, r *http.Request) {
		if id == "b" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	})
	results := t.TempDir()
	start(t, inGo, results, "NATS_URL="+strings.Join(urls, ","), "NATS_USER=worker", "NATS_PASSWORD="+natsd.Password("worker"), shortAckWait)
	deliver(t, b.Webhook, s.event("a", "COMPLETED"), s.event("b", "COMPLETED"))
	s.awaitRequest(t, "b")
	nodes.Leader(t, "JOBS").Kill(t)
	deliver(t, b.Webhook, s.event("c", "COMPLETED"), s.event("d", "FAILED"))
	close(release)
	settled(t, nodes.Connect(t, "worker"), inGo, 4)
	compare(t, "requests", s.all(), map[string]int{"a": 1, "b": 1, "c": 1})
	compare(t, "stored", stored(t, results), map[string]string{"a": "COMPLETED", "b": "COMPLETED", "c": "COMPLETED", "d": "FAILED"})
}
