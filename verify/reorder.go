package verify

import (
	"bytes"
	"cmp"
	"math"
	"slices"
)

// changedObject is an object in the output whose members must change: the offsets of its "{" and of the byte after its
// "}", and the range of its members in kept.
type changedObject struct{ start, end, firstMember, endMember int32 }

// keptMember is a member of a changed object: the offsets in the output of its key and its value. If the key is
// repeated, the value is the last one.
type keptMember struct{ key, keyEnd, value, valueEnd int32 }

// endObject handles the end of the innermost object. It records a change if JavaScript would write other members or
// another order: keys that are array indexes come first, in numeric order, and a repeated key stays in its first place
// but gets its last value.
func (s *serializer) endObject() {
	object := s.objects[len(s.objects)-1]
	s.objects = s.objects[:len(s.objects)-1]
	members := s.members[object.firstMember:]
	s.members = s.members[:object.firstMember]
	hasIndex := slices.ContainsFunc(members, func(m member) bool {
		_, ok := arrayIndex(s.keyOf(m))
		return ok
	})
	if len(members) < 2 || !hasIndex && len(members) <= maxPairwise && s.areDistinct(members) {
		return
	}

	first := len(s.kept)
	for i, m := range members {
		end := int32(len(s.out))
		if i+1 < len(members) {
			end = members[i+1].key - 1 // before the comma
		}
		s.kept = append(s.kept, keptMember{m.key, m.value - 1, m.value, end})
	}
	// Repeated keys are found by sorting. That takes n log n steps whatever the keys are, and less memory than a map.
	all := s.kept[first:]
	slices.SortFunc(all, func(a, b keptMember) int {
		return cmp.Or(bytes.Compare(s.out[a.key:a.keyEnd], s.out[b.key:b.keyEnd]), cmp.Compare(a.key, b.key))
	})
	distinct := all[:0]
	for _, m := range all {
		if n := len(distinct); n > 0 && bytes.Equal(s.out[m.key:m.keyEnd], s.out[distinct[n-1].key:distinct[n-1].keyEnd]) {
			distinct[n-1].value, distinct[n-1].valueEnd = m.value, m.valueEnd
			continue
		}
		distinct = append(distinct, m)
	}
	if !hasIndex && len(distinct) == len(members) {
		s.kept = s.kept[:first]
		return
	}
	s.kept = s.kept[:first+len(distinct)]
	slices.SortFunc(distinct, func(a, b keptMember) int {
		x, _ := arrayIndex(s.out[a.key:a.keyEnd])
		y, _ := arrayIndex(s.out[b.key:b.keyEnd])
		return cmp.Or(cmp.Compare(x, y), cmp.Compare(a.key, b.key))
	})
	s.changes = append(s.changes, changedObject{object.start, int32(len(s.out)) + 1, int32(first), int32(len(s.kept))})
}

// keyOf returns the key of m as written, with its quotes. Equal keys are written equally, whatever escapes they had, so
// that they can be compared in this form.
func (s *serializer) keyOf(m member) []byte { return s.out[m.key : m.value-1] }

// maxPairwise is the largest number of members that are compared pair by pair to find repeated keys. Nearly all objects
// are that small and need no change, so that they are not sorted.
const maxPairwise = 32

// areDistinct reports whether no two members have the same key.
func (s *serializer) areDistinct(members []member) bool {
	for i, m := range members {
		for _, n := range members[:i] {
			if bytes.Equal(s.keyOf(m), s.keyOf(n)) {
				return false
			}
		}
	}
	return true
}

// arrayIndex returns the number that a quoted key stands for, and true, if JavaScript treats the key as an array index:
// a decimal number without leading zeros, of at most 2^32-2. For every other key it returns a larger number and false.
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

// span is a range of the output that is still to be copied.
type span struct{ start, end int32 }

// commaSpan stands for a comma between two spans.
var commaSpan = span{-1, -1}

// reorder returns the output with all recorded changes made. It copies each byte once, however deeply the changed
// objects are nested.
func (s *serializer) reorder() []byte {
	if len(s.changes) == 0 {
		return s.out
	}
	slices.SortFunc(s.changes, func(a, b changedObject) int { return cmp.Compare(a.start, b.start) })
	out := make([]byte, 0, len(s.out))
	stack := []span{{0, int32(len(s.out))}} // the span to copy next is the last one
	for len(stack) > 0 {
		next := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if next == commaSpan {
			out = append(out, ',')
			continue
		}
		i, _ := slices.BinarySearchFunc(s.changes, next.start, func(o changedObject, at int32) int { return cmp.Compare(o.start, at) })
		if i == len(s.changes) || s.changes[i].start >= next.end {
			out = append(out, s.out[next.start:next.end]...)
			continue
		}
		object := s.changes[i]
		out = append(out, s.out[next.start:object.start+1]...) // up to and including the "{"
		stack = append(stack, span{object.end - 1, next.end})  // from the "}" on
		for j, m := range slices.Backward(s.kept[object.firstMember:object.endMember]) {
			stack = append(stack, span{m.value, m.valueEnd}, span{m.key, m.keyEnd + 1}) // the key with its colon
			if j > 0 {
				stack = append(stack, commaSpan)
			}
		}
	}
	return out
}
