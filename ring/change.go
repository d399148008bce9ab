package ring

import (
	"fmt"
	"maps"
	"slices"
)

// Change is what the next layout does differently. A node is named by at most one of Join (and the new member of
// Replace), Leave, Remove, Update and the keys of Replace, with one exception: Remove may also name a replaced node.
type Change struct {
	Join    []Member          // new members
	Leave   []NodeID          // members that hand over what they hold, and may come back
	Remove  []NodeID          // members, or former ones, that never come back: they leave and are recorded in Removed
	Replace map[NodeID]Member // by the old member's id: a new one that takes over exactly its slots
	Update  []Member          // members whose weight or zone changes; id and name are the present ones
	BucketN map[string]int    // replicas of buckets; 0 means the layout's N again
	Lineage [16]byte          // random: a majority is given up; zero: none is
}

// Next returns the layout of the next epoch: the present one with a change made, valid, with the primaries assigned
// by moving as few slots as balance and zones allow (DESIGN.md). It depends on l and c alone, and not on the order of
// members. A change that concerns no member moves nothing. Errors wrap ErrInvalid and name the field of the change,
// or of the layout that would result. It takes some 20 ms of CPU for 1024 partitions and 64 members.
func (l Layout) Next(c Change) (Layout, error) {
	if err := l.Validate(); err != nil {
		return Layout{}, err
	}
	next := l
	next.Epoch++
	if c.Lineage != [16]byte{} {
		next.Lineages = append(l.Lineages[:len(l.Lineages):len(l.Lineages)], c.Lineage)
	}
	if err := next.changeBucketN(c.BucketN); err != nil {
		return Layout{}, err
	}
	e := newEdit(l.Members)
	e.updates = len(c.Update) > 0
	if err := e.apply(l, c); err != nil {
		return Layout{}, err
	}
	next.Members = e.members()
	next.Removed = slices.SortedFunc(slices.Values(l.Removed), NodeID.Compare)
	for _, id := range c.Remove {
		if !next.IsRemoved(id) {
			next.Removed = append(next.Removed, id)
		}
	}
	slices.SortFunc(next.Removed, NodeID.Compare)
	next.Primaries = nil
	if len(c.Join)+len(c.Replace)+len(c.Update) == 0 && len(next.Members) == len(l.Members) {
		next.Primaries = slices.Clone(l.Primaries)
		return next, next.Validate()
	}
	if err := next.Validate(); err != nil {
		return Layout{}, err
	}
	next.assign(l, e)
	return next, nil
}

// Back returns the layout of the epoch after l, with the members, the primaries and the buckets' numbers of replicas of
// an older layout of the same cluster: l's change is taken back, and what it moved goes where it was. Removed ids and
// lineages are l's, and so is which buckets have partitions of their own. Errors wrap ErrInvalid and name the field.
func (l Layout) Back(to Layout) (Layout, error) {
	if err := l.Validate(); err != nil {
		return Layout{}, err
	}
	switch {
	case to.Epoch >= l.Epoch:
		return Layout{}, invalid("Epoch", "back from %d to %d, which is not older", l.Epoch, to.Epoch)
	case to.ClusterID != l.ClusterID:
		return Layout{}, invalid("ClusterID", "back to a layout of another cluster")
	case to.Partitions != l.Partitions:
		return Layout{}, invalid("Partitions", "back from %d to %d", l.Partitions, to.Partitions)
	case to.N != l.N:
		return Layout{}, invalid("N", "back from %d to %d", l.N, to.N)
	}
	next := l
	next.Epoch++
	next.Members = sorted(to.Members)
	next.Primaries = slices.Clone(to.Primaries)
	next.Buckets = slices.Clone(l.Buckets)
	for i := range next.Buckets {
		next.Buckets[i].N = to.NFor(next.Buckets[i].Bucket)
	}
	next.Removed = slices.SortedFunc(slices.Values(l.Removed), NodeID.Compare)
	if err := next.Validate(); err != nil {
		return Layout{}, err
	}
	return next, nil
}

// changeBucketN sets what of says, in a slice of its own. A bucket that has been there stays, also with the layout's N.
func (l *Layout) changeBucketN(of map[string]int) error {
	all := slices.Clone(l.Buckets)
	for _, bucket := range slices.Sorted(maps.Keys(of)) {
		b := BucketN{bucket, of[bucket]}
		if b.N == 0 {
			b.N = l.N
		}
		if err := checkBucketN(fmt.Sprintf("BucketN[%q]", bucket), b); err != nil {
			return err
		}
		switch i := slices.IndexFunc(all, func(o BucketN) bool { return o.Bucket == bucket }); {
		case i >= 0:
			all[i] = b
		case b.N != l.N:
			all = append(all, b)
		}
	}
	if len(all) > MaxBucketN {
		return invalid("BucketN", "%d buckets with a number of replicas of their own, at most %d", len(all), MaxBucketN)
	}
	l.Buckets = all
	return nil
}

