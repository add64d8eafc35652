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
	// reserializeWait is the longest time that a large body waits to be re-serialized. It leaves enough of answerTimeout
	// to store the event.
	reserializeWait = time.Second
)

// newReserializing returns the semaphore that limits how many large bodies are re-serialized at once: half of the
// processors may do that, because a hostile body costs tens of milliseconds. The other half stays available for
// deliveries whose signature matches as received.
func newReserializing() chan struct{} {
	return make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
}

// verifyForms verifies the signature over body as received, and then over body re-serialized. It returns errReserialize
// if a large body would have to wait too long for the second.
func (in *Ingress) verifyForms(signature string, body []byte) (verify.Verified, error) {
	verified, err := in.cfg.Verifier.VerifyRaw(signature, body)
	if !errors.Is(err, verify.ErrMismatch) {
		return verified, err
	}
	if len(body) > largeBody {
		if !acquire(in.reserializing, reserializeWait) {
			return verify.Verified{}, errReserialize
		}
		defer func() { <-in.reserializing }()
	}
	return in.cfg.Verifier.VerifyStringified(signature, body)
}
