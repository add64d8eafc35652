package quarantine

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// entry is what the store remembers of an entry: everything except its headers and body.
type entry struct {
	operator.Entry
	size    int64    // on disk
	digest  [32]byte // of the body, if the entry is authentic
	release *release // in progress, or nil
}

// identity is what two copies of one event have in common.
type identity struct {
	id     string // the message id
	digest [32]byte
}

func (e *entry) identity() identity { return identity{e.ID, e.digest} }

// contents are what the file of an entry holds: Header and Body of the entry stand in the file as lines, and behind the
// JSON.
type contents struct {
	operator.Entry
	Digest   string    `json:"digest"`                     // "sha256:<hex>" of the body
	Key      string    `json:"key,omitempty"`              // of the event's job
	Record   uint64    `json:"journal_sequence,omitempty"` // of the event
	StoredAt time.Time `json:"record_time,omitzero"`       // when the event was appended to the journal
	Lines    []string  `json:"headers"`                    // "Name: value"
}

// maxHead bounds the file up to the body, in bytes. Seven headers of a request at 4 KiB, and those of an event from a
// request of 16 KiB, fit.
const maxHead = 64 << 10

// head returns the file up to the body.
func (c contents) head() []byte {
	c.Header, c.Body, c.ReceivedAt = nil, nil, c.ReceivedAt.UTC()
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(c); err != nil {
		panic(err) // nothing in it can fail
	}
	b.WriteByte('\n')
	return b.Bytes()
}

// parseHead is the inverse of head. Its second result is the length of the head.
func parseHead(data []byte) (c contents, length int, err error) {
	end := bytes.Index(data, []byte("\n\n")) // no JSON of head has an empty line
	if end < 0 {
		return c, 0, fmt.Errorf("%w: no empty line stands in front of a body", ErrDamaged)
	}
	if !bytes.HasPrefix(data, []byte("{")) {
		return c, 0, fmt.Errorf("%w: the file does not begin with JSON; perhaps an older version wrote it", ErrDamaged)
	}
	if err := json.Unmarshal(data[:end], &c); err != nil {
		return contents{}, 0, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if c.ReceivedAt.IsZero() || c.Digest == "" {
		err = fmt.Errorf("%w: received_at or digest is missing", ErrDamaged)
	}
	c.Body, c.Header = nil, make(map[string]string)
	for name, values := range event.ParseHeader(c.headerBlock()) {
		c.Header[name] = strings.Join(values, ",")
	}
	return c, end + 2, err
}

// headerBlock returns the headers as lines of the NATS protocol.
func (c contents) headerBlock() []byte {
	var block []byte
	for _, line := range c.Lines {
		block = append(append(block, line...), "\r\n"...)
	}
	return block
}
