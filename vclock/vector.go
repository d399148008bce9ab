package vclock

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
)

// A Birth makes an actor unique for ever: the hybrid-clock milliseconds at which it was born and 64 random bits.
// It is not a counter, since a restored backup would count from an old value again.
type Birth struct {
	Millis uint64
	Rand   uint64
}

// Actor is one writer of one key: a node and a birth. It is never reused.
type Actor struct {
	Node  [16]byte
	Birth Birth
}

// Compare orders actors; the order has no meaning but to be the same everywhere.
func (a Actor) Compare(b Actor) int {
	if c := bytes.Compare(a.Node[:], b.Node[:]); c != 0 {
		return c
	}
	if c := cmp.Compare(a.Birth.Millis, b.Birth.Millis); c != 0 {
		return c
	}
	return cmp.Compare(a.Birth.Rand, b.Birth.Rand)
}

// IsZero reports whether a is no actor at all.
func (a Actor) IsZero() bool { return a == Actor{} }

// String gives the node, the birth and its random bits, in hexadecimal.
func (a Actor) String() string {
	return string(a.append(make([]byte, 0, 80)))
}

// append appends what String returns. It is part of every answer to a read, so it does without fmt.
func (a Actor) append(b []byte) []byte {
	b = hex.AppendEncode(b, a.Node[:])
	b = append(b, '.')
	b = strconv.AppendUint(b, a.Birth.Millis, 16)
	b = append(b, '.')
	var random [8]byte
	binary.BigEndian.PutUint64(random[:], a.Birth.Rand)
	return hex.AppendEncode(b, random[:])
}

// Dot names one write: the Counter-th write of an actor, counting from 1.
type Dot struct {
	Actor   Actor
	Counter uint64
}

// Compare orders dots by actor, then counter.
func (d Dot) Compare(e Dot) int {
	if c := d.Actor.Compare(e.Actor); c != 0 {
		return c
	}
	return cmp.Compare(d.Counter, e.Counter)
}

// String gives actor and counter.
func (d Dot) String() string {
	b := append(d.Actor.append(make([]byte, 0, 80)), '.')
	return string(strconv.AppendUint(b, d.Counter, 10))
}

// VersionVector stands for the set of all dots (a, 1..c) of its entries. It is sorted by actor, with one entry an
// actor and no zero counter; the zero value is the empty set.
type VersionVector []Dot

func byActor(d Dot, a Actor) int { return d.Actor.Compare(a) }

// Counter returns the highest counter of a that the vector covers, 0 if none.
func (v VersionVector) Counter(a Actor) uint64 {
	if i, ok := slices.BinarySearchFunc(v, a, byActor); ok {
		return v[i].Counter
	}
	return 0
}

// Covers reports whether d is in the set.
func (v VersionVector) Covers(d Dot) bool { return d.Counter <= v.Counter(d.Actor) }

// With returns the vector that covers v and every dot of d's actor up to d.
func (v VersionVector) With(d Dot) VersionVector {
	i, ok := slices.BinarySearchFunc(v, d.Actor, byActor)
	if ok && v[i].Counter >= d.Counter {
		return v
	}
	out := make(VersionVector, 0, len(v)+1)
	out = append(append(out, v[:i]...), d)
	if ok {
		i++
	}
	return append(out, v[i:]...)
}

// Merge returns the union of both sets.
func (v VersionVector) Merge(w VersionVector) VersionVector {
	switch {
	case v.Descends(w):
		return v
	case w.Descends(v):
		return w
	}
	out := make(VersionVector, 0, len(v)+len(w))
	for len(v) > 0 && len(w) > 0 {
		switch c := v[0].Actor.Compare(w[0].Actor); {
		case c < 0:
			out, v = append(out, v[0]), v[1:]
		case c > 0:
			out, w = append(out, w[0]), w[1:]
		default:
			out = append(out, Dot{v[0].Actor, max(v[0].Counter, w[0].Counter)})
			v, w = v[1:], w[1:]
		}
	}
	return append(append(out, v...), w...)
}

// Descends reports whether v covers everything that w covers. Two vectors of which neither descends from the
// other are concurrent.
func (v VersionVector) Descends(w VersionVector) bool {
	if len(w) > len(v) {
		return false
	}
	i := 0
	for _, d := range w {
		for i < len(v) && v[i].Actor.Compare(d.Actor) < 0 {
			i++
		}
		if i == len(v) || v[i].Actor != d.Actor || v[i].Counter < d.Counter {
			return false
		}
	}
	return true
}

// Equal reports whether both cover the same set.
func (v VersionVector) Equal(w VersionVector) bool { return slices.Equal(v, w) }
