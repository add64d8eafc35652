package bridge_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/test/bridgetest"
)

// TestIdleTimeout: an idle connection stays open for the time that is configured, and
// is closed after it. The default is longer than those of the load balancers that people
// put in front, so that the bridge is never the one who closes a connection on which a
// delivery is just being sent (case C7).
func TestIdleTimeout(t *testing.T) {
	t.Parallel()
	for balancer, keeps := range map[string]time.Duration{"Envoy": time.Hour, "Google": 610 * time.Second, "HAProxy and AWS": time.Minute} {
		if bridge.DefaultIdleTimeout <= keeps {
			t.Errorf("%s keeps connections for %s, the bridge for %s", balancer, keeps, bridge.DefaultIdleTimeout)
		}
	}
	o := valid(t)
	o.Webhook.IdleTimeout = -1
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), "Options.Webhook.IdleTimeout") {
		t.Error("a negative timeout is accepted:", err)
	}
	const timeout = time.Second
	srv := bridgetest.NewUnstartedServer(t)
	srv.Config.Webhook.IdleTimeout = timeout
	srv.Start()
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(srv.URL, "http://"), "/webhook"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	r := bufio.NewReader(conn)
	signature, body := srv.Sign(bridgetest.Delivery{})
	fmt.Fprintf(conn, "POST /webhook HTTP/1.1\r\nHost: x\r\nSync-Signature: %s\r\nContent-Length: %d\r\n\r\n%s", signature, len(body), body)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 200 || resp.Close {
		t.Fatal(resp, err)
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
	idle := time.Now()
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Fatal("the connection was not closed:", err)
	}
	if took := time.Since(idle); took < timeout-100*time.Millisecond {
		t.Errorf("the connection was closed after %s", took)
	}
}
