package interop

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// require skips the test on a machine without the program, and fails it there
// if JOBBRIDGE_REQUIRE names it.
func require(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		missing(t, program, "needs "+program+" on PATH")
	}
}

// missing ends a test that lacks what name stands for.
func missing(t *testing.T, name, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("JOBBRIDGE_REQUIRE"), ","), name) {
		t.Fatalf("%s, and JOBBRIDGE_REQUIRE=%s", reason, os.Getenv("JOBBRIDGE_REQUIRE"))
	}
	t.Skip(reason)
}
