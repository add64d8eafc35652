package bridge

// Decode is what a benchmark cannot reach otherwise.
var Decode = decode
