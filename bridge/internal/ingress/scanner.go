package ingress

import (
	"bytes"
	"strings"
)

// scanner reads JSON text once. It accepts exactly the texts that [json.Valid] accepts, and finds the members of the
// outermost object on the way: reading the text twice would cost twice as much. pos is the offset of the next byte. Every
// method that returns a bool returns false if the text is not JSON.
type scanner struct {
	data  []byte
	pos   int
	depth int // open objects and arrays
}

// maxDepth is the depth of nested objects and arrays that encoding/json accepts.
const maxDepth = 10_000

// scan returns the members of the object in data, and whether data is JSON. Data that is JSON but not an object has no
// members.
func scan(data []byte) (m members, valid bool) {
	s := scanner{data: data}
	valid = s.value(&m) && s.next() == 0 && s.pos == len(data)
	return m, valid
}

// value reads one value of any type. If the value is an object and m is not nil, its members are added to m.
func (s *scanner) value(m *members) bool {
	switch s.next() {
	case '{':
		return s.container('}', m)
	case '[':
		return s.container(']', nil)
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

// container reads an object or an array, which ends with the byte end. If m is not nil, the members of an object are
// added to m.
func (s *scanner) container(end byte, m *members) bool {
	s.pos++
	s.depth++
	if s.depth > maxDepth {
		return false
	}
	if s.next() == end {
		s.pos++
		s.depth--
		return true
	}
	for {
		var key []byte
		if end == '}' {
			if key = s.key(); key == nil {
				return false
			}
		}
		s.next()
		start := s.pos
		if !s.value(nil) {
			return false
		}
		if m != nil {
			m.add(key, s.data[start:s.pos])
		}
		switch s.next() {
		case ',':
			s.pos++
		case end:
			s.pos++
			s.depth--
			return true
		default:
			return false
		}
	}
}

// key reads the key of a member and the colon. It returns the key as a JSON string, or nil if the text is not JSON.
func (s *scanner) key() []byte {
	if s.next() != '"' {
		return nil
	}
	start := s.pos
	if !s.str() {
		return nil
	}
	key := s.data[start:s.pos]
	if s.next() != ':' {
		return nil
	}
	s.pos++
	return key
}

// str reads a string. Like encoding/json, it does not check that the string is UTF-8.
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

// number reads a number. The caller checks what follows it.
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

// digits reads digits, and reports whether there was at least one.
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
