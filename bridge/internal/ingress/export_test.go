package ingress

// Decode is for benchmarks and fuzzing.
var Decode = decode

// Valid reports whether the scanner accepts data as JSON.
func Valid(data []byte) bool {
	_, valid := scan(data)
	return valid
}

// AppendAnswer appends the body of a 200.
var AppendAnswer = appendAnswer
