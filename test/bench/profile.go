package main

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strconv"
)

// profiled runs a server and, if BENCH_PROFILE names a folder, writes its CPU
// profile there.
func profiled(server func() error) error {
	dir := os.Getenv("BENCH_PROFILE")
	if dir == "" {
		return server()
	}
	f, err := os.Create(filepath.Join(dir, "cpu-"+strconv.Itoa(os.Getpid())+".pprof"))
	if err != nil {
		return err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	err = server()
	pprof.StopCPUProfile()
	return errors.Join(err, f.Close())
}
