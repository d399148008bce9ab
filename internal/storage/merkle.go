package storage

import (
	"encoding/binary"
	"math/bits"
	"sync"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"github.com/dunlindb/dunlin/vclock"
)

// Leaves is the number of leaves of a partition's Merkle tree.
const Leaves = 256

// Sum is the sum, modulo 2^128, of the digests of records. A sum and not an exclusive or: the same record counted
// twice must show.
type Sum [16]byte

type sum struct{ hi, lo uint64 }

func sumOf(d vclock.Digest) sum {
	return sum{binary.BigEndian.Uint64(d[:8]), binary.BigEndian.Uint64(d[8:])}
}

func (s sum) add(t sum) sum {
	lo, carry := bits.Add64(s.lo, t.lo, 0)
	hi, _ := bits.Add64(s.hi, t.hi, carry)
	return sum{hi, lo}
}

func (s sum) sub(t sum) sum {
	lo, borrow := bits.Sub64(s.lo, t.lo, 0)
	hi, _ := bits.Sub64(s.hi, t.hi, borrow)
	return sum{hi, lo}
}

func (s sum) bytes() (b Sum) {
	binary.BigEndian.PutUint64(b[:8], s.hi)
	binary.BigEndian.PutUint64(b[8:], s.lo)
	return b
}

// leafOf gives the leaf of a record: 8 bits of a hash of bucket and key. It is the same on every node, and shares
// nothing with the hash that chose the partition.
func leafOf(object []byte) int { return int(xxhash.Sum64(object[3:]) >> 56) }

// tree is the Merkle tree of a partition, of two levels: leaves and their sum. A record counts with its digest; one
// that is corrupt or incomplete does not count, so that the tree differs from the peers' until it is healed.
type tree struct {
	mu     sync.Mutex
	leaves *[Leaves]sum // nil: all zero
	root   sum
	built  bool // the leaves hold what was there before the store opened
	// splitting: what the records of a bucket count for is being moved from it, or to it.
	splitting bool
	// soiled counts the changes of which nobody knows what the record had counted for, cleaned how many of these a
	// recount has taken in.
	soiled, cleaned uint64
}

// ready: the sums can be relied on. The caller holds mu.
func (t *tree) ready() bool { return t.built && t.soiled == t.cleaned && !t.splitting }

func (t *tree) add(leaf int, delta sum) {
	if delta == (sum{}) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addLocked(leaf, delta)
}

func (t *tree) addLocked(leaf int, delta sum) {
	if t.leaves == nil {
		t.leaves = new([Leaves]sum)
	}
	t.leaves[leaf] = t.leaves[leaf].add(delta)
	t.root = t.root.add(delta)
}

// forest is the trees of all partitions.
type forest struct {
	// rows are the trees of the partitions that most buckets share, and of those of each bucket that has its own.
	rows atomic.Pointer[[][]tree]
	// counting holds one while somebody counts a partition from the disk: two at once would correct the same error
	// twice. It is taken before Store.exclusion.
	counting chan struct{}
	built    chan struct{} // closed once all were counted after Open, or that was given up
	wake     chan struct{} // there is something in dirty

	mu    sync.Mutex
	dirty map[int]struct{}
}

func newForest(partitions, groups int) *forest {
	f := &forest{
		counting: make(chan struct{}, 1), built: make(chan struct{}), wake: make(chan struct{}, 1), dirty: make(map[int]struct{}),
	}
	rows := make([][]tree, 1+groups)
	for i := range rows {
		rows[i] = make([]tree, partitions)
	}
	f.rows.Store(&rows)
	return f
}

// tree is the one of a partition, nil if it has none.
func (f *forest) tree(p int) *tree {
	rows := *f.rows.Load()
	q := len(rows[0])
	if p < 0 || q == 0 || p/q >= len(rows) {
		return nil
	}
	return &rows[p/q][p%q]
}

// update follows a change of a record of partition p that badger shows.
func (f *forest) update(p int, e *entry, is tally) {
	t := f.tree(p)
	if t == nil {
		return
	}
	if e.was.corrupt || is.corrupt {
		f.soil(p)
	}
	if delta := is.sum.sub(e.was.sum); delta != (sum{}) {
		t.add(leafOf(e.key), delta)
	}
}

// soil has a partition counted anew.
func (f *forest) soil(p int) {
	t := f.tree(p)
	t.mu.Lock()
	t.soiled++
	t.mu.Unlock()
	f.mu.Lock()
	f.dirty[p] = struct{}{}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// takeDirty gives a partition that has to be counted anew.
func (f *forest) takeDirty() (p int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.dirty {
		delete(f.dirty, p)
		return p, true
	}
	return 0, false
}

// Root returns the sum of all records of a partition, and whether it can be relied on: not until the partition was
// counted after Open, nor while it is counted anew, nor for a partition that has no sums.
func (s *Store) Root(p int) (Sum, bool) {
	t := s.forest.tree(p)
	if t == nil {
		return Sum{}, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.root.bytes(), t.ready() && !s.drops.has(p)
}

// LeafSums returns the sums of a partition's leaves, and whether they can be relied on (see Root). Together they make
// the root of the same moment.
func (s *Store) LeafSums(p int) (*[Leaves]Sum, bool) {
	out := new([Leaves]Sum)
	t := s.forest.tree(p)
	if t == nil {
		return out, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.leaves != nil {
		for i, leaf := range t.leaves {
			out[i] = leaf.bytes()
		}
	}
	return out, t.ready() && !s.drops.has(p)
}
