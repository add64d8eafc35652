package journal

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

// PrintOptions configures [Print].
type PrintOptions struct {
	// JSON prints each record as a JSON object with its headers and its payload, instead of in columns.
	JSON bool
	// After skips the records up to and including this sequence.
	After uint64
}

// Report is the result of [Check].
type Report struct {
	Journal  string   `json:"journal"`          // id of the journal
	Segments int      `json:"segments"`         // number of segments
	Records  int      `json:"records"`          // number of records
	First    uint64   `json:"first_sequence"`   // sequence of the first record; 0 if there is none
	Last     uint64   `json:"last_sequence"`    // sequence of the last record; 0 if there is none
	Bytes    int64    `json:"bytes"`            // size of all segments
	Damage   []string `json:"damage,omitempty"` // places that cannot be read although they had been written
	Torn     []string `json:"torn,omitempty"`   // ends that were not written completely; nothing in them was acknowledged
}

// Print writes the records of the journal in the data folder dir to w. It does not lock the folder. If another process is appending,
// Print ends at the last complete group.
func Print(w io.Writer, dir string, o PrintOptions) error {
	out := bufio.NewWriter(w)
	var failed error
	report, err := inspect(dir, func(r Record) {
		if r.Sequence <= o.After || failed != nil {
			return
		}
		if failed = printRecord(out, r, o.JSON); failed == nil {
			failed = out.Flush()
		}
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if len(report.Damage) > 0 {
		return &DamagedError{report.Damage}
	}
	return nil
}

// DamagedError is returned by [Print] when some records could not be read. The others were printed.
type DamagedError struct{ Damage []string }

func (e *DamagedError) Error() string {
	return fmt.Sprintf("journal: %d damaged places: %s", len(e.Damage), e.Damage)
}

func printRecord(w io.Writer, r Record, asJSON bool) error {
	if !asJSON {
		local := ""
		if r.Local {
			local = "  (local)"
		}
		_, err := fmt.Fprintf(w, "%d  %s  %s  %s  %d bytes  %s%s\n",
			r.Sequence, r.Time.UTC().Format(time.RFC3339Nano), r.Subject, r.ID, len(r.Payload), r.job(), local)
		return err
	}
	return json.NewEncoder(w).Encode(struct {
		Sequence uint64              `json:"sequence"`
		Time     time.Time           `json:"time"`
		Subject  string              `json:"subject"`
		ID       string              `json:"id"`
		Job      string              `json:"job"`
		Digest   string              `json:"digest"`
		Local    bool                `json:"local"`
		Header   map[string][]string `json:"header"`
		Payload  []byte              `json:"payload"` // base64: the bytes as signed
	}{r.Sequence, r.Time.UTC(), r.Subject, r.ID, r.job(), event.DigestID(r.Digest), r.Local, event.ParseHeader(r.Header), r.Payload})
}

// Check reads every byte of the journal in the data folder dir and reports damage. Like [Print], it does not lock the folder.
func Check(dir string) (Report, error) { return inspect(dir, func(Record) {}) }

func inspect(dir string, visit func(Record)) (report Report, err error) {
	folder := filepath.Join(dir, "journal")
	names, err := disk{}.ReadDir(folder)
	if err != nil {
		return Report{}, err
	}
	logs, err := openLogs(folder, numbered(names, ".log"), func(path string) (file, error) { return disk{}.open(path, os.O_RDONLY) })
	defer func() { closeLogs(logs) }()
	if err != nil {
		return Report{}, fmt.Errorf("%w (another process may have deleted the segment just now: try again)", err)
	}
	for i, o := range logs {
		report.Segments++
		report.Bytes += o.size
		if o.ok {
			report.Journal = base64.RawURLEncoding.EncodeToString(o.header.journal[:])
		} else {
			report.Damage = append(report.Damage, o.path+": the header is unreadable")
		}
		if missing := missingBefore(o.path, report.Last, o.header); missing != "" {
			report.Damage = append(report.Damage, missing)
		}
		printed := uint64(0)
		scanLog := func() scanned {
			return scan(o.file, o.id, o.first, o.size, func(h groupHeader, body []byte) {
				for len(body) > 0 {
					r, _ := parseHead(body)
					if r.sequence > printed {
						printed = r.sequence
						report.add(r.sequence)
						visit(r.record(body))
					}
					body = body[r.length:]
				}
			})
		}
		found := scanLog()
		if i == len(logs)-1 && len(found.gaps) > 0 {
			found = scanLog() // another process may have written a place after it was read
		}
		report.Damage = append(report.Damage, found.describe(o.path, syncedEnd(logs, i))...)
		if found.used > found.end && found.err == nil {
			report.Torn = append(report.Torn, fmt.Sprintf("%s at offset %d", o.path, found.end))
		}
	}
	return report, nil
}

func (r *Report) add(sequence uint64) {
	if r.Records++; r.First == 0 {
		r.First = sequence
	}
	r.Last = max(r.Last, sequence)
}
