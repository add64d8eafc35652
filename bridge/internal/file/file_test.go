package file_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/jobbridge/jobbridge/bridge/internal/file"
)

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	in := func(name string) string { return filepath.Join(dir, name) }
	most := bytes.Repeat([]byte("x"), file.MaxSize)
	for _, err := range []error{
		os.WriteFile(in("most"), most, 0o600), os.WriteFile(in("more"), append(most, 'x'), 0o600), os.WriteFile(in("empty"), nil, 0o600),
		os.Symlink("most", in("link")), os.Symlink("pipe", in("to a pipe")), os.Symlink("nothing", in("to nothing")),
		syscall.Mkfifo(in("pipe"), 0o600), os.Mkdir(in("folder"), 0o700),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	tooLarge := errors.New("more than 1048576 bytes")
	for _, r := range []struct {
		name string
		flag int
		want int
		err  error
	}{
		{"most", 0, file.MaxSize, nil},
		{"most", syscall.O_NOFOLLOW, file.MaxSize, nil},
		{"more", 0, 0, tooLarge},
		{"empty", 0, 0, nil},
		{"link", 0, file.MaxSize, nil},
		{"link", syscall.O_NOFOLLOW, 0, syscall.ELOOP},
		{"pipe", 0, 0, file.ErrIrregular},
		{"to a pipe", 0, 0, file.ErrIrregular},
		{"folder", 0, 0, file.ErrIrregular},
		{"nothing", 0, 0, fs.ErrNotExist},
		{"to nothing", 0, 0, fs.ErrNotExist},
	} {
		data, err := file.Read(in(r.name), r.flag)
		switch {
		case r.err == nil && (err != nil || len(data) != r.want):
			t.Errorf("%s, %d: %d bytes, %v", r.name, r.flag, len(data), err)
		case r.err != nil && !errors.Is(err, r.err) && (err == nil || !strings.Contains(err.Error(), r.err.Error())):
			t.Errorf("%s, %d: %v, want %v", r.name, r.flag, err, r.err)
		}
	}
	if _, err := file.Read(os.DevNull, 0); !errors.Is(err, file.ErrIrregular) {
		t.Error(err)
	}
}
