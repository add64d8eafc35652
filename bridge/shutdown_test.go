package bridge

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// TestShutdown runs the steps in reverse order, each with its error and a line in the
// log. A step that hangs is abandoned at the deadline, and the steps that are left still
// run.
func TestShutdown(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.DebugLevel)
	s := shutdown{log: zap.New(core)}
	called := make(chan string, 4)
	failed, hang := errors.New("it failed"), make(chan struct{})
	defer close(hang)
	s.add("first", func(ctx context.Context) error { called <- "first"; return ctx.Err() })
	s.add("second", func(context.Context) error { called <- "second"; <-hang; return nil })
	s.add("third", func(context.Context) error { called <- "third"; return failed })
	s.add("fourth", func(context.Context) error { called <- "fourth"; return nil })
	const limit = 200 * time.Millisecond
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	start := time.Now()
	err := s.run(ctx)
	if took := time.Since(start); took < limit || took > limit+lateLimit+5*time.Second {
		t.Errorf("it took %s", took)
	}
	if !errors.Is(err, failed) || !errors.Is(err, context.DeadlineExceeded) || strings.Count(err.Error(), "abandoned") != 1 ||
		!strings.Contains(err.Error(), "second did not end in time") {
		t.Errorf("%v", err)
	}
	for _, want := range []string{"fourth", "third", "second", "first"} {
		if got := <-called; got != want {
			t.Errorf("%s was called, want %s", got, want)
		}
	}
	var steps []string
	for _, line := range logs.FilterMessage("shutdown").FilterLevelExact(zap.DebugLevel).All() {
		fields := line.ContextMap()
		steps = append(steps, fields["step"].(string))
		if took := fields["took"].(time.Duration); (took >= limit/2) != (fields["step"] == "second") {
			t.Errorf("%v", fields)
		}
	}
	if !slices.Equal(steps, []string{"fourth", "third", "second", "first"}) {
		t.Errorf("%v", steps)
	}
	if err := s.run(ctx); err != nil {
		t.Error("a step is run again:", err)
	}
}
