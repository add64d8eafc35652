package bridge_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/verify"
)

// A program runs a bridge of its own: here on ports that the system chooses, until it
// has answered one delivery.
func ExampleNew() {
	dir, err := os.MkdirTemp("", "jobbridge")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	const secret = "whsec_example"
	ready := make(chan struct{})
	b, err := bridge.New(bridge.Options{
		DataDir: dir,
		Secrets: bridge.Value([]string{secret}),
		Webhook: bridge.WebhookOptions{Listen: "127.0.0.1:0"},
		Admin:   bridge.AdminOptions{Listen: "127.0.0.1:0"},
		NATS:    bridge.NATSOptions{Listen: "127.0.0.1:0"},
		OnReady: func() { close(ready) },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-ready

	body := `{"id":"job-42","status":"COMPLETED"}`
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.Addrs().Webhook, strings.NewReader(body))
	if err != nil {
		fmt.Println(err)
		return
	}
	req.Header.Set(verify.HeaderName, verify.Sign(secret, time.Now(), []byte(body)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp.Body.Close()
	fmt.Println(resp.StatusCode, b.Report().State)
	stop()
	fmt.Println(<-done)
	// Output:
	// 200 ready
	// <nil>
}
