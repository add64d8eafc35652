package verify_test

import (
	"math"
	"math/big"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/verify"
)

// TestDouble compares our own rounding with that of strconv, near the doubles'
// ends and halfway between two of them.
func TestDouble(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	check := func(mantissa, exponent string) {
		t.Helper()
		want, _ := strconv.ParseFloat(mantissa+exponent, 64)
		if got := verify.Double(mantissa, exponent); got != want {
			t.Errorf("%s%s: %g, want %g", mantissa, exponent, got, want)
		}
	}
	for range 3_000 {
		exact := math.Float64frombits(r.Uint64() >> 1)
		if r.IntN(3) == 0 {
			exact = math.Float64frombits(r.Uint64() >> (11 + r.IntN(50))) // close to 0
		}
		if math.IsNaN(exact) || math.IsInf(exact, 0) {
			continue
		}
		next := math.Nextafter(exact, math.Inf(1))
		for _, digits := range []int{0, 1, 5, 16, 18, 19, 20, 25, 40, 300, 780} {
			mantissa, exponent, _ := strings.Cut(strconv.FormatFloat(exact, 'e', digits, 64), "e")
			check(mantissa, "e"+exponent)
			check(mantissa+"0000000000000000000001", "E"+exponent)
		}
		if !math.IsInf(next, 0) {
			mantissa, exponent, _ := strings.Cut(halfway(exact), "e")
			check(mantissa, "e"+exponent)
			check(mantissa+"1", "e"+exponent)
			check(mantissa+strings.Repeat("0", 900)+"1", "e"+exponent)
		}
	}
	for _, x := range []string{"0", "0.0", "1", "1.7976931348623158e308", "1.7976931348623159e308", "2.4703282292062327e-324", "2.4703282292062328e-324", "1e309", "1e-400", "1e310", "123e-330"} {
		mantissa, exponent, ok := strings.Cut(x, "e")
		if ok {
			exponent = "e" + exponent
		}
		check(mantissa, exponent)
	}
}

// halfway returns the number between f and the next double, in full.
func halfway(f float64) string {
	// Twice the significand and one more, one power of two below.
	bits := math.Float64bits(f)
	significand, exp := bits&(1<<52-1), int(bits>>52)
	if exp == 0 {
		exp++
	} else {
		significand |= 1 << 52
	}
	return bigText(2*significand+1, exp-1076)
}

// TestDoubleReadsLongExponents: strconv stops after five digits.
func TestDoubleReadsLongExponents(t *testing.T) {
	zeros := strings.Repeat("0", 200_000)
	for _, x := range []struct {
		mantissa, exponent string
		want               float64
	}{
		{"0." + zeros + "1", "e200001", 1},
		{"1" + zeros, "e-200000", 1},
		{"1" + zeros, "e-200324", 0},
		{"1", "e99999999999999999999999", math.Inf(1)},
		{"1", "e-99999999999999999999999", 0},
		{"0", "e99999999999999999999999", 0},
		{"1", "e+0000000000000000000000000002", 100},
	} {
		if got := verify.Double(x.mantissa, x.exponent); got != x.want {
			t.Errorf("%.10s… %s: %g, want %g", x.mantissa, x.exponent, got, x.want)
		}
	}
}

// bigText returns n * 2^exp as a decimal.
func bigText(n uint64, exp int) string {
	f := new(big.Float).SetPrec(64).SetMantExp(new(big.Float).SetPrec(64).SetUint64(n), exp)
	return f.Text('e', 780)
}
