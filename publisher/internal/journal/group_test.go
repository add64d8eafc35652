package journal

import (
	"bytes"
	"math"
	"strings"
	"testing"
)

// testGroup returns a group with records of these payload sizes, in segment 7 behind
// the first page, that begins with sequence 5.
func testGroup(limit int64, sizes ...int) *group {
	g := newGroup(buffers{}, &segment{id: 7, ordinal: 3, size: page + limit}, page, 5)
	for _, size := range sizes {
		r := testRecord("a", "S", strings.Repeat("x", size))
		g.add(&r, hashOf(r.Key), 0)
	}
	return g
}

// TestPages rounds up to whole pages.
func TestPages(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]int64{0: 0, 1: page, page - 1: page, page: page, page + 1: 2 * page, 3 * page: 3 * page} {
		if got := pages(n); got != want {
			t.Errorf("%d: %d, want %d", n, got, want)
		}
	}
}

// TestGroupHasRoom shows how many bytes a group may have.
func TestGroupHasRoom(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		limit, buffered int64
		entries, length int
		want            bool
	}{
		"up to the end of the segment":    {1000, 600, 1, 400, true},
		"beyond it":                       {1000, 600, 1, 401, false},
		"alone, beyond it":                {1000, groupHead, 0, 1000, false},
		"up to the bound of a group":      {4 << 20, 1 << 19, 1, 1 << 19, true},
		"beyond the bound of a group":     {4 << 20, 1 << 19, 1, 1<<19 + 1, false},
		"alone, beyond the group's bound": {4 << 20, groupHead, 0, 2 << 20, true},
	} {
		g := testGroup(test.limit)
		g.buf, g.entries = make([]byte, test.buffered), make([]pendingRecord, test.entries)
		if got := g.hasRoom(test.length); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestGroupHolds bends a whole group, with CRCs that are right.
func TestGroupHolds(t *testing.T) {
	t.Parallel()
	g := testGroup(1<<20, 10, 2000, 5000)
	b := g.encode(page, 99)
	if int64(len(b)) != 2*page || bytes.Count(b, []byte("sync:a:S")) != 3 {
		t.Fatalf("%d bytes", len(b))
	}
	h, ok := parseGroupHeader(b[:groupHead])
	want := groupHeader{count: 3, segment: 7, first: 5, synced: page, length: h.length, body: h.body, age: 99, offset: page, ordinal: 3}
	if !ok || h != want || h.end() != 3*page {
		t.Errorf("header %+v", h)
	}
	if _, ok := parseGroupHeader(b[:groupHead-1]); ok {
		t.Error("half a header is one")
	}
	for name, bend := range map[string]func(h *groupHeader, body []byte) []byte{
		"whole":           func(h *groupHeader, body []byte) []byte { return body },
		"another CRC":     func(h *groupHeader, body []byte) []byte { h.body++; return body },
		"one more record": func(h *groupHeader, body []byte) []byte { h.count++; return body },
		"one record less": func(h *groupHeader, body []byte) []byte { h.count--; return body },
		"other sequences": func(h *groupHeader, body []byte) []byte { h.first--; return body },
		"cut in a record": func(h *groupHeader, body []byte) []byte {
			h.body = checksum(body[:len(body)-8])
			return body[:len(body)-8]
		},
		"cut in a head":      func(h *groupHeader, body []byte) []byte { h.body = checksum(body[:50]); h.count = 1; return body[:50] },
		"nothing, as stated": func(h *groupHeader, body []byte) []byte { h.body, h.count = checksum(nil), 0; return nil },
	} {
		h := want
		body := bend(&h, bytes.Clone(b[groupHead:groupHead+int(h.length)]))
		if got := h.holds(body); got != (name == "whole" || name == "nothing, as stated") {
			t.Errorf("%s: %v", name, got)
		}
	}
	window := &window{file: readerFile(append(make([]byte, page), b...))}
	for name, test := range map[string]struct {
		id            uint64
		offset, limit int64
		want          bool
	}{
		"at its place":       {7, page, 3 * page, true},
		"up to its last":     {7, page, page + groupHead + int64(h.length), true},
		"beyond the limit":   {7, page, page + groupHead + int64(h.length) - 1, false},
		"any segment":        {0, page, 3 * page, true},
		"another segment":    {8, page, 3 * page, false},
		"no group":           {7, 0, 3 * page, false},
		"behind the file":    {7, 3 * page, 9 * page, false},
		"beginning at limit": {7, page, page, false},
	} {
		got, body, ok, err := window.readGroup(test.id, test.offset, test.limit)
		if ok != test.want || err != nil || ok && (got != h || len(body) != int(h.length)) {
			t.Errorf("%s: %v, %v, %d bytes", name, ok, err, len(body))
		}
	}
}

// TestGroupChains finds the records of a group by job and id.
func TestGroupChains(t *testing.T) {
	t.Parallel()
	g := newGroup(buffers{}, &segment{ordinal: 1, size: 1 << 20}, page, 1)
	for _, name := range []string{"a:1", "b:1", "a:2", "a:3"} {
		r := Record{Key: name[:1], ID: name[2:]}
		g.add(&r, hashOf(r.Key), 0)
	}
	for name, want := range map[string]int32{"a:1": 0, "b:1": 1, "a:2": 2, "a:3": 3, "a:4": -1, "b:2": -1, "c:1": -1} {
		if got := g.find(hashOf(name[:1]), name[2:]); got != want {
			t.Errorf("%s: %d, want %d", name, got, want)
		}
		if got := (*group)(nil).find(hashOf(name[:1]), name[2:]); got != -1 {
			t.Errorf("%s in no group: %d", name, got)
		}
	}
	again := newGroup(g.buffers, g.segment, page, 9)
	if again.find(hashOf("a"), "1") != -1 || len(again.buf) != groupHead || len(again.entries) != 0 {
		t.Errorf("passed on: %d bytes, %d entries", len(again.buf), len(again.entries))
	}
}

// TestRecordLimits appends records at the limits of the format, and reads them again.
func TestRecordLimits(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", math.MaxUint16+1)
	for name, bend := range map[string]func(r *Record, n int){
		"Key":     func(r *Record, n int) { r.Key = long[:n] },
		"ID":      func(r *Record, n int) { r.ID = long[:n] },
		"Subject": func(r *Record, n int) { r.Subject = long[:n] },
	} {
		for n, fits := range map[int]bool{0: true, 1: true, 7: true, 8: true, math.MaxUint16: true, math.MaxUint16 + 1: false} {
			r := testRecord("a", "S", "payload")
			bend(&r, n)
			length := r.encodedLength()
			if fits != (length != math.MaxInt) {
				t.Errorf("%s of %d bytes: length %d", name, n, length)
			}
			if !fits {
				continue
			}
			b := appendRecord([]byte("before"), &r, 42)[6:]
			h, ok := parseHead(b)
			if !ok || len(b) != length || len(b)%8 != 0 ||
				length-headLength-len(r.Key)-len(r.ID)-len(r.Subject)-len(r.Header)-len(r.Payload) > 7 || h.previous != 42 {
				t.Errorf("%s of %d bytes: %d bytes, length %d, %+v", name, n, len(b), length, h)
			}
			got := h.record(b)
			got.Time = r.Time
			key, id := h.names(b)
			if got.Key != r.Key || got.ID != r.ID || got.Subject != r.Subject || string(got.Header) != string(r.Header) ||
				string(got.Payload) != string(r.Payload) || string(key) != r.Key || string(id) != r.ID || got.Local {
				t.Errorf("%s of %d bytes: %.200v", name, n, got)
			}
			if _, ok := parseHead(b[:headLength]); !ok {
				t.Error("the head alone is enough")
			}
			if _, ok := parseHead(b[:headLength-1]); ok {
				t.Error("half a head is one")
			}
			b[0] += 8
			if _, ok := parseHead(b); ok {
				t.Error("lengths that disagree are accepted")
			}
		}
	}
	if p := newPosition(3, 1<<32-8); p.ordinal() != 3 || p.offset() != 1<<32-8 || p <= newPosition(3, 0) || p >= newPosition(4, 0) {
		t.Errorf("position %x", p)
	}
}

// TestSegmentHeader bends the header of a segment.
func TestSegmentHeader(t *testing.T) {
	t.Parallel()
	want := segmentHeader{
		journal: [16]byte{1, 2, 3}, id: 4, ordinal: 5, first: 6, created: 7, before: 8, beforeLast: 9, beforeEnd: 10,
	}
	b := want.encode()
	if got, ok := parseSegmentHeader(b[:segmentHead]); !ok || got != want || len(b) != page {
		t.Errorf("%+v, %v", got, ok)
	}
	if _, ok := parseSegmentHeader(b[:segmentHead-1]); ok {
		t.Error("half a header is one")
	}
	for i := range segmentHead {
		bent := bytes.Clone(b)
		bent[i]++
		if _, ok := parseSegmentHeader(bent); ok {
			t.Errorf("byte %d is changed", i)
		}
	}
}
