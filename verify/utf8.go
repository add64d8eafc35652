package verify

import (
	"bytes"
	"unicode/utf8"
)

// decodeUTF8 returns body as Node decodes it (WHATWG Encoding Standard, section 8.1.1): without a byte order mark, and
// with U+FFFD in the place of each invalid sequence. If body is valid, the result shares its memory.
func decodeUTF8(body []byte) []byte {
	body = bytes.TrimPrefix(body, []byte("\ufeff"))
	if utf8.Valid(body) {
		return body
	}
	out := make([]byte, 0, len(body)+len(body)/2)
	for len(body) > 0 {
		r, n := utf8.DecodeRune(body)
		if r == utf8.RuneError && n == 1 {
			n = invalidLength(body)
		}
		out = utf8.AppendRune(out, r)
		body = body[n:]
	}
	return out
}

// invalidLength returns the number of bytes at the start of b that one U+FFFD replaces: all bytes that could be the start
// of a character, or a single byte. b must start with an invalid sequence.
func invalidLength(b []byte) int {
	following := 0 // the number of bytes that must follow the first byte of a character
	low, high := byte(0x80), byte(0xbf)
	switch first := b[0]; {
	case 0xc2 <= first && first <= 0xdf:
		following = 1
	case 0xe0 <= first && first <= 0xef:
		following = 2
	case 0xf0 <= first && first <= 0xf4:
		following = 3
	}
	switch b[0] { // after these bytes, not every following byte is valid
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
	for ; n <= following && n < len(b) && low <= b[n] && b[n] <= high; n++ {
		low, high = 0x80, 0xbf
	}
	return n
}
