package vclock

import (
	"cmp"
	"slices"
)

// Answer is an object as a client sees it at one moment.
type Answer struct {
	Live    []Sibling // the values: none, one, or several that nobody has reconciled
	Deleted []Sibling // tombstones that stand beside them, or alone
	Context Context   // covers all that was seen; a write that carries it replaces exactly that
}

// Found reports whether there is a value to show.
func (a Answer) Found() bool { return len(a.Live) > 0 }

// LastModified is the highest stamp of what the answer shows.
func (a Answer) LastModified() Stamp {
	var m Stamp
	for _, s := range a.Live {
		m = max(m, s.Stamp)
	}
	if len(a.Live) == 0 {
		for _, s := range a.Deleted {
			m = max(m, s.Stamp)
		}
	}
	return m
}

// Answer shows the object at now (Unix milliseconds): expired siblings are left out, of twins (one client request
// minted by two coordinators) one is shown, and under last-write-wins only the winner, the highest stamp and of
// equal stamps the highest dot, which may be a tombstone. The context covers everything in every case.
func (o Object) Answer(now int64, lastWriteWins bool) Answer {
	a := Answer{Context: o.context()}
	shown := o.Siblings
	if lastWriteWins && len(shown) > 1 {
		shown = []Sibling{slices.MaxFunc(shown, func(s, t Sibling) int {
			return cmp.Or(cmp.Compare(s.Stamp, t.Stamp), s.Dot.Compare(t.Dot))
		})}
	}
	for i, s := range shown {
		if s.ID.Client && slices.ContainsFunc(shown[:i], func(t Sibling) bool { return t.ID == s.ID }) {
			continue
		}
		switch {
		case s.Deleted:
			a.Deleted = append(a.Deleted, s)
		case !s.Expired(now):
			a.Live = append(a.Live, s)
		}
	}
	return a
}

// context gives a client what it needs to supersede exactly this object.
func (o Object) context() Context {
	c := Context{Vector: o.Context}
	for _, r := range o.Retired {
		c.IDs = append(c.IDs, r.ID)
	}
	for _, s := range o.Siblings {
		c.Stamp = max(c.Stamp, s.Stamp)
		if s.ID.Client {
			c.IDs = append(c.IDs, s.ID)
		}
	}
	slices.SortFunc(c.IDs, WriteID.Compare)
	c.IDs = slices.Compact(c.IDs)
	return c
}
