package journal

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jobbridge/jobbridge/publisher/event"
)

var update = flag.Bool("update", false, "write testdata again")

// goldenRecords are the records of the golden journal.
func goldenRecords() []Record {
	e := event.Event{ID: "job-42", Status: "COMPLETED", Payload: []byte(`{"id":"job-42","status":"COMPLETED"}`),
		ReceivedAt: time.Unix(1700000000, 0)}
	full := Record{Key: e.Key(), ID: e.MessageID(), Digest: e.Digest(), Subject: "job.completed", Header: e.AppendHeader(nil),
		Payload: e.Payload}
	empty := Record{ID: event.DigestID(event.Event{}.Digest()), Digest: event.Event{}.Digest(), Subject: "job.unrecognized", Local: true}
	again := full
	again.Subject, again.ID = "job.conflict", "another"
	return []Record{full, empty, again}
}

// TestGolden reads a journal that an earlier version wrote. A change of the format
// that breaks this test needs a new magic number and a reader of the old format.
func TestGolden(t *testing.T) {
	t.Parallel()
	const folder = "testdata/golden"
	if *update {
		m := newMemFS()
		o := memOptions(m)
		o.Now, o.elapsed = func() time.Time { return time.Unix(1700000000, 5) }, func() time.Duration { return time.Minute }
		j := mustOpenMem(t, o)
		for _, r := range goldenRecords() {
			mustAppend(t, j, r)
		}
		j.Close()
		if j = mustOpenMem(t, o); j.Durable() != 3 { // seals: truncates and writes the sidecar
			t.Fatal("no records")
		}
		j.Close()
		for p, n := range m.cached {
			if strings.HasSuffix(p, ".log") || strings.HasSuffix(p, ".idx") {
				if err := os.WriteFile(filepath.Join(folder, "journal", filepath.Base(p)), n.cached, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for _, sidecar := range []bool{true, false} {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(folder)); err != nil {
			t.Fatal(err)
		}
		if !sidecar {
			os.Remove(filepath.Join(dir, "journal", "00000000000000000001.idx"))
		}
		j := mustOpen(t, Options{Dir: dir, MaxBytes: 1 << 30, AcceptClock: true})
		got, err := all(j)
		if err != nil || len(got) != 3 {
			t.Fatalf("%d records, %v", len(got), err)
		}
		for i, want := range goldenRecords() {
			want.Sequence, want.Time = uint64(i+1), time.Unix(1700000000, 5)
			if fmt.Sprint(got[i]) != fmt.Sprint(want) {
				t.Errorf("record %d: %v, want %v", i, got[i], want)
			}
		}
		if found, err := j.Lookup(t.Context(), "sync:job:job-42"); err != nil || len(found) != 2 {
			t.Errorf("lookup: %v, %v", found, err)
		}
		want := goldenRecords()[0]
		if a := mustAppend(t, j, want); !a.Duplicate {
			t.Errorf("a known record: %+v", a)
		}
		j.Close()
	}
}

// TestDocumentedGroup compares the group in the package comment with the golden file.
func TestDocumentedGroup(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile("testdata/golden/journal/00000000000000000001.log")
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	h, ok := parseGroupHeader(b[page:])
	if !ok {
		t.Fatal("no group")
	}
	var want strings.Builder
	for i, line := range strings.SplitAfter(hex.Dump(b[page:page+groupHead+int64(h.length)]), "\n") {
		if i < 20 && line != "" {
			fmt.Fprintf(&want, "//\t%s", strings.TrimRight(line, " "))
		}
	}
	if !bytes.Contains(doc, []byte(want.String())) {
		t.Errorf("doc.go does not show the first group of the golden file:\n%s", want.String())
	}
}

// TestSizesOfFormat pins the lengths that the package comment states.
func TestSizesOfFormat(t *testing.T) {
	t.Parallel()
	r := Record{}
	if n := len(appendRecord(nil, &r, 0)); n != headLength {
		t.Errorf("an empty record has %d bytes", n)
	}
	if n := len(appendEntry(nil, &entry{})); n != entryLength {
		t.Errorf("an entry has %d bytes", n)
	}
	if n := len(segmentHeader{}.encode()); n != page {
		t.Errorf("a segment header has %d bytes", n)
	}
}
