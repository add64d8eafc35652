package ingress

// Decode is for benchmarks and fuzzing.
var Decode = decode

// Valid reports whether the scanner accepts data as JSON.
func Valid(data []byte) bool {
	_, valid := scan(data)
	return valid
}

// Answer is the body of a 200, and AppendAnswer writes it.
type Answer = answer

// AppendAnswer appends a as it is sent.
func AppendAnswer(dst []byte, a Answer) []byte { return a.appendJSON(dst) }
