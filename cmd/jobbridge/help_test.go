package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/alecthomas/units"
	"go.yaml.in/yaml/v3"
)

// TestHelp: each command and flag has a text, each text belongs to one, and each command that runs has an example that parses.
func TestHelp(t *testing.T) {
	parser, err := newParser(new(cli))
	if err != nil {
		t.Fatal(err)
	}
	used := make(map[string]bool)
	for _, node := range commandsOf(parser.Model.Node) {
		name := commandName(node)
		out, err := call(t, nil, append(strings.Fields(name), "--help")...)
		if err != nil || !strings.Contains(out, "Usage: jobbridge") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
		for _, line := range strings.Split(out, "\n") {
			if len([]rune(line)) > 125 { // examples are not wrapped
				t.Errorf("%s --help: a long line: %s", name, line)
			}
		}
		if node.Help == "" {
			t.Errorf("%s has no text", name)
		}
		if len(node.Children) == 0 {
			testExamples(t, name, node)
		}
		for _, flag := range node.Flags {
			used[flag.Name] = true
			if flag.Help == "" || strings.Contains(flag.Help, "${") {
				t.Errorf("%s --%s: %q", name, flag.Name, flag.Help)
			}
		}
		for _, argument := range node.Positional {
			used[argument.Name] = true
			if argument.Help == "" {
				t.Errorf("%s <%s> has no text", name, argument.Name)
			}
		}
	}
	var texts struct {
		Flags    map[string]string
		Commands map[string]commandHelp
	}
	if err := yaml.Unmarshal(helpYAML, &texts); err != nil {
		t.Fatal(err)
	}
	for name := range texts.Flags {
		if !used[name] {
			t.Errorf("help.yaml: no command has --%s", name)
		}
	}
	for command, c := range texts.Commands {
		node := nodeOf(parser.Model.Node, command)
		if node == nil {
			t.Errorf("help.yaml: there is no command %s", command)
			continue
		}
		for name := range c.Flags {
			if !slices.ContainsFunc(node.Flags, func(f *kong.Flag) bool { return f.Name == name }) &&
				!slices.ContainsFunc(node.Positional, func(p *kong.Positional) bool { return p.Name == name }) {
				t.Errorf("help.yaml: %s has no %s", command, name)
			}
		}
	}
}

func nodeOf(app *kong.Node, command string) *kong.Node {
	for _, node := range commandsOf(app) {
		if commandName(node) == command {
			return node
		}
	}
	return nil
}

// testExamples parses the examples of a command.
func testExamples(t *testing.T, name string, node *kong.Node) {
	t.Helper()
	_, example, _ := strings.Cut(node.Detail, "Example:\n\n")
	for line := range strings.Lines(example) {
		_, command, _ := strings.Cut(line, "jobbridge ")
		command = regexp.MustCompile(`[>)].*`).ReplaceAllString(strings.ReplaceAll(command, "'", ""), "")
		args := strings.Fields(command)
		if i := slices.Index(args, "--config"); i >= 0 {
			args = slices.Delete(args, i, i+2) // kong reads the file
		}
		if _, err := parse(t, args...); err != nil || !strings.HasPrefix(command, name) {
			t.Errorf("%s: the example %q: %v", name, command, err)
		}
	}
	if example == "" {
		t.Errorf("%s has no example", name)
	}
}

