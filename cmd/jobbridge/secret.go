package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/jobbridge/jobbridge/bridge"
	"github.com/jobbridge/jobbridge/verify"
)

// secretEnv is the variable that holds secrets.
const secretEnv = "SYNC_WEBHOOK_SECRET"

// secretFlags say where the signing secret comes from. It is never an argument, because every user of the machine can see arguments.
type secretFlags struct {
	SecretFile string `placeholder:"FILE" type:"path"`
}

// read returns the secrets of the file and the variable. It is no error if there are none.
func (f secretFlags) read(getenv func(string) string) ([]string, error) {
	secrets, err := parseSecrets(getenv(secretEnv), ",\n")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", secretEnv, err)
	}
	if f.SecretFile == "" {
		return secrets, nil
	}
	text, err := readText(f.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("--secret-file: %w", err)
	}
	fromFile, err := parseSecrets(text, "\n")
	if err != nil {
		return nil, fmt.Errorf("--secret-file: %s: %w", f.SecretFile, err)
	}
	if len(fromFile) == 0 {
		return nil, fmt.Errorf("--secret-file: %s is empty", f.SecretFile)
	}
	return append(fromFile, secrets...), nil
}

// origins returns where the secrets come from.
func (f secretFlags) origins(getenv func(string) string) (from []string) {
	if f.SecretFile != "" {
		from = append(from, f.SecretFile)
	}
	if getenv(secretEnv) != "" {
		from = append(from, secretEnv)
	}
	return from
}

// leastSecret is the least number of characters in a secret. A shorter one can be guessed.
const leastSecret = 8

// parseSecrets reads secrets between separators. In a file, "#" begins a comment. A text that is no secret, or that can be guessed, is
// an error, which does not show the text.
func parseSecrets(text, separators string) (secrets []string, err error) {
	for i, secret := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(separators, r) }) {
		secret = strings.TrimSpace(secret)
		if secret == "" || separators == "\n" && secret[0] == '#' {
			continue
		}
		mistake := secretMistake(secret)
		wrong := ""
		switch {
		case strings.ContainsAny(secret, " \t"):
			wrong = "has a space in it"
		case assignment.MatchString(secret):
			wrong = "is an assignment, or the name of a variable: want the secret alone"
		case mistake != "":
			wrong = mistake
		case strings.ContainsRune(secret, ','):
			wrong = "has a comma in it: want one secret a line"
		case strings.Trim(secret, `"'`) != secret:
			wrong = "is in quotes: want it without"
		case strings.LastIndex(secret, "whsec_") > 0:
			wrong = "has another one in it: want one a line"
		case len(secret) < leastSecret:
			wrong = fmt.Sprintf("is shorter than %d characters: it could be guessed", leastSecret)
		}
		if wrong != "" {
			return nil, fmt.Errorf("secret %d %s", i+1, wrong)
		}
		secrets = append(secrets, secret)
	}
	return secrets, nil
}

var assignment = regexp.MustCompile(`^[A-Z][A-Z0-9_]*=[^=]|^[A-Z0-9]*_[A-Z0-9_]*=*$`)

// largestText bounds the files of secrets, passwords and certificates.
const largestText = 1 << 20

// readText reads a small text file, without its byte order mark.
func readText(path string) (string, error) { return readFile(path, 0) }

// readFile is readText with a flag for [os.OpenFile].
func readFile(path string, flag int) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|flag, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, largestText+1))
	if err != nil {
		return "", err
	}
	text := strings.ReplaceAll(strings.TrimPrefix(string(data), "\ufeff"), "\r\n", "\n")
	switch {
	case len(data) > largestText:
		return "", fmt.Errorf("%s has more than %d bytes: is it the right file?", path, largestText)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }):
		return "", fmt.Errorf("%s is no text in UTF-8", path)
	}
	return text, nil
}

// orDev returns the secrets or, if there are none, the secret of serve --dev in dataDir.
func (f secretFlags) orDev(getenv func(string) string, dataDir string) ([]string, error) {
	secrets, err := f.read(getenv)
	if err != nil {
		return nil, usageError{err}
	}
	if len(secrets) > 0 {
		return secrets, nil
	}
	text, err := readDevSecret(dataDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usage("no secret: set %s, give --secret-file, "+
			"or point --data-dir at the folder of a running `jobbridge serve --dev`", secretEnv)
	}
	if err != nil {
		return nil, err
	}
	return parseSecrets(text, "\n")
}

// readDevSecret reads the secret of serve --dev. It follows no link, because others may write to a data folder in /tmp.
func readDevSecret(dataDir string) (string, error) {
	return readFile(devSecretFile(dataDir), syscall.O_NOFOLLOW)
}

func devSecretFile(dataDir string) string { return filepath.Join(dataDir, "dev-secret") }

// makeDevSecret checks the options, which have no secret yet, and returns the secret of --dev.
func makeDevSecret(o bridge.Options) (string, error) {
	if err := inFlags(o.Check()); err != nil {
		return "", err
	}
	return devSecret(o.DataDir)
}

// devSecret returns the secret in dataDir. It makes the secret the first time.
func devSecret(dataDir string) (string, error) {
	if err := os.MkdirAll(dataDir, 0o700); err != nil {
		return "", err
	}
	path := devSecretFile(dataDir)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.WriteString("whsec_" + rand.Text() + "\n")
		err = errors.Join(err, f.Close())
	} else if errors.Is(err, fs.ErrExist) {
		err = nil
	}
	if err != nil {
		return "", fmt.Errorf("secret of --dev: %w", err)
	}
	text, err := readDevSecret(dataDir)
	if err != nil {
		return "", fmt.Errorf("secret of --dev: %w", err)
	}
	secret := strings.TrimSpace(text)
	if secret == "" {
		return "", fmt.Errorf("secret of --dev: %s is empty: remove it", path)
	}
	return secret, nil
}

// secrets returns the source of the secrets of serve. The bridge does not start without a secret.
func (f *serveFlags) secrets(getenv func(string) string) (source bridge.Source[[]string]) {
	read := func() ([]string, error) {
		secrets, err := f.Secrets.read(getenv)
		switch {
		case err != nil:
			return nil, usageError{err}
		case f.Dev && len(secrets) > 0:
			return nil, usage("--dev makes a secret of its own: leave it out, or unset %s and --secret-file", secretEnv)
		case len(secrets) == 0 && !f.Dev:
			return nil, usage("no signing secret: set %s, or give --secret-file FILE (for a try without the provider: --dev)", secretEnv)
		case f.Dev:
			return []string{"whsec_that_is_made_later"}, nil
		}
		return secrets, nil
	}
	if f.Secrets.SecretFile == "" {
		return bridge.Source[[]string]{Read: read}
	}
	return bridge.Files(read, f.Secrets.SecretFile)
}

// fingerprints returns the fingerprints of the secrets, and none if the secrets cannot be read.
func (f *serveFlags) fingerprints(getenv func(string) string) []string {
	secrets, _ := f.Secrets.read(getenv) // Check says what is wrong with them
	prints := make([]string, len(secrets))
	for i, s := range secrets {
		prints[i] = verify.Fingerprint(s)
	}
	return prints
}
