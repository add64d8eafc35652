package main

import (
	"slices"
	"strings"

	"github.com/jobbridge/jobbridge/publisher"
)

// readWorkers reads lines of the form name:password. "#" begins a comment.
func readWorkers(path string) ([]publisher.Worker, error) {
	if path == "" {
		return nil, nil
	}
	text, err := readText(path)
	if err != nil {
		return nil, usage("--nats-auth-file: %w", err)
	}
	var workers []publisher.Worker
	for n, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		user, password, _ := strings.Cut(line, ":")
		if user == "" || password == "" {
			return nil, usage("--nats-auth-file: %s:%d: want name:password", path, n+1)
		}
		if slices.ContainsFunc(workers, func(w publisher.Worker) bool { return w.User == user }) {
			return nil, usage("--nats-auth-file: %s:%d: %s is there twice", path, n+1, user)
		}
		if mistake := placeholder(password); mistake != "" {
			return nil, usage("--nats-auth-file: %s:%d: the password of %s %s", path, n+1, user, mistake)
		}
		workers = append(workers, publisher.Worker{User: user, Password: password})
	}
	if len(workers) == 0 {
		return nil, usage("--nats-auth-file: %s names nobody", path)
	}
	return workers, nil
}