// edit is a member set that is being changed.
type edit struct {
	now       map[NodeID]Member
	updates   bool
	successor map[NodeID]NodeID // old to new id of replaced members
	named     map[NodeID]string // ids that the change has named, and where
}

func newEdit(members []Member) *edit {
	e := &edit{
		now: make(map[NodeID]Member, len(members)), successor: map[NodeID]NodeID{}, named: map[NodeID]string{},
	}
	for _, m := range members {
		e.now[m.ID] = m
	}
	return e
}

func (e *edit) members() []Member { return sorted(slices.Collect(maps.Values(e.now))) }

// apply makes a change. Who goes, goes first: a newcomer may have the name of one who goes.
func (e *edit) apply(l Layout, c Change) error {
	for i, id := range c.Leave {
		if err := e.goes(fmt.Sprintf("Leave[%d]", i), id); err != nil {
			return err
		}
	}
	for i, id := range c.Remove {
		if err := e.remove(fmt.Sprintf("Remove[%d]", i), id, c); err != nil {
			return err
		}
	}
	replaced := slices.SortedFunc(maps.Keys(c.Replace), NodeID.Compare)
	for _, id := range replaced {
		if err := e.goes(fmt.Sprintf("Replace[%s]", id), id); err != nil {
			return err
		}
		e.successor[id] = c.Replace[id].ID
	}
	for i, m := range c.Update {
		if err := e.update(fmt.Sprintf("Update[%d]", i), m); err != nil {
			return err
		}
	}
	for _, id := range replaced {
		if err := e.comes(fmt.Sprintf("Replace[%s]", id), c.Replace[id], l); err != nil {
			return err
		}
	}
	for i, m := range c.Join {
		if err := e.comes(fmt.Sprintf("Join[%d]", i), m, l); err != nil {
			return err
		}
	}
	if len(e.now) == 0 {
		return invalid("Leave", "no member would be left")
	}
	return nil
}

// name notes that a field of the change is about id, which no other may be.
func (e *edit) name(field string, id NodeID) error {
	if other, ok := e.named[id]; ok {
		return invalid(field, "%s is in %s too", id, other)
	}
	e.named[id] = field
	return nil
}

func (e *edit) goes(field string, id NodeID) error {
	if err := e.name(field, id); err != nil {
		return err
	}
	if _, ok := e.now[id]; !ok {
		return invalid(field, "%s is no member", id)
	}
	delete(e.now, id)
	return nil
}

// remove also takes the id of a node that has left before, or that is being replaced: it is recorded all the same.
func (e *edit) remove(field string, id NodeID, c Change) error {
	if id.IsZero() {
		return invalid(field, "zero")
	}
	if _, ok := c.Replace[id]; ok {
		return nil
	}
	if err := e.name(field, id); err != nil {
		return err
	}
	delete(e.now, id)
	return nil
}

func (e *edit) update(field string, m Member) error {
	if err := e.name(field, m.ID); err != nil {
		return err
	}
	old, ok := e.now[m.ID]
	if !ok {
		return invalid(field+".ID", "%s is no member", m.ID)
	}
	if m.Name != old.Name {
		return invalid(field+".Name", "%q, but a member keeps its name, %q", m.Name, old.Name)
	}
	e.now[m.ID] = m
	return nil
}

func (e *edit) comes(field string, m Member, l Layout) error {
	if err := e.name(field+".ID", m.ID); err != nil {
		return err
	}
	if _, ok := e.now[m.ID]; ok {
		return invalid(field+".ID", "%s is a member already", m.ID)
	}
	if l.IsRemoved(m.ID) {
		return invalid(field+".ID", "%s was removed for ever; a node that comes back needs a new id, so an empty directory", m.ID)
	}
	for _, other := range e.now {
		if other.Name == m.Name {
			return invalid(field+".Name", "%q is the name of member %s", m.Name, other.ID)
		}
	}
	if len(e.now) == MaxMembers {
		return invalid(field, "%d members already, which is the most", MaxMembers)
	}
	e.now[m.ID] = m
	return nil
}
