//go:build linux

package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/verify"
)

// TestSupply reads prepared requests as a server does: the signature holds, each
// job has its three statuses once, and the body has its size.
func TestSupply(t *testing.T) {
	t.Parallel()
	verifier, err := verify.New([]string{secret}, verify.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]spec{
		"closed loop": {Length: 10 * time.Millisecond},
		"adjacent":    {Count: 300, Spread: 1},
		"open loop":   {Length: time.Second, Rate: 200, Spread: 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.Body, s.Prefix = 1024, "test-"
			p := newSupply(s, "/webhook")
			count := len(p.macs) / macDigits
			if count < 200 {
				t.Fatalf("%d deliveries", count)
			}
			seen, buf := make(map[[2]string]bool), p.copies()
			for n := range count {
				_, request := p.request(buf, n)
				r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(request)))
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(r.Body)
				if err != nil || len(body) != s.Body || !bytes.HasSuffix(request, body) {
					t.Fatalf("a body of %d bytes, %v", len(body), err)
				}
				if _, err := verifier.Verify(r.Header.Get(verify.HeaderName), body); err != nil {
					t.Fatal(err)
				}
				var event struct{ ID, Status, Due string }
				if err := json.Unmarshal(body, &event); err != nil {
					t.Fatal(err)
				}
				if key := [2]string{event.ID, event.Status}; seen[key] {
					t.Fatalf("%v twice", key)
				} else {
					seen[key] = true
				}
				due := time.Duration(0)
				if p.due != nil {
					due = p.due[n]
				}
				if event.Due != fmt.Sprintf("%013d", due) {
					t.Fatalf("due at %s, want %d", event.Due, due)
				}
				if s.Spread == 1 && event.Status != statuses[n%3] {
					t.Fatalf("delivery %d is %s", n, event.Status)
				}
			}
		})
	}
}

// TestVerdict counts a must as missed only if three quarters of the rounds miss it.
func TestVerdict(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		must
		values []float64
		want   string
	}{
		{must{"", .3, .4, false}, []float64{.1, .2, .2, .3, .5}, "met by the best quarter"},
		{must{"", .3, .4, false}, []float64{.1, .2, .2, .29, .5}, "MISSED"},
		{must{"", .3, .4, false}, []float64{.1, .2, .3, .3, .5}, "met"},
		{must{"", .3, .4, false}, []float64{.1, .2, .4, .4, .5}, "aim reached"},
		{must{"", 80, 0, true}, []float64{70, 81, 82, 83, 84}, "MISSED"},
		{must{"", 80, 0, true}, []float64{70, 80, 82, 83, 84}, "met by the best quarter"},
		{must{"", 80, 65, true}, []float64{60, 64, 65, 83, 84}, "aim reached"},
	} {
		if got := r.verdict(r.values); got != r.want {
			t.Errorf("%v of %v: %s, want %s", r.values, r.must, got, r.want)
		}
	}
}
