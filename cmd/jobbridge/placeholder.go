package main

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// secretMistake returns what is wrong with a signing secret or an admin token, as a predicate such as "is masked", or "" if nothing
// is. The text never shows the value. Secrets consist of visible ASCII characters.
func secretMistake(value string) string {
	if mistake := placeholder(value); mistake != "" {
		return mistake
	}
	for _, r := range value {
		if r <= ' ' || r > '~' {
			return fmt.Sprintf("has the character %U in it: want visible ASCII characters only", r)
		}
	}
	return ""
}

// placeholder returns why a value stands for a secret and is none, as a predicate, or "" if it may be one. A placeholder is printed
// in documents that everybody can read, so it would let anybody in. Unlike [secretMistake] it accepts any character that can be seen,
// because a person may have chosen the value.
func placeholder(value string) string {
	for _, r := range value {
		if r != ' ' && (unicode.IsSpace(r) || !unicode.IsPrint(r)) {
			return fmt.Sprintf("has the invisible character %U in it: copy the value again", r)
		}
	}
	bare := strings.TrimPrefix(value, "whsec_")
	for _, kind := range placeholders {
		if kind.like.MatchString(bare) {
			return kind.mistake
		}
	}
	all := plainLetters(bare)
	switch word := strings.TrimRight(all, "0123456789"); {
	case slices.Contains(stockWords, word), len(all) >= 6 && strings.Contains(sequences, all):
		return "is a word that stands for a secret: give the real value"
	case stockPhrase.MatchString(word):
		return "is a placeholder: give the real value"
	case distinct(bare) < leastDistinct:
		return fmt.Sprintf("consists of fewer than %d different characters: it is a placeholder, or could be guessed", leastDistinct)
	}
	return ""
}

// leastDistinct is the least number of different characters in a secret.
const leastDistinct = 3

// placeholders are the forms that are matched without the prefix whsec_.
var placeholders = []struct {
	like    *regexp.Regexp
	mistake string
}{
	{regexp.MustCompile(`…|\.\.\.`), "was shortened with an ellipsis: give all of it"},
	{regexp.MustCompile(`\*{3}|[•●∙·]{2}|x{5}|X{5}`), "is masked: reveal it at its source, and copy it from there"},
	{regexp.MustCompile(`^(t=\d+|[vV]\d+[a-z]?=)|,v1=`), "is a signature header: want the secret that signs it"},
	{regexp.MustCompile(`^v\d{1,2}[a-z]?(,.*)?$`),
		"is a version, which stands in front of a signature: want the secret alone, without \"v1,\""},
	{regexp.MustCompile(`\$\{[^}]*\}?|\$\([^)]*\)?|\{\{|^\$[A-Za-z_]\w*$|^%\w+%$`), "names a variable whose value was not filled in"},
	{regexp.MustCompile(`^<.*>$|^\[.*\]$`), "is in brackets, as a placeholder is: give the real value"},
	{regexp.MustCompile(`://|^arn:|^@Microsoft\.KeyVault`), "is a URL: want the secret, not where it is"},
	{regexp.MustCompile(`^(~|\.{1,2})?/(run|etc|var|home|root|secrets?|mnt|opt|tmp|usr)/|^~?\.{0,2}/[\w.-]+\.\w+$|^[A-Za-z]:\\`),
		"is the path of a file: want what is in the file"},
	{regexp.MustCompile(`^\{"|^\{'`), "is JSON: want the secret alone"},
}

// sequences are what people type instead of a secret.
const sequences = "0123456789012345678901234567890 abcdefghijklmnopqrstuvwxyz"

// stockWords are whole values, in lower case without punctuation and digits at the end.
var stockWords = strings.Fields(`
	secret secrets mysecret webhooksecret syncwebhooksecret password passwd mypassword token mytoken admintoken admin example
	sample dummy default undefined null none nil empty todo tbd fixme redacted hidden foobar qwertyuiop qwerty letmein
`)

// stockPhrase is long enough not to be part of a random value.
var stockPhrase = regexp.MustCompile(`change(me|this|it)|replace(me|this|with)|placeholder|` +
	`(your|my)(own|real|new|signing|sync|webhook|admin|api|nats)*(secret|password|token|key)|` +
	`(secret|password|token|value|key)(goes)?here|(put|insert|enter|paste)(your|the|it)`)

// plainLetters returns the ASCII letters and digits of s in lower case.
func plainLetters(s string) string {
	return strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return unicode.ToLower(r)
		}
		return -1
	}, s)
}

// distinct returns how many different characters s consists of.
func distinct(s string) int {
	seen := make(map[rune]bool)
	for _, r := range s {
		seen[r] = true
	}
	return len(seen)
}
