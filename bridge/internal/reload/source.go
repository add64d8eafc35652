package reload

// Source is a setting that can change while the bridge runs. The zero Source is no
// setting.
type Source[T any] struct {
	// Read returns the present value. Its error says which file or variable is wrong.
	Read func() (T, error)
	// Files returns the names of the files that Read reads. When one of them changes,
	// Read is called again. nil means that the value does not change.
	Files func() []string
}

// Value returns a Source whose value does not change.
func Value[T any](v T) Source[T] {
	return Source[T]{Read: func() (T, error) { return v, nil }}
}

// Files returns a Source that is read from files with fixed names.
func Files[T any](read func() (T, error), names ...string) Source[T] {
	return Source[T]{Read: read, Files: func() []string { return names }}
}

// IsZero reports whether the Source is no setting.
func (s Source[T]) IsZero() bool { return s.Read == nil }

// Setting is a Source that was read. The zero Setting has the zero value, and does
// not change.
type Setting[T any] struct {
	// Value is what was read.
	Value T

	source Source[T]
	digest string // of the files when they were read
	err    error  // why they cannot be read again
}

// IsZero reports whether the Setting comes from no Source.
func (s Setting[T]) IsZero() bool { return s.source.IsZero() }

// Open reads a source. Files are looked at before they are read, so that a change
// meanwhile is seen later. A file that is not a regular one, such as a pipe, can be
// read only once.
func (s Source[T]) Open() (setting Setting[T], err error) {
	if s.IsZero() {
		return setting, nil
	}
	setting.source = s
	if s.Files != nil {
		setting.digest, setting.err = digest(s.Files())
	}
	setting.Value, err = s.Read()
	return setting, err
}
