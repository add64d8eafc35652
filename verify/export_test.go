package verify

// Signature returns the signature of t and payload in hex, for a t that [Sign] does not write.
func Signature(secret, t string, payload []byte) string { return newKey(secret).sign(t, payload) }
