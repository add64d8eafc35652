package journal

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"
)

// readerFile is a file that is only read.
type readerFile []byte

func (f readerFile) ReadAt(b []byte, offset int64) (int, error) {
	return bytes.NewReader(f).ReadAt(b, offset)
}
func (readerFile) WriteAt([]byte, int64) (int, error) { return 0, syscall.EROFS }
func (readerFile) Close() error                       { return nil }
func (f readerFile) Size() (int64, error)             { return int64(len(f)), nil }
func (readerFile) Truncate(int64) error               { return syscall.EROFS }
func (readerFile) Allocate(int64) error               { return syscall.EROFS }
func (readerFile) Sync() error                        { return syscall.EROFS }

// badFile fails reads that touch a place.
type badFile struct {
	readerFile
	from, to int64
	reads    *int
}

func (f badFile) ReadAt(b []byte, offset int64) (int, error) {
	if f.reads != nil {
		*f.reads++
	}
	if offset < f.to && offset+int64(len(b)) > f.from {
		return 0, syscall.EIO
	}
	return f.readerFile.ReadAt(b, offset)
}

// TestWindow reads pieces of a file in any order, and around a bad block.
func TestWindow(t *testing.T) {
	t.Parallel()
	data := make([]byte, 2*windowBytes+100)
	for i := range data {
		data[i] = byte(i * 7 / 3)
	}
	size := int64(len(data))
	reads := 0
	w := &window{file: badFile{data, size - 10, size, &reads}}
	for i, test := range []struct {
		offset, n, limit int64
		want             int // bytes; -1: an error
		reads            int // so far
	}{
		{0, 64, size - 10, 64, 1},
		{windowBytes - 64, 64, size - 10, 64, 1}, // the end of what is held
		{windowBytes - 63, 64, size - 10, 64, 2},
		{windowBytes - 63, 10, size - 10, 10, 2},
		{windowBytes - 64, 10, size - 10, 10, 3}, // in front of what is held
		{100, 50, 120, 20, 4},
		{100, 50, 100, 0, 4},
		{50, 10, 50, 0, 4},
		{100, 50, 90, 0, 4},
		{size - 100, 50, size, 50, 6}, // the block further on cannot be read
		{size - 30, 50, size, -1, 8},
		{size - 100, 50, size, 50, 10},
		{windowBytes, 2 * windowBytes, size - 10, windowBytes + 90, 11},
		{0, windowBytes + 5, size - 10, windowBytes + 5, 12},
	} {
		b, err := w.read(test.offset, test.n, test.limit)
		if test.want < 0 {
			if !errors.Is(err, syscall.EIO) {
				t.Errorf("%d: %v", i, err)
			}
		} else if err != nil || len(b) != test.want || !bytes.Equal(b, data[test.offset:test.offset+int64(test.want)]) {
			t.Errorf("%d: %d bytes, want %d: %v", i, len(b), test.want, err)
		}
		if reads != test.reads {
			t.Errorf("%d: %d reads, want %d", i, reads, test.reads)
		}
	}
	w = &window{file: readerFile(data[:50])}
	if b, err := w.read(20, 64, 1000); err != nil || len(b) != 30 {
		t.Errorf("beyond the end of the file: %d bytes, %v", len(b), err)
	}
}

// segmentOf returns the bytes of a segment: one page each of header, group with one
// record (a digit: its sequence), zeros (.) and noise (#).
func segmentOf(pages string) (b []byte) {
	for i, c := range pages {
		switch c {
		case '.', 'h':
			b = append(b, make([]byte, page)...)
		case '#':
			b = append(b, bytes.Repeat([]byte{0xee}, page)...)
		default:
			g := newGroup(buffers{}, &segment{id: 7, ordinal: 3, size: 1 << 20}, int64(i*page), uint64(c-'0'))
			r := testRecord(string(c), "S", "")
			g.add(&r, hashOf(r.Key), 0)
			b = append(b, g.encode(int64(i-1)*page, int64(c))...)
		}
	}
	return b
}

