package interop

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"unicode/utf16"
)

// documents makes random JSON texts. It varies white space, escapes, the spelling of numbers, and the order and number of keys.
type documents struct {
	*rand.Rand
	buf bytes.Buffer
}

// next returns a text. Half of the texts are damaged, and most of those are invalid.
func (d *documents) next() []byte {
	d.buf.Reset()
	if d.IntN(20) == 0 {
		d.buf.WriteString("\ufeff")
	}
	d.space()
	deep := 0
	if d.IntN(200) == 0 {
		deep = d.IntN(1000)
	}
	d.buf.WriteString(strings.Repeat("[", deep))
	if d.IntN(4) == 0 {
		d.value(4)
	} else {
		d.object(4)
	}
	d.buf.WriteString(strings.Repeat("]", deep))
	d.space()
	text := bytes.Clone(d.buf.Bytes())
	if d.IntN(2) == 0 {
		text = d.damage(text)
	}
	return text
}

func (d *documents) space() {
	for d.IntN(4) == 0 {
		d.buf.WriteByte(" \t\n\r"[d.IntN(4)])
	}
}

func (d *documents) value(depth int) {
	n := 8
	if depth == 0 {
		n = 6
	}
	switch d.IntN(n) {
	case 0:
		d.buf.WriteString(pick(d, "true", "false", "null"))
	case 1, 2:
		d.buf.WriteString(d.number())
	case 3, 4, 5:
		d.text(d.word())
	case 6:
		d.object(depth - 1)
	case 7:
		d.buf.WriteByte('[')
		for i := range d.IntN(5) {
			if i > 0 {
				d.buf.WriteByte(',')
			}
			d.space()
			d.value(depth - 1)
			d.space()
		}
		d.buf.WriteByte(']')
	}
}

func (d *documents) object(depth int) {
	n := d.IntN(7)
	if d.IntN(50) == 0 {
		n = 30 + d.IntN(60)
	}
	d.buf.WriteByte('{')
	for i := range n {
		if i > 0 {
			d.buf.WriteByte(',')
		}
		d.space()
		d.text(d.key())
		d.space()
		d.buf.WriteByte(':')
		d.space()
		d.value(max(depth-1, 0))
		d.space()
	}
	d.buf.WriteByte('}')
}

func (d *documents) key() []uint16 {
	switch d.IntN(4) {
	case 0:
		return units(pick(d, "0", "1", "2", "10", "00", "01", "-1", "4294967293", "4294967294", "4294967295",
			"4294967296", "1.5", "9007199254740993", strconv.Itoa(d.IntN(40))))
	case 1:
		return units(pick(d, "id", "status", "__proto__", "constructor", "toString", "", "ID", "length"))
	}
	return d.word()
}

func (d *documents) number() string {
	switch d.IntN(4) {
	case 0:
		return pick(d, "0", "-0", "-0.0", "1.0", "1e21", "1E400", "-1e400", "5e-324", "2e-324", "9007199254740993",
			"1e-7", "0.000001", "123456789012345678901234567890",
			"1.7976931348623157e308", "1.7976931348623159e308", "4.35", "0.1e1", "100e-2", "999999999999999999999",
			"1e20", "12345678901234567e3", "2.2250738585072014e-308", "0e999")
	case 1:
		return strconv.Itoa(d.IntN(1<<31) - 1<<30)
	case 2:
		f := math.Float64frombits(d.Uint64() >> d.IntN(60)) // close to 0, too
		if math.IsNaN(f) || math.IsInf(f, 0) {
			f = 1
		}
		return strconv.FormatFloat(f, pick(d, byte('e'), byte('E'), byte('f')), d.IntN(45)-1, 64)
	}
	return fmt.Sprintf("%d.%de%s%d", d.IntN(1000), d.IntN(1000), pick(d, "", "+", "-", "+0"), d.IntN(40))
}

// word returns the UTF-16 text of a string, which can contain lone surrogates.
func (d *documents) word() []uint16 {
	var word []uint16
	for range d.IntN(6) {
		switch d.IntN(8) {
		case 0:
			word = append(word, uint16(d.IntN(0x20)))
		case 1:
			word = append(word, uint16(0xd800+d.IntN(0x800)))
		case 2:
			word = append(word, utf16.Encode([]rune{rune(0x1f600 + d.IntN(40))})...)
		case 3:
			word = append(word, pick(d, uint16(0x2028), 0x2029, 0x7f, '"', '\\', '/', 0xfeff, 0xfffd, 0xffff, 0x80, 0xe9))
		default:
			word = append(word, uint16('a'+d.IntN(26)))
		}
	}
	return word
}

func units(s string) []uint16 { return utf16.Encode([]rune(s)) }

// text writes a string, and spells each character in a random way.
func (d *documents) text(s []uint16) {
	d.buf.WriteByte('"')
	for ; len(s) > 0; s = s[1:] {
		if len(s) > 1 && d.IntN(2) == 0 {
			if r := utf16.DecodeRune(rune(s[0]), rune(s[1])); r != 0xfffd {
				d.buf.WriteRune(r)
				s = s[1:]
				continue
			}
		}
		d.unit(s[0])
	}
	d.buf.WriteByte('"')
}

func (d *documents) unit(u uint16) {
	short := map[uint16]string{'"': `\"`, '\\': `\\`, '/': `\/`, '\b': `\b`, '\f': `\f`, '\n': `\n`, '\r': `\r`, '\t': `\t`}
	s, hasShort := short[u]
	switch {
	case hasShort && d.IntN(2) == 0:
		d.buf.WriteString(s)
	case u < 0x20 || u == '"' || u == '\\' || utf16.IsSurrogate(rune(u)) || d.IntN(4) == 0:
		fmt.Fprintf(&d.buf, pick(d, `\u%04x`, `\u%04X`), u)
	default:
		d.buf.WriteRune(rune(u))
	}
}

// damage changes a text at random.
func (d *documents) damage(text []byte) []byte {
	for range 1 + d.IntN(2) {
		at := d.IntN(len(text) + 1)
		switch d.IntN(6) {
		case 0:
			text = text[:at]
		case 1:
			text = append(text[:at:at], append([]byte{byte(d.IntN(256))}, text[at:]...)...)
		case 2:
			text = append(text[:at:at],
				append([]byte(pick(d, ",", "]", "}", ":", "NaN", "Infinity", "'", "//", "+", "0", ".", "e", "\\", "\\u12",
					"\x00", "\v", "\u00a0", "\ufeff", "undefined")), text[at:]...)...)
		case 3:
			text = append(text[:at:at],
				append([]byte(pick(d, "\xff", "\xc3", "\xe2\x80", "\xf0\x9f\x98", "\xed\xa0\x80", "\xc0\x80", "\xf4\x90\x80\x80",
					"\xe0\x80", "\xf8\x88\x80\x80\x80")), text[at:]...)...)
		case 4:
			if at < len(text) {
				text = append(text[:at:at], text[at+1:]...)
			}
		case 5:
			if at < len(text) {
				text[at] ^= 1 << d.IntN(8)
			}
		}
		if len(text) == 0 {
			return []byte(" ")
		}
	}
	return text
}

func pick[T any](d *documents, of ...T) T { return of[d.IntN(len(of))] }
