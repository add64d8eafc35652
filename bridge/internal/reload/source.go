package reload

// Source is a setting that can change, as package bridge documents it. It is no
// setting if Read is nil, and does not change if Files is.
type Source[T any] struct {
	Read  func() (T, error)
	Files func() []string
}

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
func (s Setting[T]) IsZero() bool { return s.source.Read == nil }

// Open reads a source. A digest of the files is taken before they are read, so that a change
// meanwhile is seen later. A file that is not a regular one, such as a pipe, can be
// read only once.
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
