package main

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestProcessors: when the limit of CPUs changes, the runtime follows (case R6).
func TestProcessors(t *testing.T) {
	was := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(was)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		t.Fatal(err)
	}
	if before.Count() < 2 {
		t.Skip("this machine has one CPU")
	}
	setProcs()
	if got, want := runtime.GOMAXPROCS(0), before.Count()+blockedProcs; got > want {
		t.Errorf("%d processors, want at most %d", got, want)
	}
	var one unix.CPUSet
	for cpu := 0; one.Count() == 0; cpu++ {
		if before.IsSet(cpu) {
			one.Set(cpu)
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.SchedSetaffinity(0, &before) }() // as it was
	setProcs()
	if got, want := runtime.GOMAXPROCS(0), 1+blockedProcs; got != want {
		t.Errorf("with one CPU: %d processors, want %d", got, want)
	}
}
