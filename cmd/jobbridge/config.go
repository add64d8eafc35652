package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// yamlFile gives flags the values of a YAML file, whose keys are the names of
// the flags:
//
//	listen: 0.0.0.0:8080
//	durability: fsync
type yamlFile map[string]any

func loadYAML(r io.Reader) (kong.Resolver, error) {
	f := yamlFile{}
	if err := yaml.NewDecoder(r).Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("configuration file: %w", err)
	}
	return f, nil
}

// Validate refuses keys that name no flag: a misspelt limit must not be lost
// silently.
func (f yamlFile) Validate(app *kong.Application) error {
	var known []string
	for _, command := range app.Children {
		if command.Name == "serve" {
			for _, flag := range command.Flags {
				known = append(known, flag.Name)
			}
		}
	}
	for key := range f {
		if !slices.Contains(known, key) {
			return fmt.Errorf("configuration file: unknown key %q: want the name of a flag of serve, without the dashes", key)
		}
	}
	return nil
}

// Resolve implements [kong.Resolver].
func (f yamlFile) Resolve(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
	for _, env := range flag.Envs {
		if os.Getenv(env) != "" {
			return nil, nil // the environment wins
		}
	}
	return f[flag.Name], nil
}
