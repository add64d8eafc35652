// Package verify checks webhook deliveries: a delivery is accepted if it was signed with a shared secret, over exactly
// this body, and recently.
//
//	verifier, err := verify.New([]string{os.Getenv("SYNC_WEBHOOK_SECRET")}, verify.Options{})
//	…
//	verified, err := verifier.Verify(request.Header.Get(verify.HeaderName), body)
//	switch {
//	case errors.Is(err, verify.ErrTooLarge):
//		http.Error(w, "Body too large", http.StatusRequestEntityTooLarge)
//		return
//	case err != nil:
//		http.Error(w, "Invalid signature", http.StatusBadRequest)
//		return
//	}
//	process(verified.Payload)
//
// [Verifier.Verify] returns no error only if one of its secrets produced one of the signatures in the header, that
// signature covers exactly the bytes in [Verified].Payload, and the signing time is within the tolerance. Signatures are
// compared in constant time. No error contains a secret or an expected signature, so an error may be logged.
//
// The provider signs the JSON text that JavaScript's JSON.stringify writes, and normally sends that same text. A proxy
// on the way may reformat it. Verify therefore checks the signatures twice: first over the body as received, then over
// the body re-serialized as JSON.stringify would write it (see [Stringify]).
//
// The package leaves to its caller: reading the HTTP request, limiting the size of the body and the number of
// verifications at once, detecting a delivery that is sent twice within the tolerance, and decoding the payload. It
// imports only the standard library.
package verify

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"sync/atomic"
	"time"
)

// HeaderName is the name of the HTTP header that carries the signature:
//
//	Sync-Signature: t=1700000000,v1=<64 lower-case hex digits>
//
// t is the signing time in Unix seconds, or in milliseconds if it has 12 digits or more. v1 is the HMAC-SHA256 of t as
// written, a dot and the payload; the key is the secret. There may be several v1, and parts with other names are ignored.
const HeaderName = "Sync-Signature"

const (
	// DefaultTolerance is used if [Options].Tolerance is 0.
	DefaultTolerance = 5 * time.Minute
	// DefaultMaxPayload is used if [Options].MaxPayload is 0: 1 MiB.
	DefaultMaxPayload = 1 << 20
)

// AnyAge is the value of [Options].Tolerance that accepts every signing time. A worker that verifies a stored event
// uses it, because the event may have been signed long ago.
const AnyAge time.Duration = -1

// ErrInvalid is returned when a delivery is not authentic or not recent. It is never returned alone: it is wrapped by
// [ErrUnsigned], [ErrMalformed], [ErrMismatch], [ErrTooOld] and [ErrTooNew], each of which gives the reason.
var ErrInvalid = errors.New("verify: invalid delivery")

// The reasons why a delivery is invalid. Each of them wraps [ErrInvalid].
var (
	// ErrUnsigned is returned when the signature header is empty.
	ErrUnsigned = fmt.Errorf("%w: unsigned: no signature header", ErrInvalid)
	// ErrMalformed is returned when the signature header does not have the form that [HeaderName] describes.
	ErrMalformed = fmt.Errorf("%w: malformed signature header", ErrInvalid)
	// ErrMismatch is returned when none of the secrets produced any of the signatures over this body.
	ErrMismatch = fmt.Errorf("%w: signature does not match", ErrInvalid)
	// ErrTooOld is returned when a signature matches, but the signing time is further in the past than the tolerance.
	ErrTooOld = fmt.Errorf("%w: signed too long ago", ErrInvalid)
	// ErrTooNew is returned when a signature matches, but the signing time is further in the future than the tolerance.
	ErrTooNew = fmt.Errorf("%w: signed in the future", ErrInvalid)
)

var (
	// ErrNoSecret is returned when a [Verifier] would have no secret, or an empty secret, which anybody can sign with.
	ErrNoSecret = errors.New("verify: no secret")
	// ErrTooLarge is returned when re-serializing the body exceeds a limit: [Options].MaxPayload, or one of the fixed
	// limits of [Stringify]. It does not wrap [ErrInvalid], because the delivery may be authentic.
	ErrTooLarge = errors.New("verify: payload too large")
)

// Options configures a [Verifier]. The zero value is ready to use.
type Options struct {
	// Tolerance is the largest accepted difference between the signing time and the present, in both directions. 0 means
	// [DefaultTolerance]. A negative value accepts every signing time, see [AnyAge].
	Tolerance time.Duration
	// Now returns the present time. nil means time.Now.
	Now func() time.Time
	// MaxPayload is the largest accepted size of the re-serialized body, in bytes. It does not limit a body whose
	// signature matches as received. 0 means [DefaultMaxPayload]. A negative value means no limit.
	MaxPayload int
}

// Verifier verifies deliveries. Its methods may be called concurrently.
type Verifier struct {
	opts Options
	keys atomic.Pointer[[]*key]
}

// New returns a Verifier that accepts signatures made with any of the secrets. A secret is used as written, including
// its prefix "whsec_". New returns [ErrNoSecret] if there is no secret or if one of them is empty.
func New(secrets []string, o Options) (*Verifier, error) {
	o.Tolerance = cmp.Or(o.Tolerance, DefaultTolerance)
	o.MaxPayload = cmp.Or(o.MaxPayload, DefaultMaxPayload)
	if o.Now == nil {
		o.Now = time.Now
	}
	v := &Verifier{opts: o}
	if err := v.SetSecrets(secrets); err != nil {
		return nil, err
	}
	return v, nil
}

