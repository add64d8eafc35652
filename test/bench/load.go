//go:build linux

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// spec describes a load. Every delivery is signed before the clock of the load
// starts, so a load must end within the tolerance of 5 minutes.
type spec struct {
	URL         string
	Connections int
	// Rate is the number of arrivals per second, at random moments, whether or
	// not earlier deliveries were answered: an open loop. 0 is a closed loop:
	// each connection sends its next delivery when the last one was answered.
	Rate float64
	// Length is what is measured, after a warm-up of a fifth of it.
	Length time.Duration
	// Count bounds the deliveries; 0 is as many as Length can need.
	Count int
	// Bursts, if not 0, replaces Rate and Length: so many times, all connections
	// send one delivery at the same moment and wait until the last is answered.
	Bursts int
	// Body is the size of a body in bytes.
	Body int
	// Prefix makes the job ids differ from those of other loads.
	Prefix string
	// Spread is how many deliveries lie between two statuses of one job. 1 makes
	// the three statuses adjacent, Count makes each delivery a job of its own, 0
	// is defaultSpread.
	Spread int
	// Forged signs with a wrong secret.
	Forged bool
	// Costly sends the body that takes longest to verify: a megabyte of one key
	// repeated, compressed to two kilobytes.
	Costly bool
}

// signatureLife bounds a load: its signatures are valid for 5 minutes.
const signatureLife = 4*time.Minute + 50*time.Second

const (
	warmUp        = 5 // the warm-up is Length divided by this
	defaultSpread = 1000
	mostPerSecond = 100_000 // deliveries that a closed loop prepares for each second
)

// loaded is the outcome of a load, without the warm-up where not stated.
type loaded struct {
	// Good counts the answers 200, Refused 503, Forged 400 and 429, Bad all others.
	Good, Refused, Forged, Bad int
	PerSecond                  float64 // good answers
	Offered                    float64 // deliveries sent per second
	// Times of good answers, in an open loop since the delivery was due;
	// RefusedTimes since it was sent.
	Times, RefusedTimes times
	// Late is how late the load itself sent, in an open loop.
	Late times
	// Last is when the last of a burst was answered.
	Last times
	// Acknowledged counts all good answers, Sent all deliveries, both with the warm-up.
	Acknowledged, Sent int
	// LoadCPU is the load's own processor time per delivery, in microseconds.
	LoadCPU float64
	// ServerCPU is the processor time of the server until the load ended.
	ServerCPU time.Duration
	// Started is the moment, by monotonic, from which "due" in the bodies counts.
	Started time.Duration
}

// times are percentiles in microseconds.
type times struct{ P50, P99, Max float64 }

func percentiles(h *hdrhistogram.Histogram) times {
	return times{float64(h.ValueAtQuantile(50)), float64(h.ValueAtQuantile(99)), float64(h.Max())}
}

// newHistogram counts microseconds, up to ten minutes.
func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(1, 600_000_000, 3) }

// load runs a load against the process and waits for it.
func (p *process) load(ctx context.Context, s spec) (loaded, error) {
	wait, err := p.startLoad(ctx, s)
	if err != nil {
		return loaded{}, err
	}
	return wait()
}

// startLoad starts a load as a process of its own, and returns when all its
// deliveries are signed and its connections are open.
func (p *process) startLoad(ctx context.Context, s spec) (wait func() (loaded, error), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	s.URL = p.url
	arg, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "load", string(arg))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	r := bufio.NewReader(out)
	if _, err := r.ReadString('\n'); err != nil {
		return nil, fmt.Errorf("load: %w", errors.Join(err, cmd.Wait()))
	}
	before := p.cpu()
	if _, err := fmt.Fprintln(in); err != nil {
		return nil, fmt.Errorf("load: %w", errors.Join(err, cmd.Wait()))
	}
	return func() (l loaded, err error) {
		err = json.NewDecoder(r).Decode(&l)
		l.ServerCPU = p.cpu() - before
		if err := errors.Join(cmd.Wait(), err); err != nil {
			return l, fmt.Errorf("load: %w", err)
		}
		if l.Bad > 0 {
			return l, fmt.Errorf("load: %d answers were none of 200, 400, 429 and 503", l.Bad)
		}
		return l, nil
	}, nil
}
