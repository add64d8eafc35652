package reload

// Source is where a setting comes from, as package bridge documents it.
type Source[T any] struct {
	Read  func() (T, error)
	Files func() []string
}

// Setting is a setting that was read from its [Source]. The zero Setting means that the setting is not given.
type Setting[T any] struct {
	// Value is the value that was read.
	Value T

	source Source[T]
	digest string // of the files when they were read
	err    error  // why the files cannot be read again
}

// IsZero reports whether the setting is not given.
func (s Setting[T]) IsZero() bool { return s.source.Read == nil }

// Open reads a setting. It takes the digest of the files before it reads them, so that a change between the two is
// noticed later. A file that is not a regular file, such as a pipe, is read only once.
func (s Source[T]) Open() (setting Setting[T], err error) {
	if s.Read == nil {
		return setting, nil
	}
	setting.source = s
	if s.Files != nil {
		setting.digest, setting.err = digest(s.Files())
	}
	setting.Value, err = s.Read()
	return setting, err
}
