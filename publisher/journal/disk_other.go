//go:build !linux

package journal

import "errors"

const hasSyncfs = false

func openFileSystem(string) (*files, error) {
	return nil, errors.New("syncfs(2) is for Linux")
}

func volatile(string) string { return "" }
