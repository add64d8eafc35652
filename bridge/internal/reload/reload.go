// Package reload reads settings from files again when the files change.
//
// It promises that a file which cannot be used changes nothing: the old value stays in force, and the log, the health
// and a metric report that until the file is corrected. It leaves the meaning of a setting to its callers.
package reload

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/file"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const (
	// pollInterval is how often the files are read. They are polled, not watched, because no system reports every way
	// in which a file changes: a link above it, a folder that was created again, a mount of the file alone, a network
	// file system.
	pollInterval = 500 * time.Millisecond
	// retryAfter is how soon a setting that could not be put in force is tried again. It may depend on a server and not
	// on a file.
	retryAfter = 5 * time.Second
)

// Health gets a reason for each setting that could not be read again.
type Health interface {
	Set(part string, state publisher.State, reasons ...string)
}

// Reloader reads settings again when their files change, or when [Reloader.Trigger] is called.
type Reloader struct {
	log    *zap.Logger
	health Health
	good   *prometheus.GaugeVec
	files  []*files
	now    chan struct{}
}

// files are the files of one setting.
type files struct {
	name  string
	names func() []string
	// load reads the files and puts the setting in force. If it fails, it changes nothing.
	load func() error

	seen    string    // digest of the files at the last poll
	loaded  string    // digest of the files when they were last loaded, with success or without
	inForce string    // digest of the files when they were last loaded with success
	failed  time.Time // when loading failed; zero after a success
	wrong   string    // the last reason that was logged
}

// New returns a Reloader without settings.
func New(log *zap.Logger, health Health, reg prometheus.Registerer) (*Reloader, error) {
	good := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "jobbridge_reload_successful",
		Help: "1 if the contents of the files are in force, 0 if they could not be read again and the old value stays.",
	}, []string{"what"})
	return &Reloader{log: log, health: health, good: good, now: make(chan struct{}, 1)}, reg.Register(good)
}

// Add adds a setting. apply puts a new value in force. Add must not be called while [Reloader.Run] runs.
func Add[T any](r *Reloader, name string, s Setting[T], apply func(T) error) {
	if s.source.Files == nil || len(s.source.Files()) == 0 {
		return
	}
	if errors.Is(s.err, file.ErrIrregular) {
		r.log.Info("not read again", zap.String("what", name), zap.Error(s.err))
		return
	}
	r.good.WithLabelValues(name).Set(1)
	load := func() error {
		v, err := s.source.Read()
		if err != nil {
			return err
		}
		return apply(v)
	}
	r.files = append(r.files,
		&files{name: name, names: s.source.Files, seen: s.digest, loaded: s.digest, inForce: s.digest, load: load})
}

// Trigger makes Run load every setting whose files have changed, without waiting for the next poll.
func (r *Reloader) Trigger() {
	select {
	case r.now <- struct{}{}:
	default: // Run will do so already
	}
}

// Run polls the files until ctx ends.
func (r *Reloader) Run(ctx context.Context) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.now:
			for _, f := range r.files {
				r.load(f)
			}
		case <-tick.C:
			for _, f := range r.files {
				r.poll(f)
			}
		}
	}
}

// poll loads a setting if its files have changed and the last two polls read the same contents. So somebody who
// replaces two files that belong together has time for that.
func (r *Reloader) poll(f *files) {
	seen, err := digest(f.names())
	if err != nil {
		seen = err.Error()
	}
	settled := seen == f.seen
	f.seen = seen
	again := !f.failed.IsZero() && time.Since(f.failed) >= retryAfter
	if settled && (seen != f.loaded || again) {
		r.load(f)
	}
}

// digest returns a digest of the contents of the files.
func digest(names []string) (string, error) {
	h := sha256.New()
	for _, name := range names {
		data, err := file.Read(name, 0)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(h, "%d %s", len(data), data) // a hash returns no error
	}
	return string(h.Sum(nil)), nil
}

// load loads a setting if its files have changed since it was put in force. If that fails, the old value stays in
// force, and the health has a reason until loading succeeds.
func (r *Reloader) load(f *files) {
	seen, err := digest(f.names())
	switch {
	case err != nil:
		f.loaded = err.Error()
	case seen == f.inForce:
		f.loaded = seen
	default:
		f.loaded = seen
		if err = f.load(); err == nil {
			f.inForce = seen
			r.log.Info("reloaded", zap.String("what", f.name))
		}
	}
	if err != nil {
		why := fmt.Sprintf("%s: not reloaded, the old one stays in force: %v", f.name, err)
		if why != f.wrong {
			r.log.Error("not reloaded: the old one stays in force", zap.String("what", f.name), zap.Error(err))
		}
		f.failed, f.wrong = time.Now(), why
		r.good.WithLabelValues(f.name).Set(0)
		r.health.Set(f.name, publisher.Ready, why)
		return
	}
	f.failed, f.wrong = time.Time{}, ""
	r.good.WithLabelValues(f.name).Set(1)
	r.health.Set(f.name, publisher.Ready)
}
