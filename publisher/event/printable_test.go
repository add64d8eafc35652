package event_test

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// TestPrintable: nothing that a terminal obeys is left.
func TestPrintable(t *testing.T) {
	t.Parallel()
	for _, r := range []struct {
		text  string
		limit int
		want  string
	}{
		{"", 0, ""},
		{"job-42 ~", 0, "job-42 ~"},
		{"job-42", 6, "job-42"},
		{"job-42", 5, "job-4…"},
		{"Zoë 日本語", 7, "Zoë 日本語"},
		{"Zoë 日本語", 6, "Zoë 日本…"},
		{"a\r\nX: y\tz", 0, "a  X: y z"},
		{"a\u00a0b\u2028c\u0085d", 0, "a b c d"},
		{"\x1b[31mred\x07\x00\x7f", 0, "\ufffd[31mred\ufffd\ufffd\ufffd"},
		{"\u009b31m", 0, "\ufffd31m"},
		{"left\u202eright\u2066\u200b\ufeff", 0, "left\ufffdright\ufffd\ufffd\ufffd"},
		{"\xff\xc3", 0, "\ufffd\ufffd"},
	} {
		if got := event.Printable(r.text, r.limit); got != r.want {
			t.Errorf("%q, %d: %q, want %q", r.text, r.limit, got, r.want)
		}
	}
}

// TestPrintableCopiesNothing: most text is plain.
func TestPrintableCopiesNothing(t *testing.T) {
	text := strings.Repeat("a", 100)
	if n := testing.AllocsPerRun(10, func() { event.Printable(text, 0) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b\u202e\xff é", 3)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		limit = max(0, limit)
		got := event.Printable(text, limit)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q becomes %q", text, got)
		}
		if limit > 0 && utf8.RuneCountInString(got) > limit+1 {
			t.Errorf("%q has more than %d characters", got, limit)
		}
		if again := event.Printable(got, 0); again != got {
			t.Errorf("%q becomes %q", got, again)
		}
	})
}
