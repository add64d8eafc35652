package interop

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"github.com/jobbridge/jobbridge/test/process"
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

// seed returns JOBBRIDGE_SEED, or a seed made from the time.
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

// request is a body and the header that signs it.
type request struct {
	body   []byte
	header string
	forged bool
}

// TestStringifyAgainstNode compares verify with Node.js in both directions: Node signs and verify verifies, and the other way round. Some
// requests are forged.
func TestStringifyAgainstNode(t *testing.T) {
	process.Require(t, "node")
	d := &documents{Rand: rand.New(rand.NewPCG(seed(t), 0))}
	at := time.Now()
	requests := make([]request, count)
	for i := range requests {
		requests[i] = d.request(at)
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
		if err := compare(v, r, answers[i]); err != nil {
			if differences++; differences <= 10 {
				t.Errorf("%q: %v", r.body, err)
			}
		}
	}
	t.Logf("%d documents, %d invalid, %d forged: %d differences", count, invalid, forged, differences)
	if invalid < count/4 || invalid > count*3/4 || forged < count/8 {
		t.Error("the documents are too uniform to prove anything")
	}
}

// request returns a document with a header that signs the re-serialized document, or the raw text if it is not JSON. A quarter of the
// requests are forged.
func (d *documents) request(at time.Time) request {
	body := d.next()
	signed := printed(body)
	r := request{body: body, header: verify.Sign(secret, at, signed)}
	if d.IntN(4) != 0 {
		return r
	}
	r.forged = true
	switch d.IntN(4) {
	case 0:
		r.header = verify.Sign("whsec_other", at, signed)
	case 1: // another document's
		other := d.next()
		for bytes.Equal(printed(other), signed) || bytes.Equal(printed(other), body) {
			other = d.next()
		}
		r.header = verify.Sign(secret, at, printed(other))
	case 2: // another time's
		_, v1, _ := strings.Cut(verify.Sign(secret, at.Add(time.Second), signed), ",")
		r.header = fmt.Sprintf("t=%d,%s", at.Unix(), v1)
	case 3: // changed on the way, and not only in its form
		for bytes.Equal(printed(r.body), signed) || bytes.Equal(r.body, signed) {
			r.body = bytes.Clone(body)
			r.body[d.IntN(len(body))] ^= 1 << d.IntN(8)
		}
	}
	return r
}

func printed(body []byte) []byte {
	if p, err := verify.Stringify(body, 0); err == nil {
		return p
	}
	return body
}

// askNode returns one answer of Node.js for each request.
func askNode(t *testing.T, requests []request, at time.Time) []string {
	t.Helper()
	var in bytes.Buffer
	for _, r := range requests {
		fmt.Fprintf(&in, "%s %s\n", base64.StdEncoding.EncodeToString(r.body), base64.StdEncoding.EncodeToString([]byte(r.header)))
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "node/oracle.mjs", secret, strconv.FormatInt(at.Unix(), 10))
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

// compare describes how the verdict of verify on r differs from the verdict of Node.js.
func compare(v *verify.Verifier, r request, answer string) error {
	ours, printErr := verify.Stringify(r.body, 0)
	got, verifyErr := v.Verify(r.header, r.body)
	if r.forged && !errors.Is(verifyErr, verify.ErrMismatch) {
		return fmt.Errorf("forged, but verified as %q, %v", got.Payload, verifyErr)
	}
	if answer == "invalid" {
		switch {
		case !errors.Is(printErr, verify.ErrSyntax):
			return fmt.Errorf("invalid to node, we print %q, %v", ours, printErr)
		// What was signed raw needs not be JSON: here alone we accept more.
		case !r.forged && (verifyErr != nil || got.Form != verify.Raw):
			return fmt.Errorf("signed raw, but verified as %q, %v", got.Form, verifyErr)
		}
		return nil
	}

	fields := strings.Fields(answer)
	theirs, err := base64.StdEncoding.DecodeString(fields[0])
	if err != nil {
		return err
	}
	if printErr != nil || !bytes.Equal(ours, theirs) {
		return fmt.Errorf("node prints %q, we %q, %v", theirs, ours, printErr)
	}
	if accepted := fields[2] == "true"; accepted == r.forged {
		return fmt.Errorf("forged: %v, but accepted by node: %v", r.forged, accepted)
	}
	if !r.forged && (verifyErr != nil || !bytes.Equal(got.Payload, theirs)) {
		return fmt.Errorf("accepted by node, but verified as %q, %v", got.Payload, verifyErr)
	}
	if got, err := v.Verify(fields[1], r.body); err != nil || !bytes.Equal(got.Payload, theirs) {
		return fmt.Errorf("signed by node, but verified as %q, %v", got.Payload, err)
	}
	return nil
}
