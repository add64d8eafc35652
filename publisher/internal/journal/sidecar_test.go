package journal

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"
)

// TestSidecar replaces the sidecar of a segment by bad ones. They are not used: each
// record is still known as a duplicate.
func TestSidecar(t *testing.T) {
	t.Parallel()
	le := binary.LittleEndian
	reseal := func(b []byte) []byte { // with entries that are wrong, and CRCs that are right
		for i := sidecarHead; i < len(b); i += entryLength {
			b[i]++
		}
		le.PutUint32(b[88:], checksum(b[sidecarHead:]))
		le.PutUint32(b[92:], checksum(b[:92]))
		return b
	}
	for name, bend := range map[string]func(b []byte) []byte{
		"good":                    func(b []byte) []byte { return b },
		"wrong entries, resealed": reseal, // shows that a good sidecar is used
		"empty":                   func([]byte) []byte { return nil },
		"zeros":                   func(b []byte) []byte { return make([]byte, len(b)) },
		"truncated":               func(b []byte) []byte { return reseal(b[:len(b)-entryLength]) },
		"half an entry":           func(b []byte) []byte { return b[:len(b)-1] },
		"a changed entry":         func(b []byte) []byte { b[sidecarHead]++; return b },
		"a changed header":        func(b []byte) []byte { b[56]++; return b },
		"another journal":         func(b []byte) []byte { b[8]++; return reseal(b) },
		"another segment":         func(b []byte) []byte { b[24]++; return reseal(b) },
		"a longer segment":        func(b []byte) []byte { le.PutUint64(b[56:], 1<<30); return reseal(b) },
		"another magic":           func(b []byte) []byte { b[0]++; return reseal(b) },
	} {
		m, h := filled(t, 3, 10)
		if _, err := h.check(memOptions(m)); err != nil { // seals
			t.Fatal(err)
		}
		m.edit(sidecarPath(m.segmentPaths()[0]), func(b []byte) []byte { return bend(bytes.Clone(b)) })
		_, err := h.check(memOptions(m))
		if wrong := strings.Contains(name, "wrong"); (err != nil) != wrong {
			t.Errorf("%s: %v", name, err)
		}
	}
}
