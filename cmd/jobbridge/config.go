package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/alecthomas/kong"
	"github.com/alecthomas/units"
	"github.com/jobbridge/jobbridge/bridge/operator"
	"go.yaml.in/yaml/v3"
)

// configFile gives flags the values of a YAML file, whose keys are the names of the flags:
//
//	listen: 0.0.0.0:8080
//	durability: fsync
//
// A value is parsed as it is written, in the same way as the value of a variable.
type configFile struct {
	values map[string]yaml.Node
	parser *kong.Kong
}

// readConfig reads a configuration file. The parser suggests names for misspelled keys.
func readConfig(r io.Reader, parser *kong.Kong) (kong.Resolver, error) {
	f := configFile{map[string]yaml.Node{}, parser}
	d := yaml.NewDecoder(r)
	if err := d.Decode(&f.values); err != nil && !errors.Is(err, io.EOF) {
		var wrong *yaml.TypeError
		if errors.As(err, &wrong) && !strings.Contains(err.Error(), "already defined") {
			return nil, errors.New("configuration file: want the names of flags with their values, such as  listen: 0.0.0.0:8080")
		}
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		return nil, errors.New("configuration file: want one document, not several")
	}
	return f, nil
}

// Validate refuses keys that name no flag, because a misspelled limit must not be ignored silently.
func (f configFile) Validate(app *kong.Application) error {
	known := flagsOfServe(app)
	for key := range f.values {
		if slices.Contains(known, key) && key != "config" {
			continue
		}
		hint := suggestion(f.parser, key)
		if hint != "" {
			hint = "did you mean " + hint + "? "
		}
		return fmt.Errorf("configuration file: unknown key %q: %sWant the name of a flag of serve, without the dashes", redact(key), hint)
	}
	return nil
}

// Resolve implements [kong.Resolver].
func (f configFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return nil, nil // the environment wins
		}
	}
	node, ok := f.values[flag.Name]
	switch {
	case !ok || node.Tag == "!!null":
		return nil, nil
	case node.Kind == yaml.ScalarNode:
		return node.Value, nil
	case node.Kind == yaml.SequenceNode && flag.IsSlice():
		texts := make([]any, len(node.Content))
		for i, n := range node.Content {
			texts[i] = n.Value
		}
		return texts, nil
	}
	return nil, fmt.Errorf("configuration file: %s: want one value", flag.Name)
}

// flagsOfServe returns the names of the flags of serve.
func flagsOfServe(app *kong.Application) (names []string) {
	for _, command := range app.Children {
		if command.Name == "serve" {
			for _, flag := range command.Flags {
				names = append(names, flag.Name)
			}
		}
	}
	return names
}

// suggestion returns what kong suggests for a misspelled flag of serve: the quoted names of flags, or "".
func suggestion(parser *kong.Kong, name string) string {
	trace, err := kong.Trace(parser, []string{"serve", "--" + name})
	if err == nil {
		err = trace.Error
	}
	_, hint, _ := strings.Cut(fmt.Sprint(err), ", did you mean ")
	return strings.ReplaceAll(strings.TrimSuffix(hint, "?"), `"--`, `"`)
}

// misspelled returns a warning for each variable whose name is nearly the name of a flag. Other unknown variables may belong to
// somebody else: Kubernetes makes variables from the names of services.
func misspelled(parser *kong.Kong, environ []string) (warnings []string) {
	known := flagsOfServe(parser.Model)
	for _, variable := range environ {
		variable, _, _ := strings.Cut(variable, "=")
		rest, ours := strings.CutPrefix(variable, "JOBBRIDGE_")
		name := strings.ReplaceAll(strings.ToLower(rest), "_", "-")
		positive := strings.TrimPrefix(name, "no-")
		switch hint := suggestion(parser, name); {
		case !ours || slices.Contains(known, name):
		case slices.Contains(known, positive):
			warnings = append(warnings, fmt.Sprintf("variable %s has no effect: set %s=false", variable, variableOf(positive)))
		case hint != "" && !strings.HasPrefix(hint, "one of "):
			warnings = append(warnings, fmt.Sprintf("variable %s has no effect: did you mean %s?", variable, variableOf(strings.Trim(hint, `"`))))
		}
	}
	return warnings
}

