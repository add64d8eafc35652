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

// Sign returns the header with which a sender that holds secret would send
// payload at that time; see [HeaderName] for its form.
func Sign(secret string, at time.Time, payload []byte) string {
	t := strconv.FormatInt(at.Unix(), 10)
	s := newKey(secret).mac(t, payload)
	return "t=" + t + ",v1=" + hex.EncodeToString(s.sum[:])
}

// Fingerprint names a secret in a log or a metric without giving it away: 8 hex
// digits of a hash.
func Fingerprint(secret string) string {
	sum := sha256.Sum256([]byte("jobbridge fingerprint\x00" + secret))
	return hex.EncodeToString(sum[:4])
}

// digest is an HMAC-SHA256.
type digest [sha256.Size]byte

// parse reads 64 lower-case hex digits. Upper case is refused because the
// documented receiver compares the text.
func (d *digest) parse(s string) bool {
	if len(s) != hex.EncodedLen(len(d)) {
		return false
	}
	for i := range d {
		hi, lo := nibble(s[2*i]), nibble(s[2*i+1])
		if hi > 15 || lo > 15 {
			return false
		}
		d[i] = hi<<4 | lo
	}
	return true
}

func nibble(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// key is a secret with its HMAC states: making one costs two compressions and
// several allocations, resetting one costs a copy.
type key struct {
	fingerprint string
	states      sync.Pool
}

// state is an HMAC with room for its input and its result, which would
// otherwise be allocated per delivery.
type state struct {
	hmac hash.Hash
	t    []byte
	sum  digest
}

func newKey(secret string) *key {
	k := &key{fingerprint: Fingerprint(secret)}
	k.states.New = func() any {
		return &state{hmac: hmac.New(sha256.New, []byte(secret)), t: make([]byte, 0, 32)}
	}
	return k
}

// mac computes the one MAC of this package, over t + "." + payload. The caller
// may put the state back.
func (k *key) mac(t string, payload []byte) *state {
	s := k.states.Get().(*state)
	s.hmac.Reset()
	s.t = append(append(s.t[:0], t...), '.')
	s.hmac.Write(s.t) // a hash returns no error
	s.hmac.Write(payload)
	s.hmac.Sum(s.sum[:0])
	return s
}

// matches reports whether one of the header's signatures is this key's. It
// looks at all of them, so that its time says nothing of which.
func (k *key) matches(h *signatureHeader, payload []byte) bool {
	s := k.mac(h.t, payload)
	defer k.states.Put(s)
	found := false
	for i := range h.count {
		if hmac.Equal(s.sum[:], h.sigs[i][:]) {
			found = true
		}
	}
	return found
}
