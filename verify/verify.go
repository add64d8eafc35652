// Package verify answers one question about a webhook delivery: is it
// authentic and fresh?
//
// It promises that [Verifier.Verify] returns without an error only if one of
// its secrets made one of the header's signatures over exactly the bytes that
// it returns, within the tolerance. The signature is compared in constant
// time, and no error holds a secret or an expected signature.
//
// The provider documents the signature over the JSON text as its own
// JSON.stringify prints it, and sends that text: the raw bytes are tried first,
// and what ECMAScript makes of them second (see [Stringify]).
//
// It leaves to others to read the request, to remember what was seen before
// (a replay within the tolerance is authentic), and to decode the payload. It
// imports the standard library only.
package verify

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

// HeaderName is the header that carries the signature:
//
//	Sync-Signature: t=1700000000,v1=<64 lower-case hex digits>
const HeaderName = "Sync-Signature"

// The defaults of [Options].
const (
	DefaultTolerance  = 5 * time.Minute
	DefaultMaxPayload = 1 << 20
)

// NoTolerance as [Options].Tolerance makes nothing too old or too new: for a
// worker that verifies a stored event again.
const NoTolerance time.Duration = -1

var (
	// ErrNoSecret is returned when a Verifier would have no secret, or an
	// empty one, and so could be passed by anybody.
	ErrNoSecret = errors.New("verify: no secret")
	// ErrUnsigned is returned when there is no signature header.
	ErrUnsigned = errors.New("verify: unsigned")
	// ErrMalformed is returned when the header is not of the form
	// "t=<digits>,v1=<hex>".
	ErrMalformed = errors.New("verify: malformed signature header")
	// ErrMismatch is returned when no secret made any of the signatures.
	ErrMismatch = errors.New("verify: signature does not match")
	// ErrTooOld is returned when the signature is right, but was made longer
	// ago than the tolerance.
	ErrTooOld = errors.New("verify: signed too long ago")
	// ErrTooNew is returned when the signature is right, but was made further
	// in the future than the tolerance.
	ErrTooNew = errors.New("verify: signed in the future")
	// ErrTooLarge is returned when the body, printed again, exceeds
	// [Options].MaxPayload.
	ErrTooLarge = errors.New("verify: payload too large")
	// ErrBusy is returned when a large body waited longer than
	// [Options].MaxWait to be printed again: whether it is authentic is not
	// known.
	ErrBusy = errors.New("verify: too many large bodies at once")
)

// Options configures a [Verifier]; the zero value is the default.
type Options struct {
	// Tolerance is how far the time of signing may be from now, both ways; 0
	// means [DefaultTolerance], negative none at all.
	Tolerance time.Duration
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// MaxPayload bounds the payload that is printed again, in bytes; 0 means
	// [DefaultMaxPayload], negative no bound.
	MaxPayload int
	// MaxWait bounds how long a body of more than 64 KiB waits for others to be
	// printed again, which at most half of the processors do; 0 means no bound.
	MaxWait time.Duration
}

// Verifier verifies deliveries. It may be used concurrently.
type Verifier struct {
	opts    Options
	secrets atomic.Pointer[[]*key]
	turns   chan struct{} // one token per large body that is being printed
}

