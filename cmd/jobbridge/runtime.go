package main

import (
	"fmt"
	"runtime"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
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

// ownFiles is how many files the bridge has open for itself and its operator.
const ownFiles = 256

// fit lowers the bounds of connections to the number of files that the system
// lets the process open: without one, the journal could not sync, and that is
// final. Go has raised the soft limit to the hard one.
func (c *serveCmd) fit(log *zap.Logger) error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("limit of open files: %w", err)
	}
	files := int(min(limit.Cur, 1<<30)) - ownFiles
	if files < ownFiles {
		return fmt.Errorf("the system lets this process open %d files: at least %d are needed (ulimit -n, LimitNOFILE)", limit.Cur, 2*ownFiles)
	}
	workers := min(c.MaxWorkers, files/4)
	connections := min(c.MaxConnections, files-workers)
	if workers < c.MaxWorkers || connections < c.MaxConnections {
		log.Warn("limit of open files: raise it (ulimit -n, LimitNOFILE) for as many connections as were asked for",
			zap.Int64("files", int64(min(limit.Cur, 1<<30))), zap.Int("max-connections", connections), zap.Int("max-workers", workers))
	}
	c.MaxWorkers, c.MaxConnections = workers, connections
	return nil
}
