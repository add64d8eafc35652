package verify

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// signatureHeader is a parsed header.
type signatureHeader struct {
	t     string // as written: it is part of what is signed
	at    time.Time
	sigs  [maxSignatures]digest
	count int
}

// maxSignatures is how many v1 parts are looked at. A sender that rotates its
// secret sends two.
const maxSignatures = 16

// parse reads a header such as
//
//	t=1700000000,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd
//
// into h, which must be empty. It skips parts with other names, and signatures
// that are not lower-case hex. A second t is an error, because it would be unclear
// what was signed.
func (h *signatureHeader) parse(s string) (err error) {
	if s == "" {
		return ErrUnsigned
	}
	for more := true; more; {
		var part string
		part, s, more = strings.Cut(s, ",")
		name, value, _ := strings.Cut(strings.Trim(part, " \t"), "=")
		switch name {
		case "t":
			if h.t != "" {
				return fmt.Errorf("%w: more than one t", ErrMalformed)
			}
			if h.at, err = parseTime(value); err != nil {
				return err
			}
			h.t = value
		case "v1":
			if h.count < maxSignatures && h.sigs[h.count].parse(value) {
				h.count++
			}
		}
	}
	switch {
	case h.t == "":
		return fmt.Errorf("%w: no t", ErrMalformed)
	case h.count == 0:
		return fmt.Errorf("%w: no v1 of 64 lower-case hex digits", ErrMalformed)
	}
	return nil
}

// parseTime reads a time of signing. The provider does not document its unit:
// up to 11 digits are seconds, until the year 5138; 12 to 16 are milliseconds.
func parseTime(s string) (time.Time, error) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return time.Time{}, fmt.Errorf("%w: t is not a number", ErrMalformed)
		}
	}
	if len(s) == 0 || len(s) > 16 {
		return time.Time{}, fmt.Errorf("%w: t has %d digits", ErrMalformed, len(s))
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: t is not a number", ErrMalformed)
	}
	if len(s) > 11 {
		return time.UnixMilli(n), nil
	}
	return time.Unix(n, 0), nil
}
