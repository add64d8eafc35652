// Package test holds what concerns the whole program: its layers, and its life
// as a process.
package test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const module = "github.com/jobbridge/jobbridge"

// pkg is what go list says of a package.
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

// TestLayers fails an import that points the wrong way, and says why it is one.
func TestLayers(t *testing.T) {
	rules := []struct{ who, mustNot, why string }{
		{"verify", ".", "whoever verifies a delivery must not inherit anybody's dependencies"},
		{"verify", module, "verify stands alone"},
		{"publisher", "net/http", "the publisher knows no HTTP"},
		{"publisher", "github.com/labstack/echo/v4", "the publisher knows no HTTP"},
		{"publisher", module + "/bridge", "imports point from cmd to bridge to verify and publisher"},
		{"publisher", module + "/verify", "what is published has been verified, by others"},
		{"publisher", module + "/publisher/journal", "the journal stands on the publisher"},
		{"publisher/journal", module + "/bridge", "imports point from cmd to bridge to verify and publisher"},
		{"publisher/relay", module + "/bridge", "imports point from cmd to bridge to verify and publisher"},
		{"publisher/relay", module + "/publisher/journal", "the relay copies a stream; cmd chooses which"},
		{"publisher/relay", module + "/publisher/remote", "the relay forwards through an interface; cmd chooses what is behind it"},
		{"publisher/relay", "net/http", "the publisher knows no HTTP"},
		{"publisher/remote", module + "/bridge", "imports point from cmd to bridge to verify and publisher"},
		{"publisher/remote", "net/http", "the publisher knows no HTTP"},
		{"bridge", module + "/publisher/relay", "the bridge publishes through an interface; cmd chooses what is behind it"},
		{"bridge", module + "/publisher/remote", "the bridge publishes through an interface; cmd chooses what is behind it"},
		{"bridge", module + "/publisher/journal", "the bridge publishes through an interface; cmd chooses what is behind it"},
		{"bridge", module + "/cmd", "imports point from cmd to bridge"},
		{"bridge/internal/quarantine", module + "/cmd", "imports point from cmd to bridge"},
		{"bridge/internal/quarantine", "github.com/nats-io", "the quarantine stores files and publishes through an interface"},
		{"bridge/internal/quarantine", "github.com/labstack/echo/v4", "the quarantine answers no requests"},
		{"bridge/internal/source", module, "who a sender is depends on nothing else here"},
	}
	server := "only publisher/journal and test run a NATS server"
	for _, p := range list(t, module+"/...") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, "github.com/nats-io/nats-server") && name != "publisher/journal" && !strings.HasPrefix(name, "test") {
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

// TestLightImports keeps a worker's build small: it reads events and verifies
// them again, and needs no server for that.
func TestLightImports(t *testing.T) {
	for _, light := range []string{"verify", "publisher/event"} {
		for _, dep := range list(t, "-deps", module+"/"+light) {
			if !dep.Standard && dep.ImportPath != module+"/"+light {
				t.Errorf("importing %s pulls in %s", light, dep.ImportPath)
			}
		}
	}
}

// TestPackageComments fails a package that does not say what it promises.
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
