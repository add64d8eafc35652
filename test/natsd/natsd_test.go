package natsd_test

import (
	"syscall"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/test/natsd"
)

// patience bounds every wait.
const patience = 20 * time.Second

func TestServerKeepsItsPortAndStore(t *testing.T) {
	t.Parallel()
	s := natsd.Start(t, natsd.Options{})
	natsd.CreateStream(t, s.AdminJS(t), 1)
	for name, end := range map[string]func(testing.TB){"kill": s.Kill, "stop": s.Stop, "running": func(testing.TB) {}} {
		if _, err := s.AdminJS(t).Publish(t.Context(), "job.completed", []byte(name)); err != nil {
			t.Fatal(err)
		}
		url := s.URL
		end(t)
		if name != "running" && s.Running() {
			t.Errorf("%s: the process still runs", name)
		}
		s.Restart(t)
		if s.URL != url {
			t.Errorf("%s: the URL was %s and is %s", name, url, s.URL)
		}
	}
	stream, err := s.AdminJS(t).Stream(t.Context(), "JOBS")
	if err != nil {
		t.Fatal(err)
	}
	if n := stream.CachedInfo().State.Msgs; n != 3 {
		t.Errorf("%d of 3 messages are left\n%s", n, s.Log())
	}
}

func TestServerFreezes(t *testing.T) {
	t.Parallel()
	s := natsd.Start(t, natsd.Options{})
	nc := s.Connect(t, "")
	s.Signal(t, syscall.SIGSTOP)
	// A signal takes its time to reach every thread.
	frozen := false
	for end := time.Now().Add(patience); !frozen && time.Now().Before(end); {
		frozen = nc.FlushTimeout(50*time.Millisecond) != nil
	}
	if !frozen {
		t.Error("a frozen server goes on to answer")
	}
	s.Signal(t, syscall.SIGCONT)
	if err := nc.FlushTimeout(patience); err != nil {
		t.Error(err)
	}
}
