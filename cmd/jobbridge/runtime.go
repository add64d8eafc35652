package main

import "runtime"

// blockedProcs is how many of Go's processors the commit may hold while it waits
// in fsync: the runtime takes one that is blocked back after 20 µs to 10 ms only,
// and the fsync is over by then.
const blockedProcs = 1

// tune gives the runtime a processor for each CPU and for what blocks, unless
// the environment says how many. It gains most where CPUs are few.
func tune(getenv func(string) string) {
	if getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + blockedProcs)
	}
}
