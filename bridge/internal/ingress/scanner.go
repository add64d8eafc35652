package ingress

import (
	"bytes"
	"strings"
)

// scanner reads JSON text once. It accepts exactly the texts that [json.Valid]
// accepts, and finds the members of the outermost object on the way: a second
// walk over the text would cost as much again. pos is the offset of the next
// byte. Every method that returns a bool returns false if the text is not JSON.
type scanner struct {
	data  []byte
	pos   int
	depth int // open objects and arrays
}

// maxDepth is how deep encoding/json lets objects and arrays nest.
const maxDepth = 10_000

// scan returns the members of the object in data, and whether data is JSON. If
// data is JSON but not an object, it has no members.
func scan(data []byte) (m members, valid bool) {
	s := scanner{data: data}
	valid = s.value(&m) && s.next() == 0 && s.pos == len(data)
	return m, valid
}

// value reads one value of any type. If the value is an object and m is not nil,
// its members are added to m.
func (s *scanner) value(m *members) bool {
	switch s.next() {
	case '{':
		return s.object(m)
	case '[':
		return s.array()
	case '"':
		return s.str()
	case 't':
		return s.literal("true")
	case 'f':
		return s.literal("false")
	case 'n':
		return s.literal("null")
	}
	return s.number()
}

func (s *scanner) object(m *members) bool {
	if !s.open() {
		return false
	}
	if s.next() == '}' {
		return s.close()
	}
	for {
		if s.next() != '"' {
			return false
		}
		start := s.pos
		if !s.str() {
			return false
		}
		key := s.data[start:s.pos]
		if s.next() != ':' {
			return false
		}
		s.pos++
		s.next()
		start = s.pos
		if !s.value(nil) {
			return false
		}
		if m != nil {
			m.add(key, s.data[start:s.pos])
		}
		switch s.next() {
		case ',':
			s.pos++
		case '}':
			return s.close()
		default:
			return false
		}
	}
}

func (s *scanner) array() bool {
	if !s.open() {
		return false
	}
	if s.next() == ']' {
		return s.close()
	}
	for {
		if !s.value(nil) {
			return false
		}
		switch s.next() {
		case ',':
			s.pos++
		case ']':
			return s.close()
		default:
			return false
		}
	}
}

func (s *scanner) open() bool {
	s.pos++
	s.depth++
	return s.depth <= maxDepth
}

func (s *scanner) close() bool {
	s.pos++
	s.depth--
	return true
}

// str reads a string. Like encoding/json, it does not check that the string is
// UTF-8.
func (s *scanner) str() bool {
	s.pos++
	for {
		rest := s.data[s.pos:]
		n := 0
		for n < len(rest) && rest[n] >= ' ' && rest[n] != '"' && rest[n] != '\\' {
			n++
		}
		s.pos += n
		if n == len(rest) || rest[n] < ' ' {
			return false
		}
		s.pos++
		if rest[n] == '"' {
			return true
		}
		if !s.escape() {
			return false
		}
	}
}

// escape reads what follows the backslash of an escape sequence.
func (s *scanner) escape() bool {
	if s.pos == len(s.data) {
		return false
	}
	c := s.data[s.pos]
	s.pos++
	if c != 'u' {
		return strings.IndexByte(`"\/bfnrt`, c) >= 0
	}
	for range 4 {
		if s.pos == len(s.data) || !isHex(s.data[s.pos]) {
			return false
		}
		s.pos++
	}
	return true
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// number reads a number. What may follow it is for the caller to check.
func (s *scanner) number() bool {
	s.skip('-')
	if !s.skip('0') && !s.digits() {
		return false
	}
	if s.skip('.') && !s.digits() {
		return false
	}
	if s.skip('e') || s.skip('E') {
		if !s.skip('+') {
			s.skip('-')
		}
		return s.digits()
	}
	return true
}

// digits reads digits, and reports whether there was one.
func (s *scanner) digits() bool {
	start := s.pos
	for s.pos < len(s.data) && '0' <= s.data[s.pos] && s.data[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > start
}

// skip reads c if c is the next byte, and reports whether it was.
func (s *scanner) skip(c byte) bool {
	if s.pos < len(s.data) && s.data[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *scanner) literal(word string) bool {
	if !bytes.HasPrefix(s.data[s.pos:], []byte(word)) {
		return false
	}
	s.pos += len(word)
	return true
}

// next skips white space and returns the byte at pos, or 0 at the end.
func (s *scanner) next() byte {
	for ; s.pos < len(s.data); s.pos++ {
		switch c := s.data[s.pos]; c {
		case ' ', '\t', '\r', '\n':
		default:
			return c
		}
	}
	return 0
}
