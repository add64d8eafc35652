package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// healthInterval is how often a quiet journal looks whether it is well.
const healthInterval = time.Second

// mostLost is at how many looks without a connection of its own in between the
// journal gives up. None is lost, as a rule; a restart makes new ones.
const mostLost = 5

func (j *Journal) connected() bool {
	return j.conn.IsConnected() && (j.keeper == nil || j.keeper.IsConnected())
}

// watchHealth notices what nobody is told of: a write error at one replica is
// answered with silence, and expiry changes the folder without a publish.
func (j *Journal) watchHealth() {
	tick := time.NewTicker(healthInterval)
	defer tick.Stop()
	lost := 0
	for n := 1; ; n++ {
		select {
		case <-j.stop:
			return
		case <-j.failed:
			return
		case <-tick.C:
		}
		err := j.health()
		if lost++; j.connected() {
			lost = 0
		}
		if err == nil && lost == mostLost {
			err = errors.New("no connection to the embedded server")
		}
		if err != nil {
			j.setFailed(err)
			return
		}
		if n%10 == 0 {
			j.beat(true)
		}
	}
}

// beat notes that the journal is alive, and up to where it is durable: for that
// it commits, unless the last commit has been.
func (j *Journal) beat(commit bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	info, err := j.stream.Info(ctx)
	if err == nil && commit {
		r := j.commit.request()
		select {
		case <-r.done:
			err = r.err
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	if err == nil && j.Err() == nil {
		j.lock.note(info.State.LastSeq, info.State.NumDeleted)
	}
	j.lock.beat()
}

// healthTries is how often the server is asked anew when it could not look.
const healthTries = 1000

// health returns the server's own write error, which is sticky and reaches no
// publisher. Before the server looks at the stream, it gives itself a
// millisecond to find that it accepts connections, and reports that it does not
// if the machine is so busy that the millisecond has passed by then: such an
// answer says nothing, and must not end the journal.
func (j *Journal) health() error {
	for _, s := range j.committed() {
		err := j.streamHealth(s)
		// The server's open files outlive their names.
		if _, gone := os.Lstat(s.messages); gone != nil {
			err = errors.Join(fmt.Errorf("the journal's folder is gone: %w", gone), err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (j *Journal) streamHealth(s storedStream) (err error) {
	for range healthTries {
		h := j.srv.Healthz(&server.HealthzOptions{Account: s.account, Stream: s.name, Details: true})
		if len(h.Errors) == 0 {
			return nil
		}
		if err = errors.New(h.Errors[0].Error); h.Errors[0].Type != server.HealthzErrorConn {
			return err
		}
	}
	return err
}

// storedStream is where the server keeps a stream.
type storedStream struct{ account, name, messages string }

// committed returns the streams that a commit covers.
func (j *Journal) committed() []storedStream {
	streams := []storedStream{{eventsAccount, j.streamName(), j.messages()}}
	for _, p := range j.opts.Private {
		if p.Commit {
			streams = append(streams, storedStream{privateAccount, p.Config.Name, j.folder(privateAccount, p.Config.Name)})
		}
	}
	return streams
}

func (j *Journal) streamName() string { return j.opts.Stream.Config().Name }
