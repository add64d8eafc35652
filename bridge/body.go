package bridge

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"
)

var (
	errBodyTooLarge = errors.New("body exceeds the limit")
	errEncoding     = errors.New("encoding not supported")
	errBodyTimeout  = errors.New("body not received in time")
	errBody         = errors.New("body unreadable")
	errNoRoom       = errors.New("too many large bodies at once")
)

// The bounds of bodies in memory.
const (
	// smallBody is up to how many bytes a body is read without asking for room.
	smallBody = 8 << 10
	// roomWait is how long a larger one waits for room: the rest of it waits in
	// the sender's connection meanwhile.
	roomWait = 1500 * time.Millisecond
)

// bodies reads bodies whole, after their content encoding. The limit binds the
// wire and what is inflated from it; what is not small shares the room.
type bodies struct {
	limit int
	room  *lane // one place for each body of the limit's size
}

// body is one of them.
type body struct {
	bytes  []byte
	waited time.Duration // for room
	leave  func()        // gives the room back
}

func (b bodies) read(w http.ResponseWriter, r *http.Request, source netip.Prefix) (got body, err error) {
	got.leave = func() {}
	inRoom := false
	enter := func() error {
		start := time.Now()
		if inRoom {
			return nil
		}
		if inRoom = b.room.enter(source, roomWait); !inRoom {
			return errNoRoom
		}
		got.waited, got.leave = time.Since(start), func() { b.room.leave(source) }
		return nil
	}
	defer func() {
		if err != nil {
			got.leave()
		}
	}()
	if err := checkCharset(r.Header.Get("Content-Type")); err != nil {
		return got, err
	}
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	if !slices.Contains([]string{"", "identity", "gzip", "x-gzip", "deflate"}, encoding) {
		return got, fmt.Errorf("%w: Content-Encoding %q", errEncoding, encoding)
	}
	if r.ContentLength > int64(b.limit) {
		return got, fmt.Errorf("%w: %d bytes announced, %d allowed", errBodyTooLarge, r.ContentLength, b.limit)
	}
	wire := http.MaxBytesReader(w, r.Body, int64(b.limit))
	// The memory grows with what has come, not with what was announced.
	buf := bytes.NewBuffer(make([]byte, 0, min(max(r.ContentLength, 0), smallBody)+bytes.MinRead))
	if _, err := buf.ReadFrom(io.LimitReader(wire, smallBody+1)); err != nil {
		return got, bodyError(err, b.limit)
	}
	if buf.Len() > smallBody {
		if err := enter(); err != nil {
			return got, err
		}
		if _, err := buf.ReadFrom(wire); err != nil {
			return got, bodyError(err, b.limit)
		}
	}
	if got.bytes = buf.Bytes(); encoding == "" || encoding == "identity" {
		return got, nil
	}
	if err := enter(); err != nil {
		return got, err
	}
	if got.bytes, err = inflate(got.bytes, encoding, b.limit); err != nil {
		return got, bodyError(err, b.limit)
	}
	if len(got.bytes) <= smallBody {
		got.leave()
		got.leave = func() {}
	}
	return got, nil
}

// inflate returns what is in wire, which is whole: a sender that is slow has no
// decompressor waiting for it.
func inflate(wire []byte, encoding string, limit int) ([]byte, error) {
	var plain io.Reader
	var err error
	if encoding == "deflate" {
		plain, err = zlib.NewReader(bytes.NewReader(wire))
	} else {
		plain, err = gzip.NewReader(bytes.NewReader(wire))
	}
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(io.LimitReader(plain, int64(limit)+1)); err != nil {
		return nil, err
	}
	if buf.Len() > limit {
		return nil, fmt.Errorf("%w: more than %d bytes inflated", errBodyTooLarge, limit)
	}
	return buf.Bytes(), nil
}

// bodyError says in one of the errors above what went wrong on the way.
func bodyError(err error, limit int) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, errBodyTooLarge):
		return err
	case errors.As(err, &tooLarge):
		return fmt.Errorf("%w: more than %d bytes", errBodyTooLarge, limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errBodyTimeout
	}
	return fmt.Errorf("%w: %w", errBody, err)
}

// checkCharset refuses the encodings in which the same bytes mean other text.
// Any other content type, and none, will do: the signature decides.
func checkCharset(contentType string) error {
	if contentType == "application/json" {
		return nil // what nearly all send
	}
	// A content type that cannot be read names no charset.
	_, params, _ := mime.ParseMediaType(contentType)
	charset := strings.ToLower(params["charset"])
	if strings.HasPrefix(charset, "utf-16") || strings.HasPrefix(charset, "utf-32") || strings.HasPrefix(charset, "utf-7") {
		return fmt.Errorf("%w: charset %q", errEncoding, charset)
	}
	return nil
}
