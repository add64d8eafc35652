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
	// roomUnit is how much room is asked for at a time: a sender that dribbles has
	// what it sent, and not what it may send.
	roomUnit = 16 << 10
	// hugeBody is from how many bytes on bodies grow a few at a time: more of them
	// would take each other's room, and none would end.
	hugeBody = 128 << 10
	// roomWait is how long a body waits for room altogether: the rest of it waits in
	// the sender's connection meanwhile.
	roomWait = 1500 * time.Millisecond
	// inflaterSize is what a decompressor takes, at the least.
	inflaterSize = 3 * roomUnit
)

// bodies reads bodies whole, after their content encoding. The limit binds the
// wire and what is inflated from it; what is not small shares the room.
type bodies struct {
	limit int
	units *lane // of room
	huge  *lane
}

func newBodies(limit, memory int) bodies {
	return bodies{limit, newLane(memory / roomUnit), newLane(max(2, memory/limit-2))}
}

// body is one of them, and the room that it has.
type body struct {
	bytes  []byte
	waited time.Duration // for room

	all    bodies
	source netip.Prefix
	units  int
	huge   bool
}

// grow makes room for so many bytes in all.
func (b *body) grow(bytes int) error {
	start := time.Now()
	defer func() { b.waited += time.Since(start) }()
	left := func() time.Duration { return roomWait - b.waited - time.Since(start) }
	if bytes > hugeBody && !b.huge {
		if b.huge = b.all.huge.enter(b.source, left()); !b.huge {
			return errNoRoom
		}
	}
	for b.units*roomUnit < bytes {
		if !b.all.units.enter(b.source, left()) {
			return errNoRoom
		}
		b.units++
	}
	return nil
}

// leave gives the room back; once more does no harm.
func (b *body) leave() {
	for ; b.units > 0; b.units-- {
		b.all.units.leave(b.source)
	}
	if b.huge {
		b.all.huge.leave(b.source)
		b.huge = false
	}
}

// read reads the body of a request. Whoever gets it leaves.
func (b bodies) read(w http.ResponseWriter, r *http.Request, source netip.Prefix) (*body, error) {
	if err := checkCharset(r.Header.Get("Content-Type")); err != nil {
		return nil, err
	}
	encoding := strings.ToLower(strings.TrimSpace(strings.Join(r.Header.Values("Content-Encoding"), ",")))
	if !slices.Contains([]string{"", "identity", "gzip", "x-gzip", "deflate"}, encoding) {
		return nil, fmt.Errorf("%w: Content-Encoding %q", errEncoding, encoding)
	}
	if r.ContentLength > int64(b.limit) {
		return nil, fmt.Errorf("%w: %d bytes announced, %d allowed", errBodyTooLarge, r.ContentLength, b.limit)
	}
	got := &body{all: b, source: source}
	err := got.fill(http.MaxBytesReader(w, r.Body, int64(b.limit)), encoding, r.ContentLength)
	if err != nil {
		got.leave()
		return nil, bodyError(err, b.limit)
	}
	return got, nil
}

// fill reads the wire to its end, and then inflates it: no decompressor waits for
// a sender.
func (b *body) fill(wire io.Reader, encoding string, announced int64) (err error) {
	most := b.all.limit + 1 // to see that there is no more
	if announced >= 0 {
		most = int(announced) + 1
	}
	if b.bytes, err = b.readAll(wire, most, 0); err != nil || encoding == "" || encoding == "identity" {
		return err
	}
	compressed := cap(b.bytes) + inflaterSize
	if err := b.grow(compressed); err != nil {
		return err
	}
	var plain io.Reader
	if encoding == "deflate" {
		plain, err = zlib.NewReader(bytes.NewReader(b.bytes))
	} else {
		plain, err = gzip.NewReader(bytes.NewReader(b.bytes))
	}
	if err != nil {
		return err
	}
	if b.bytes, err = b.readAll(io.LimitReader(plain, int64(b.all.limit)+1), b.all.limit+2, compressed); err != nil {
		return err
	}
	if len(b.bytes) > b.all.limit {
		return fmt.Errorf("%w: more than %d bytes inflated", errBodyTooLarge, b.all.limit)
	}
	if cap(b.bytes) <= smallBody {
		b.leave()
	}
	return nil
}

// readAll reads r to its end, into memory that grows with what has come, up to
// most bytes. It has room for so many bytes besides.
func (b *body) readAll(r io.Reader, most, besides int) ([]byte, error) {
	buf := make([]byte, 0, min(most, smallBody))
	for {
		if len(buf) == cap(buf) {
			next := max(min(2*cap(buf), most), cap(buf)+1)
			if next > smallBody {
				if err := b.grow(next + besides); err != nil {
					return nil, err
				}
			}
			buf = append(make([]byte, 0, next), buf...) // no larger than there is room
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// bodyError says in one of the errors above what went wrong on the way.
func bodyError(err error, limit int) error {
	var tooLarge *http.MaxBytesError
	switch {
	case errors.Is(err, errBodyTooLarge), errors.Is(err, errNoRoom):
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
