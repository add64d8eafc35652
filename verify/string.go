package verify

import (
	"unicode/utf16"
	"unicode/utf8"
)

// writeString reads a string and writes it with the escapes that JSON.stringify uses.
func (s *serializer) writeString() error {
	s.copyByte('"')
	for {
		start := s.pos
		for s.pos < len(s.in) && s.in[s.pos] >= 0x20 && s.in[s.pos] != '"' && s.in[s.pos] != '\\' {
			s.pos++
		}
		s.out = append(s.out, s.in[start:s.pos]...)
		switch {
		case s.pos == len(s.in):
			return s.syntaxError("string does not end")
		case s.in[s.pos] == '"':
			s.copyByte('"')
			return nil
		case s.in[s.pos] != '\\':
			return s.syntaxError("control character in a string")
		}
		if err := s.writeEscape(); err != nil {
			return err
		}
	}
}

// writeEscape reads one escape sequence, or two that form a surrogate pair, and writes the character.
func (s *serializer) writeEscape() error {
	unit, ok := s.readEscape()
	if !ok {
		return s.syntaxError("invalid escape sequence")
	}
	if utf16.IsSurrogate(unit) {
		second := s.pos
		if low, ok := s.readEscape(); ok {
			if r := utf16.DecodeRune(unit, low); r != utf8.RuneError {
				s.out = utf8.AppendRune(s.out, r)
				return nil
			}
		}
		s.pos = second // not a pair: the second escape sequence, if it is one, is read again on its own
	}
	s.out = appendEscaped(s.out, unit)
	return nil
}

// readEscape reads an escape sequence and returns its UTF-16 code unit. It returns false if the next bytes are not a
// valid escape sequence.
func (s *serializer) readEscape() (rune, bool) {
	rest := s.in[s.pos:]
	if len(rest) < 2 || rest[0] != '\\' {
		return 0, false
	}
	s.pos += 2
	switch c := rest[1]; c {
	case '"', '\\', '/':
		return rune(c), true
	case 'b':
		return '\b', true
	case 'f':
		return '\f', true
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case 'u':
		if len(rest) < 6 {
			return 0, false
		}
		s.pos += 4
		return parseHex(rest[2:6])
	}
	return 0, false
}

// parseHex returns the value of hex digits in upper or lower case, and false if one of the bytes is not a hex digit.
func parseHex(digits []byte) (value rune, ok bool) {
	for _, c := range digits {
		if 'A' <= c && c <= 'F' {
			c += 'a' - 'A'
		}
		n := hexValue(c)
		if n > 15 {
			return 0, false
		}
		value = value<<4 | rune(n)
	}
	return value, true
}

const hexDigits = "0123456789abcdef"

// appendEscaped appends the character r as JSON.stringify writes it in a string. r may be a lone surrogate.
func appendEscaped(out []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(out, '\\', byte(r))
	case '\b':
		return append(out, '\\', 'b')
	case '\f':
		return append(out, '\\', 'f')
	case '\n':
		return append(out, '\\', 'n')
	case '\r':
		return append(out, '\\', 'r')
	case '\t':
		return append(out, '\\', 't')
	}
	if r < 0x20 || utf16.IsSurrogate(r) {
		return append(out, '\\', 'u', hexDigits[r>>12&15], hexDigits[r>>8&15], hexDigits[r>>4&15], hexDigits[r&15])
	}
	return utf8.AppendRune(out, r)
}
