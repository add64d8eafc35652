package main

import (
	"io"
	"strings"
	"testing"
)

// TestSameAddress: two listeners with one address are a mistake in whatever way the
// address is written, and both flags are named (case C12).
func TestSameAddress(t *testing.T) {
	for _, c := range []struct {
		listen, admin string
		same          bool
	}{
		{"127.0.0.1:8080", "127.0.0.1:8080", true},
		{":8080", "0.0.0.0:8080", true},
		{":8080", "[::]:8080", true},
		{":8080", "localhost:8080", true},
		{"127.0.0.1:8080", "127.0.0.1:08080", true},
		{"127.0.0.1:8080", "LOCALHOST:8080", true},
		{"localhost:8080", "[::1]:8080", true},
		{"[::1]:8080", "[0:0:0:0:0:0:0:1]:8080", true},
		{"127.0.0.1:8080", "[::ffff:127.0.0.1]:8080", true},
		{"0.0.0.0:8080", "10.0.0.1:8080", true},
		{"bridge.example:8080", "Bridge.Example:8080", true},
		{"127.0.0.1:8080", "127.0.0.1:8081", false},
		{"127.0.0.1:8080", "127.0.0.2:8080", false},
		{"127.0.0.1:8080", "[::1]:8080", false},
		{"10.0.0.1:8080", "localhost:8080", false},
		{"127.0.0.1:0", "127.0.0.1:0", false},
		{":0", "[::]:00", false},
	} {
		for _, pair := range [][2]string{{c.listen, c.admin}, {c.admin, c.listen}} {
			_, err := call(t, nil, "config", "check", "--listen", pair[0], "--admin-listen", pair[1])
			refused := err != nil && exitCode(err, io.Discard) == 2 && strings.Contains(err.Error(), "--listen "+pair[0]) &&
				strings.Contains(err.Error(), "--admin-listen "+pair[1])
			if c.same && !refused || !c.same && err != nil {
				t.Errorf("%s and %s: %v", pair[0], pair[1], err)
			}
		}
	}
	if _, err := call(t, nil, "config", "check", "--admin-listen", ":4222"); err == nil || !strings.Contains(err.Error(), "--nats-listen") {
		t.Errorf("the NATS listener: %v", err)
	}
}

// TestNATSURLs: a URL that can never work is a mistake that names the entry (case C12).
func TestNATSURLs(t *testing.T) {
	for urls, want := range map[string]string{
		"nats://a:99999":                        "between 1 and 65535",
		"nats://a:0":                            "between 1 and 65535",
		"nats://a:":                             "port is missing",
		"nats://:4222":                          "host is missing",
		"nats://a:4222,nats://b:x":              `entry 2 ("nats://b:x")`,
		"nats://a:4222,b:4222,nats://c":         `entry 2 ("b:4222")`,
		"nats://a:4222,,nats://c":               "entry 2",
		"http://a:4222":                         "nats://host:port",
		"nats://a:4222,tls://b:4222":            "different schemes",
		"nats://a:4222,ws://b:4222":             "different schemes",
		"nats://a:4222/JOBS":                    "nothing behind the port",
		"nats://a:4222,nats://u:hunter2@b:4222": "entry 2: no credentials",
		"nats://a:4222, nats://b:4222":          "",
		"nats://a,nats://[::1]:4222":            "",
		"tls://a:4222,tls://b":                  "",
		"ws://a:8080/nats":                      "",
	} {
		_, err := call(t, nil, "config", "check", "--nats-url", urls)
		if want == "" && err != nil {
			t.Errorf("%s: %v", urls, err)
		}
		if want != "" && (err == nil || exitCode(err, io.Discard) != 2 || !strings.Contains(err.Error(), want) ||
			strings.Contains(err.Error(), "hunter2")) {
			t.Errorf("%s: %v, want %q", urls, err, want)
		}
	}
}
