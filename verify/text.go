package verify

import (
	"unicode/utf16"
	"unicode/utf8"
)

// str writes the string at pos with the escapes of JSON.stringify.
func (p *printer) str() error {
	p.take('"')
	for {
		start := p.pos
		for p.pos < len(p.in) && p.in[p.pos] >= 0x20 && p.in[p.pos] != '"' && p.in[p.pos] != '\\' {
			p.pos++
		}
		p.out = append(p.out, p.in[start:p.pos]...)
		switch {
		case p.pos == len(p.in):
			return p.syntax("string without end")
		case p.in[p.pos] == '"':
			p.take('"')
			return nil
		case p.in[p.pos] != '\\':
			return p.syntax("control character in a string")
		}
		if err := p.escape(); err != nil {
			return err
		}
	}
}

// escape reads one escape, or two that are a surrogate pair.
func (p *printer) escape() error {
	unit, ok := p.codeUnit()
	if !ok {
		return p.syntax("bad escape")
	}
	if utf16.IsSurrogate(unit) {
		after := p.pos
		if low, ok := p.codeUnit(); ok {
			if r := utf16.DecodeRune(unit, low); r != utf8.RuneError {
				p.out = utf8.AppendRune(p.out, r)
				return nil
			}
		}
		p.pos = after // the second escape, good or bad, stands for itself
	}
	p.out = appendRune(p.out, unit)
	return nil
}

// codeUnit reads an escape sequence at pos: a UTF-16 code unit.
func (p *printer) codeUnit() (rune, bool) {
	rest := p.in[p.pos:]
	if len(rest) < 2 || rest[0] != '\\' {
		return 0, false
	}
	p.pos += 2
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
		p.pos += 4
		return hex4(rest[2:6])
	}
	return 0, false
}

func hex4(digits []byte) (r rune, ok bool) {
	for _, c := range digits {
		if 'A' <= c && c <= 'F' {
			c += 'a' - 'A'
		}
		n := nibble(c)
		if n > 15 {
			return 0, false
		}
		r = r<<4 | rune(n)
	}
	return r, true
}

const hexDigits = "0123456789abcdef"

// appendRune prints a code unit or code point that was escaped.
func appendRune(out []byte, r rune) []byte {
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
