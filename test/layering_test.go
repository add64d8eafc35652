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
	const (
		down  = "imports point from cmd to bridge to verify and publisher"
		rooms = "rooms on one floor do not import each other; publisher connects them"
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
		{"bridge/internal/quarantine", module + "/cmd", down},
		{"bridge/internal/quarantine", "github.com/nats-io", "the quarantine stores files and publishes through an interface"},
		{"bridge/internal/quarantine", "github.com/labstack/echo/v4", "the quarantine answers no requests"},
		{"bridge/internal/source", module, "who a sender is depends on nothing else here"},
	}
	internal := []string{"journal", "forward", "embedded", "remote"}
	for _, room := range internal {
		who := "publisher/internal/" + room
		rules = append(rules, rule{who, module + "/bridge", down}, rule{who, "net/http", "the publisher knows no HTTP"},
			rule{who, module + "/verify", "what is published has been verified, by others"})
		for _, other := range internal {
			if other != room {
				rules = append(rules, rule{who, module + "/publisher/internal/" + other, rooms})
			}
		}
	}
	server := "only publisher/internal/embedded and test run a NATS server"
	for _, p := range list(t, module+"/...") {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imported := range p.Imports {
			if strings.HasPrefix(imported, "github.com/nats-io/nats-server") && name != "publisher/internal/embedded" && !strings.HasPrefix(name, "test") {
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
