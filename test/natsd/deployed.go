package natsd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Users are the users of deployments/nats/jobbridge.conf. [Server.As] and [Server.Connect] accept these names.
var Users = []string{"bridge", "worker", "admin", "sys"}

// Password returns the password that [Deployment] gives a user.
func Password(user string) string { return user + "-password" }

// Deployed starts a server with the shipped deployments/nats/jobbridge.conf, so the users have the permissions that operators give. The
// test creates the stream itself, as admin, see [CreateStream].
func Deployed(t testing.TB) *Server {
	t.Helper()
	return Start(t, Deployment(t))
}

// Deployment returns the options of [Deployed], so that a test can change them.
func Deployment(t testing.TB) Options {
	t.Helper()
	o := Options{File: DeploymentFile(t, "jobbridge.conf"), Passwords: make(map[string]string)}
	for _, user := range Users {
		o.Passwords[user] = Password(user)
		o.Env = append(o.Env, "NATS_"+strings.ToUpper(user)+"_PASSWORD="+Password(user))
	}
	return o
}

// DeploymentFile returns the path of a file of deployments/nats.
func DeploymentFile(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "deployments", "nats", name)
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			t.Fatal("no go.mod above the working directory")
		}
		dir = parent
	}
}
