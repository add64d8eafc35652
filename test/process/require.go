package process

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// Require skips the test if the program is missing. If JOBBRIDGE_REQUIRE names the program, Require fails the test instead.
func Require(t testing.TB, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		Missing(t, program, "needs "+program+" on PATH")
	}
}

// Missing skips the test and prints the reason, or fails it if JOBBRIDGE_REQUIRE contains name.
func Missing(t testing.TB, name, reason string) {
	t.Helper()
	if slices.Contains(strings.Split(os.Getenv("JOBBRIDGE_REQUIRE"), ","), name) {
		t.Fatalf("%s, and JOBBRIDGE_REQUIRE=%s", reason, os.Getenv("JOBBRIDGE_REQUIRE"))
	}
	t.Skip(reason)
}