// variableOf returns the environment variable of a flag.
func variableOf(flag string) string {
	return "JOBBRIDGE_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// redact hides what a text must not show: user and password in a URL, and a secret in a place where none belongs.
func redact(text string) string {
	return userInfo.ReplaceAllString(secretWord.ReplaceAllString(text, "…"), "${1}…@")
}

var (
	secretWord = regexp.MustCompile(`whsec_\S*`)
	userInfo   = regexp.MustCompile(`(//|^|[ ,\[])[^/@ ,\[\]]*:[^@ ,\]]*@`)
)

// configCmd has the commands about the configuration that serve would run with.
type configCmd struct {
	Check   configCheckCmd   `cmd:""`
	Print   configPrintCmd   `cmd:""`
	Running configRunningCmd `cmd:""`
}

type configCheckCmd struct {
	Flags serveFlags `embed:""`
}

// Run checks what serve checks before it begins.
func (c *configCheckCmd) Run(k *kong.Context, s streams) error {
	o, err := c.Flags.checked(s.getenv)
	if err != nil {
		return err
	}
	for _, hint := range append(misspelled(k.Kong, os.Environ()), o.Warnings()...) {
		fmt.Fprintln(s.err, hint)
	}
	prints := c.Flags.fingerprints(s.getenv)
	text := "signing secrets: fingerprints " + strings.Join(prints, ", ")
	switch {
	case c.Flags.Dev:
		text = "the signing secret is made by --dev"
	case len(prints) == 1:
		text = "signing secret: fingerprint " + prints[0]
	}
	fmt.Fprintf(s.out, "OK; %s\n", text)
	return nil
}

type configPrintCmd struct {
	Flags serveFlags `embed:""`
}

// Run prints the flags, and checks them.
func (c *configPrintCmd) Run(k *kong.Context, s streams) error {
	_, err := c.Flags.checked(s.getenv)
	return errors.Join(printSettings(s.out, c.Flags.settings(k, s.getenv, c.Flags.fingerprints(s.getenv))), err)
}

// setting is the value of a flag, and where it comes from.
type setting struct {
	Flag  string `json:"flag"`
	Value string `json:"value"`
	From  string `json:"from"`
}

// settings returns the values of all flags of serve, and the fingerprints of its secrets.
func (f *serveFlags) settings(k *kong.Context, getenv func(string) string, secrets []string) (list []setting) {
	for _, flag := range k.Selected().Flags {
		if flag.Name != "config" {
			list = append(list, setting{flag.Name, shown(flag.Name, k.FlagValue(flag)), origin(k, flag)})
		}
	}
	from := f.Secrets.origins(getenv)
	if len(from) == 0 && f.Dev {
		from = []string{"--dev"}
	}
	return append(list, setting{"secrets", strings.Join(secrets, ", "), strings.Join(from, " and ")})
}

// shown returns a value without its secrets. A URL that cannot be parsed, or has more in it than an address, may hold a password.
func shown(flag string, value any) string {
	urls, isList := value.([]string)
	if text, ok := value.(string); ok {
		urls = []string{text}
	}
	switch flag {
	case "nats-url", "otlp-endpoint", "acme-ca":
		urls = slices.Clone(urls)
		for i, text := range urls {
			u, err := url.Parse(text)
			if text != "" && (err != nil || u.Host == "" || u.User != nil || u.RawQuery != "") {
				urls[i] = "…"
			}
		}
		if isList {
			return fmt.Sprint(urls)
		}
		return urls[0]
	case "journal-max-bytes":
		if value == units.Base2Bytes(0) {
			return "the smaller of 4GiB and a quarter of the free disk"
		}
	case "max-bytes":
		if value == units.Base2Bytes(0) {
			return "that of the stream; of a new one, the smaller of 10GiB and half of the free disk"
		}
	}
	return redact(fmt.Sprint(value))
}

func printSettings(w io.Writer, list []setting) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "FLAG\tVALUE\tFROM")
	for _, s := range list {
		fmt.Fprintf(t, "%s\t%s\t%s\n", s.Flag, s.Value, s.From)
	}
	return t.Flush()
}

type configRunningCmd struct {
	Admin adminFlags `embed:""`
}

// Run prints the flags of a running bridge.
func (c *configRunningCmd) Run(ctx context.Context, s streams) error {
	var list []setting
	if err := c.Admin.ask(ctx, http.MethodGet, operator.PathConfig, nil, &list); err != nil {
		return err
	}
	if c.Admin.JSON {
		return printJSON(s.out, list)
	}
	return printSettings(s.out, list)
}

// origin returns where the value of a flag comes from.
func origin(k *kong.Context, flag *kong.Flag) string {
	for _, p := range k.Path {
		if p.Flag == flag && !p.Resolved {
			return "flag"
		}
	}
	for _, env := range flag.Envs {
		if _, ok := os.LookupEnv(env); ok {
			return env
		}
	}
	for _, p := range k.Path {
		if p.Flag == flag {
			return "file"
		}
	}
	return "default"
}
