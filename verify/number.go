package verify

import (
	"fmt"
	"math"
	"strconv"
)

// strconv needs about 20 µs to round a number such as 5e-324 or 2.22507385850720113605740979670913e-308, and 25 ns for
// 0.5. Without a limit, a body of 1 MiB could occupy a processor for seconds. Only a number whose exponent has three digits
// or more can be slow and short at the same time.
const (
	// maxLargeExponents is the number of numbers with such an exponent that a body may contain.
	maxLargeExponents = 100
	// maxLargeExponentLength is the length in bytes of a number with such an exponent. strconv misreads longer ones: it
	// loses the position of the decimal point if more than 800 digits precede it, and cuts off an exponent of more than
	// five digits, see https://go.dev/issue/42436. Up to this length, neither changes the result.
	maxLargeExponentLength = 800
)

// writeNumber reads a number and writes it as JavaScript prints the float64 nearest to it.
func (s *serializer) writeNumber() error {
	start := s.pos
	s.skipByte('-')
	if !s.skipByte('0') && s.skipDigits() == 0 {
		return s.syntaxError("missing digit")
	}
	integer := s.pos
	if s.skipByte('.') && s.skipDigits() == 0 {
		return s.syntaxError("missing digit after the decimal point")
	}
	exponentDigits := 0
	if s.skipByte('e') || s.skipByte('E') {
		if !s.skipByte('-') {
			s.skipByte('+')
		}
		if exponentDigits = s.skipDigits(); exponentDigits == 0 {
			return s.syntaxError("missing digit in the exponent")
		}
	}
	text := s.in[start:s.pos]
	// A float64 holds every integer of 15 digits exactly, and JavaScript prints it with the same digits. -0 is printed as 0.
	if integer == s.pos && len(text) <= 15 && text[0] != '-' {
		s.out = append(s.out, text...)
		return nil
	}
	if exponentDigits >= 3 {
		if s.largeExponents++; s.largeExponents > maxLargeExponents {
			return fmt.Errorf("%w: more than %d numbers have an exponent of three digits or more", ErrTooLarge, maxLargeExponents)
		}
		if len(text) > maxLargeExponentLength {
			return fmt.Errorf("%w: a number with an exponent of three digits or more has more than %d bytes",
				ErrTooLarge, maxLargeExponentLength)
		}
	}
	f, _ := strconv.ParseFloat(string(text), 64) // the only possible error is ErrRange, and then f is infinite
	s.out = appendNumber(s.out, f)
	return nil
}

// skipByte moves past the next byte if it is c, and reports whether it was.
func (s *serializer) skipByte(c byte) bool {
	if s.pos < len(s.in) && s.in[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

// skipDigits moves past all decimal digits that follow, and returns their number.
func (s *serializer) skipDigits() int {
	start := s.pos
	for s.pos < len(s.in) && '0' <= s.in[s.pos] && s.in[s.pos] <= '9' {
		s.pos++
	}
	return s.pos - start
}

// appendNumber appends f as JSON.stringify writes it: the shortest decimal number that is read as f again, without an
// exponent from 1e-6 up to but excluding 1e21. An infinite number is written as null.
func appendNumber(out []byte, f float64) []byte {
	abs := math.Abs(f)
	switch {
	case math.IsInf(f, 0):
		return append(out, "null"...)
	case f == 0: // -0 is equal to 0
		return append(out, '0')
	case 1e-6 <= abs && abs < 1e21:
		return strconv.AppendFloat(out, f, 'f', -1, 64)
	}
	out = strconv.AppendFloat(out, f, 'e', -1, 64)
	// Go writes an exponent with at least two digits, JavaScript does not: 1e-07 becomes 1e-7.
	if n := len(out); out[n-2] == '0' && (out[n-3] == '-' || out[n-3] == '+') {
		out = append(out[:n-2], out[n-1])
	}
	return out
}
