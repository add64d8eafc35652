package verify

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// ErrSyntax is returned when a text is not JSON, or nested deeper than any
// JSON.stringify could print.
var ErrSyntax = errors.New("verify: not JSON")

// maxDepth bounds the nesting. Node 20 prints arrays up to a depth of 4,175
// before its stack overflows, so that nothing deeper can have been signed in
// printed form.
const maxDepth = 20_000

// Stringify returns JSON.stringify(JSON.parse(body)) as ECMAScript defines it,
// to the byte: members in the order of a JavaScript object, numbers as the
// doubles they are parsed to, strings with the fewest escapes. body is decoded
// as Node decodes UTF-8: without its byte order mark, with U+FFFD for what is
// invalid. A result of more than limit bytes is [ErrTooLarge]; a limit of 0 or
// less is none. Time is linear in the size of body, but for the sorting of
// keys; memory is a small multiple of it.
//
// Source: ECMA-262, 25.5 (JSON) and 6.1.6.1.20 (Number::toString).
func Stringify(body []byte, limit int) ([]byte, error) {
	p := printer{in: decodeUTF8(body)}
	p.out = make([]byte, 0, len(p.in))
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
	in      []byte
	pos     int
	out     []byte
	frames  []frame  // the arrays and objects that are open
	members []member // of the objects that are open, innermost last
	moves   []move   // objects to put right, in the order of their ends
}

// frame is an open array or object.
type frame struct {
	object bool
	start  int // of its bracket in out
	first  int // of its members
}

// member is a "key":value in out.
type member struct{ key, keyEnd, end int }

// move is an object in out, from bracket to bracket, and its members as they
// should be.
type move struct {
	start, end int
	members    []piece
}

// piece is a key and a value in out; of a duplicate, the first key (both are
// the same) and the last value.
type piece struct{ key, keyEnd, value, end int }

func (p *printer) syntax(what string) error {
	return fmt.Errorf("%w: %s at byte %d", ErrSyntax, what, p.pos)
}

