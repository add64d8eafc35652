package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// secretEnv holds secrets besides the files.
const secretEnv = "SYNC_WEBHOOK_SECRET"

// secretFlags is where the signing secret comes from. It is never an argument:
// those are seen by every user of the machine.
type secretFlags struct {
	SecretFile string `help:"File with the signing secret; several, one a line, during a rotation. Else the variable SYNC_WEBHOOK_SECRET (comma or newline between several)." placeholder:"FILE" type:"path"`
}

// read returns the secrets of the file and the variable; none is no error.
func (f secretFlags) read(getenv func(string) string) ([]string, error) {
	secrets := splitSecrets(getenv(secretEnv), ",\n")
	if f.SecretFile == "" {
		return secrets, nil
	}
	data, err := os.ReadFile(f.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("--secret-file: %w", err)
	}
	fromFile := splitSecrets(string(data), "\n")
	if len(fromFile) == 0 {
		return nil, fmt.Errorf("--secret-file: %s is empty", f.SecretFile)
	}
	return append(fromFile, secrets...), nil
}

// origins says where secrets come from.
func (f secretFlags) origins(getenv func(string) string) (from []string) {
	if f.SecretFile != "" {
		from = append(from, f.SecretFile)
	}
	if getenv(secretEnv) != "" {
		from = append(from, secretEnv)
	}
	return from
}

func splitSecrets(s, separators string) []string {
	var secrets []string
	for _, secret := range strings.FieldsFunc(s, func(r rune) bool { return strings.ContainsRune(separators, r) }) {
		if secret = strings.TrimSpace(secret); secret != "" {
			secrets = append(secrets, secret)
		}
	}
	return secrets
}

// orDev returns the secrets, or if there are none, that of serve --dev in
// dataDir.
func (f secretFlags) orDev(getenv func(string) string, dataDir string) ([]string, error) {
	secrets, err := f.read(getenv)
	if err != nil || len(secrets) > 0 {
		return secrets, err
	}
	data, err := os.ReadFile(devSecretFile(dataDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, usage("no secret: set %s, give --secret-file, or point --data-dir at the folder of a running `jobbridge serve --dev`", secretEnv)
	}
	if err != nil {
		return nil, err
	}
	return splitSecrets(string(data), "\n"), nil
}

func devSecretFile(dataDir string) string { return filepath.Join(dataDir, "dev-secret") }

// devSecret returns the secret kept in dataDir, making it the first time.
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
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("secret of --dev: %w", err)
	}
	secret := strings.TrimSpace(string(data))
	if secret == "" {
		return "", fmt.Errorf("secret of --dev: %s is empty: remove it", path)
	}
	return secret, nil
}
