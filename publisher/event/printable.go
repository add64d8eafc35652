package event

import (
	"strings"
	"unicode"
)

// Printable makes text that somebody else chose safe in a header, in a log line and
// on a terminal. White space of any kind becomes a space. Other characters that
// cannot be seen, such as control characters and those that change the direction of
// text, become U+FFFD, and so does invalid UTF-8. A text of more than limit characters
// is cut and ends in "…". A limit of 0 means no limit.
func Printable(text string, limit int) string {
	if plain(text) && (limit == 0 || len(text) <= limit) {
		return text
	}
	var b strings.Builder
	n := 0
	for _, r := range text {
		if n++; limit > 0 && n > limit {
			b.WriteRune('…')
			break
		}
		switch {
		case unicode.IsSpace(r):
			r = ' '
		case !unicode.IsPrint(r):
			r = unicode.ReplacementChar
		}
		b.WriteRune(r)
	}
	return b.String()
}

// plain reports whether text consists of visible ASCII characters and spaces.
func plain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] > '~' {
			return false
		}
	}
	return true
}
