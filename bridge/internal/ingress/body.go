package ingress

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
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/bridge/internal/source"
)

var (
	errBodyTooLarge = errors.New("body exceeds the limit")
	errEncoding     = errors.New("encoding not supported")
	errBodyTimeout  = errors.New("body not received in time")
	errBody         = errors.New("body unreadable")
	errNoMemory     = errors.New("no memory for a large body")
)

const (
	// smallBody is the size in bytes below which a body does not count against the memory of all bodies.
	smallBody = 8 << 10
	// largeStep is the size in bytes up to which the memory of a body grows with what has arrived: a slow sender holds
	// what it sent, not what it announced. A larger body gets all of its memory at once, because several of them that
	// grow step by step would wait for each other.
	largeStep = 128 << 10
	// memoryWait is how long one body waits for memory in total. The rest of the body waits in the connection meanwhile.
	memoryWait = 1500 * time.Millisecond
	// inflaterSize is the least memory in bytes that a decompressor uses.
	inflaterSize = 48 << 10
)

// bodies reads the bodies of requests.
type bodies struct {
	limit  int             // bytes of one body, as sent and decompressed
	memory *source.Limiter // bytes of all bodies that are not small
}

// body is the body of a request.
type body struct {
	bytes  []byte
	waited time.Duration // for memory

	bodies bodies
	source netip.Prefix
	held   int // bytes of bodies.memory
}

// read reads the body of r to its end, and decompresses it. The caller releases the body.
func (b bodies) read(w http.ResponseWriter, r *http.Request, source netip.Prefix) (*body, error) {
	if err := checkCharset(r.Header.Get("Content-Type")); err != nil {
		return nil, err
	}
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	switch encoding {
	case "", "identity", "gzip", "x-gzip", "deflate":
	default:
		return nil, fmt.Errorf("%w: Content-Encoding %q", errEncoding, encoding)
	}
	if r.ContentLength > int64(b.limit) {
		return nil, fmt.Errorf("%w: %d bytes announced, %d allowed", errBodyTooLarge, r.ContentLength, b.limit)
	}
	most := b.limit + 1 // one byte more shows that a body is too large
	if r.ContentLength >= 0 {
		most = int(r.ContentLength) + 1
	}
	got := &body{bodies: b, source: source}
	err := got.readAll(http.MaxBytesReader(w, r.Body, int64(b.limit)), most, 0)
	if err == nil && encoding != "" && encoding != "identity" {
		err = got.inflate(encoding)
	}
	if err == nil {
		err = got.hold(cap(got.bytes))
	}
	if err != nil {
		got.release()
		return nil, bodyError(err, b.limit)
	}
	return got, nil
}

// hold makes the memory that b holds equal to size. It returns errNoMemory if more is needed and not available in time.
func (b *body) hold(size int) error {
	if size <= smallBody {
		size = 0
	}
	if size > b.held {
		start := time.Now()
		err := b.bodies.memory.Acquire(b.source, size-b.held, memoryWait-b.waited)
		b.waited += time.Since(start)
		if err != nil {
			return fmt.Errorf("%w: %w", errNoMemory, err)
		}
	} else if size < b.held {
		b.bodies.memory.Release(b.source, b.held-size)
	}
	b.held = size
	return nil
}

// release ends the use of the memory. It may be called again.
func (b *body) release() { _ = b.hold(0) }

// inflate decompresses b.bytes. The compressed body is complete, so no decompressor waits for a sender.
func (b *body) inflate(encoding string) error {
	compressed := cap(b.bytes) + inflaterSize
	if err := b.hold(compressed); err != nil {
		return err
	}
	var plain io.Reader
	var err error
	if encoding == "deflate" {
		plain, err = zlib.NewReader(bytes.NewReader(b.bytes))
	} else {
		plain, err = gzip.NewReader(bytes.NewReader(b.bytes))
	}
	if err != nil {
		return err
	}
	limit := b.bodies.limit
	if err = b.readAll(io.LimitReader(plain, int64(limit)+1), limit+2, compressed); err == nil && len(b.bytes) > limit {
		err = fmt.Errorf("%w: more than %d bytes decompressed", errBodyTooLarge, limit)
	}
	return err
}

// readAll sets b.bytes to what r returns until its end: at most most-1 bytes. b holds the memory for them, and for
// others bytes more.
func (b *body) readAll(r io.Reader, most, others int) error {
	buf := make([]byte, 0, min(most, smallBody))
	for {
		if len(buf) == cap(buf) {
			next := max(min(2*cap(buf), most), cap(buf)+1)
			if next > smallBody {
				size := next
				if next > largeStep {
					size = max(next, most)
				}
				if err := b.hold(size + others); err != nil {
					return err
				}
			}
			buf = append(make([]byte, 0, next), buf...) // append alone would allocate more than b holds
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			b.bytes = buf
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// bodyError returns an error for refuse, from an error of reading or decompressing.
func bodyError(err error, limit int) error {
	var maxBytes *http.MaxBytesError
	switch {
	case errors.Is(err, errBodyTooLarge), errors.Is(err, errNoMemory):
		return err
	case errors.As(err, &maxBytes):
		return fmt.Errorf("%w: more than %d bytes", errBodyTooLarge, limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return errBodyTimeout
	}
	return fmt.Errorf("%w: %w", errBody, err)
}

// checkCharset refuses a charset in which the same bytes mean another text. Any other content type is accepted, and so is
// none: the signature decides.
func checkCharset(contentType string) error {
	if contentType == "application/json" {
		return nil // what nearly all senders send
	}
	_, params, _ := mime.ParseMediaType(contentType) // a content type that is malformed names no charset
	charset := strings.ToLower(params["charset"])
	if strings.HasPrefix(charset, "utf-16") || strings.HasPrefix(charset, "utf-32") || strings.HasPrefix(charset, "utf-7") {
		return fmt.Errorf("%w: charset %q", errEncoding, charset)
	}
	return nil
}
