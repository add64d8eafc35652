package verify

import (
	"bytes"
	"errors"
	"fmt"
)

// ErrSyntax is returned when a text is not JSON.
var ErrSyntax = errors.New("verify: not JSON")

// maxText bounds the text, so that an offset into what is printed fits in 32
// bits: half the memory of an object with very many members.
const maxText = 1 << 28

// growth is more than what printing can make of a byte: "1e20," becomes 22.
const growth = 8

// Stringify returns JSON.stringify(JSON.parse(body)) as ECMAScript defines it,
// to the byte: members in the order of a JavaScript object, numbers as the
// doubles they are parsed to, strings with the fewest escapes. body is decoded
// as Node decodes UTF-8: without its byte order mark, with U+FFFD for what is
// invalid.
//
// A result of more than limit bytes is [ErrTooLarge], and so is a body of more
// than 256 MiB; a limit of 0 or less is none.
//
// There is no bound on nesting, since engines differ in how deep they can print:
// Node 20 some 4,000 levels, Node 25 more than 300,000. Time is linear in the
// size of body, but for the sorting of keys; what is allocated altogether is
// twice that size for an ordinary event, and at most some 55 times for 1 MiB
// that is made for it.
//
// Source: ECMA-262, 25.5 (JSON), 6.1.6.1.20 (Number::toString) and 10.1.11
// (OrdinaryOwnPropertyKeys).
func Stringify(body []byte, limit int) ([]byte, error) {
	if len(body) > maxText {
		return nil, fmt.Errorf("%w: %d bytes, %d allowed", ErrTooLarge, len(body), maxText)
	}
	p := printer{in: decodeUTF8(body), limit: limit}
	size := len(p.in)
	if limit > 0 && limit < size {
		size = limit
	}
	p.out = make([]byte, 0, size)
	if err := p.print(); err != nil {
		return nil, err
	}
	out := p.reordered()
	if limit > 0 && len(out) > limit {
		return nil, fmt.Errorf("%w: %d bytes when printed again, %d allowed", ErrTooLarge, len(out), limit)
	}
	return out, nil
}

// printer reads in and writes out in one pass, without recursion. Objects are
// written in the order of the text; those whose order or members differ in
// JavaScript are noted, and put right at the end.
type printer struct {
	in    []byte
	pos   int
	out   []byte
	limit int

	open    []byte   // the closing bracket of each array or object that is open
	objects []object // those of them that are objects
	members []member // of the objects that are open, innermost last
	moves   []move   // objects to put right, in the order of their ends
	pieces  []piece  // of the moves
	decimal []byte   // the digits of the number that is read
}

// object is an open object: where it starts in out, and its first member.
type object struct{ start, first int32 }

// member is where a "key":value is in out.
type member struct{ key, value int32 }

func (p *printer) syntax(what string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrSyntax, what, p.pos)
}

// print writes the whole text. Each turn of the loop writes one scalar, or
// opens an array or object; then it closes what ends there.
func (p *printer) print() error {
	for {
		more, err := p.value()
		if err != nil {
			return err
		}
		// A duplicate may still be taken out again, so that what is printed so
		// far may exceed the limit. What a text within the limit can grow to it
		// may not, and that bounds the memory.
		if p.limit > 0 && len(p.out)/growth > p.limit {
			return fmt.Errorf("%w: more than %d bytes when printed again, %d allowed", ErrTooLarge, len(p.out), p.limit)
		}
		for !more {
			if len(p.open) == 0 {
				if p.next(); p.pos < len(p.in) {
					return p.syntax("text after the value")
				}
				return nil
			}
			if more, err = p.after(); err != nil {
				return err
			}
		}
	}
}

// value writes the value at pos; true means that another one must follow: an
// array or object was opened that is not empty.
func (p *printer) value() (bool, error) {
	switch c := p.next(); {
	case c == '{', c == '[':
		return p.begin(c)
	case c == '"':
		return false, p.str()
	case c == '-', '0' <= c && c <= '9':
		return false, p.number()
	case c == 't':
		return false, p.literal("true")
	case c == 'f':
		return false, p.literal("false")
	case c == 'n':
		return false, p.literal("null")
	}
	return false, p.syntax("no value")
}

func (p *printer) begin(c byte) (bool, error) {
	start := int32(len(p.out))
	closing := c + 2 // '[' and ']', '{' and '}' are two apart
	p.take(c)
	if p.next() == closing {
		p.take(closing)
		return false, nil
	}
	p.open = append(p.open, closing)
	if c == '{' {
		p.objects = append(p.objects, object{start, int32(len(p.members))})
		return true, p.key()
	}
	return true, nil
}

// after writes what follows a value inside an array or object: a comma, with a
// key in an object, or the end of it. It returns true after a comma.
func (p *printer) after() (bool, error) {
	closing := p.open[len(p.open)-1]
	switch p.next() {
	case ',':
		p.take(',')
		if closing == '}' {
			return true, p.key()
		}
		return true, nil
	case closing:
		if closing == '}' {
			p.endObject()
		}
		p.take(closing)
		p.open = p.open[:len(p.open)-1]
		return false, nil
	}
	return false, p.syntax("no comma or end")
}

// key writes a member's key and colon.
func (p *printer) key() error {
	if p.next() != '"' {
		return p.syntax("no key")
	}
	start := len(p.out)
	if err := p.str(); err != nil {
		return err
	}
	if p.next() != ':' {
		return p.syntax("no colon")
	}
	p.take(':')
	p.members = append(p.members, member{int32(start), int32(len(p.out))})
	return nil
}

// next skips white space and returns the byte at pos, 0 at the end.
func (p *printer) next() byte {
	for ; p.pos < len(p.in); p.pos++ {
		switch c := p.in[p.pos]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

func (p *printer) take(c byte) {
	p.out = append(p.out, c)
	p.pos++
}

func (p *printer) literal(word string) error {
	if !bytes.HasPrefix(p.in[p.pos:], []byte(word)) {
		return p.syntax("no value")
	}
	p.out = append(p.out, word...)
	p.pos += len(word)
	return nil
}
