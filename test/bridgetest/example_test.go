package bridgetest_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/jobbridge/jobbridge/test/bridgetest"
)

func ExampleServer() {
	t := new(exampleT) // in your test, t is a *testing.T
	defer t.end()

	srv := bridgetest.NewServer(t)
	sub, err := srv.Connect().SubscribeSync("job.completed") // your worker connects to srv.NATS
	if err != nil {
		t.Fatalf("subscribe: %v", err)
	}
	answer := srv.Deliver(bridgetest.Delivery{ID: "job-42", Status: "COMPLETED"})
	fmt.Println(answer.Code, answer.Message)
	msg, err := sub.NextMsg(bridgetest.Patience)
	if err != nil {
		t.Fatalf("next message: %v", err)
	}
	fmt.Println(msg.Subject, msg.Header.Get("Job-Id"))

	// The bridge refuses a delivery that was signed with another secret.
	fmt.Println(srv.Deliver(bridgetest.Delivery{Secret: "whsec_other"}).Code, srv.Stored())
	// Output:
	// 200 Webhook signature verified
	// job.completed job-42
	// 400 1
}

// exampleT stands in for the *testing.T that an example does not have.
type exampleT struct {
	testing.TB
	cleanups []func()
}

func (*exampleT) Helper()                             {}
func (*exampleT) Fatalf(format string, values ...any) { panic(fmt.Sprintf(format, values...)) }
func (*exampleT) Errorf(format string, values ...any) { panic(fmt.Sprintf(format, values...)) }
func (t *exampleT) Cleanup(f func())                  { t.cleanups = append(t.cleanups, f) }

func (t *exampleT) TempDir() string {
	dir, err := os.MkdirTemp("", "bridgetest-")
	if err != nil {
		panic(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// end runs the functions that were given to Cleanup, the last one first.
func (t *exampleT) end() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		t.cleanups[i]()
	}
}
