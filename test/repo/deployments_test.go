package repo

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestAlerts: the guide says what to do about each alert and names no other alert. A test in alerts_test.yaml makes each alert fire. All
// tests there list the alerts that fire, so they also show that the others are silent.
func TestAlerts(t *testing.T) {
	t.Parallel()
	guide, tests := read(t, "../../deployments/README.md"), read(t, "../../deployments/prometheus/alerts_test.yaml")
	alerts := make(map[string]bool)
	rules := read(t, "../../deployments/prometheus/alerts.yaml")
	for _, alert := range regexp.MustCompile(`(?s)alert: (\w+).*?severity: (\w+)`).FindAllStringSubmatch(rules, -1) {
		alerts[alert[1]] = true
		if !strings.Contains(guide, "\n| `"+alert[1]+"` | "+alert[2]+" | ") {
			t.Errorf("deployments/README.md does not say what to do about %s, of severity %s", alert[1], alert[2])
		}
		if !strings.Contains(tests, `alertname="`+alert[1]+`"`) {
			t.Errorf("alerts_test.yaml does not test that %s fires", alert[1])
		}
	}
	for _, named := range regexp.MustCompile("`(Jobbridge\\w+)`").FindAllStringSubmatch(guide, -1) {
		if !alerts[named[1]] {
			t.Errorf("deployments/README.md: there is no alert %s", named[1])
		}
	}
}

// TestManifests: the manifests, the chart and the guide agree with each other.
func TestManifests(t *testing.T) {
	t.Parallel()
	guide := read(t, "../../deployments/README.md")
	version := regexp.MustCompile(`(?m)^appVersion: (.+)$`).FindStringSubmatch(read(t, "../../deployments/helm/jobbridge/Chart.yaml"))[1]
	for _, file := range []string{"README.md", "kubernetes/sidecar/statefulset.yaml", "kubernetes/gateway-direct/deployment.yaml",
		"kubernetes/gateway-journal/statefulset.yaml"} {
		text := read(t, "../../deployments/"+file)
		for _, m := range regexp.MustCompile(`ghcr\.io/\S+:(\S+)`).FindAllStringSubmatch(text, -1) {
			if m[1] != version {
				t.Errorf("%s: image %s, and the chart's is %s", file, m[1], version)
			}
		}
		for _, m := range regexp.MustCompile(`/secrets/([\w-]+)`).FindAllStringSubmatch(text, -1) {
			if !strings.Contains(guide, "--from-file="+m[1]) {
				t.Errorf("%s: the guide's Secret has no key %s", file, m[1])
			}
		}
		if !strings.Contains(text, "JOBBRIDGE_TRUSTED_PROXIES") {
			t.Errorf("%s: all senders are one source", file)
		}
	}

	direct := read(t, "../../deployments/kubernetes/gateway-direct/deployment.yaml")
	if strings.Contains(direct, "replicas:") {
		t.Error("gateway-direct: each apply takes back what the autoscaler did")
	}
	const patience = 4500 // of a delivery, in ms, as the guide says
	probe := regexp.MustCompile(`/readyz[^}]*}\n(?: +#.*\n)* +periodSeconds: (\d+)\n +failureThreshold: (?:{{ ternary \d+ )?(\d+)`)
	for name, text := range map[string]string{"base": direct, "chart": read(t, "../../deployments/helm/jobbridge/templates/workload.yaml")} {
		m := probe.FindStringSubmatch(text)
		if m == nil {
			t.Fatalf("%s: no readiness", name)
		}
		period, _ := strconv.Atoi(m[1])
		threshold, _ := strconv.Atoi(m[2])
		if period*threshold*1000 <= patience {
			t.Errorf("%s: an outage that no delivery notices takes the pods out of service", name)
		}
	}
	// What a block names is there.
	for _, path := range regexp.MustCompile(`(?m)^[^|\n]*\b(deployments/[\w./-]+)`).FindAllStringSubmatch(guide, -1) {
		if _, err := os.Stat(filepath.Join("../..", path[1])); err != nil && path[1] != "deployments/README.md" {
			t.Errorf("the guide: %v", err)
		}
	}
}
