package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// TestTally: deliveries without an answer are counted as such, and not as answers
// within 0 s (case R7).
func TestTally(t *testing.T) {
	var tally tally
	tally.kinds = make(map[string]int)
	for range 100 {
		tally.add(reply{}, errors.New("connection refused"))
	}
	if got := tally.quantiles(); got != "no answers" {
		t.Errorf("without an answer: %q", got)
	}
	for range 3 {
		tally.add(reply{code: 200, body: []byte(`{}`), took: 40 * time.Millisecond}, nil)
	}
	if got := tally.quantiles(); !strings.Contains(got, "half of the answers within 40ms") {
		t.Errorf("with three answers: %q", got)
	}
	if tally.bad != 100 || tally.kinds["no answer"] != 100 || tally.kinds["200"] != 3 {
		t.Errorf("%d bad, %v", tally.bad, tally.kinds)
	}
}

// TestWebURL adds the scheme that people leave out.
func TestWebURL(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:8080/webhook":     "http://127.0.0.1:8080/webhook",
		"localhost:8080":             "http://localhost:8080",
		"bridge.example":             "http://bridge.example",
		"https://a.example/webhook":  "https://a.example/webhook",
		"http://[::1]:8080/webhook":  "http://[::1]:8080/webhook",
		"":                           "",
		"ftp://a.example":            "",
		":8080/webhook":              "",
		"http://:8080/webhook":       "",
		"http://a.example:x/webhook": "",
	} {
		got, err := webURL(text)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v, want %q", text, got, err, want)
		}
	}
}
