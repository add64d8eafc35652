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
	"os"
	"strings"
)

var (
	errBodyTooLarge = errors.New("body exceeds the limit")
	errEncoding     = errors.New("encoding not supported")
	errBodyTimeout  = errors.New("body not received in time")
	errBody         = errors.New("body unreadable")
)

// readBody returns the body whole, after its content encoding. limit binds the
// wire and what is inflated from it.
func readBody(r *http.Request, w http.ResponseWriter, limit int) ([]byte, error) {
	if err := checkCharset(r.Header.Get("Content-Type")); err != nil {
		return nil, err
	}
	if r.ContentLength > int64(limit) {
		return nil, fmt.Errorf("%w: %d bytes announced, %d allowed", errBodyTooLarge, r.ContentLength, limit)
	}
	wire := http.MaxBytesReader(w, r.Body, int64(limit))
	plain, err := inflate(wire, strings.Join(r.Header.Values("Content-Encoding"), ","))
	if err != nil {
		return nil, bodyError(err, limit)
	}
	buf := bytes.NewBuffer(make([]byte, 0, max(r.ContentLength, 0)+bytes.MinRead))
	if _, err := buf.ReadFrom(io.LimitReader(plain, int64(limit)+1)); err != nil {
		return nil, bodyError(err, limit)
	}
	if buf.Len() > limit {
		return nil, fmt.Errorf("%w: more than %d bytes inflated", errBodyTooLarge, limit)
	}
	return buf.Bytes(), nil
}

func inflate(wire io.Reader, encoding string) (io.Reader, error) {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "", "identity":
		return wire, nil
	case "gzip", "x-gzip":
		return gzip.NewReader(wire)
	case "deflate":
		return zlib.NewReader(wire)
	}
	return nil, fmt.Errorf("%w: Content-Encoding %q", errEncoding, encoding)
}

// bodyError says in one of the errors above what went wrong on the way.
func bodyError(err error, limit int) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, errEncoding):
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