// TestFirstFlags: the ten flags that people need first are the first in the help of serve.
func TestFirstFlags(t *testing.T) {
	out, err := call(t, nil, "serve", "--help")
	if err != nil || len(firstFlags) != 10 {
		t.Fatal(len(firstFlags), err)
	}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^ {2,6}--([a-z-]+)`).FindAllStringSubmatch(out[strings.Index(out, "\nFlags:"):], 10) {
		got = append(got, m[1])
	}
	if !slices.Equal(got, firstFlags) {
		t.Errorf("%q, want %q", got, firstFlags)
	}
}

// TestDocumentedDefaults compares each value in brackets behind a flag, such as `--tolerance` (5 min), in a document with
// the default of the flag. A document that names another value must not put it in brackets.
func TestDocumentedDefaults(t *testing.T) {
	parser, err := newParser(new(cli))
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string][]string)
	for _, node := range commandsOf(parser.Model.Node) {
		for _, flag := range node.Flags {
			values[flag.Name] = append(values[flag.Name], flag.Default)
		}
	}
	bracket := regexp.MustCompile("`--([a-z-]+)` \\((?:by default )?(\\d+(?:\\.\\d+)*(?::\\d+)?) ?([A-Za-z]*)")
	found := 0
	for _, document := range []string{"README.md", "SECURITY.md", "ARCHITECTURE.md", "deployments/README.md", "deployments/receiver.md"} {
		text, err := os.ReadFile(filepath.Join("../..", document))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range bracket.FindAllStringSubmatch(string(text), -1) {
			found++
			if !slices.ContainsFunc(values[m[1]], func(value string) bool { return sameValue(m[2], m[3], value) }) {
				t.Errorf("%s: --%s (%s %s), and the default is %q", document, m[1], m[2], m[3], values[m[1]])
			}
		}
	}
	if found < 10 {
		t.Errorf("%d values in brackets", found)
	}
}

// sameValue compares a number and its unit, as a document writes them, with the default of a flag.
func sameValue(number, unit, value string) bool {
	factors := map[string]time.Duration{"s": time.Second, "min": time.Minute, "minutes": time.Minute, "h": time.Hour, "days": 24 * time.Hour}
	if d, err := time.ParseDuration(value); err == nil && factors[unit] > 0 {
		n, err := strconv.ParseFloat(number, 64)
		return err == nil && n*factors[unit].Seconds() == d.Seconds()
	}
	if want, err := units.ParseBase2Bytes(value); err == nil && strings.HasSuffix(unit, "iB") {
		got, err := units.ParseBase2Bytes(number + unit)
		return err == nil && got == want
	}
	return number == value || strings.HasSuffix(value, ":"+number)
}

// TestDuration: a default shows no zeros at its end, and is read as the same value.
func TestDuration(t *testing.T) {
	for _, d := range []time.Duration{0, time.Second, 10 * time.Second, time.Minute, 65 * time.Minute,
		24 * time.Hour, 90 * time.Second, time.Hour + time.Second} {
		if back, err := time.ParseDuration(duration(d)); err != nil || back != d {
			t.Errorf("%s: %q", d, duration(d))
		}
	}
	if got := duration(24 * time.Hour); got != "24h" {
		t.Error(got)
	}
}

// TestBashCompletion runs bash with the script, as the key Tab does.
func TestBashCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	script, err := call(t, nil, "completion", "bash")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, r := range []struct{ line, want string }{
		{"jobbridge se", "send serve"},
		{"jobbridge quarantine ", "--help list purge release show"},
		{"jobbridge quarantine rel", "release"},
		{"jobbridge serve --nats-l", "--nats-listen"},
		{"jobbridge serve --dev --qua", "--quarantine --quarantine-age --quarantine-bytes"},
		{"jobbridge serve --no-q", "--no-quarantine"},
		{"jobbridge serve --durability ", "fsync os"},
		{"jobbridge serve --durability=o", "os"},
		{"jobbridge serve --path /a --log-level w", "warn"},
		{"jobbridge completion ", "--help bash fish zsh"},
		{"jobbridge serve --data-dir fi", "file"},
		{"jobbridge serve --max-work", ""},
		{"jobbridge srve --nats", ""},
	} {
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		words := strings.ReplaceAll(r.line, "=", " = ") // as bash splits the line
		array := strings.Fields(words)
		if strings.HasSuffix(words, " ") {
			array = append(array, "")
		}
		for i := range array {
			array[i] = "'" + array[i] + "'"
		}
		command := script + "\nCOMP_WORDS=(" + strings.Join(array, " ") +
			"); COMP_CWORD=$((${#COMP_WORDS[@]}-1)); _jobbridge; printf '%s\\n' \"${COMPREPLY[@]}\" | sort | paste -sd' '"
		cmd := exec.CommandContext(t.Context(), bash, "--norc", "-uc", command)
		cmd.Dir, cmd.Env = dir, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
		out, err := cmd.CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != r.want {
			t.Errorf("%q: %q %v, want %q", r.line, got, err, r.want)
		}
	}
}

// TestOtherCompletions loads the scripts into zsh and fish, and asks fish for the completions of a line.
func TestOtherCompletions(t *testing.T) {
	for shell, args := range map[string][]string{
		"zsh":  {"-fc", "autoload -U compinit && compinit -D && source ./script && print ok"},
		"fish": {"--no-config", "-c", "source ./script; complete -C 'jobbridge quarantine r'; complete -C 'jobbridge serve --durab'"},
	} {
		t.Run(shell, func(t *testing.T) {
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skip(err)
			}
			script, err := call(t, nil, "completion", shell)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), path, args...)
			cmd.Dir = filepath.Dir(file(t, "script", script))
			cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + cmd.Dir}
			out, err := cmd.CombinedOutput()
			want := map[string]string{"zsh": `^ok\n$`, "fish": `(?s)^release\tPublish.*\n--durability\t`}[shell]
			if err != nil || !regexp.MustCompile(want).Match(out) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestManPage: groff formats the page without a warning, and the page has each visible flag.
func TestManPage(t *testing.T) {
	page, err := call(t, nil, "man")
	if err != nil {
		t.Fatal(err)
	}
	parser, err := newParser(new(cli))
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range commandsOf(parser.Model.Node) {
		for _, flag := range node.Flags {
			if has := strings.Contains(page, ".B \\-\\-"+strings.ReplaceAll(flag.Name, "-", `\-`)); flag.Name != "help" && has == flag.Hidden {
				t.Errorf("%s --%s: hidden %v, in the page %v", commandName(node), flag.Name, flag.Hidden, has)
			}
		}
	}
	groff, err := exec.LookPath("groff")
	if err != nil {
		t.Skip(err)
	}
	cmd := exec.CommandContext(t.Context(), groff, "-k", "-man", "-Tutf8", "-ww", "-z")
	cmd.Stdin = strings.NewReader(page)
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestVersion(t *testing.T) {
	out, err := call(t, nil, "version")
	if err != nil || !regexp.MustCompile(`^jobbridge \S+, commit \S+ of \S+, go\S+ \w+/\w+\n$`).MatchString(out) {
		t.Errorf("%q %v", out, err)
	}
	out, err = call(t, nil, "--version", "--json")
	if err != nil || !strings.Contains(out, `"commit": "`) {
		t.Errorf("%q %v", out, err)
	}
}
