package verify_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/jobbridge/jobbridge/verify"
)

// TestNumberLimits checks the limits on numbers that strconv rounds slowly.
func TestNumberLimits(t *testing.T) {
	list := func(number string, count int) string { return "[" + strings.Repeat(number+",", count-1) + number + "]" }
	long := func(exponent string, length int) string {
		return "1." + strings.Repeat("0", length-len(exponent)-2) + exponent
	}
	for _, test := range []struct {
		name string
		body string
		want error
	}{
		{"100 large exponents", list("5e-324", 100), nil},
		{"101 large exponents", list("5e-324", 101), verify.ErrTooLarge},
		{"101 large exponents, positive", list("1E+100", 101), verify.ErrTooLarge},
		{"101 exponents with a leading zero", list("1e001", 101), verify.ErrTooLarge},
		{"1,000 exponents of two digits", list("1e-99", 1000), nil},
		{"1,000 numbers of 40 digits", list(strings.Repeat("1", 40), 1000), nil},
		{"large exponent, 800 bytes", long("e100", 800), nil},
		{"large exponent, 801 bytes", long("e100", 801), verify.ErrTooLarge},
		{"exponent of two digits, 100,000 bytes", long("e10", 100_000), nil},
		{"no exponent, 100,000 bytes", long("", 100_000), nil},
	} {
		if _, err := verify.Stringify([]byte(test.body), 0); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// TestLongNumbers checks numbers whose exponent makes up for their many digits, close to the limits of strconv.
func TestLongNumbers(t *testing.T) {
	zeros := strings.Repeat("0", 700)
	for number, want := range map[string]string{
		"0." + zeros + "1e701":                    "1",
		"1" + zeros + "e-700":                     "1",
		"1" + zeros + "e-1025":                    "0",
		"0." + zeros + "1e100001":                 "null",
		"1" + zeros + "e-100000":                  "0",
		"1e99999999999999999999999":               "null",
		"1e-99999999999999999999999":              "0",
		"0e99999999999999999999999":               "0",
		"1e+0000000000000000000000000002":         "100",
		"9007199254740993" + zeros + "e-700":      "9007199254740992",
		"9007199254740993" + zeros + "1e-701":     "9007199254740994",
		"9007199254740993." + zeros + zeros:       "9007199254740992",
		"9007199254740993." + zeros + zeros + "1": "9007199254740994",
		"1" + zeros + zeros + "e-99":              "null",
		"1" + zeros + zeros + ".5e99":             "null",
		"0." + zeros + zeros + "1e99":             "0",
		"0." + strings.Repeat("0", 98) + "1e99":   "1",
	} {
		if got, err := verify.Stringify([]byte(number), 0); err != nil || string(got) != want {
			t.Errorf("%.20s… of %d bytes: %s, %v; want %s", number, len(number), got, err, want)
		}
	}
}
