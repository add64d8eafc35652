package main

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
)

// nobody is a dialer that reaches no server.
type nobody struct{}

func (nobody) Dial(string, string) (net.Conn, error) { return nil, errors.New("nobody") }

// TestDefaultNATS: without a server of the user's, the error names the one that was tried, and the flag for another.
func TestDefaultNATS(t *testing.T) {
	if _, _, err := (natsFlags{}).connect(nats.SetCustomDialer(nobody{})); err == nil ||
		!strings.Contains(err.Error(), nats.DefaultURL) || !strings.Contains(err.Error(), "--nats-url") {
		t.Error(err)
	}
}

// TestOutsideHint warns of a subject on which no event of the stream can come.
func TestOutsideHint(t *testing.T) {
	for subject, outside := range map[string]bool{
		"job.>": false, "job.completed": false, "batch.*": false, ">": false, "*.completed": false, "job.completed.job-1": false,
		"completed": true, "jobs.>": true, "JOB.completed": true, "job": true, "*": true,
	} {
		hint := outsideHint(subject, []string{"job.>", "batch.>"})
		if (hint != "") != outside || outside && !strings.Contains(hint, "job.>, batch.>") {
			t.Errorf("%s: %q", subject, hint)
		}
	}
}
