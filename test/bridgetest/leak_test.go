package bridgetest_test

import (
	"net/http"
	"testing"

	"github.com/jobbridge/jobbridge/test/bridgetest"
	"go.uber.org/goleak"
)

// TestNothingIsLeft counts the goroutines after a server's whole life.
func TestNothingIsLeft(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Run("life", func(t *testing.T) {
		srv := bridgetest.NewServer(t)
		sub, err := srv.Connect().SubscribeSync("job.>")
		if err != nil {
			t.Fatal(err)
		}
		srv.Deliver(bridgetest.Delivery{})
		srv.StopNATS()
		srv.Deliver(bridgetest.Delivery{})
		srv.StartNATS()
		srv.Deliver(bridgetest.Delivery{})
		if n, _, err := sub.Pending(); err != nil {
			t.Fatal(n, err)
		}
	})
	http.DefaultClient.CloseIdleConnections()
	goleak.VerifyNone(t, before)
}
