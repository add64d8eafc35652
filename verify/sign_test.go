package verify_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/verify"
)

func TestSignIsInWholeSeconds(t *testing.T) {
	want := verify.Sign(secret, signedAt, event)
	if got := verify.Sign(secret, signedAt.Add(999*time.Millisecond), event); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := verify.Sign(secret, signedAt.UTC(), event); got != want {
		t.Errorf("%s in another zone, want %s", got, want)
	}
}

func TestFingerprint(t *testing.T) {
	got := verify.Fingerprint(secret)
	if len(got) != 8 || strings.Trim(got, "0123456789abcdef") != "" || strings.Contains(secret, got) {
		t.Errorf("%q", got)
	}
	if got == verify.Fingerprint(secret+"x") {
		t.Error("two secrets have one fingerprint")
	}
}

func ExampleSign() {
	fmt.Println(verify.Sign("whsec_example", time.Unix(1_700_000_000, 0), []byte(`{"id":"job-1"}`)))
	// Output: t=1700000000,v1=a0b089988110af374cf7ad9350a4b5b5d6898938cc9a7b6b19dee7964c54d91f
}

func ExampleFingerprint() {
	fmt.Println(verify.Fingerprint("whsec_example"))
	// Output: f50d5748
}
