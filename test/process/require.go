package process

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Require skips the test on a machine without the program, and fails it there
// if JOBBRIDGE_REQUIRE names it.
func Require(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Missing(t, program, "needs "+program+" on PATH")
	}
}

// Missing ends a test that lacks what name stands for.
func Missing(t testing.TB, name, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("JOBBRIDGE_REQUIRE"), ","), name) {
		t.Fatalf("%s, and JOBBRIDGE_REQUIRE=%s", reason, os.Getenv("JOBBRIDGE_REQUIRE"))
	}
	t.Skip(reason)
}
