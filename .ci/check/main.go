// Command check reads what a Docker engine would: the Dockerfile with buildkit's
// own parser and linter, and the compose file with compose's own loader.
//
//	check dockerfile FILE    prints the commands of its RUN steps
//	check compose FILE
//	check restricted FILE...  pods against the Pod Security Standard
//	check image DOCKERFILE BINARY ARCH TAG OUT  makes an image for docker load
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 2 {
		return errors.New("want dockerfile, compose or restricted, and a file")
	}
	switch args[0] {
	case "compose":
		return compose(args[1])
	case "restricted":
		return restricted(args[1:])
	case "image":
		if len(args) != 6 {
			return errors.New("want image, a Dockerfile, a binary, an architecture, a tag and the file to write")
		}
		return image(args[1], args[2], args[3], args[4], args[5])
	}
	return dockerfile(args[1])
}

func compose(path string) error {
	o, err := cli.NewProjectOptions([]string{path}, cli.WithOsEnv, cli.WithEnvFiles(), cli.WithDotEnv)
	if err != nil {
		return err
	}
	project, err := o.LoadProject(context.Background())
	if err != nil {
		return err
	}
	for _, service := range project.Services {
		for _, secret := range service.Secrets {
			file := project.Secrets[secret.Source].File
			if service.ReadOnly && file == "" {
				return fmt.Errorf("%s: service %s is read-only, which docker compose starts with secrets from files alone: %s",
					path, service.Name, secret.Source)
			}
			if _, err := os.Stat(file); file != "" && err != nil {
				return fmt.Errorf("%s: service %s: %w", path, service.Name, err)
			}
		}
	}
	fmt.Printf("%s: %d services, %d secrets, %d volumes\n", path, len(project.Services), len(project.Secrets), len(project.Volumes))
	return nil
}

// offline stands for the registry: of a base image, only the platform counts here.
type offline struct{}

func (offline) ResolveImageConfig(_ context.Context, ref string, _ sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return ref, "", []byte(`{"os":"linux","architecture":"amd64","config":{}}`), nil
}

func dockerfile(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	// The linter proper, which resolves the stages and their arguments.
	source := llb.NewSourceMap(nil, path, "Dockerfile", data)
	source.Definition = new(llb.Definition)
	results, err := dockerfile2llb.DockerfileLint(context.Background(), data, dockerfile2llb.ConvertOpt{
		SourceMap: source, MetaResolver: offline{},
	})
	if err != nil {
		return err
	}
	var found []error
	for _, w := range results.Warnings {
		found = append(found, fmt.Errorf("%s: %s: %s", path, w.RuleName, w.Detail))
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	ast, err := parser.Parse(f)
	if err != nil {
		return err
	}
	stages, _, err := instructions.Parse(ast.AST, linter.New(&linter.Config{}))
	if err != nil {
		return err
	}
	for _, stage := range stages {
		for _, command := range stage.Commands {
			if c, ok := command.(*instructions.RunCommand); ok {
				fmt.Println(c.CmdLine[0])
			}
		}
	}
	return errors.Join(found...)
}

// restricted checks pods against what the Pod Security Standard "restricted"
// asks for, with the admission controller's own evaluator.
func restricted(paths []string) error {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	pods := 0
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, document := range strings.Split(string(data), "\n---\n") {
			var workload struct {
				Kind string
				Spec struct{ Template corev1.PodTemplateSpec }
			}
			if err := yaml.Unmarshal([]byte(document), &workload); err != nil || len(workload.Spec.Template.Spec.Containers) == 0 {
				continue
			}
			template := workload.Spec.Template
			for _, result := range evaluator.EvaluatePod(api.LevelVersion{Level: api.LevelRestricted, Version: api.LatestVersion()},
				&template.ObjectMeta, &template.Spec) {
				if !result.Allowed {
					return fmt.Errorf("%s: %s: %s: %s", path, workload.Kind, result.ForbiddenReason, result.ForbiddenDetail)
				}
			}
			pods++
		}
	}
	if pods == 0 {
		return errors.New("no pods")
	}
	fmt.Printf("%-38s %d pods pass\n", "Pod Security Standard: restricted", pods)
	return nil
}
