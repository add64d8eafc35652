package embedded

import "testing"

func TestIsLoopback(t *testing.T) {
	t.Parallel()
	for addr, want := range map[string]bool{
		"127.0.0.1:4222": true, "127.0.0.1": true, "127.8.8.8:1": true, "[::1]:4222": true, "[::1]": true, "::1": true,
		"localhost:0": true, "LocalHost": true,
		"": false, ":4222": false, "0.0.0.0:4222": false, "[::]:4222": false, "192.0.2.1:4222": false,
		"localhost.example:4222": false, "127.0.0.1.example": false,
	} {
		if got := IsLoopback(addr); got != want {
			t.Errorf("%q: %v", addr, got)
		}
	}
}
