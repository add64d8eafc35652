package verify

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrSyntax is returned when [Stringify] is called with a text that is not JSON.
var ErrSyntax = errors.New("verify: not JSON")

// maxBody is the largest body that [Stringify] accepts, in bytes. It keeps every offset in the output within 32 bits,
// which halves the memory for an object with very many members.
const maxBody = 1 << 28

// maxGrowth is more than the factor by which re-serializing can lengthen a text. The worst case is "1e20,": its 5 bytes
// become 22.
const maxGrowth = 8

// Stringify re-serializes body: it returns the bytes that JSON.stringify(JSON.parse(body)) returns in JavaScript. Members
// of an object are in JavaScript's order, each number is written as the float64 nearest to it, and strings have as few
// escapes as possible. Before that, body is decoded as UTF-8 in the same way as in Node: a byte order mark at the
// beginning is removed, and invalid bytes become U+FFFD.
//
// Stringify returns [ErrSyntax] if body is not JSON. It returns [ErrTooLarge] if
//   - the result is longer than limit bytes; a limit of 0 or less means no limit,
//   - body is longer than 256 MiB,
//   - more than 100 numbers in body have an exponent of three digits or more, as 5e-324 has, or such a number is longer
//     than 800 bytes: rounding such numbers correctly is slow.
//
// Arrays and objects may be nested to any depth. JavaScript engines differ here: JSON.stringify fails in Node 20 at
// about 4,000 levels, in Node 25 beyond 300,000.
//
// The time is proportional to the size of body, except for sorting the keys of objects. Stringify allocates
// less than twice the size of an ordinary event, and up to 55 times the size of a hostile body.
//
// The rules are those of ECMA-262: sections 25.5 (JSON), 6.1.6.1.20 (Number::toString) and 10.1.11
// (OrdinaryOwnPropertyKeys).
func Stringify(body []byte, limit int) ([]byte, error) {
	if len(body) > maxBody {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrTooLarge, len(body), maxBody)
	}
	s := serializer{in: decodeUTF8(body), limit: limit}
	size := len(s.in)
	if limit > 0 && limit < size {
		size = limit
	}
	s.out = make([]byte, 0, size)
	if err := s.serialize(); err != nil {
		return nil, err
	}
	out := s.reorder()
	if limit > 0 && len(out) > limit {
		return nil, fmt.Errorf("%w: %d bytes after re-serializing, the limit is %d", ErrTooLarge, len(out), limit)
	}
	return out, nil
}

// serializer reads in and writes out in one pass, without recursion. It writes each object with its members in the order
// of the input. If JavaScript's order differs, or if a key is repeated, it records how the object must change, and
// reorder makes all these changes at the end.
type serializer struct {
	in    []byte
	pos   int // the offset in in of the next byte to read
	out   []byte
	limit int // of the result in bytes; 0 or less means no limit

	open    []byte          // the closing bracket of each array or object that has not ended, innermost last
	objects []openObject    // the objects among them
	members []member        // the members of these objects, innermost object last
	changes []changedObject // the objects to change, in the order of their ends
	kept    []keptMember    // the members of these objects, in their new order

	largeExponents int // the number of numbers so far that have an exponent of three digits or more
}

// openObject is an object that has not ended: the offset of its "{" in out, and the index of its first member in members.
type openObject struct{ start, firstMember int32 }

// member is a member of an object: the offsets of its key and of its value in out.
type member struct{ key, value int32 }

func (s *serializer) syntaxError(problem string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrSyntax, problem, s.pos)
}

// serialize reads the whole text. Each turn of the outer loop writes a string, number or literal, or opens an array or
// object. The inner loop then closes each array and object that ends there.
func (s *serializer) serialize() error {
	for {
		more, err := s.writeValue()
		if err != nil {
			return err
		}
		// The output may exceed the limit for now, because a repeated key may be removed later. It stays below the
		// size that the longest permitted text can grow to, which bounds the memory.
		if s.limit > 0 && len(s.out)/maxGrowth > s.limit {
			return fmt.Errorf("%w: more than %d bytes after re-serializing, the limit is %d", ErrTooLarge, len(s.out), s.limit)
		}
		for !more {
			if len(s.open) == 0 {
				if s.peek(); s.pos < len(s.in) {
					return s.syntaxError("unexpected text after the value")
				}
				return nil
			}
			if more, err = s.writeSeparator(); err != nil {
				return err
			}
		}
	}
}

// writeValue writes the next value. It returns true if another value must follow, because the value is an array or
// object that is not empty.
func (s *serializer) writeValue() (bool, error) {
	switch c := s.peek(); {
	case c == '{', c == '[':
		return s.openContainer(c)
	case c == '"':
		return false, s.writeString()
	case c == '-', '0' <= c && c <= '9':
		return false, s.writeNumber()
	case c == 't':
		return false, s.writeLiteral("true")
	case c == 'f':
		return false, s.writeLiteral("false")
	case c == 'n':
		return false, s.writeLiteral("null")
	}
	return false, s.syntaxError("missing value")
}

// openContainer writes the opening bracket of an array or object, and the key of an object's first member. If the array
// or object is empty, it also writes the closing bracket, and returns false.
func (s *serializer) openContainer(opening byte) (bool, error) {
	start := int32(len(s.out))
	closing := opening + 2 // in ASCII, "]" is two after "[", and "}" is two after "{"
	s.copyByte(opening)
	if s.peek() == closing {
		s.copyByte(closing)
		return false, nil
	}
	s.open = append(s.open, closing)
	if opening == '{' {
		s.objects = append(s.objects, openObject{start, int32(len(s.members))})
		return true, s.writeKey()
	}
	return true, nil
}

// writeSeparator writes what follows a value in an array or object: the closing bracket, or a comma and, in an object,
// the next key. It returns true after a comma.
func (s *serializer) writeSeparator() (bool, error) {
	closing := s.open[len(s.open)-1]
	switch s.peek() {
	case ',':
		s.copyByte(',')
		if closing == '}' {
			return true, s.writeKey()
		}
		return true, nil
	case closing:
		if closing == '}' {
			s.endObject()
		}
		s.copyByte(closing)
		s.open = s.open[:len(s.open)-1]
		return false, nil
	}
	return false, s.syntaxError("missing comma or closing bracket")
}

// writeKey writes the key of a member and its colon.
func (s *serializer) writeKey() error {
	if s.peek() != '"' {
		return s.syntaxError("missing key")
	}
	start := len(s.out)
	if err := s.writeString(); err != nil {
		return err
	}
	if s.peek() != ':' {
		return s.syntaxError("missing colon")
	}
	s.copyByte(':')
	s.members = append(s.members, member{int32(start), int32(len(s.out))})
	return nil
}

// peek skips white space and returns the next byte without reading it, or 0 at the end.
func (s *serializer) peek() byte {
	for ; s.pos < len(s.in); s.pos++ {
		switch c := s.in[s.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// copyByte writes c and moves past it in the input.
func (s *serializer) copyByte(c byte) {
	s.out = append(s.out, c)
	s.pos++
}

func (s *serializer) writeLiteral(literal string) error {
	if !bytes.HasPrefix(s.in[s.pos:], []byte(literal)) {
		return s.syntaxError("missing value")
	}
	s.out = append(s.out, literal...)
	s.pos += len(literal)
	return nil
}
