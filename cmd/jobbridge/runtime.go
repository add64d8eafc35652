package main

import (
	"runtime"
	"time"
)

// blockedProcs is how many of Go's processors the commit may hold while it waits in fsync. The runtime gets a blocked processor back
// only after 20 µs to 10 ms, when the fsync is over.
const blockedProcs = 1

// tuneEvery is how often the number of processors is set again.
const tuneEvery = 30 * time.Second

// tune gives the runtime a processor for each CPU and blockedProcs more, unless GOMAXPROCS is set. This helps most where CPUs are few.
// The runtime does not follow a new CPU limit of the container any more after that, so tune sets the number again every 30 s.
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

// setProcs gives the runtime the processors that the present limits allow, and blockedProcs more.
func setProcs() {
	runtime.SetDefaultGOMAXPROCS()
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + blockedProcs)
}
