package ingress_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/publisher"
	"github.com/jobbridge/jobbridge/publisher/event"
	"github.com/jobbridge/jobbridge/verify"
)

// printer prints events instead of storing them.
type printer struct{}

func (printer) Publish(_ context.Context, e event.Event) (publisher.Receipt, error) {
	fmt.Println("published:", e.MessageID())
	return publisher.Receipt{Subject: event.Template{}.Subject(e)}, nil
}

// An Ingress is an http.Handler, too, with any Verifier and Publisher behind it.
func ExampleNew() {
	v, err := verify.New([]string{"whsec_example"}, verify.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	b, err := ingress.New(ingress.Options{Verifier: v, Publisher: printer{}})
	if err != nil {
		fmt.Println(err)
		return
	}
	body := `{"id":"job-42","status":"COMPLETED"}`
	for _, secret := range []string{"whsec_example", "whsec_forger"} {
		req := httptest.NewRequest(http.MethodPost, ingress.DefaultPath, strings.NewReader(body))
		req.Header.Set(verify.HeaderName, verify.Sign(secret, time.Now(), []byte(body)))
		answer := httptest.NewRecorder()
		b.ServeHTTP(answer, req)
		fmt.Println(answer.Code)
	}
	// Output:
	// published: sync:job-42:COMPLETED
	// 200
	// 400
}
