package ring

import (
	"errors"
	"fmt"
	"slices"
)

// Epochs are the epochs that live at one moment, as one node knows them: one in quiet times, more while members
// change. A request takes one snapshot and uses it to the end.
//
// Coordination goes by the oldest, [Epochs.Base], and reads by [Epochs.Reading]; the primaries of both hold everything. A
// write needs its quorum in every one of them, so that whichever of them a reader uses, its quorum meets the writer's. An
// Epochs is immutable and safe for concurrent use.
type Epochs struct {
	rings   []*Ring
	settled uint64
	removed []NodeID
	reading int // index in rings
}

// NewEpochs makes a snapshot of rings, at least one, of one cluster, oldest first. Settled is the newest epoch that
// every member coordinates by: no operation that ignores it is under way, and replicas refuse those of older epochs.
// Removed are members of older epochs that are stopped for good.
func NewEpochs(rings []*Ring, settled uint64, removed []NodeID) (*Epochs, error) {
	if len(rings) == 0 {
		return nil, errors.New("ring: no live epoch")
	}
	newest := rings[len(rings)-1]
	for i, r := range rings[1:] {
		if r.Epoch() <= rings[i].Epoch() || r.Q() != rings[i].Q() || r.Partitions() < rings[i].Partitions() {
			return nil, errors.New("ring: live epochs out of order, or of different clusters")
		}
	}
	rings = slices.Clone(rings)
	for i, r := range rings {
		rings[i] = r.numberedAs(newest) // one number for a key, whichever ring is asked
	}
	return &Epochs{rings: rings, settled: settled, removed: slices.Clone(removed)}, nil
}

// Base is the oldest live ring: reads and coordination go by it.
func (e *Epochs) Base() *Ring { return e.rings[0] }

// Reading is the ring that reads go by: the base, unless [Epochs.ReadBy] said otherwise.
func (e *Epochs) Reading() *Ring { return e.rings[e.reading] }

// ReadBy returns the same epochs with reads going by the ring of the given one, which must live and whose primaries must
// hold everything. Nodes hear at different times that nobody reads by the base any more. Who has heard it writes to the
// newer rings alone, so who has agreed to it must already read by one of these, although its base is still the older.
func (e *Epochs) ReadBy(epoch uint64) (*Epochs, error) {
	i := slices.IndexFunc(e.rings, func(r *Ring) bool { return r.Epoch() == epoch })
	if i < 0 {
		return nil, fmt.Errorf("ring: epoch %d does not live, and cannot be read by", epoch)
	}
	next := *e
	next.reading = i
	return &next, nil
}

// Newest is the ring of the newest layout.
func (e *Epochs) Newest() *Ring { return e.rings[len(e.rings)-1] }

// Rings are all live rings, oldest first: shared, read-only.
func (e *Epochs) Rings() []*Ring { return e.rings }

// Changing reports whether more than one epoch lives.
func (e *Epochs) Changing() bool { return len(e.rings) > 1 }

// Settled is the newest epoch that every member coordinates by.
func (e *Epochs) Settled() uint64 { return e.settled }

// FullySettled reports whether that is the newest.
func (e *Epochs) FullySettled() bool { return e.settled >= e.Newest().Epoch() }

// Partition returns the partition of a key. It allocates nothing.
func (e *Epochs) Partition(bucket, key string) int { return e.Base().Partition(bucket, key) }

// Partitions returns the number of partitions, the same in all live rings: see [Ring.Partitions].
func (e *Epochs) Partitions() int { return e.Base().Partitions() }

// Q returns the number of slices of the hash space.
func (e *Epochs) Q() int { return e.Base().Q() }

// At returns the live ring of an epoch, nil if it does not live.
func (e *Epochs) At(epoch uint64) *Ring {
	for _, r := range e.rings {
		if r.Epoch() == epoch {
			return r
		}
	}
	return nil
}

// Holds reports whether id is a primary of partition p in any live epoch. It allocates nothing.
func (e *Epochs) Holds(p int, id NodeID) bool {
	return slices.ContainsFunc(e.rings, func(r *Ring) bool { return r.IsPrimary(p, id) })
}

// Holders are the primaries of partition p in all live epochs, each once, those of the base first. With one live
// epoch the slice is the ring's own, read-only.
func (e *Epochs) Holders(p int) []NodeID {
	if len(e.rings) == 1 {
		return e.Base().Primaries(p)
	}
	out := slices.Clone(e.Base().Primaries(p))
	for _, r := range e.rings[1:] {
		for _, id := range r.Primaries(p) {
			if !slices.Contains(out, id) {
				out = append(out, id)
			}
		}
	}
	return out
}

// Held are the partitions that id holds, ascending, in a slice of the caller's own.
func (e *Epochs) Held(id NodeID) []int {
	var out []int
	for p := range e.Partitions() {
		if e.Holds(p, id) {
			out = append(out, p)
		}
	}
	return out
}

// Filling are the partitions that id must be filled with before the newest epoch stands alone: it is a primary there
// and not in the base.
func (e *Epochs) Filling(id NodeID) []int {
	var out []int
	if !e.Changing() {
		return nil
	}
	for p := range e.Partitions() {
		if e.Newest().IsPrimary(p, id) && !e.Base().IsPrimary(p, id) {
			out = append(out, p)
		}
	}
	return out
}

// Narrowed reports whether id keeps partition p although it has fewer primaries in the newest epoch than in an older one.
// Nobody gains it then who would be filled from all of the old owners, and what was acknowledged by those alone who lose
// it is theirs alone: whoever keeps it has to take over what each of them holds.
func (e *Epochs) Narrowed(p int, id NodeID) bool {
	if !e.Changing() || !e.Newest().IsPrimary(p, id) || !e.Base().IsPrimary(p, id) {
		return false
	}
	n := e.Newest().NOf(p)
	return slices.ContainsFunc(e.rings, func(r *Ring) bool { return r.NOf(p) > n })
}

// Member finds a member of any live epoch, the newest first.
func (e *Epochs) Member(id NodeID) (Member, bool) {
	for _, r := range slices.Backward(e.rings) {
		if m, ok := r.Layout().Member(id); ok {
			return m, true
		}
	}
	return Member{}, false
}

// Members are the members of all live epochs, each once, sorted by id. With one live epoch the slice is the ring's own,
// read-only.
func (e *Epochs) Members() []Member {
	if len(e.rings) == 1 {
		return e.Base().Members()
	}
	var all []Member
	for _, r := range slices.Backward(e.rings) {
		for _, m := range r.Members() {
			if !slices.ContainsFunc(all, func(o Member) bool { return o.ID == m.ID }) {
				all = append(all, m)
			}
		}
	}
	return sorted(all)
}

// Removed reports whether a member of an older epoch is stopped for good: nobody waits for it.
func (e *Epochs) Removed(id NodeID) bool { return slices.Contains(e.removed, id) }
