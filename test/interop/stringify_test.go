package interop

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/verify"
)

const (
	count  = 40_000
	secret = "whsec_interop"
)

// seed is JOBBRIDGE_SEED, or the time.
func seed(t *testing.T) uint64 {
	t.Helper()
	s := uint64(time.Now().UnixNano())
	if env := os.Getenv("JOBBRIDGE_SEED"); env != "" {
		var err error
		if s, err = strconv.ParseUint(env, 10, 64); err != nil {
			t.Fatalf("JOBBRIDGE_SEED: %v", err)
		}
	}
	t.Logf("JOBBRIDGE_SEED=%d repeats this run", s)
	return s
}

// request is a body as it is sent, and the header over it.
type request struct {
	body   []byte
	header string
	forged bool
}

// TestStringifyAgainstNode compares both directions: what Node signs and we
// verify, and what we sign and Node verifies, forged ones included.
func TestStringifyAgainstNode(t *testing.T) {
	require(t, "node")
	d := &documents{Rand: rand.New(rand.NewPCG(seed(t), 0))}
	at := time.Now()
	requests := make([]request, count)
	for i := range requests {
		requests[i] = sign(d, at)
	}
	answers := askNode(t, requests, at)
	v, err := verify.New([]string{secret}, verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var invalid, forged, differences int
	for i, r := range requests {
		if r.forged {
			forged++
		}
		if answers[i] == "invalid" {
			invalid++
		}
		if err := compare(v, r, answers[i], at); err != nil {
			if differences++; differences <= 10 {
				t.Errorf("%q: %v", r.body, err)
			}
		}
	}
	t.Logf("%d documents, %d invalid, %d forged: %d differences", count, invalid, forged, differences)
}

// sign makes a request whose header we signed, or forged.
func sign(d *documents, at time.Time) request {
	body := d.next()
	printed, err := verify.Stringify(body, 0)
	if err != nil {
		printed = body
	}
	r := request{body: body, header: verify.Sign(secret, at, printed)}
	if d.IntN(4) != 0 {
		return r
	}
	r.forged = true
	switch d.IntN(3) {
	case 0:
		r.header = verify.Sign("whsec_other", at, printed)
	case 1:
		r.header = verify.Sign(secret, at, append(bytes.Clone(printed), "#"...))
	case 2:
		r.header = verify.Sign(secret, at.Add(time.Second), printed)
		r.header = fmt.Sprintf("t=%d,%s", at.Unix(), r.header[strings.Index(r.header, "v1="):])
	}
	return r
}

func askNode(t *testing.T, requests []request, at time.Time) []string {
	t.Helper()
	var in bytes.Buffer
	for _, r := range requests {
		_, v1, _ := strings.Cut(r.header, "v1=")
		fmt.Fprintf(&in, "%s %s\n", base64.StdEncoding.EncodeToString(r.body), v1)
	}
	cmd := exec.CommandContext(t.Context(), "node", "node/oracle.mjs", secret, strconv.FormatInt(at.Unix(), 10))
	cmd.Stdin, cmd.Stderr = &in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	answers := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(answers) != len(requests) {
		t.Fatalf("node answered %d of %d", len(answers), len(requests))
	}
	return answers
}

// compare returns how our verdict on r and Node's differ.
func compare(v *verify.Verifier, r request, answer string, at time.Time) error {
	ours, err := verify.Stringify(r.body, 0)
	if answer == "invalid" {
		if err == nil {
			return fmt.Errorf("node calls it invalid, we print %q", ours)
		}
		return nil
	}
	fields := strings.Fields(answer)
	theirs, _ := base64.StdEncoding.DecodeString(fields[0])
	if err != nil || !bytes.Equal(ours, theirs) {
		return fmt.Errorf("node prints %q, we %q (%v)", theirs, ours, err)
	}
	got, err := v.Verify("t="+strconv.FormatInt(at.Unix(), 10)+",v1="+fields[1], r.body)
	if err != nil || !bytes.Equal(got.Payload, theirs) {
		return fmt.Errorf("signed by node: %q, %v", got.Payload, err)
	}
	accepted := fields[2] == "true"
	_, err = v.Verify(r.header, r.body)
	switch {
	case accepted == r.forged:
		return fmt.Errorf("node accepted: %v, forged: %v", accepted, r.forged)
	case accepted && err != nil:
		return fmt.Errorf("node accepts, we say %w", err)
	// We also accept what was signed over the raw bytes; node never does.
	case !accepted && !errors.Is(err, verify.ErrMismatch):
		return fmt.Errorf("forged: %w", err)
	}
	return nil
}
