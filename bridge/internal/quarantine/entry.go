package quarantine

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/bridge/operator"
	"github.com/jobbridge/jobbridge/publisher/event"
)

// entry is what the store remembers of an entry: all but its header and body.
type entry struct {
	operator.Entry
	size    int64    // on disk
	digest  [32]byte // of the body, if it is authentic
	release *release // in progress, or nil
}

// contents are what the file of an entry holds.
type contents struct {
	operator.Entry
	key      string
	digest   string // "sha256:<hex>"
	sequence uint64 // in the journal
	time     time.Time
	header   []byte // lines of the request or the event, "Name: value\r\n"
}

// The lines of a file that are the quarantine's own. Their prefix tells them from
// the headers of the request or the event, which follow.
const (
	prefix       = "Quarantine-"
	reasonLine   = prefix + "Reason"
	receivedLine = prefix + "Received-At"
	remoteLine   = prefix + "Remote"
	subjectLine  = prefix + "Subject"
	idLine       = prefix + "Message-Id"
	keyLine      = prefix + "Key"
	sequenceLine = prefix + "Journal-Sequence"
	timeLine     = prefix + "Record-Time"
	bytesLine    = prefix + "Bytes"
	digestLine   = prefix + "Digest"
)

// required are the lines that each file has.
var required = []string{reasonLine, receivedLine, bytesLine, digestLine}

// maxHead bounds the lines of a file in bytes. Seven headers of a request at 4 KiB,
// and those of an event from a request of 16 KiB, fit.
const maxHead = 64 << 10

// head returns the lines of the file up to the body.
func (c *contents) head() []byte {
	var b bytes.Buffer
	line := func(name, value string) {
		if value != "" || slices.Contains(required, name) {
			fmt.Fprintf(&b, "%s: %s\n", name, event.Printable(value, 0))
		}
	}
	line(reasonLine, c.Reason)
	line(receivedLine, c.ReceivedAt.UTC().Format(time.RFC3339Nano))
	line(remoteLine, c.Remote)
	if c.Kind == operator.Authentic {
		line(subjectLine, c.Subject)
		line(idLine, c.ID)
		line(keyLine, c.key)
		line(sequenceLine, strconv.FormatUint(c.sequence, 10))
		line(timeLine, c.time.UTC().Format(time.RFC3339Nano))
	}
	line(bytesLine, strconv.Itoa(len(c.Body)))
	line(digestLine, c.digest)
	b.Write(bytes.ReplaceAll(c.header, []byte("\r\n"), []byte("\n")))
	b.WriteByte('\n')
	return b.Bytes()
}

// parseHead is the inverse of head. Its second result is the length of the head.
func parseHead(kind operator.Kind, data []byte) (contents, int, error) {
	end := bytes.Index(data, []byte("\n\n"))
	if end < 0 {
		return contents{}, 0, fmt.Errorf("%w: the lines before the body do not end", ErrDamaged)
	}
	c := contents{Entry: operator.Entry{Kind: kind}}
	var err error
	missing := slices.Clone(required)
	for line := range bytes.SplitSeq(data[:end], []byte("\n")) {
		name, value, ok := strings.Cut(string(line), ": ")
		if !ok {
			return contents{}, 0, fmt.Errorf("%w: %.80q is no header line", ErrDamaged, line)
		}
		missing = slices.DeleteFunc(missing, func(m string) bool { return m == name })
		var problem error
		switch name {
		case reasonLine:
			c.Reason = value
		case receivedLine:
			c.ReceivedAt, problem = time.Parse(time.RFC3339Nano, value)
		case remoteLine:
			c.Remote = value
		case subjectLine:
			c.Subject = value
		case idLine:
			c.ID = value
		case keyLine:
			c.key = value
		case sequenceLine:
			c.sequence, problem = strconv.ParseUint(value, 10, 64)
		case timeLine:
			c.time, problem = time.Parse(time.RFC3339Nano, value)
		case bytesLine:
			c.Bytes, problem = strconv.Atoi(value)
		case digestLine:
			c.digest = value
		default:
			c.header = append(append(c.header, line...), "\r\n"...)
		}
		if problem != nil && err == nil {
			err = fmt.Errorf("%w: %s: %w", ErrDamaged, name, problem)
		}
	}
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%w: without %s", ErrDamaged, missing[0])
	}
	c.Header = make(map[string]string)
	for name, values := range event.ParseHeader(c.header) {
		c.Header[name] = strings.Join(values, ",")
	}
	return c, end + 2, err
}
