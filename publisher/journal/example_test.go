package journal_test

import (
	"context"
	"fmt"
	"os"

	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/publisher/journal"
)

// A journal and a publisher on it store an event that survives power loss.
func Example() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "journal-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	j, err := journal.Open(ctx, journal.Options{Dir: dir})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer j.Close()
	p, err := publisher.New(publisher.Options{JetStream: j.JetStream(), Stored: j.Stream(), Stream: publisher.DefaultStream, Commit: j})
	if err != nil {
		fmt.Println(err)
		return
	}
	for range 2 {
		r, err := p.Publish(ctx, event.Event{ID: "job-42", Status: "COMPLETED", Payload: []byte(`{"id":"job-42","status":"COMPLETED"}`)})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(r.Subject, r.Sequence, r.Duplicate, r.Durability)
	}
	// Output:
	// job.completed 1 false fsync
	// job.completed 1 true fsync
}
