package ingress_test

import (
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/ingress"
	"github.com/jobbridge/jobbridge/verify"
)

// pausedVerifier re-serializes a large body only after release is closed.
type pausedVerifier struct {
	*verify.Verifier
	release chan struct{}
}

func (v pausedVerifier) VerifyStringified(header string, body []byte) (verify.Verified, error) {
	if len(body) > 64<<10 {
		<-v.release
	}
	return v.Verifier.VerifyStringified(header, body)
}

// TestReserializingIsLimited occupies every place for re-serializing large bodies. One more large body is answered 503
// after a second, while deliveries that need no place are stored.
func TestReserializingIsLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		v := pausedVerifier{newVerifier(t), make(chan struct{})}
		b := newIngress(t, ingress.Options{Verifier: v, Publisher: instant{}, ForgeryRate: 1})
		large := `{"id":"job-1","status":"COMPLETED","pad":"` + strings.Repeat("x", 64<<10) + `"}`
		spaced := strings.Replace(large, ":", ": ", 1)
		post := func(body, signed string) *httptest.ResponseRecorder {
			request := httptest.NewRequest(http.MethodPost, ingress.DefaultPath, strings.NewReader(body))
			request.Header.Set(verify.HeaderName, verify.Sign(testSecret, time.Now(), []byte(signed)))
			answer := httptest.NewRecorder()
			b.ServeHTTP(answer, request)
			return answer
		}

		var waiting sync.WaitGroup
		for range max(1, runtime.GOMAXPROCS(0)/2) {
			waiting.Go(func() {
				if answer := post(spaced, large); answer.Code != 200 {
					t.Errorf("a body with a place: %d %s", answer.Code, answer.Body)
				}
			})
		}
		synctest.Wait()
		// More often than the limit on bad signatures allows: a body that was not judged does not count as one.
		for range 20 {
			start := time.Now()
			answer := post(spaced, large)
			took := time.Since(start)
			if answer.Code != 503 || !strings.Contains(answer.Body.String(), "Too many large bodies at once") || took != time.Second {
				t.Fatalf("a body without a place: %d %s after %s, want 503 after 1s", answer.Code, answer.Body, took)
			}
		}
		for name, answer := range map[string]*httptest.ResponseRecorder{
			"a large body signed as received":   post(large, large),
			"a small body signed re-serialized": post(strings.Replace(completed, ":", ": ", 1), completed),
		} {
			if answer.Code != 200 {
				t.Errorf("%s: %d %s", name, answer.Code, answer.Body)
			}
		}
		close(v.release)
		waiting.Wait()
		if answer := post(spaced, large); answer.Code != 200 {
			t.Errorf("after the places were released: %d %s", answer.Code, answer.Body)
		}
	})
}
