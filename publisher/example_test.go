package publisher_test

import (
	"fmt"

	"github.com/jobbridge/jobbridge/publisher"
)

func ExampleParseTemplate() {
	t, err := publisher.ParseTemplate("{kind}.{status}.{id}")
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(t.Subject(publisher.Event{ID: "job-42", Status: "TIMED_OUT"}))
	fmt.Println(t.Subject(publisher.Event{ID: "job 42", Status: "done, or not"}))
	fmt.Println(t.StreamSubjects())
	// Output:
	// job.timed_out.job-42
	// job.unrecognized.unknown
	// [job.> batch.>]
}

func ExampleEvent_MessageID() {
	fmt.Println(publisher.Event{ID: "job-42", Status: "COMPLETED"}.MessageID())
	fmt.Println(publisher.Event{Payload: []byte("{}")}.MessageID())
	// Output:
	// sync:job-42:COMPLETED
	// sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a
}
