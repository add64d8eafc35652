package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// The pace of looking at files. They are looked at, not watched: no system tells
// of every way in which a file changes, such as a link above it, a folder made
// anew, a mount of the file alone or a network's file system.
const (
	lookEvery = 500 * time.Millisecond
	// tryAgain is how soon what could not be put in force is tried again: it may
	// wait for a server, not for a file.
	tryAgain = 5 * time.Second
)

// reloaded is something that is read from files and can be read again.
type reloaded struct {
	name  string
	files func() []string // which they are may depend on what is in one
	// load reads the files and puts what they say in force; what is not good
	// changes nothing. It reports whether there was a change.
	load func() (changed bool, err error)

	seen   string    // in the files, the last time
	loaded string    // what was seen when they were last read
	failed time.Time // when that was, if it was not good
	wrong  string    // what was last said of it
}

// reloader reads files again when they change or SIGHUP comes.
type reloader struct {
	log    *zap.Logger
	health *bridge.Health
	good   *prometheus.GaugeVec
	things []*reloaded
}

func newReloader(log *zap.Logger, health *bridge.Health, reg prometheus.Registerer) *reloader {
	good := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "jobbridge_reload_successful", Help: "1 if what the files say is in force, 0 if they could not be read again and the old one stays.",
	}, []string{"what"})
	reg.MustRegister(good)
	return &reloader{log: log, health: health, good: good}
}

// add takes something to read again; not after run. What comes through a pipe can
// be read once only.
func (r *reloader) add(thing reloaded) {
	if _, err := digest(thing.files()); errors.Is(err, errNoFile) {
		r.log.Info("not read again", zap.String("what", thing.name), zap.Error(err))
		return
	}
	r.good.WithLabelValues(thing.name).Set(1)
	r.things = append(r.things, &thing)
}

// run looks at the files until ctx ends.
func (r *reloader) run(ctx context.Context, hangup <-chan os.Signal) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
			r.log.Info("SIGHUP: reading files again")
			for _, thing := range r.things {
				r.load(thing)
			}
		case <-tick.C:
			for _, thing := range r.things {
				r.look(thing)
			}
		}
	}
}

// look reads a thing again when its files have changed, and two looks saw the
// same: whoever writes two that belong together is given the time.
func (r *reloader) look(thing *reloaded) {
	seen, err := digest(thing.files())
	if err != nil {
		seen = err.Error()
	}
	settled := seen == thing.seen
	thing.seen = seen
	again := !thing.failed.IsZero() && time.Since(thing.failed) >= tryAgain
	if settled && (seen != thing.loaded || again) {
		r.load(thing)
	}
}

var errNoFile = errors.New("no regular file")

// digest tells whether files have changed.
func digest(paths []string) (string, error) {
	h := sha256.New()
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		if !info.Mode().IsRegular() { // to read it may take for ever
			return "", fmt.Errorf("%s: %w", path, errNoFile)
		}
		text, err := readText(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%d %s", len(text), text)
	}
	return string(h.Sum(nil)), nil
}

// load reads a thing again. If that fails, it stays as it was, and says so until
// it is mended.
func (r *reloader) load(thing *reloaded) {
	seen, err := digest(thing.files())
	changed := false
	if err == nil {
		changed, err = thing.load()
		thing.loaded = seen
	} else {
		thing.loaded = err.Error()
	}
	if err != nil {
		why := fmt.Sprintf("%s: not reloaded, the old one stays in force: %v", thing.name, err)
		if why != thing.wrong {
			r.log.Error("not reloaded: the old one stays in force", zap.String("what", thing.name), zap.Error(err))
		}
		thing.failed, thing.wrong = time.Now(), why
		r.good.WithLabelValues(thing.name).Set(0)
		r.health.Set(thing.name, publisher.Ready, why)
		return
	}
	if changed {
		r.log.Info("reloaded", zap.String("what", thing.name))
	}
	thing.failed, thing.wrong = time.Time{}, ""
	r.good.WithLabelValues(thing.name).Set(1)
	r.health.Set(thing.name, publisher.Ready)
}

// reloadSecrets puts the secrets in force that the file and the variable hold,
// whenever the file changes.
func (c *serveCmd) reloadSecrets(o operator, getenv func(string) string, verifier *verify.Verifier, now []string) {
	if c.SecretFile == "" {
		return
	}
	o.reload.add(reloaded{name: "secrets", files: fixed(c.SecretFile), load: func() (bool, error) {
		secrets, err := c.read(getenv)
		if err != nil || slices.Equal(secrets, now) {
			return false, err
		}
		if err := verifier.SetSecrets(secrets); err != nil {
			return false, err
		}
		now = secrets
		o.log.Info("secrets", zap.Strings("secrets", verifier.Fingerprints()))
		return true, nil
	}})
}

// reloadedToken puts the token of --admin-token-file in force.
func (c *serveCmd) reloadedToken(admin *bridge.Admin, now string) reloaded {
	return reloaded{name: "admin token", files: fixed(c.AdminTokenFile), load: func() (bool, error) {
		token, err := readToken(c.AdminTokenFile)
		if err != nil || token == now {
			return false, err
		}
		admin.SetToken(token)
		now = token
		return true, nil
	}}
}

// fixed are files whose names do not change.
func fixed(paths ...string) func() []string { return func() []string { return paths } }

// readAll returns what is in the files.
func readAll(paths []string) ([]string, error) {
	texts := make([]string, len(paths))
	for i, path := range paths {
		text, err := readText(path)
		if err != nil {
			return nil, err
		}
		texts[i] = text
	}
	return texts, nil
}

// readToken reads a file with a token; no file, no token.
func readToken(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	token, err := readPassword(path)
	if err != nil {
		return "", fmt.Errorf("--admin-token-file: %s: %w", path, err)
	}
	if len(token) < 16 {
		return "", fmt.Errorf("--admin-token-file: %s: want at least 16 characters, such as those of: openssl rand -hex 32", path)
	}
	if mistake := secretMistake(token); mistake != "" {
		return "", fmt.Errorf("--admin-token-file: %s: the token %s", path, mistake)
	}
	return token, nil
}