// SetSecrets replaces all secrets. It may be called while deliveries are verified. It returns [ErrNoSecret] if there is
// no secret or if one of them is empty, and then the previous secrets remain in use.
func (v *Verifier) SetSecrets(secrets []string) error {
	if len(secrets) == 0 {
		return ErrNoSecret
	}
	keys := make([]*key, len(secrets))
	for i, secret := range secrets {
		if secret == "" {
			return fmt.Errorf("%w: secret %d is empty", ErrNoSecret, i+1)
		}
		keys[i] = newKey(secret)
	}
	v.keys.Store(&keys)
	return nil
}

// Fingerprints returns the [Fingerprint] of each secret in use, in the order in which the secrets were given.
func (v *Verifier) Fingerprints() []string {
	keys := *v.keys.Load()
	fingerprints := make([]string, len(keys))
	for i, k := range keys {
		fingerprints[i] = k.fingerprint
	}
	return fingerprints
}

// Form says which bytes a signature covers.
type Form string

const (
	// Raw means that the signature covers the body as received.
	Raw Form = "raw"
	// Stringified means that the signature covers the body as re-serialized by [Stringify].
	Stringified Form = "stringified"
)

// Verified describes a delivery whose signature matches.
type Verified struct {
	// Payload holds exactly the bytes that were signed. If Form is [Raw], it is the body itself, not a copy.
	Payload []byte
	// SignedAt is the signing time in the header.
	SignedAt time.Time
	// SecretIndex is the index of the secret that matched, in the order in which the secrets were given.
	SecretIndex int
	// Fingerprint is the [Fingerprint] of the secret that matched.
	Fingerprint string
	// Form says whether Payload is the body as received or the re-serialized body.
	Form Form
}

// Verify checks the signatures in header over body as received, and if none of them matches, over the re-serialized
// body. It does the work of [Verifier.VerifyRaw] and [Verifier.VerifyStringified], and returns the same errors.
//
// With [ErrTooOld] and [ErrTooNew] the signature matches, and the returned Verified is complete. With every other error
// it is empty.
func (v *Verifier) Verify(header string, body []byte) (Verified, error) {
	var h signatureHeader
	if err := h.parse(header); err != nil {
		return Verified{}, err
	}
	keys := *v.keys.Load()
	verified, err := v.verifyPayload(keys, &h, body, Raw)
	if errors.Is(err, ErrMismatch) {
		return v.verifyStringified(keys, &h, body)
	}
	return verified, err
}

// VerifyRaw checks the signatures in header over body as received. It computes one hash of the body for each secret,
// and allocates no memory.
//
// A server calls VerifyRaw and then, if the error is [ErrMismatch], [Verifier.VerifyStringified], instead of
// [Verifier.Verify], to limit how many bodies are re-serialized at once.
func (v *Verifier) VerifyRaw(header string, body []byte) (Verified, error) {
	var h signatureHeader
	if err := h.parse(header); err != nil {
		return Verified{}, err
	}
	return v.verifyPayload(*v.keys.Load(), &h, body, Raw)
}

// VerifyStringified checks the signatures in header over the re-serialized body. A hostile body can make it allocate 55
// times the size of the body, and it takes far longer than a hash; see [Stringify].
//
// It returns [ErrMismatch] for a body that is not JSON, and also for a body that does not change when it is
// re-serialized, because [Verifier.VerifyRaw] has already checked those bytes. It returns [ErrTooLarge] if
// re-serializing the body exceeds a limit.
func (v *Verifier) VerifyStringified(header string, body []byte) (Verified, error) {
	var h signatureHeader
	if err := h.parse(header); err != nil {
		return Verified{}, err
	}
	return v.verifyStringified(*v.keys.Load(), &h, body)
}

func (v *Verifier) verifyStringified(keys []*key, h *signatureHeader, body []byte) (Verified, error) {
	payload, err := Stringify(body, v.opts.MaxPayload)
	switch {
	case errors.Is(err, ErrTooLarge):
		return Verified{}, err
	case err != nil, bytes.Equal(payload, body):
		return Verified{}, ErrMismatch
	}
	return v.verifyPayload(keys, h, payload, Stringified)
}

// verifyPayload checks the signatures in h over payload. It checks the signing time only after a signature matched: a
// client without the secret learns nothing about the clock, and the operator learns that only the clock was wrong.
func (v *Verifier) verifyPayload(keys []*key, h *signatureHeader, payload []byte, form Form) (Verified, error) {
	for i, k := range keys {
		if k.matches(h, payload) {
			verified := Verified{Payload: payload, SignedAt: h.signedAt, SecretIndex: i, Fingerprint: k.fingerprint, Form: form}
			return verified, v.checkAge(h.signedAt)
		}
	}
	return Verified{}, ErrMismatch
}

func (v *Verifier) checkAge(signedAt time.Time) error {
	if v.opts.Tolerance < 0 {
		return nil
	}
	switch age := v.opts.Now().Sub(signedAt); {
	case age > v.opts.Tolerance:
		return fmt.Errorf("%w: %s ago, the tolerance is %s", ErrTooOld, age.Round(time.Second), v.opts.Tolerance)
	case age < -v.opts.Tolerance:
		return fmt.Errorf("%w: %s ahead, the tolerance is %s", ErrTooNew, age.Abs().Round(time.Second), v.opts.Tolerance)
	}
	return nil
}
