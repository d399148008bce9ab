package ring

import (
	"encoding/binary"
	"math/bits"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// maxListed bounds the preference lists of a ring: 4 Mi ids are 64 MiB.
const maxListed = 1 << 22

// A member is passed over once it holds this part of its fair share, in hundredths, rounded down.
const loadLimit = 110

// New computes the ring of a layout for n replicas, 1..MaxN. It fails, with an error that wraps ErrInvalid,
// only if the layout is not valid or n is out of range. It takes about 20 ms of CPU for 1024 partitions and 64
// members, and time in proportion to their product.
func New(l Layout, n int) (*Ring, error) {
	if err := l.Validate(); err != nil {
		return nil, err
	}
	if n < 1 || n > MaxN {
		return nil, invalid("n", "%d, want 1 to %d", n, MaxN)
	}
	l.Members = sorted(l.Members)
	n = min(n, len(l.Members))
	r := &Ring{layout: l, n: n, depth: min(len(l.Members), maxListed/l.Partitions), ns: []int{n}}
	for i, b := range l.Buckets {
		if r.group == nil {
			r.group = make(map[string]int, len(l.Buckets))
		}
		r.group[b.Bucket] = i + 1
		r.ns = append(r.ns, min(b.N, len(l.Members)))
	}
	if len(l.Primaries) == 0 {
		l.Primaries = l.firstTable()
	}
	a := newAssignment(l, max(n, l.width())) // fewer are the first of the table's
	a.keep(l)
	a.match()
	r.lists = make([]NodeID, 0, l.Partitions*r.depth)
	for p := range l.Partitions {
		for _, i := range a.walk(p)[:r.depth] {
			r.lists = append(r.lists, l.Members[i].ID)
		}
	}
	return r, nil
}

// firstTable returns the primaries of a valid layout that carries none: as the hash has them, then evened.
func (l Layout) firstTable() []NodeID {
	n := l.width()
	a := newAssignment(l, n)
	a.match()
	l.Primaries = make([]NodeID, 0, l.Partitions*n)
	for p := range l.Partitions {
		for _, i := range a.walk(p)[:n] {
			l.Primaries = append(l.Primaries, l.Members[i].ID)
		}
	}
	return l.evened()
}

// assignment is the state of New. Members are first matched with all partitions; then partitions are walked once
// each, in ascending order. Members are numbered in the order of their ids.
type assignment struct {
	q, n      int
	zone      []int    // of each member
	share     []uint64 // fair share of each member
	limit     []int    // slots at which a member is passed over
	spare     []int    // of each zone: repeats of it in one partition that leave it room to be in every other once
	distances []int32  // of member i from partition p, less the member's pull: [p*members+i]

	kept    int       // members of each partition that are the table's, the first of its picks
	held    []int     // slots of each member so far
	repeats []int     // of each zone so far
	picks   [][]uint8 // members given to each partition, in distinct zones

	// Of the partition at hand:
	order  []uint64 // members by distance: score and number packed to sort fast
	taken  []bool   // members that are primaries
	used   []int    // members listed per zone
	left   int      // primaries still to find
	rounds []uint64
	list   []int
}

func newAssignment(l Layout, n int) *assignment {
	m, q := len(l.Members), l.Partitions
	zone, count := zones(l.Members)
	a := &assignment{
		q: q, n: n, zone: zone, share: shares(l.Members, zone, q, n), limit: make([]int, m), spare: make([]int, count),
		held: make([]int, m), repeats: make([]int, count),
		order: make([]uint64, m), taken: make([]bool, m), used: make([]int, count), list: make([]int, 0, m), rounds: make([]uint64, 0, m),
	}
	for i, s := range a.share {
		// Never less than the fair share rounded up: the limits must add up to all slots.
		a.limit[i] = min(q, max(int((s+slot-1)/slot), int(s*loadLimit/100/slot)))
		a.spare[zone[i]] += a.limit[i]
	}
	for z := range a.spare {
		a.spare[z] = max(0, a.spare[z]-q)
	}
	picks := make([]uint8, q*n)
	a.picks = make([][]uint8, q)
	for p := range a.picks {
		a.picks[p] = picks[p*n : p*n : (p+1)*n]
	}
	part := zone
	if count < n {
		part = make([]int, m)
		for i := range part {
			part[i] = i
		}
	}
	pull := pulls(l.Members, a.share, part, q)
	a.distances = make([]int32, q*m)
	for i := range l.Members {
		for p, u := range tokens(l.Members[i].ID, q) {
			a.distances[p*m+i] = distance(u) - pull[i]
		}
	}
	return a
}

// keep gives each partition the primaries that the layout's table says.
func (a *assignment) keep(l Layout) {
	number, width := numbers(l.Members), l.width()
	a.kept = width
	for at, id := range l.Primaries {
		i := number[id]
		a.picks[at/width] = append(a.picks[at/width], uint8(i))
		a.held[i]++
	}
}

// tokens returns the position of a member's token on each partition, uniform in 0..2^64. The positions are evenly
// spaced and in an order drawn from the id, rather than independent: that leaves much less to chance in how many
// partitions a member wins, so fewer of them meet their limit and fewer slots move when a member comes or goes.
func tokens(id NodeID, q int) []uint64 {
	var key [24]byte
	copy(key[:], id[:])
	drawn := make([]uint64, q)
	for p := range drawn {
		binary.BigEndian.PutUint64(key[len(id):], uint64(p))
		drawn[p] = xxhash.Sum64(key[:])&^(MaxPartitions-1) | uint64(p)
	}
	slices.Sort(drawn)
	out := make([]uint64, q)
	width := bits.TrailingZeros64(uint64(q))
	offset := xxhash.Sum64(id[:]) >> width
	for rank, d := range drawn {
		out[d&(MaxPartitions-1)] = uint64(rank)<<(64-width) | offset
	}
	return out
}

// walk completes the primaries of partition p and returns its preference list, valid until the next call.
func (a *assignment) walk(p int) []int {
	m := len(a.order)
	for i, d := range a.distances[p*m : (p+1)*m] {
		a.order[i] = uint64(uint32(d)^1<<31)<<32 | uint64(i)
	}
	slices.Sort(a.order)
	clear(a.taken)
	clear(a.used)
	a.left = a.n - len(a.picks[p])
	for _, i := range a.picks[p] {
		a.taken[i] = true
		a.used[a.zone[i]]++
	}
	a.leastLoaded(func(i int) bool { return a.used[a.zone[i]] == 0 })
	if a.left > 0 { // every zone is there once
		spare := func(i int) bool {
			z := a.zone[i]
			return a.repeats[z]+a.used[z]-1 < a.spare[z]
		}
		a.nearest(spare)
		a.leastLoaded(spare)
		a.leastLoaded(func(int) bool { return true })
		for z, u := range a.used {
			a.repeats[z] += max(0, u-1)
		}
	}
	return a.arrange()
}

func (a *assignment) take(i int) {
	a.taken[i] = true
	a.used[a.zone[i]]++
	a.held[i]++
	a.left--
}

// nearest takes members that are below their limit, the nearest first.
func (a *assignment) nearest(may func(int) bool) {
	for _, o := range a.order {
		if a.left == 0 {
			return
		}
		if i := int(uint32(o)); !a.taken[i] && a.held[i] < a.limit[i] && may(i) {
			a.take(i)
		}
	}
}

// leastLoaded takes members in spite of their limit, so that a partition never lacks a primary: first the one
// that holds least for its share, and of equals the nearest.
func (a *assignment) leastLoaded(may func(int) bool) {
	for a.left > 0 {
		best := -1
		for _, o := range a.order {
			i := int(uint32(o))
			if a.taken[i] || !may(i) {
				continue
			}
			if best < 0 || lighter(a.held[i]+1, a.share[i], a.held[best]+1, a.share[best]) {
				best = i
			}
		}
		if best < 0 {
			return
		}
		a.take(best)
	}
}

// arrange lists the primaries and then the others, each by how often their zone was listed before them and then
// by distance: so both the primaries and the fallbacks go through the zones in rounds.
func (a *assignment) arrange() []int {
	clear(a.used)
	a.list = a.list[:0]
	for _, primaries := range [...]bool{true, false} {
		a.rounds = a.rounds[:0]
		for rank, o := range a.order {
			i := int(uint32(o))
			if a.taken[i] != primaries {
				continue
			}
			z := a.zone[i]
			a.rounds = append(a.rounds, uint64(a.used[z])<<32|uint64(rank))
			a.used[z]++
		}
		slices.Sort(a.rounds)
		for _, r := range a.rounds {
			a.list = append(a.list, int(uint32(a.order[uint32(r)])))
		}
	}
	return a.list
}
