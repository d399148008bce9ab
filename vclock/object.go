package vclock

import (
	"bytes"
	"cmp"
	"slices"
)

// WriteID names one request of a client, so that a repeated request makes no second write. Key is a hash of the
// client's Idempotency-Key, Body one of method and body: equal in Key only, two requests are different writes
// (and the client misused its key). An id made at the edge for a client that sent none has Client false.
type WriteID struct {
	Key    [16]byte
	Body   [16]byte
	Client bool
}

// Compare orders write ids.
func (w WriteID) Compare(x WriteID) int {
	if c := bytes.Compare(w.Key[:], x.Key[:]); c != 0 {
		return c
	}
	if c := bytes.Compare(w.Body[:], x.Body[:]); c != 0 {
		return c
	}
	switch {
	case w.Client == x.Client:
		return 0
	case x.Client:
		return -1
	}
	return 1
}

// Sibling is one value that nothing the object has seen supersedes.
type Sibling struct {
	Dot         Dot
	Value       []byte
	ContentType string
	Stamp       Stamp   // when it was minted, by hybrid logical clock
	Expiry      int64   // Unix milliseconds at which it expires; 0: never
	Deleted     bool    // a tombstone: the write was a delete
	ID          WriteID // the request that made it
}

// Expired reports whether the sibling's time to live is over at now (Unix milliseconds). Only who answers a client
// may ask: replicas keep an expired sibling byte for byte, because their clocks differ.
func (s Sibling) Expired(now int64) bool { return s.Expiry != 0 && s.Expiry <= now }

// Live reports whether a client may see the sibling's value at now.
func (s Sibling) Live(now int64) bool { return !s.Deleted && !s.Expired(now) }

// Retired is the write id of a client's write that was superseded, with the Unix milliseconds at which that was
// noted. A sibling that comes back under a retired id is dropped: it is a repeated request, already overwritten.
type Retired struct {
	ID WriteID
	At int64
}

// Object is what one replica knows of one key. The zero value is a key that was never written.
type Object struct {
	Context  VersionVector
	Siblings []Sibling // sorted by dot
	Retired  []Retired // sorted by id; no part of the digest, purged by Purge only
}

// IsZero reports whether the object knows of no write at all. (A deleted key is not zero: it holds a tombstone.)
func (o Object) IsZero() bool {
	return len(o.Context) == 0 && len(o.Siblings) == 0 && len(o.Retired) == 0
}

// Merge joins two replicas' knowledge of one key: the union of the contexts and of the retired ids, and every
// sibling that both hold, or that one holds and the other's context does not cover (what is covered and not held
// was superseded). A sibling whose id is retired goes; its dot stays covered. Twins, two siblings of one client
// request that was minted by two coordinators, are never joined here: joining them is not associative.
//
// Merge is commutative, associative and idempotent.
func Merge(a, b Object) Object {
	if len(b.Context) == 0 && len(b.Retired) == 0 {
		return a
	}
	if len(a.Context) == 0 && len(a.Retired) == 0 {
		return b
	}
	out := Object{
		Context:  a.Context.Merge(b.Context),
		Siblings: mergeSiblings(a, b),
		Retired:  mergeRetired(a.Retired, b.Retired),
	}
	out.Siblings = dropRetired(out.Siblings, out.Retired)
	return out
}

func mergeSiblings(a, b Object) []Sibling {
	out := make([]Sibling, 0, max(len(a.Siblings), len(b.Siblings)))
	i, j := 0, 0
	for i < len(a.Siblings) || j < len(b.Siblings) {
		c := 0
		switch {
		case i == len(a.Siblings):
			c = 1
		case j == len(b.Siblings):
			c = -1
		default:
			c = a.Siblings[i].Dot.Compare(b.Siblings[j].Dot)
		}
		switch {
		case c < 0:
			if !b.Context.Covers(a.Siblings[i].Dot) {
				out = append(out, a.Siblings[i])
			}
			i++
		case c > 0:
			if !a.Context.Covers(b.Siblings[j].Dot) {
				out = append(out, b.Siblings[j])
			}
			j++
		default:
			out = append(out, a.Siblings[i])
			i, j = i+1, j+1
		}
	}
	return out
}

func mergeRetired(a, b []Retired) []Retired {
	if len(a) == 0 {
		return b
	}
	if len(b) == 0 {
		return a
	}
	all := slices.Concat(a, b)
	// Of equal ids the earliest note stays: every order of merging gives the same, and handing an id on does not
	// make it younger.
	slices.SortFunc(all, func(x, y Retired) int {
		return cmp.Or(x.ID.Compare(y.ID), cmp.Compare(x.At, y.At))
	})
	return slices.CompactFunc(all, func(x, y Retired) bool { return x.ID == y.ID })
}

func isRetired(retired []Retired, id WriteID) bool {
	if !id.Client || len(retired) == 0 {
		return false
	}
	_, ok := slices.BinarySearchFunc(retired, id, func(r Retired, id WriteID) int { return r.ID.Compare(id) })
	return ok
}

func dropRetired(siblings []Sibling, retired []Retired) []Sibling {
	if !slices.ContainsFunc(siblings, func(s Sibling) bool { return isRetired(retired, s.ID) }) {
		return siblings
	}
	return slices.DeleteFunc(slices.Clone(siblings), func(s Sibling) bool { return isRetired(retired, s.ID) })
}

// Equal reports whether a and b are the same replicated state. Retired ids, which replicas purge by their own
// clocks, do not count.
func (o Object) Equal(p Object) bool {
	return o.Context.Equal(p.Context) && slices.EqualFunc(o.Siblings, p.Siblings, func(s, t Sibling) bool {
		return s.Dot == t.Dot && s.Stamp == t.Stamp && s.Expiry == t.Expiry && s.Deleted == t.Deleted &&
			s.ID == t.ID && s.ContentType == t.ContentType && bytes.Equal(s.Value, t.Value)
	})
}

// Covers reports whether o already knows all that p knows, retired ids included: merging p into o changes nothing
// (but perhaps when a retired id was noted).
func (o Object) Covers(p Object) bool {
	if !o.Context.Descends(p.Context) {
		return false
	}
	for _, r := range p.Retired {
		if !isRetired(o.Retired, r.ID) {
			return false
		}
	}
	// o may still hold a sibling that p saw superseded.
	for _, s := range o.Siblings {
		if p.Context.Covers(s.Dot) && !slices.ContainsFunc(p.Siblings, func(t Sibling) bool { return t.Dot == s.Dot }) {
			return false
		}
	}
	return true
}

// Bytes is the room the values take, a measure for limits.
func (o Object) Bytes() int {
	n := 0
	for _, s := range o.Siblings {
		n += len(s.Value) + len(s.ContentType)
	}
	return n
}

// Purge drops retired ids noted before the Unix milliseconds cutoff, and of the others all but the latest keep. It
// is local housekeeping, no part of Merge: a replica that purges later hands the id on once more, harmlessly.
func (o Object) Purge(cutoff int64, keep int) Object {
	old := func(r Retired) bool { return r.At < cutoff }
	if len(o.Retired) <= keep && !slices.ContainsFunc(o.Retired, old) {
		return o
	}
	left := slices.DeleteFunc(slices.Clone(o.Retired), old)
	if len(left) > keep {
		slices.SortFunc(left, func(x, y Retired) int { return cmp.Or(cmp.Compare(y.At, x.At), x.ID.Compare(y.ID)) })
		left = left[:keep]
		slices.SortFunc(left, func(x, y Retired) int { return x.ID.Compare(y.ID) })
	}
	o.Retired = left
	return o
}
