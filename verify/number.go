package verify

import (
	"math"
	"math/big"
	"strconv"
	"sync"
)

// number writes the number at pos as Number::toString prints its double.
func (s *serializer) writeNumber() error {
	start := s.pos
	s.skipByte('-')
	if !s.skipByte('0') && !s.skipDigits() {
		return s.syntaxError("no digit")
	}
	whole := s.pos
	if s.skipByte('.') && !s.skipDigits() {
		return s.syntaxError("no digit after the point")
	}
	mantissa := s.pos
	if s.skipByte('e') || s.skipByte('E') {
		if !s.skipByte('-') {
			s.skipByte('+')
		}
		if !s.skipDigits() {
			return s.syntaxError("no digit in the exponent")
		}
	}
	text := s.in[start:s.pos]
	// An integer of 15 digits is its own double. Not so -0.
	if whole == s.pos && len(text) <= 15 && text[0] != '-' {
		s.out = append(s.out, text...)
		return nil
	}
	f := s.double(text[:mantissa-start], text[mantissa-start:])
	if text[0] == '-' {
		f = -f
	}
	s.out = appendNumber(s.out, f)
	return nil
}

func (s *serializer) skipByte(c byte) bool {
	if s.pos < len(s.in) && s.in[s.pos] == c {
		s.pos++
		return true
	}
	return false
}

func (s *serializer) skipDigits() bool {
	start := s.pos
	for s.pos < len(s.in) && '0' <= s.in[s.pos] && s.in[s.pos] <= '9' {
		s.pos++
	}
	return s.pos > start
}

// maxDigits is more than the 767 significant digits that can decide how a
// number is rounded. Of the others counts only whether they are all 0.
const maxDigits = 800

// double returns the double nearest to a number, without its sign.
//
// strconv.ParseFloat does it, but for two cases: a number close to 0, or of many
// digits, can take it 10 µs, so that 1 MiB of "5e-324," would cost a
// stranger nothing and us more than a second; and it does not read an exponent
// of more than five digits to its end, which "0.000…1e100001" needs.
func (s *serializer) double(mantissa, exponent []byte) float64 {
	d, exp := s.decimal[:0], exponentOf(exponent)
	fraction, rest := false, false
	for _, c := range mantissa {
		switch {
		case c == '-':
			continue
		case c == '.':
			fraction = true
			continue
		case len(d) == maxDigits:
			rest = rest || c != '0'
			exp++
		case len(d) > 0 || c != '0':
			d = append(d, c)
		}
		if fraction {
			exp--
		}
	}
	if rest { // a little more than the digits kept
		d = append(d, '1')
		exp--
	}
	s.decimal = d
	// The value is at least 10^(magnitude-1), and less than 10^magnitude.
	switch magnitude := int64(len(d)) + exp; {
	case len(d) == 0 || magnitude < -324:
		return 0
	case magnitude > 310:
		return math.Inf(1)
	case len(d) > 19 || magnitude < -290:
		return exactDouble(d, int(exp))
	}
	d = strconv.AppendInt(append(d, 'e'), exp, 10)
	f, _ := strconv.ParseFloat(string(d), 64) // an error is ErrRange, and f infinite
	return f
}

// exponentOf returns the number after an "e". One too large for any text to
// make up for is cut off.
func exponentOf(text []byte) (n int64) {
	const enough = 1 << 40
	negative := false
	for _, c := range text {
		switch {
		case c == '-':
			negative = true
		case '0' <= c && c <= '9' && n < enough:
			n = n*10 + int64(c-'0')
		}
	}
	if negative {
		return -n
	}
	return n
}

// powersOfFive are as many as [exactDouble] may ask for.
var powersOfFive = sync.OnceValue(func() []*big.Int {
	powers := []*big.Int{big.NewInt(1)}
	for range 324 + maxDigits + 2 {
		powers = append(powers, new(big.Int).Mul(powers[len(powers)-1], big.NewInt(5)))
	}
	return powers
})

// exactDouble returns digits * 10^exp, rounded to the nearest double, half to
// even. It divides once in integers: some 1 µs.
func exactDouble(digits []byte, exp int) float64 {
	// The value is num/den * 2^exp.
	num, _ := new(big.Int).SetString(string(digits), 10)
	den := powersOfFive()[max(-exp, 0)]
	num.Mul(num, powersOfFive()[max(exp, 0)])
	// The unit in the last place is 2^ulp: the quotient must have 53 bits, or
	// fewer if the double is subnormal. Their lengths tell it but for one.
	ulp := max(num.BitLen()-den.BitLen()+exp-53, -1074)
	for ; ; ulp++ {
		n, d := num, den
		if shift := exp - ulp; shift > 0 {
			n = new(big.Int).Lsh(num, uint(shift))
		} else {
			d = new(big.Int).Lsh(den, uint(-shift))
		}
		q, r := new(big.Int).QuoRem(n, d, new(big.Int))
		if q.BitLen() > 53 {
			continue
		}
		whole := q.Uint64()
		if half := r.Lsh(r, 1).Cmp(d); half > 0 || half == 0 && whole%2 == 1 {
			whole++
		}
		return math.Ldexp(float64(whole), ulp)
	}
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
