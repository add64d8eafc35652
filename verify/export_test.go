package verify

// Signature returns the signature of t and payload in hex, for a t that [Sign] does not write.
func Signature(secret, t string, payload []byte) string { return newKey(secret).sign(t, payload) }

// Double returns the float64 nearest to a number.
func Double(mantissa, exponent string) float64 {
	return new(serializer).double([]byte(mantissa), []byte(exponent))
}
