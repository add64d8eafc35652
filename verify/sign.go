package verify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"strconv"
	"sync"
	"time"
)

// Sign returns the signature header that a sender with this secret would send with payload at the time signedAt, which
// is rounded down to a second. See [HeaderName] for the form of the header.
func Sign(secret string, signedAt time.Time, payload []byte) string {
	t := strconv.FormatInt(signedAt.Unix(), 10)
	return "t=" + t + ",v1=" + newKey(secret).sign(t, payload)
}

// Fingerprint returns 8 hex digits that identify a secret in logs and metrics without revealing it. They are the start
// of a SHA-256 hash.
func Fingerprint(secret string) string {
	sum := sha256.Sum256([]byte("jobbridge fingerprint\x00" + secret))
	return hex.EncodeToString(sum[:4])
}

// digest is an HMAC-SHA256.
type digest [sha256.Size]byte

// parse reads 64 lower-case hex digits and reports whether s consists of them. Upper case is rejected, because the
// receiver in the provider's documentation compares the digits as text.
func (d *digest) parse(s string) bool {
	if len(s) != hex.EncodedLen(len(d)) {
		return false
	}
	for i := range d {
		high, low := hexValue(s[2*i]), hexValue(s[2*i+1])
		if high > 15 || low > 15 {
			return false
		}
		d[i] = high<<4 | low
	}
	return true
}

// hexValue returns the value of a lower-case hex digit, and 255 for every other character.
func hexValue(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// key is a secret, with HMAC states that are used again. Resetting a state copies a few bytes. Creating one costs two
// SHA-256 blocks and several allocations.
type key struct {
	fingerprint string
	states      sync.Pool
}

// hmacState is an HMAC with buffers for its input and its result, so that a delivery allocates none of them.
type hmacState struct {
	hmac   hash.Hash
	prefix []byte
	sum    digest
}

func newKey(secret string) *key {
	k := &key{fingerprint: Fingerprint(secret)}
	k.states.New = func() any {
		return &hmacState{hmac: hmac.New(sha256.New, []byte(secret)), prefix: make([]byte, 0, 32)}
	}
	return k
}

// compute returns a state whose sum is the HMAC of t, a dot and payload. It is the only place that computes a
// signature, so that [Sign] and [Verifier.Verify] cannot differ. The caller may put the state back into the pool.
func (k *key) compute(t string, payload []byte) *hmacState {
	s := k.states.Get().(*hmacState)
	s.hmac.Reset()
	s.prefix = append(append(s.prefix[:0], t...), '.')
	s.hmac.Write(s.prefix) // a hash never returns an error
	s.hmac.Write(payload)
	s.hmac.Sum(s.sum[:0])
	return s
}

// sign returns the signature of t and payload in hex.
func (k *key) sign(t string, payload []byte) string {
	s := k.compute(t, payload)
	return hex.EncodeToString(s.sum[:])
}

// matches reports whether this key produced one of the signatures in h over payload. It compares all of them, so that
// the time it takes does not reveal which one matched.
func (k *key) matches(h *signatureHeader, payload []byte) bool {
	s := k.compute(h.t, payload)
	defer k.states.Put(s)
	found := false
	for i := range h.count {
		if hmac.Equal(s.sum[:], h.signatures[i][:]) {
			found = true
		}
	}
	return found
}