// New returns a Verifier that accepts the signatures of any of the secrets. A
// secret is used as it is written, its "whsec_" included.
func New(secrets []string, o Options) (*Verifier, error) {
	o.Tolerance = cmp.Or(o.Tolerance, DefaultTolerance)
	o.MaxPayload = cmp.Or(o.MaxPayload, DefaultMaxPayload)
	if o.Now == nil {
		o.Now = time.Now
	}
	v := &Verifier{opts: o, turns: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
	if err := v.SetSecrets(secrets); err != nil {
		return nil, err
	}
	return v, nil
}

// SetSecrets replaces the secrets, also while deliveries are being verified. If
// it returns an error, the old ones stay.
func (v *Verifier) SetSecrets(secrets []string) error {
	if len(secrets) == 0 {
		return ErrNoSecret
	}
	keys := make([]*key, len(secrets))
	for i, s := range secrets {
		if s == "" {
			return fmt.Errorf("%w: secret %d is empty", ErrNoSecret, i+1)
		}
		keys[i] = newKey(s)
	}
	v.secrets.Store(&keys)
	return nil
}

// Fingerprints are those of the secrets that are in force, in their order.
func (v *Verifier) Fingerprints() []string {
	keys := *v.secrets.Load()
	prints := make([]string, len(keys))
	for i, k := range keys {
		prints[i] = k.fingerprint
	}
	return prints
}

// Form is what a signature was made over.
type Form string

const (
	// Raw is the body as it came.
	Raw Form = "raw"
	// Stringified is the body as JSON.stringify prints it.
	Stringified Form = "stringified"
)

// Verified is what is known of a delivery whose signature is right.
type Verified struct {
	// Payload is what was signed, to the byte: the body itself, or the body
	// printed again.
	Payload []byte
	// SignedAt is the time that the sender signed.
	SignedAt time.Time
	// Secret is the index of the secret that matched.
	Secret int
	// Fingerprint is the [Fingerprint] of that secret.
	Fingerprint string
	// Form is which of the two Payload is.
	Form Form
}

// Verify checks the header's signatures over body. With [ErrTooOld] and
// [ErrTooNew] the signature is right, and what is returned beside the error is
// filled in; with any other error it is empty.
func (v *Verifier) Verify(header string, body []byte) (Verified, error) {
	var h signatureHeader
	if err := h.parse(header); err != nil {
		return Verified{}, err
	}
	keys := *v.secrets.Load()
	got := Verified{Payload: body, SignedAt: h.at, Form: Raw}
	if got.Secret = match(keys, &h, body); got.Secret < 0 {
		printed, err := v.print(body)
		if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrBusy) {
			return Verified{}, err
		}
		// What is no JSON has no second form, and what is printed as it came
		// would be judged twice.
		if err != nil || bytes.Equal(printed, body) {
			return Verified{}, ErrMismatch
		}
		got.Payload, got.Form = printed, Stringified
		if got.Secret = match(keys, &h, printed); got.Secret < 0 {
			return Verified{}, ErrMismatch
		}
	}
	got.Fingerprint = keys[got.Secret].fingerprint
	return got, v.checkAge(h.at)
}

// largeBody is from how many bytes on bodies take turns in being printed.
const largeBody = 64 << 10

// print prints body again. That costs memory many times the size of a hostile
// body, and time on a processor: large ones are printed on half of the
// processors, so that the other half is there for whoever needs no printing.
func (v *Verifier) print(body []byte) ([]byte, error) {
	if len(body) > largeBody {
		if !v.takeTurn() {
			return nil, ErrBusy
		}
		defer func() { <-v.turns }()
	}
	return Stringify(body, v.opts.MaxPayload)
}

// takeTurn waits for a turn, for as long as the options say.
func (v *Verifier) takeTurn() bool {
	var late <-chan time.Time // never, if there is no bound
	if v.opts.MaxWait > 0 {
		timer := time.NewTimer(v.opts.MaxWait)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case v.turns <- struct{}{}:
		return true
	case <-late:
		return false
	}
}

// checkAge judges the time of signing, after the signature: a stranger learns
// nothing of the clock, and the owner learns that only the clock was wrong.
func (v *Verifier) checkAge(at time.Time) error {
	if v.opts.Tolerance < 0 {
		return nil
	}
	switch age := v.opts.Now().Sub(at); {
	case age > v.opts.Tolerance:
		return fmt.Errorf("%w: %s ago, tolerance %s", ErrTooOld, age.Round(time.Second), v.opts.Tolerance)
	case age < -v.opts.Tolerance:
		return fmt.Errorf("%w: by %s, tolerance %s", ErrTooNew, age.Abs().Round(time.Second), v.opts.Tolerance)
	}
	return nil
}

// match returns the index of the secret that made one of the signatures over
// payload, or -1.
func match(keys []*key, h *signatureHeader, payload []byte) int {
	for i, k := range keys {
		if k.matches(h, payload) {
			return i
		}
	}
	return -1
}
