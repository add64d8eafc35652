package verify

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// signatureHeader is a parsed signature header.
type signatureHeader struct {
	t          string // the signing time as written in the header, because that text is part of the signed bytes
	signedAt   time.Time
	signatures [maxSignatures]digest
	count      int // the number of signatures
}

// maxSignatures is the number of v1 parts that are read. Further v1 parts are ignored. A sender that rotates its secret
// sends two.
const maxSignatures = 16

// parse reads a header such as
//
//	t=1700000000,v1=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd
//
// into h, which must be empty. Parts with other names and signatures that are not 64 lower-case hex digits are ignored.
// A second t is an error, because it would be unclear which of the two was signed.
func (h *signatureHeader) parse(header string) (err error) {
	if header == "" {
		return ErrUnsigned
	}
	for more := true; more; {
		var part string
		part, header, more = strings.Cut(header, ",")
		name, value, _ := strings.Cut(strings.Trim(part, " \t"), "=")
		switch name {
		case "t":
			if h.t != "" {
				return fmt.Errorf("%w: more than one t", ErrMalformed)
			}
			if h.signedAt, err = parseSigningTime(value); err != nil {
				return err
			}
			h.t = value
		case "v1":
			if h.count < maxSignatures && h.signatures[h.count].parse(value) {
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

// parseSigningTime reads the value of t. The provider does not document its unit. A value of up to 11 digits is read as
// seconds, which lasts until the year 5138. A value of 12 to 16 digits is read as milliseconds.
func parseSigningTime(value string) (time.Time, error) {
	if len(value) == 0 || len(value) > 16 {
		return time.Time{}, fmt.Errorf("%w: t has %d characters, not 1 to 16 digits", ErrMalformed, len(value))
	}
	n, err := strconv.ParseUint(value, 10, 63) // unlike ParseInt, it accepts no sign
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: t is not a number", ErrMalformed)
	}
	if len(value) > 11 {
		return time.UnixMilli(int64(n)), nil
	}
	return time.Unix(int64(n), 0), nil
}
