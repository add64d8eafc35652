package event_test

import (
	"fmt"

	"github.com/jobbridge/jobbridge/publisher/event"
)

func ExampleParseTemplate() {
	t, err := event.ParseTemplate("{kind}.{status}.{id}")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(t.Subject(event.Event{ID: "job-42", Status: "TIMED_OUT"}))
	fmt.Println(t.Subject(event.Event{ID: "job 42", Status: "done, or not"}))
	fmt.Println(t.StreamSubjects())
	// Output:
	// job.timed_out.job-42
	// job.unrecognized.unknown
	// [job.> batch.>]
}

func ExampleEvent_MessageID() {
	fmt.Println(event.Event{ID: "job-42", Status: "COMPLETED"}.MessageID())
	fmt.Println(event.Event{Payload: []byte("{}")}.MessageID())
	// Output:
	// sync:job-42:COMPLETED
	// sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
}
