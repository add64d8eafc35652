package bridge

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
)

// shutdown is the list of the steps that end a bridge. They run in reverse order: the step that was added last runs
// first.
type shutdown struct {
	log   *zap.Logger
	steps []step
}

// step ends one part of the bridge.
type step struct {
	name string
	end  func(ctx context.Context) error
}

// lateLimit bounds each step that is left when the deadline has passed. Most steps need almost no time. Without the
// limit, several steps that hang on a disk would add up.
const lateLimit = 100 * time.Millisecond

// add appends a step.
func (s *shutdown) add(name string, end func(context.Context) error) {
	s.steps = append(s.steps, step{name, end})
}

// run runs all steps within the deadline of ctx. A step that does not return in time is abandoned, and the error names
// it, so that a disk that hangs does not hold up the process.
func (s *shutdown) run(ctx context.Context) error {
	var errs []error
	for i := len(s.steps) - 1; i >= 0; i-- {
		step, start := s.steps[i], time.Now()
		err := step.run(ctx)
		s.log.Debug("shutdown", zap.String("step", step.name), zap.Duration("took", time.Since(start)), zap.Error(err))
		errs = append(errs, err)
	}
	s.steps = nil
	return errors.Join(errs...)
}

func (s step) run(ctx context.Context) error {
	ended := make(chan error, 1)
	go func() { ended <- s.end(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	late := time.NewTimer(lateLimit)
	defer late.Stop()
	select {
	case err := <-ended:
		return err
	case <-late.C:
		return fmt.Errorf("shutdown: %s did not end in time and was abandoned", s.name)
	}
}
