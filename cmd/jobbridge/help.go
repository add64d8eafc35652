package main

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/alecthomas/units"
	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
	"go.yaml.in/yaml/v3"
)

// defaults are the values of flags that are not given, each from the library that uses the value.
var defaults = kong.Vars{
	"listen":              bridge.DefaultListen,
	"admin_listen":        bridge.DefaultAdminListen,
	"admin_url":           "http://" + bridge.DefaultAdminListen,
	"webhook_url":         "http://" + bridge.DefaultListen + bridge.DefaultPath,
	"nats_listen":         bridge.DefaultNATSListen,
	"path":                bridge.DefaultPath,
	"data_dir":            defaultDataDir,
	"tolerance":           duration(verify.DefaultTolerance),
	"max_body":            size(bridge.DefaultMaxBody),
	"max_body_memory":     size(bridge.DefaultMaxBodyMemory),
	"max_in_flight":       fmt.Sprint(bridge.DefaultMaxInFlight),
	"max_connections":     fmt.Sprint(bridge.DefaultMaxConnections),
	"idle_timeout":        duration(bridge.DefaultIdleTimeout),
	"forgery_rate":        fmt.Sprint(bridge.DefaultForgeryRate),
	"acme_ca":             bridge.DefaultACMECA,
	"durability":          string(event.Fsync),
	"dedupe_window":       duration(publisher.DefaultDedupe),
	"stream":              publisher.DefaultStream,
	"subject":             event.DefaultSubject,
	"retention":           duration(publisher.DefaultRetention),
	"max_workers":         fmt.Sprint(publisher.DefaultMaxConnections),
	"quarantine_bytes":    size(bridge.DefaultQuarantineBytes),
	"quarantine_age":      duration(bridge.DefaultQuarantineAge),
	"quarantine_max_body": size(bridge.DefaultQuarantineMaxBody),
	"drain_timeout":       duration(bridge.DefaultForwardTimeout),
}

// defaultDataDir is the data folder unless another one is given.
const defaultDataDir = "./jobbridge-data"

func size(n int64) string { return units.Base2Bytes(n).String() }

// duration formats a duration without the zero minutes and seconds at its end.
func duration(d time.Duration) string {
	text := d.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(text, zero) {
			text = text[:len(text)-2]
		}
	}
	return text
}

// firstFlags are the flags of serve that people need first. They come first in its help.
var firstFlags = []string{
	"dev", "secret-file", "listen", "path", "data-dir", "nats-url", "nats-listen", "nats-auth-file", "trusted-proxies", "config",
}

//go:embed help.yaml
var helpYAML []byte

// commandHelp has the texts of one command.
type commandHelp struct {
	Help, Detail, Example string
	Flags                 map[string]string
}

// addHelp gives the commands, arguments and flags of the model the texts of help.yaml.
func addHelp(app *kong.Application) error {
	var texts struct {
		Flags    map[string]string
		Commands map[string]commandHelp
	}
	if err := yaml.Unmarshal(helpYAML, &texts); err != nil {
		return fmt.Errorf("help.yaml: %w", err)
	}
	text := func(command commandHelp, value *kong.Value) string {
		help, ok := command.Flags[value.Name]
		if !ok {
			help = texts.Flags[value.Name]
		}
		return strings.ReplaceAll(help, "${enum}", strings.ReplaceAll(value.Enum, ",", ", "))
	}
	app.HelpFlag.Help = "Print this help."
	return kong.Visit(app, func(visited kong.Visitable, next kong.Next) error {
		node, ok := visited.(*kong.Node)
		if a, isApp := visited.(*kong.Application); isApp {
			node, ok = a.Node, true
		}
		if !ok {
			return next(nil)
		}
		command := texts.Commands[commandName(node)]
		if node.Parent != nil {
			node.Help = command.Help
		}
		node.Detail = command.Detail
		if command.Example != "" {
			node.Detail += "\n\nExample:\n\n  " + strings.ReplaceAll(strings.TrimSpace(command.Example), "\n", "\n  ")
		}
		for _, flag := range node.Flags {
			if flag == app.HelpFlag {
				continue
			}
			flag.Help = text(command, flag.Value)
			if !takesServeFlags(node) && len(flag.Envs) > 0 { // each flag of serve is a variable, as its help says once
				flag.Help += " ($" + flag.Envs[0] + ")"
			}
		}
		for _, argument := range node.Positional {
			argument.Help = text(command, argument)
		}
		if takesServeFlags(node) {
			rank := func(f *kong.Flag) int {
				return (slices.Index(firstFlags, f.Name) + len(firstFlags) + 1) % (len(firstFlags) + 1)
			}
			slices.SortStableFunc(node.Flags, func(a, b *kong.Flag) int { return rank(a) - rank(b) })
			for _, flag := range node.Flags {
				if slices.Contains(firstFlags, flag.Name) {
					flag.Group = nil
				}
			}
		}
		return next(nil)
	})
}

// commandName returns the words of a command, such as "stream create", or "" for the app.
func commandName(node *kong.Node) string {
	if node.Parent == nil {
		return ""
	}
	return strings.TrimSpace(commandName(node.Parent) + " " + node.Name)
}

// takesServeFlags reports whether the flags of a command are those of serve.
func takesServeFlags(node *kong.Node) bool {
	return slices.ContainsFunc(node.Flags, func(f *kong.Flag) bool { return f.Name == "drain-timeout" })
}
