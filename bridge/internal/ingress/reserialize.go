package ingress

import (
	"errors"
	"runtime"
	"time"

	"github.com/jobbridge/jobbridge/verify"
)

const (
	// largeBody is the size in bytes above which the number of bodies that are re-serialized at once is limited.
	largeBody = 64 << 10
	// reserializeWait is the longest time that a large body waits to be re-serialized. It leaves enough of answerTimeout to
	// store the event.
	reserializeWait = time.Second
)

// newReserializing returns the semaphore that limits how many large bodies are re-serialized at once: half of the
// processors may do that, because a hostile body costs tens of milliseconds. The other half stays available for
// deliveries whose signature matches as received.
func newReserializing() chan struct{} {
	return make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
}

// verify checks the signatures in header over body. It returns errNoRoom if body is large, its signature does not match
// as received, and it would have to wait too long to be re-serialized.
func (in *Ingress) verify(header string, body []byte) (verify.Verified, error) {
	verified, err := in.cfg.Verifier.VerifyRaw(header, body)
	if !errors.Is(err, verify.ErrMismatch) {
		return verified, err
	}
	if len(body) > largeBody {
		if !take(in.reserializing, reserializeWait) {
			return verify.Verified{}, errNoRoom
		}
		defer func() { <-in.reserializing }()
	}
	return in.cfg.Verifier.VerifyStringified(header, body)
}
