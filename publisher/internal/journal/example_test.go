package journal_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/jobbridge/jobbridge/publisher/internal/journal"
)

func Example() {
	dir, err := os.MkdirTemp("", "journal")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	j, err := journal.Open(ctx, journal.Options{Dir: dir})
	if err != nil {
		panic(err)
	}
	defer j.Close()

	r := journal.Record{Key: "sync:job:42", ID: "sync:42:COMPLETED", Subject: "job.completed", Payload: []byte("{}")}
	r.Digest = sha256.Sum256(r.Payload)
	for range 2 {
		a, err := j.Append(ctx, r)
		fmt.Println(a.Sequence, a.Duplicate, err)
	}
	next, err := j.NewReader(0).Next(ctx)
	fmt.Println(next.Sequence, next.ID, string(next.Payload), err)
	j.Release(next.Sequence)
	// Output:
	// 1 false <nil>
	// 1 true <nil>
	// 1 sync:42:COMPLETED {} <nil>
}
