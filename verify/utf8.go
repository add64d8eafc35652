package verify

import (
	"bytes"
	"unicode/utf8"
)

// decodeUTF8 returns body as Node decodes it: one byte order mark is dropped,
// and each maximal part of an invalid sequence becomes U+FFFD (WHATWG Encoding,
// 8.1.1). Valid text is returned as it is.
func decodeUTF8(body []byte) []byte {
	body = bytes.TrimPrefix(body, []byte("\ufeff"))
	if utf8.Valid(body) {
		return body
	}
	out := make([]byte, 0, len(body)+len(body)/2)
	for len(body) > 0 {
		r, n := utf8.DecodeRune(body)
		if r == utf8.RuneError && n == 1 {
			n = invalidPart(body)
		}
		out = utf8.AppendRune(out, r)
		body = body[n:]
	}
	return out
}

// invalidPart returns how many bytes of an invalid sequence are one mistake: as
// many as could have begun a character.
func invalidPart(b []byte) int {
	var more int
	low, high := byte(0x80), byte(0xbf)
	switch c := b[0]; {
	case 0xc2 <= c && c <= 0xdf:
		more = 1
	case 0xe0 <= c && c <= 0xef:
		more = 2
	case 0xf0 <= c && c <= 0xf4:
		more = 3
	}
	switch b[0] { // the first bytes that narrow the second
	case 0xe0:
		low = 0xa0
	case 0xed:
		high = 0x9f
	case 0xf0:
		low = 0x90
	case 0xf4:
		high = 0x8f
	}
	n := 1
	for ; n <= more && n < len(b) && low <= b[n] && b[n] <= high; n++ {
		low, high = 0x80, 0xbf
	}
	return n
}
