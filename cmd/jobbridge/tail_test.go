package main

import (
	"strings"
	"testing"
)

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
