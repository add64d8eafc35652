package main

import (
	"runtime"
	"time"
)

// blockedProcs is how many of Go's processors the commit may hold while it waits
// in fsync: the runtime takes one that is blocked back after 20 µs to 10 ms only,
// and the fsync is over by then.
const blockedProcs = 1

// tuneEvery is how often the runtime is given its number of processors again.
const tuneEvery = 30 * time.Second

// tune gives the runtime a processor for each CPU and for what blocks, unless the
// environment says how many. It gains most where CPUs are few. A number that is set
// once would stay when the limit of the container changes, so it is set again every
// 30 s.
func tune(getenv func(string) string) {
	if getenv("GOMAXPROCS") != "" {
		return
	}
	setProcs()
	go func() {
		for range time.Tick(tuneEvery) {
			setProcs()
		}
	}()
}

// setProcs gives the runtime the processors that the present limits allow, and those
// for what blocks.
func setProcs() {
	runtime.SetDefaultGOMAXPROCS()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + blockedProcs)
}
