// Package repo tests the repository itself: which package may import which, that documents and manifests agree with each other, and
// that each link leads somewhere.
package repo

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/jobbridge/jobbridge"

// pkg is what go list prints about a package.
type pkg struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Deps       []string
	Standard   bool
}

func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json"}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var packages []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// TestLayers fails for an import that points the wrong way, and prints the reason of the rule.
func TestLayers(t *testing.T) {
	const (
		down  = "imports point from cmd to bridge to verify and publisher"
		rooms = "packages of one layer do not import each other; the package above connects them"
	)
	type rule struct{ who, mustNot, why string }
	rules := []rule{
		{"verify", ".", "whoever verifies a delivery must not inherit anybody's dependencies"},
		{"verify", module, "verify stands alone"},
		{"publisher/event", ".", "workers import it, so it has the standard library only"},
		{"publisher/event", module, "workers import it alone"},
		{"publisher", "net/http", "the publisher knows no HTTP"},
		{"publisher", "github.com/labstack/echo/v4", "the publisher knows no HTTP"},
		{"publisher", module + "/bridge", down},
		{"publisher", module + "/verify", "what is published has been verified, by others"},
		{"publisher/internal/journal", "github.com/nats-io", "the journal knows bytes only"},
		{"publisher/internal/forward", "github.com/nats-io/nats-server", "the forwarder does not know whether the stream is embedded"},
		{"bridge", module + "/cmd", down},
		{"bridge", "github.com/labstack/echo/v4", "only the ingress answers deliveries"},
		{"bridge/operator", module + "/bridge", "what an operator sees is below the rooms that answer with it"},
		{"bridge/operator", "github.com/nats-io", "what an operator sees is described without NATS"},
		{"bridge/provider", module, "a provider depends on nothing else here"},
		{"bridge/internal/ingress", "github.com/nats-io", "the ingress publishes through an interface"},
		{"bridge/internal/admin", "github.com/nats-io", "the admin listener knows no NATS"},
		{"bridge/internal/quarantine", "github.com/nats-io", "the quarantine stores files and publishes through an interface"},
		{"bridge/internal/quarantine", "github.com/labstack/echo/v4", "the quarantine answers no requests"},
		{"bridge/internal/acme", module, "a certificate depends on nothing else here"},
		{"bridge/internal/file", module, "a file depends on nothing else here"},
		{"bridge/internal/source", module, "who a sender is depends on nothing else here"},
		{"bridge/internal/logging", module + "/bridge", "what a log line may hold depends on the event alone"},
		{"bridge/internal/logging", module + "/publisher/internal", "what a log line may hold depends on the event alone"},
		{"bridge/internal/listener", module + "/publisher", "a tool of the rooms knows no events"},
	}
	floor := func(owner string, names []string, more ...rule) {
		for _, room := range names {
			who := owner + "/internal/" + room
			for _, r := range more {
				rules = append(rules, rule{who, r.mustNot, r.why})
			}
			for _, other := range names {
				if other != room {
					rules = append(rules, rule{who, module + "/" + owner + "/internal/" + other, rooms})
				}
			}
		}
	}
	floor("publisher", []string{"journal", "forward", "embedded", "remote"}, rule{mustNot: module + "/bridge", why: down},
		rule{mustNot: "net/http", why: "the publisher knows no HTTP"},
		rule{mustNot: module + "/verify", why: "what is published has been verified, by others"})
	// The rooms may use the tools below them: file, listener, logging and source.
	floor("bridge", []string{"ingress", "admin", "quarantine", "reload", "acme"}, rule{mustNot: module + "/cmd", why: down},
		rule{mustNot: module + "/test", why: down})
	floor("bridge", []string{"listener", "logging"}, rule{mustNot: module + "/verify", why: "a tool of the rooms knows no deliveries"})
	packages := list(t, module+"/...")
	for _, r := range rules { // a rule for a room that is gone keeps nothing
		if !slices.ContainsFunc(packages, func(p pkg) bool { return p.ImportPath == module+"/"+r.who }) {
			t.Errorf("there is no %s", r.who)
		}
	}
	server := "only publisher/internal/embedded and test run a NATS server"
	for _, p := range packages {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, "github.com/nats-io/nats-server") && name != "publisher/internal/embedded" &&
				!strings.HasPrefix(name, "test") {
				t.Errorf("%s imports %s: %s", name, imported, server)
			}
			for _, r := range rules {
				outside := r.mustNot == "." && strings.Contains(strings.Split(imported, "/")[0], ".")
				if name == r.who && (imported == r.mustNot || outside || strings.HasPrefix(imported, r.mustNot+"/")) {
					t.Errorf("%s imports %s: %s", name, imported, r.why)
				}
			}
		}
	}
}

// TestLightImports: verify and publisher/event import nothing but the standard library, so a worker that imports them stays small.
func TestLightImports(t *testing.T) {
	for _, light := range []string{"verify", "publisher/event"} {
		for _, dep := range list(t, "-deps", module+"/"+light) {
			if !dep.Standard && dep.ImportPath != module+"/"+light {
				t.Errorf("importing %s pulls in %s", light, dep.ImportPath)
			}
		}
	}
}

// TestTopLevel fails for a folder of code beside the ones that are agreed.
func TestTopLevel(t *testing.T) {
	for _, p := range list(t, module+"/...") {
		top, _, _ := strings.Cut(strings.TrimPrefix(p.ImportPath, module+"/"), "/")
		if !slices.Contains([]string{".ci", "cmd", "bridge", "verify", "publisher", "deployments", "test"}, top) {
			t.Errorf("%s: no code belongs into the folder %s", p.ImportPath, top)
		}
	}
}

// TestPackageComments fails for a package without a comment.
func TestPackageComments(t *testing.T) {
	for _, p := range list(t, module+"/...") {
		documented := len(p.GoFiles) == 0
		for _, name := range p.GoFiles {
			f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.ParseComments|parser.PackageClauseOnly)
			if err != nil {
				t.Fatal(err)
			}
			documented = documented || f.Doc != nil
		}
		if !documented {
			t.Errorf("%s has no package comment", p.ImportPath)
		}
	}
}
