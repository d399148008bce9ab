package ring

import "fmt"

// Move says whose copies of a partition change between two rings.
type Move struct {
	Partition int
	Gained    []NodeID // primaries that were none before: each has to be sent the partition
	Lost      []NodeID // primaries that are none any more
}

// Diff returns what moves from a to b, by ascending partition, both of one cluster. It panics unless both have the same
// Q, which never changes in the life of a cluster; so do Gained and Moved.
func Diff(a, b *Ring) []Move {
	sameQ(a, b)
	var out []Move
	for p := range numbered(a, b) {
		gained, lost := beyond(a, b, p), beyond(b, a, p)
		if len(gained)+len(lost) > 0 {
			out = append(out, Move{Partition: p, Gained: gained, Lost: lost})
		}
	}
	return out
}

// Gained returns the partitions of which id is a primary in b and not in a, ascending. Gained(b, a, id) is what it
// loses from a to b.
func Gained(a, b *Ring, id NodeID) []int {
	sameQ(a, b)
	var out []int
	for p := range numbered(a, b) {
		if b.IsPrimary(p, id) && !a.IsPrimary(p, id) {
			out = append(out, p)
		}
	}
	return out
}

// Moved returns how many (partition, primary) slots of b hold a member that is no primary of that partition in
// a: the slots that have to be filled by a transfer.
func Moved(a, b *Ring) int {
	sameQ(a, b)
	moved := 0
	for p := range numbered(a, b) {
		for _, id := range b.Primaries(p) {
			if !a.IsPrimary(p, id) {
				moved++
			}
		}
	}
	return moved
}

// beyond returns the primaries of partition p in b that are none in a.
func beyond(a, b *Ring, p int) (out []NodeID) {
	for _, id := range b.Primaries(p) {
		if !a.IsPrimary(p, id) {
			out = append(out, id)
		}
	}
	return out
}

func sameQ(a, b *Ring) {
	if a.Q() != b.Q() {
		panic(fmt.Sprintf("ring: rings of %d and %d partitions compared", a.Q(), b.Q()))
	}
}

// numbered is the number of partitions of the ring that knows more buckets.
func numbered(a, b *Ring) int { return max(a.Partitions(), b.Partitions()) }
