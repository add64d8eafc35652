package repo

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestLinks: in each document, the links to files and headings of the repository lead to something that exists.
func TestLinks(t *testing.T) {
	t.Parallel()
	var documents []string
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if err == nil && strings.HasSuffix(path, ".md") {
			documents = append(documents, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)|(?:href|src)="([^"]+)"`)
	found := 0
	for _, document := range documents {
		for _, m := range link.FindAllStringSubmatch(prose(read(t, document)), -1) {
			target := m[1] + m[2]
			if strings.Contains(target, "://") {
				continue
			}
			found++
			path, anchor, _ := strings.Cut(target, "#")
			if path = filepath.Join(filepath.Dir(document), path); strings.HasPrefix(target, "#") {
				path = document
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s: %v", document, err)
			} else if anchor != "" && !anchors(read(t, path))[anchor] {
				t.Errorf("%s: %s has no heading #%s", document, path, anchor)
			}
		}
	}
	if len(documents) < 8 || found < 50 {
		t.Fatalf("%d links in %d documents", found, len(documents))
	}
}

// TestProof: each go test command in a table of ARCHITECTURE.md or CONTRIBUTING.md finds a test for each name after -run or -bench.
func TestProof(t *testing.T) {
	t.Parallel()
	command := regexp.MustCompile("go test [^`|]*(?:\\\\\\|[^`|]*)*-(run|bench) '?([^ ']+)'? ([^`]*)`")
	commands := 0
	for _, document := range []string{"../../ARCHITECTURE.md", "../../CONTRIBUTING.md"} {
		for _, m := range command.FindAllStringSubmatch(read(t, document), -1) {
			commands++
			kind := map[string]string{"run": "Test", "bench": "Benchmark"}[m[1]]
			for name := range strings.SplitSeq(m[2], `\|`) {
				if !declared(t, kind, name, strings.Fields(m[3])) {
					t.Errorf("%s: %s finds no %s", document, strings.Trim(m[0], "`"), name)
				}
			}
		}
	}
	if commands < 15 {
		t.Fatalf("%d commands", commands)
	}
}

// declared reports whether one of the packages has a test or a benchmark whose name contains name.
func declared(t *testing.T, kind, name string, packages []string) bool {
	t.Helper()
	declaration := regexp.MustCompile(`(?m)^func ` + kind + `\w*` + name)
	for _, p := range packages {
		files, err := filepath.Glob(filepath.Join("../..", p, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if declaration.MatchString(read(t, file)) {
				return true
			}
		}
	}
	return false
}

// prose returns a document without its blocks of code.
func prose(text string) string {
	return regexp.MustCompile("(?ms)^ *```.*?^ *```$").ReplaceAllString(text, "")
}

// anchors returns the names of a document's headings, as GitHub makes them.
func anchors(text string) map[string]bool {
	names := make(map[string]bool)
	for _, m := range regexp.MustCompile(`(?m)^#+ (.+)$`).FindAllStringSubmatch(prose(text), -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		names[strings.ReplaceAll(name, " ", "-")] = true
	}
	return names
}

// TestSecurityNamesTests: each test that SECURITY.md names exists.
func TestSecurityNamesTests(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	err := filepath.WalkDir("../..", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			all.WriteString(read(t, path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(read(t, "../../SECURITY.md"), -1)
	if len(named) < 20 {
		t.Fatalf("SECURITY.md names %d tests", len(named))
	}
	for _, m := range named {
		if !strings.Contains(all.String(), "func "+m[1]+"(") {
			t.Errorf("SECURITY.md: there is no %s", m[1])
		}
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
