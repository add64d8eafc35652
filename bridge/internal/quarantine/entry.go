package quarantine

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// Kind is what an entry is.
type Kind string

// The kinds of entry.
const (
	RefusedKind   Kind = "refused"
	AuthenticKind Kind = "authentic"
)

// index is the place of a kind in [Store.bytes].
func (k Kind) index() int {
	if k == AuthenticKind {
		return 1
	}
	return 0
}

// Entry is one entry of the quarantine.
type Entry struct {
	// Sequence names the entry.
	Sequence uint64 `json:"sequence"`
	Kind     Kind   `json:"kind"`
	// ReceivedAt is when a request arrived, or when an authentic event was parked.
	ReceivedAt time.Time `json:"received_at"`
	// Reason is why a request was refused, or why the stream cannot accept an event.
	Reason string `json:"reason"`
	// Remote is the address that a refused request came from.
	Remote string `json:"remote,omitempty"`
	// Subject of an authentic event, or that a released request was published on.
	Subject string `json:"subject,omitempty"`
	// ID is the message id of an authentic event.
	ID string `json:"id,omitempty"`
	// Job is the id in the payload of a request that a release has verified.
	Job string `json:"job,omitempty"`
	// Bytes is the length of the body.
	Bytes int `json:"bytes"`
	// Header of the request or the event, and Body; [Store.List] leaves them out.
	Header map[string]string `json:"header,omitempty"`
	Body   []byte            `json:"body,omitempty"`
	// Damaged says why the file cannot be read, or is empty.
	Damaged string `json:"damaged,omitempty"`
	// Result of the last release, in words.
	Result string `json:"result,omitempty"`
	// Released tells that the entry was published and has left the quarantine.
	Released bool `json:"released,omitempty"`
	// Published is the sequence that the released event is stored under: the
	// journal's or, in direct mode, the stream's. The sequence of a duplicate is
	// that of the first copy.
	Published uint64 `json:"published_sequence,omitempty"`
}

// entry is what the store remembers of an entry: all but its header and body.
type entry struct {
	Entry
	size    int64    // on disk
	digest  [32]byte // of the body, if it is authentic
	release *release // in progress, or nil
}

// contents are what the file of an entry holds.
type contents struct {
	Entry
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
			fmt.Fprintf(&b, "%s: %s\n", name, oneLine(value))
		}
	}
	line(reasonLine, c.Reason)
	line(receivedLine, c.ReceivedAt.UTC().Format(time.RFC3339Nano))
	line(remoteLine, c.Remote)
	if c.Kind == AuthenticKind {
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

// oneLine replaces the characters that would end a line.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\r' || r == '\n' || r == 0 {
			return ' '
		}
		return r
	}, s)
}

// parseHead is the inverse of head. Its second result is the length of the head.
func parseHead(kind Kind, data []byte) (contents, int, error) {
	end := bytes.Index(data, []byte("\n\n"))
	if end < 0 {
		return contents{}, 0, fmt.Errorf("%w: the lines before the body do not end", ErrDamaged)
	}
	c := contents{Entry: Entry{Kind: kind}}
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
