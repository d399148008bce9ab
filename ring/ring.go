package ring

import "slices"

// Ring is the ownership map of one layout for one replication factor. It is immutable and safe for concurrent
// use. The slices that its methods return belong to it and must not be written to, except Owned's.
type Ring struct {
	layout Layout   // members sorted by id
	n      int      // effective: min(asked, members)
	depth  int      // length of each walk
	lists  []NodeID // the walks of all slices, one after the other
	// ns are the replicas of the partitions of each group: of those that all other buckets share, and of each bucket
	// that has its own. group gives its place.
	ns    []int
	group map[string]int
}

// Layout returns the layout that the ring was computed from, with members sorted by id.
func (r *Ring) Layout() Layout { return r.layout }

// N returns the number of primaries of each partition but those of buckets that have an n of their own: what New was
// asked for, or the number of members if that is less.
func (r *Ring) N() int { return r.n }

// NOf returns the number of primaries of partition p.
func (r *Ring) NOf(p int) int {
	if g := p / r.layout.Partitions; g < len(r.ns) {
		return r.ns[g]
	}
	return r.n // a bucket that later layouts give an n of its own
}

// Q returns the number of slices of the hash space.
func (r *Ring) Q() int { return r.layout.Partitions }

// Partitions returns the number of partitions. The first Q are those that most buckets share. Each bucket that has, or
// once had, an n of its own has Q partitions of its own behind these, in the order of Layout.Buckets. A partition's slice
// of the hash space is its number modulo Q, and all partitions of a slice have the same walk: their primaries are the
// first n of it.
func (r *Ring) Partitions() int { return r.layout.Partitions * len(r.ns) }

// PartitionsOf returns the partitions that a bucket's keys are in: from the first to before end.
func (r *Ring) PartitionsOf(bucket string) (first, end int) {
	first = r.group[bucket] * r.layout.Partitions
	return first, first + r.layout.Partitions
}

// Epoch returns the epoch of the layout.
func (r *Ring) Epoch() uint64 { return r.layout.Epoch }

// Members returns the members sorted by id, shared and read-only.
func (r *Ring) Members() []Member { return r.layout.Members }

// Partition returns the partition of a key. It allocates nothing.
func (r *Ring) Partition(bucket, key string) int {
	return r.group[bucket]*r.layout.Partitions + PartitionOf(r.layout.Partitions, bucket, key)
}

// Primaries returns the primaries of partition p in preference order: shared, read-only, no allocation. A partition of
// a bucket that this layout does not know to have its own has those that all others have.
func (r *Ring) Primaries(p int) []NodeID {
	n, at := r.NOf(p), p%r.layout.Partitions*r.depth
	return r.lists[at : at+n : at+n]
}

// Walk returns the preference list of partition p, the primaries and then the ordered fallbacks: shared,
// read-only, no allocation. It holds every member, or the first 4 Mi / Q of them, at least 64, where the lists
// would otherwise take more than 64 MiB.
func (r *Ring) Walk(p int) []NodeID {
	at := p % r.layout.Partitions * r.depth
	return r.lists[at : at+r.depth : at+r.depth]
}

// IsPrimary reports whether id is a primary of partition p. It allocates nothing.
func (r *Ring) IsPrimary(p int, id NodeID) bool { return slices.Contains(r.Primaries(p), id) }

// Owned returns the partitions of which id is a primary, ascending, in a slice of the caller's own.
func (r *Ring) Owned(id NodeID) []int {
	out := make([]int, 0, r.Owns(id))
	for p := range r.Partitions() {
		if r.IsPrimary(p, id) {
			out = append(out, p)
		}
	}
	return out
}

// Owns returns the number of partitions of which id is a primary.
func (r *Ring) Owns(id NodeID) int {
	count := 0
	for p := range r.Partitions() {
		if r.IsPrimary(p, id) {
			count++
		}
	}
	return count
}

// numberedAs returns the ring with the partitions numbered as in a later one: keys have the same partitions in both.
func (r *Ring) numberedAs(later *Ring) *Ring {
	if len(r.ns) >= len(later.ns) {
		return r
	}
	c := *r
	c.group = later.group
	for range len(later.ns) - len(r.ns) {
		c.ns = append(c.ns[:len(c.ns):len(c.ns)], r.n)
	}
	return &c
}
