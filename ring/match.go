package ring

import (
	"iter"
	"math"
	"slices"
)

// roomReach is how many partitions makeRoom looks at. It bounds the time that New takes at the largest Q.
const roomReach = 1024

// match gives members to partitions, the nearest pairs first, as far as limits and distinct zones allow: a
// matching that is stable, since neither side could have had something nearer. What a member at its limit passes
// on is therefore what is farthest from it, and a newcomer takes only where it is nearer than what was there.
func (a *assignment) match() {
	distinct := min(a.n, len(a.used))
	open := 0
	for p := range a.picks {
		open += max(0, distinct-len(a.picks[p]))
	}
	if open == 0 {
		return
	}
	for p, i := range a.pairs() {
		if len(a.picks[p]) >= distinct || a.full(i) || a.has(p, a.zone[i]) {
			continue
		}
		a.picks[p] = append(a.picks[p], uint8(i))
		a.held[i]++
		if open--; open == 0 {
			return
		}
	}
	for p := range a.picks {
		for len(a.picks[p]) < distinct && len(a.used) > a.n && a.makeRoom(p) {
		}
	}
}

func (a *assignment) full(i int) bool { return a.held[i] >= a.limit[i] }

// has reports whether a member of a zone was given to partition p.
func (a *assignment) has(p, zone int) bool {
	for _, i := range a.picks[p] {
		if a.zone[i] == zone {
			return true
		}
	}
	return false
}

// pairs yields partitions and members by their distance, in batches: the match ends long before the last pair,
// so that to sort them all would waste time and memory.
func (a *assignment) pairs() iter.Seq2[int, int] {
	const binBits = 12
	bin := func(d int32) uint32 { return (uint32(d) ^ 1<<31) >> (32 - binBits) }
	return func(yield func(p, i int) bool) {
		var count [1 << binBits]int
		for _, d := range a.distances {
			count[bin(d)]++
		}
		m, least := len(a.zone), len(a.distances)/32
		var batch []uint64
		for from := uint32(0); from < 1<<binBits; {
			to, size := from, 0
			for to < 1<<binBits && size <= least {
				size += count[to]
				to++
			}
			batch = slices.Grow(batch[:0], size)
			for at, d := range a.distances {
				if b := bin(d); from <= b && b < to {
					batch = append(batch, uint64(uint32(d)^1<<31)<<32|uint64(at))
				}
			}
			slices.Sort(batch)
			for _, o := range batch {
				if at := int(uint32(o)); !yield(at/m, at%m) {
					return
				}
			}
			from = to
		}
	}
}

// makeRoom finds another member for a partition that has used up the zones of all members below their limits: a
// partition next to it in number gives one up, and takes one that is below its limit instead. Of all such swaps it
// makes the one with the shortest distances, and it reports whether there was one.
func (a *assignment) makeRoom(p int) bool {
	m, best := len(a.zone), int64(math.MaxInt64)
	var room []int // members below their limits
	for i := range m {
		if !a.full(i) {
			room = append(room, i)
		}
	}
	var donor, place, instead int
	for step := 1; step < min(a.q, roomReach) && len(room) > 0; step++ {
		o := (p + step) % a.q
		for at, i := range a.picks[o] {
			if at < a.kept || a.has(p, a.zone[i]) {
				continue
			}
			change := int64(a.distances[p*m+int(i)]) - int64(a.distances[o*m+int(i)])
			for _, k := range room {
				if a.has(o, a.zone[k]) {
					continue
				}
				if d := change + int64(a.distances[o*m+k]); d < best {
					best, donor, place, instead = d, o, at, k
				}
			}
		}
	}
	if best == math.MaxInt64 {
		return false
	}
	a.picks[p] = append(a.picks[p], a.picks[donor][place])
	a.picks[donor][place] = uint8(instead)
	a.held[instead]++
	return true
}