// TestScan reads segments page by page: records, gaps, the last group and the last
// byte in use.
func TestScan(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		pages string
		bad   int // this page cannot be read; 0: none
		want  string
	}{
		"empty":                       {"h", 0, "next 1, end 1, used 1, tail 0: [] []"},
		"prepared":                    {"h....", 0, "next 1, end 1, used 1, tail 0: [] []"},
		"one":                         {"h1...", 0, "next 2, end 2, used 2, tail 1: [1] []"},
		"to the last page":            {"h123", 0, "next 4, end 4, used 4, tail 3: [1 2 3] []"},
		"torn":                        {"h12#.", 0, "next 3, end 3, used 4, tail 2: [1 2] []"},
		"torn behind zeros":           {"h12.#.", 0, "next 3, end 3, used 5, tail 2: [1 2] []"},
		"a gap":                       {"h1#3.", 0, "next 4, end 4, used 4, tail 3: [1 3] [{8192 2 2 false}]"},
		"a gap that had been synced":  {"h1##4.", 0, "next 5, end 5, used 5, tail 4: [1 4] [{8192 2 3 true}]"},
		"a gap of zeros":              {"h1.3.", 0, "next 4, end 4, used 4, tail 3: [1 3] [{8192 2 2 false}]"},
		"a gap in front":              {"h#2.", 0, "next 3, end 3, used 3, tail 2: [2] [{4096 1 1 false}]"},
		"a gap without a record":      {"h1#2.", 0, "next 3, end 4, used 4, tail 3: [1 2] [{8192 2 1 false}]"},
		"an older group":              {"h121.", 0, "next 3, end 3, used 4, tail 2: [1 2] []"},
		"an older group between":      {"h2313", 0, "next 4, end 3, used 5, tail 2: [2 3] []"},
		"two gaps":                    {"h1#3#5", 0, "next 6, end 6, used 6, tail 5: [1 3 5] [{8192 2 2 false} {16384 4 4 false}]"},
		"a bad block":                 {"h1.3..", 2, "next 4, end 4, used 6, tail 3: [1 3] [{8192 2 2 false}] input/output error"},
		"a bad block at the end":      {"h1....", 4, "next 2, end 2, used 6, tail 1: [1] [] input/output error"},
		"a bad block in the only one": {"h1...", 1, "next 1, end 1, used 5, tail 0: [] [] input/output error"},
	} {
		var f file = readerFile(segmentOf(test.pages))
		if test.bad > 0 {
			f = badFile{f.(readerFile), int64(test.bad) * page, int64(test.bad+1) * page, nil}
		}
		visited := 0
		s := scan(f, 7, 1, int64(len(test.pages))*page, func(h groupHeader, body []byte) { visited++ })
		var sequences []uint64
		for _, e := range s.entries {
			sequences = append(sequences, e.sequence)
		}
		got := fmt.Sprintf("next %d, end %d, used %d, tail %d: %d %v", s.next, s.end/page, s.used/page, s.tail/page, sequences, s.gaps)
		if s.err != nil {
			got += " " + s.err.Error()
		}
		if got != test.want || visited != len(s.entries) {
			t.Errorf("%s:\n%s, want\n%s; %d groups", name, got, test.want, visited)
		}
		if n := len(s.entries); n > 0 && (s.ordinal != 3 || s.age != int64('0'+s.entries[n-1].sequence)) {
			t.Errorf("%s: ordinal %d, age %d", name, s.ordinal, s.age)
		}
	}
}

// TestScanEntries shows what the index learns from a scan.
func TestScanEntries(t *testing.T) {
	t.Parallel()
	g := newGroup(buffers{}, &segment{id: 7, ordinal: 3, size: 1 << 20}, page, 1)
	records := []Record{testRecord("a", "S", "p"), {ID: "x", Digest: [32]byte{1}}, testRecord("a", "T", "q")}
	offset := int64(page + groupHead)
	var want []entry
	for i := range records {
		r := &records[i]
		g.add(r, hashOf(r.job()), newPosition(2, 80))
		e := entry{hash: hashOf(r.job()), id: hashOf(r.ID), sequence: uint64(i + 1), previous: newPosition(2, 80), offset: uint32(offset),
			digest: r.Digest}
		if i == 2 {
			e.previous = newPosition(3, page+groupHead)
		}
		want = append(want, e)
		offset += int64(r.encodedLength())
	}
	s := scan(readerFile(append(make([]byte, page), g.encode(0, 0)...)), 0, 1, 2*page, nil)
	if fmt.Sprint(s.entries) != fmt.Sprint(want) || s.id != 7 {
		t.Errorf("segment %d, entries\n%v, want\n%v", s.id, s.entries, want)
	}
}

// TestReadRecord reads a record as far as it is asked for.
func TestReadRecord(t *testing.T) {
	t.Parallel()
	r := testRecord("a", "S", string(bytes.Repeat([]byte("x"), 3000)))
	length := int64(r.encodedLength())
	b := appendRecord(make([]byte, page), &r, 0)
	for name, test := range map[string]struct {
		file  file
		end   int64
		extra int
		least int // bytes; -1: an error
		err   string
	}{
		"names":                     {readerFile(b), page + length, 0, headLength + len(r.Key) + len(r.ID), ""},
		"all":                       {readerFile(b), page + length, int(length) - headLength, int(length), ""},
		"more than there is":        {readerFile(b), page + length, 9000, int(length), ""},
		"beyond the end":            {readerFile(b), page + length - 1, 0, -1, "no record"},
		"no record":                 {readerFile(make([]byte, 3*page)), 3 * page, 0, -1, "no record"},
		"the file ends in the head": {readerFile(b[:page+60]), page + length, 0, -1, "no record"},
		"the file ends in the name": {readerFile(b[:page+85]), page + length, 0, -1, io.ErrUnexpectedEOF.Error()},
		"the file ends in it":       {readerFile(b[:page+2000]), page + length, int(length) - headLength, -1, io.ErrUnexpectedEOF.Error()},
		"a bad block":               {badFile{b, page, 2 * page, nil}, page + length, 0, -1, syscall.EIO.Error()},
	} {
		h, got, err := readRecord(&segment{file: test.file}, page, test.end, test.extra)
		if test.least < 0 {
			if err == nil || err.Error() != test.err {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil || len(got) < test.least || !bytes.Equal(got[:test.least], b[page:page+test.least]) || int64(h.length) != length {
			t.Errorf("%s: %d bytes, want %d: %v", name, len(got), test.least, err)
		}
	}
}
