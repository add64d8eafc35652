package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/publisher/journal"
	"github.com/jobbridge/jobbridge/verify"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// settled is how long files must have been quiet before they are read again:
// whoever writes two that belong together is given the time.
const settled = 100 * time.Millisecond

// mended is how soon what could not be put in force is tried again: it may wait
// for a server, not for a file.
const mended = 5 * time.Second

// reloaded is something that is read from files and can be read again.
type reloaded struct {
	name  string
	files []string
	// load reads the files and puts what they say in force; what is not good
	// changes nothing. It reports whether there was a change.
	load func() (changed bool, err error)

	wrong string // what was last said of it
}

// reloader reads files again when they change or SIGHUP comes.
type reloader struct {
	log    *zap.Logger
	health *bridge.Health
	good   *prometheus.GaugeVec
	things []reloaded
}

func newReloader(log *zap.Logger, health *bridge.Health, reg prometheus.Registerer) *reloader {
	good := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "jobbridge_reload_successful", Help: "1 if what the files say is in force, 0 if they could not be read again and the old one stays.",
	}, []string{"what"})
	reg.MustRegister(good)
	return &reloader{log: log, health: health, good: good}
}

// add takes something to read again; not after run.
func (r *reloader) add(thing reloaded) {
	r.good.WithLabelValues(thing.name).Set(1)
	r.things = append(r.things, thing)
}

// run watches until ctx ends. A watch that cannot be had leaves SIGHUP.
func (r *reloader) run(ctx context.Context, hangup <-chan os.Signal) {
	watcher, err := r.watch()
	if err != nil {
		r.log.Warn("files are not watched: send SIGHUP after a change", zap.Error(err))
		watcher = &fsnotify.Watcher{} // whose channels never deliver
	} else {
		defer func() { _ = watcher.Close() }() // nothing is lost with it
	}
	quiet := time.NewTimer(settled)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-watcher.Errors:
			r.log.Warn("watch files", zap.Error(err))
			quiet.Reset(settled) // something may have been missed
		case <-watcher.Events:
			quiet.Reset(settled)
		case <-hangup:
			r.log.Info("SIGHUP: reading files again")
			quiet.Reset(0)
		case <-quiet.C:
			if !r.load() {
				quiet.Reset(mended)
			}
		}
	}
}

// watch watches the folders, not the files: a file that is replaced is another
// one. In Kubernetes, what is replaced is a link to the folder beside it.
func (r *reloader) watch() (*fsnotify.Watcher, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, err
	}
	for _, thing := range r.things {
		for _, file := range thing.files {
			folders := []string{filepath.Dir(file)}
			if target, err := filepath.EvalSymlinks(file); err == nil {
				folders = append(folders, filepath.Dir(target))
			}
			for _, folder := range folders {
				if err := w.Add(folder); err != nil {
					return nil, errors.Join(fmt.Errorf("%s: %w", folder, err), w.Close())
				}
			}
		}
	}
	return w, nil
}

// load reads everything again, and reports whether all of it is in force. What
// fails stays as it was, and says so until it is mended.
func (r *reloader) load() (good bool) {
	good = true
	for i := range r.things {
		thing := &r.things[i]
		changed, err := thing.load()
		if err != nil {
			good = false
			why := fmt.Sprintf("%s: not reloaded, the old one stays in force: %v", thing.name, err)
			if why != thing.wrong {
				r.log.Error("not reloaded: the old one stays in force", zap.String("what", thing.name), zap.Error(err))
			}
			thing.wrong = why
			r.good.WithLabelValues(thing.name).Set(0)
			r.health.Set(thing.name, bridge.Ready, why)
			continue
		}
		if changed {
			r.log.Info("reloaded", zap.String("what", thing.name))
		}
		thing.wrong = ""
		r.good.WithLabelValues(thing.name).Set(1)
		r.health.Set(thing.name, bridge.Ready)
	}
	return good
}

// reloadSecrets puts the secrets in force that the file and the variable hold,
// whenever the file changes.
func (c *serveCmd) reloadSecrets(o operator, getenv func(string) string, verifier *verify.Verifier, now []string) {
	if c.SecretFile == "" {
		return
	}
	o.reload.add(reloaded{name: "secrets", files: []string{c.SecretFile}, load: func() (bool, error) {
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
	return reloaded{name: "admin token", files: []string{c.AdminTokenFile}, load: func() (bool, error) {
		token, err := readToken(c.AdminTokenFile)
		if err != nil || token == now {
			return false, err
		}
		admin.SetToken(token)
		now = token
		return true, nil
	}}
}

// reloadedWorkers puts the workers of --nats-auth-file in force.
func (c *serveCmd) reloadedWorkers(j *journal.Journal, now []journal.Worker) reloaded {
	return reloaded{name: "workers", files: []string{c.NatsAuthFile}, load: func() (bool, error) {
		workers, err := readWorkers(c.NatsAuthFile)
		if err != nil || slices.Equal(workers, now) {
			return false, err
		}
		if err := j.SetWorkers(workers); err != nil {
			return false, err
		}
		now = workers
		return true, nil
	}}
}

// readAll returns what is in the files.
func readAll(paths []string) ([]string, error) {
	texts := make([]string, len(paths))
	for i, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		texts[i] = string(data)
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
	return token, nil
}
