package journal

import (
	"os"
	"strings"
	"testing"
)

// FuzzSegment opens a journal whose only segment has any bytes. Nothing may panic, a
// record that is read must have the digest of its payload, and a second start must
// find the same.
func FuzzSegment(f *testing.F) {
	whole, err := os.ReadFile("testdata/golden/journal/00000000000000000001.log")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole[:2*page], uint16(0), []byte{})
	f.Add(whole, uint16(page+8), []byte{1})
	f.Add(whole, uint16(page+groupHead+64), []byte("\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte, offset uint16, patch []byte) {
		b = append([]byte(nil), b[:min(len(b), 1<<18)]...)
		if int(offset) < len(b) {
			copy(b[offset:], patch)
		}
		// A group whose CRCs are right reaches the code behind them.
		for at := page; at+groupHead <= len(b); at += page {
			g := groupHeader{segment: 1, first: 1, offset: int64(at), ordinal: 1}
			g.length = uint32(min(len(b)-at-groupHead, 2*page))
			g.count = uint32(offset % 4)
			g.body = checksum(b[at+groupHead : at+groupHead+int(g.length)])
			if offset%2 == 0 {
				g.put(b[at:])
			}
		}
		m := newMemFS()
		m.cached["/d/journal"] = &inode{folder: true}
		m.cached["/d/journal/"+segmentName(1)] = &inode{cached: b, dirty: make(map[int64]bool)}
		first := readAll(t, m)
		if second := readAll(t, m); first != second {
			t.Errorf("%q, then %q", first, second)
		}
	})
}

func readAll(t *testing.T, m *memFS) string {
	o := memOptions(m)
	o.MaxBytes = 1 << 30
	j, err := openMem(o)
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	var list strings.Builder
	r := j.NewReader(0)
	for r.next <= j.Durable() {
		got, err := r.Next(t.Context())
		if err != nil {
			list.WriteString("damage ")
			continue
		}
		list.WriteString(got.ID + " ")
		_, _ = j.Lookup(t.Context(), got.job())
	}
	return list.String()
}

// FuzzGroup parses a group from any bytes.
func FuzzGroup(f *testing.F) {
	r := testRecord("a", "S", "payload")
	f.Add(appendRecord(nil, &r, 7), uint32(1))
	f.Add([]byte{}, uint32(0))
	f.Fuzz(func(t *testing.T, body []byte, count uint32) {
		h := groupHeader{count: count, first: 0, length: uint32(len(body)), body: checksum(body)}
		if !h.holds(body) {
			return
		}
		n := uint32(0)
		for len(body) > 0 {
			p, _ := parseHead(body)
			got := p.record(body)
			if again := appendRecord(nil, &got, p.previous); len(again) != p.length {
				t.Errorf("%d bytes, again %d", p.length, len(again))
			}
			body = body[p.length:]
			n++
		}
		if n != count {
			t.Errorf("%d records, the header says %d", n, count)
		}
	})
}