// print writes the whole text. Each turn of the loop writes one scalar, or
// opens an array or object; then it closes what ends there.
func (p *printer) print() error {
	for {
		opened, err := p.value()
		if err != nil {
			return err
		}
		for !opened {
			if len(p.frames) == 0 {
				if p.next() != 0 || p.pos < len(p.in) {
					return p.syntax("text after the value")
				}
				return nil
			}
			if opened, err = p.after(); err != nil {
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
		return p.open(c)
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

func (p *printer) open(c byte) (bool, error) {
	if len(p.frames) == maxDepth {
		return false, p.syntax("nested too deep")
	}
	f := frame{object: c == '{', start: len(p.out), first: len(p.members)}
	p.take(c)
	switch {
	case p.next() == c+2: // '[' and ']', '{' and '}' are two apart
		p.take(c + 2)
		return false, nil
	case f.object:
		p.frames = append(p.frames, f)
		return true, p.key()
	}
	p.frames = append(p.frames, f)
	return true, nil
}

// after writes what follows a value inside an array or object: a comma, with a
// key in an object, or the end of it. It returns true after a comma.
func (p *printer) after() (bool, error) {
	f := p.frames[len(p.frames)-1]
	if f.object {
		p.members[len(p.members)-1].end = len(p.out)
	}
	switch c := p.next(); {
	case c == ',':
		p.take(c)
		if f.object {
			return true, p.key()
		}
		return true, nil
	case c == ']' && !f.object:
		p.take(c)
	case c == '}' && f.object:
		p.take(c)
		p.closeObject(f)
	default:
		return false, p.syntax("no comma or end")
	}
	p.frames = p.frames[:len(p.frames)-1]
	return false, nil
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
	p.members = append(p.members, member{key: start, keyEnd: len(p.out)})
	if p.next() != ':' {
		return p.syntax("no colon")
	}
	p.take(':')
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

// number writes a number as Number::toString prints its double.
func (p *printer) number() error {
	start := p.pos
	p.skip('-')
	if !p.skip('0') && !p.digits() {
		return p.syntax("no digit")
	}
	whole := p.pos
	if p.skip('.') && !p.digits() {
		return p.syntax("no digit after the point")
	}
	if p.skip('e') || p.skip('E') {
		if !p.skip('-') {
			p.skip('+')
		}
		if !p.digits() {
			return p.syntax("no digit in the exponent")
		}
	}
	text := p.in[start:p.pos]
	// An integer of 15 digits is its own double. Not so -0.
	if whole == p.pos && len(text) <= 15 && text[0] != '-' {
		p.out = append(p.out, text...)
		return nil
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return p.syntax("no number")
	}
	p.out = appendNumber(p.out, f)
	return nil
}

func (p *printer) skip(c byte) bool {
	if p.pos < len(p.in) && p.in[p.pos] == c {
		p.pos++
		return true
	}
	return false
}

func (p *printer) digits() bool {
	start := p.pos
	for p.pos < len(p.in) && '0' <= p.in[p.pos] && p.in[p.pos] <= '9' {
		p.pos++
	}
	return p.pos > start
}

// appendNumber prints a double as JSON.stringify does: the shortest decimal
// that reads back as it, without an exponent from 1e-6 up to 1e21.
func appendNumber(out []byte, f float64) []byte {
	abs := math.Abs(f)
	switch {
	case math.IsInf(f, 0):
		return append(out, "null"...)
	case f == 0: // -0 too
		return append(out, '0')
	case 1e-6 <= abs && abs < 1e21:
		return strconv.AppendFloat(out, f, 'f', -1, 64)
	}
	out = strconv.AppendFloat(out, f, 'e', -1, 64)
	// Go prints at least two digits of exponent: 1e-07 is 1e-7 in JavaScript.
	if n := len(out); out[n-2] == '0' && (out[n-3] == '-' || out[n-3] == '+') {
		out = append(out[:n-2], out[n-1])
	}
	return out
}

// str writes the string at pos with the escapes of JSON.stringify. That form
// is one for each string, so that keys can be compared by it.
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

// closeObject notes the object that just ended if JavaScript would order its
// members otherwise: integer keys come first, in numeric order, and a
// duplicate puts its value in the first one's place.
func (p *printer) closeObject(f frame) {
	members := p.members[f.first:]
	p.members = p.members[:f.first]
	if len(members) < 2 || !p.needsMove(members) {
		return
	}
	at := make(map[string]int, len(members))
	var indexed, named []piece
	for _, m := range members {
		key := p.out[m.key:m.keyEnd]
		if i, ok := at[string(key)]; ok {
			list := named
			if _, isIndex := arrayIndex(key); isIndex {
				list = indexed
			}
			list[i].value, list[i].end = m.keyEnd+1, m.end
			continue
		}
		list := &named
		if _, isIndex := arrayIndex(key); isIndex {
			list = &indexed
		}
		at[string(key)] = len(*list)
		*list = append(*list, piece{m.key, m.keyEnd, m.keyEnd + 1, m.end})
	}
	slices.SortFunc(indexed, func(a, b piece) int {
		x, _ := arrayIndex(p.out[a.key:a.keyEnd])
		y, _ := arrayIndex(p.out[b.key:b.keyEnd])
		return cmp.Compare(x, y)
	})
	p.moves = append(p.moves, move{f.start, len(p.out), append(indexed, named...)})
}

// fewMembers is up to how many members an object is searched for duplicates
// pair by pair.
const fewMembers = 32

// needsMove reports whether any key is an array index, or stands twice.
func (p *printer) needsMove(members []member) bool {
	for _, m := range members {
		if _, ok := arrayIndex(p.out[m.key:m.keyEnd]); ok {
			return true
		}
	}
	if len(members) > fewMembers {
		seen := make(map[string]struct{}, len(members))
		for _, m := range members {
			seen[string(p.out[m.key:m.keyEnd])] = struct{}{}
		}
		return len(seen) < len(members)
	}
	for i, m := range members {
		for _, n := range members[:i] {
			if bytes.Equal(p.out[m.key:m.keyEnd], p.out[n.key:n.keyEnd]) {
				return true
			}
		}
	}
	return false
}

// arrayIndex returns the number that a quoted key is to JavaScript: canonical,
// and at most 2^32-2.
func arrayIndex(quoted []byte) (uint64, bool) {
	digits := quoted[1 : len(quoted)-1]
	if len(digits) == 0 || len(digits) > 10 || digits[0] == '0' && len(digits) > 1 {
		return 0, false
	}
	var n uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, n < math.MaxUint32
}

// reordered returns out with the noted objects put right. Each byte is copied
// once, however deep the objects are in one another.
func (p *printer) reordered() []byte {
	if len(p.moves) == 0 {
		return p.out
	}
	slices.SortFunc(p.moves, func(a, b move) int { return cmp.Compare(a.start, b.start) })
	out := make([]byte, 0, len(p.out))
	// What is left to copy, the next on top: a stretch of p.out, or a comma.
	type stretch struct{ start, end int }
	comma := stretch{-1, -1}
	todo := []stretch{{0, len(p.out)}}
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if s == comma {
			out = append(out, ',')
			continue
		}
		i, _ := slices.BinarySearchFunc(p.moves, s.start, func(m move, at int) int { return cmp.Compare(m.start, at) })
		if i == len(p.moves) || p.moves[i].start >= s.end {
			out = append(out, p.out[s.start:s.end]...)
			continue
		}
		m := p.moves[i]
		out = append(out, p.out[s.start:m.start+1]...) // up to the bracket
		todo = append(todo, stretch{m.end - 1, s.end}) // from the bracket on
		for j, piece := range slices.Backward(m.members) {
			todo = append(todo, stretch{piece.value, piece.end}, stretch{piece.key, piece.keyEnd + 1})
			if j > 0 {
				todo = append(todo, comma)
			}
		}
	}
	return out
}
