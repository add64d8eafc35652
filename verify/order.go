package verify

import (
	"bytes"
	"cmp"
	"math"
	"slices"
)

// move is an object in out, from bracket to bracket, and the pieces that it
// should consist of.
type move struct{ start, end, first, last int32 }

// piece is a key and a value in out; of a duplicate, the first key (both are
// the same) and the last value.
type piece struct{ key, keyEnd, value, end int32 }

// endObject notes the object that ends here if JavaScript would order its
// members otherwise: integer keys come first, in numeric order, and a duplicate
// puts its value in the first one's place.
func (p *printer) endObject() {
	o := p.objects[len(p.objects)-1]
	p.objects = p.objects[:len(p.objects)-1]
	members := p.members[o.first:]
	p.members = p.members[:o.first]
	indexed := slices.ContainsFunc(members, func(m member) bool {
		_, ok := arrayIndex(p.keyOf(m))
		return ok
	})
	if len(members) < 2 || !indexed && len(members) <= fewMembers && p.distinct(members) {
		return
	}

	first := len(p.pieces)
	for i, m := range members {
		end := int32(len(p.out))
		if i+1 < len(members) {
			end = members[i+1].key - 1 // the comma
		}
		p.pieces = append(p.pieces, piece{m.key, m.value - 1, m.value, end})
	}
	// Sorting finds the duplicates in n log n whatever the keys are, and without
	// the memory of a map of them.
	all := p.pieces[first:]
	slices.SortFunc(all, func(a, b piece) int {
		return cmp.Or(bytes.Compare(p.out[a.key:a.keyEnd], p.out[b.key:b.keyEnd]), cmp.Compare(a.key, b.key))
	})
	own := all[:0]
	for _, m := range all {
		if n := len(own); n > 0 && bytes.Equal(p.out[m.key:m.keyEnd], p.out[own[n-1].key:own[n-1].keyEnd]) {
			own[n-1].value, own[n-1].end = m.value, m.end
			continue
		}
		own = append(own, m)
	}
	p.pieces = p.pieces[:first+len(own)]
	if !indexed && len(own) == len(members) {
		p.pieces = p.pieces[:first]
		return
	}
	slices.SortFunc(own, func(a, b piece) int {
		x, _ := arrayIndex(p.out[a.key:a.keyEnd])
		y, _ := arrayIndex(p.out[b.key:b.keyEnd])
		return cmp.Or(cmp.Compare(x, y), cmp.Compare(a.key, b.key))
	})
	p.moves = append(p.moves, move{o.start, int32(len(p.out)) + 1, int32(first), int32(len(p.pieces))})
}

// keyOf returns a member's key as printed. That form is one for each key, so
// that keys can be compared by it.
func (p *printer) keyOf(m member) []byte { return p.out[m.key : m.value-1] }

// fewMembers is up to how many members an object is searched for duplicates
// pair by pair: nearly all objects are small, and in order.
const fewMembers = 32

func (p *printer) distinct(members []member) bool {
	for i, m := range members {
		for _, n := range members[:i] {
			if bytes.Equal(p.keyOf(m), p.keyOf(n)) {
				return false
			}
		}
	}
	return true
}

// arrayIndex returns the number that a quoted key is to JavaScript: canonical,
// and at most 2^32-2. Any other key has the number after all of these.
func arrayIndex(quoted []byte) (uint64, bool) {
	digits := quoted[1 : len(quoted)-1]
	if len(digits) == 0 || len(digits) > 10 || digits[0] == '0' && len(digits) > 1 {
		return math.MaxUint32, false
	}
	var n uint64
	for _, c := range digits {
		if c < '0' || c > '9' {
			return math.MaxUint32, false
		}
		n = n*10 + uint64(c-'0')
	}
	return min(n, math.MaxUint32), n < math.MaxUint32
}

// stretch is a part of out that is left to copy.
type stretch struct{ start, end int32 }

// comma stands for a comma between two stretches.
var comma = stretch{-1, -1}

// reordered returns out with the noted objects put right. Each byte is copied
// once, however deep the objects are in one another.
func (p *printer) reordered() []byte {
	if len(p.moves) == 0 {
		return p.out
	}
	slices.SortFunc(p.moves, func(a, b move) int { return cmp.Compare(a.start, b.start) })
	out := make([]byte, 0, len(p.out))
	todo := []stretch{{0, int32(len(p.out))}} // the next on top
	for len(todo) > 0 {
		s := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if s == comma {
			out = append(out, ',')
			continue
		}
		i, _ := slices.BinarySearchFunc(p.moves, s.start, func(m move, at int32) int { return cmp.Compare(m.start, at) })
		if i == len(p.moves) || p.moves[i].start >= s.end {
			out = append(out, p.out[s.start:s.end]...)
			continue
		}
		m := p.moves[i]
		out = append(out, p.out[s.start:m.start+1]...) // up to the bracket
		todo = append(todo, stretch{m.end - 1, s.end}) // from the bracket on
		for j, piece := range slices.Backward(p.pieces[m.first:m.last]) {
			todo = append(todo, stretch{piece.value, piece.end}, stretch{piece.key, piece.keyEnd + 1})
			if j > 0 {
				todo = append(todo, comma)
			}
		}
	}
	return out
}
