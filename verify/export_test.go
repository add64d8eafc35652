package verify

import "encoding/hex"

// Double is what a number is read as, for a test against strconv.
func Double(mantissa, exponent string) float64 {
	return new(printer).double([]byte(mantissa), []byte(exponent))
}

// MAC is the signature of a t that Sign would not write.
func MAC(secret, t string, payload []byte) string {
	s := newKey(secret).mac(t, payload)
	return hex.EncodeToString(s.sum[:])
}
