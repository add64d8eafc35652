package bridgetest_test

import (
	"bytes"
	"os"
	"regexp"
	"testing"

	"github.com/jobbridge/jobbridge/test/bridgetest"
)

func TestDelivery(t *testing.T) {
	srv := bridgetest.NewServer(t)
	srv.Deliver(bridgetest.Delivery{ID: "job-42", Status: "COMPLETED"})
	if msg := srv.Next("job.>"); msg.Header.Get("Job-Id") != "job-42" {
		t.Fatal(msg.Header)
	}
}

// TestREADME: README shows TestDelivery as it is here.
func TestREADME(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	here, err := os.ReadFile("readme_test.go")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile("(?s)```go\n(func Test.*?)```").FindSubmatch(readme)
	if shown == nil || !bytes.Contains(here, shown[1]) {
		t.Fatalf("README shows another test:\n%s", shown)
	}
}
