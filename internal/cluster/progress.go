package cluster

import (
	"maps"
	"slices"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// progress is how far a node has come with the epochs. Its numbers only grow, so that news of it may be late, doubled
// and second-hand.
type progress struct {
	Ack     uint64 // it coordinates no operation that ignores this epoch
	Sync    uint64 // it holds everything that is its own in this epoch
	SyncAck uint64 // it knows that all members have come so far with Sync, and reads by this epoch
}

func (p progress) merge(o progress) progress {
	return progress{max(p.Ack, o.Ack), max(p.Sync, o.Sync), max(p.SyncAck, o.SyncAck)}
}

type progressTable map[ring.NodeID]progress

func (t progressTable) clone() progressTable {
	if t == nil {
		return progressTable{}
	}
	return maps.Clone(t)
}

// merge reports whether anything was news.
func (t progressTable) merge(o progressTable) (news bool) {
	for id, p := range o {
		news = t.note(id, p) || news
	}
	return news
}

func (t progressTable) note(id ring.NodeID, p progress) (news bool) {
	old := t[id]
	if now := old.merge(p); now != old {
		t[id], news = now, true
	}
	return news
}

// keep forgets who is a member of none of the layouts, but for this node: others may still wait for what it says.
func (t progressTable) keep(layouts []ring.Layout, self ring.NodeID) {
	for id := range t {
		if id != self && !slices.ContainsFunc(layouts, func(l ring.Layout) bool { _, ok := l.Member(id); return ok }) {
			delete(t, id)
		}
	}
}

// waitedFor are the members of all live layouts that were not removed: each has to come along.
func (s epochState) waitedFor() []ring.NodeID {
	removed := s.newest().Removed
	var out []ring.NodeID
	for _, l := range s.layouts {
		for _, m := range l.Members {
			if !slices.Contains(out, m.ID) && !slices.Contains(removed, m.ID) {
				out = append(out, m.ID)
			}
		}
	}
	return out
}

// member reports whether id is a member of a live layout.
func (s epochState) member(id ring.NodeID) bool {
	return slices.ContainsFunc(s.layouts, func(l ring.Layout) bool { _, ok := l.Member(id); return ok })
}

// reached is the newest live epoch that everybody who is waited for has reached, 0 if none.
func (s epochState) reached(of func(progress) uint64) uint64 {
	least := s.newest().Epoch
	for _, id := range s.waitedFor() {
		least = min(least, of(s.table[id]))
	}
	return s.readable(least)
}

func ack(p progress) uint64     { return p.Ack }
func synced(p progress) uint64  { return p.Sync }
func syncAck(p progress) uint64 { return p.SyncAck }

// behind lists who has not reached the newest epoch.
func (s epochState) behind(of func(progress) uint64) (out []ring.NodeID) {
	for _, id := range s.waitedFor() {
		if of(s.table[id]) < s.newest().Epoch {
			out = append(out, id)
		}
	}
	return out
}

const epochsVersion = 1

// encode is the form on the disk and on the wire.
func (s epochState) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(4)
	e.Uint(epochsVersion)
	e.Array(len(s.layouts))
	for _, l := range s.layouts {
		e.Raw(l.Encode())
	}
	e.Uint(s.settled)
	s.table.to(e)
	return e.Copy()
}

func (t progressTable) to(e *wire.Encoder) {
	e.Array(4 * len(t))
	for _, id := range slices.SortedFunc(maps.Keys(t), ring.NodeID.Compare) {
		p := t[id]
		e.Raw(id[:])
		e.Uint(p.Ack)
		e.Uint(p.Sync)
		e.Uint(p.SyncAck)
	}
}

func (t progressTable) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	t.to(e)
	return e.Copy()
}

func progressFrom(d *wire.Decoder) progressTable {
	t := progressTable{}
	n := d.Array(4 * maxEpochs * ring.MaxMembers)
	if n%4 != 0 {
		d.Fail("progress of members in parts")
	}
	for i := 0; i < n && d.Err() == nil; i += 4 {
		var id ring.NodeID
		d.Fixed(id[:])
		t[id] = progress{Ack: d.Uint(), Sync: d.Uint(), SyncAck: d.Uint()}
	}
	return t
}

func decodeProgress(b []byte) (progressTable, error) {
	d := wire.NewDecoder(b)
	t := progressFrom(d)
	return t, d.Done()
}

// decodeEpochs reads what encode wrote, strictly: at least one layout, in order, all of one cluster.
func decodeEpochs(b []byte) (epochState, error) {
	var s epochState
	d := wire.NewDecoder(b)
	d.ArrayOf(4)
	version(d, epochsVersion, "live epochs")
	n := d.Array(maxEpochs)
	for i := 0; i < n && d.Err() == nil; i++ {
		raw := d.Raw(maxLayout)
		if d.Err() != nil {
			break
		}
		l, err := ring.DecodeLayout(raw)
		switch {
		case err != nil:
			return epochState{}, err
		case i > 0 && (l.Epoch <= s.layouts[i-1].Epoch || l.ClusterID != s.layouts[0].ClusterID || l.Partitions != s.layouts[0].Partitions):
			d.Fail("live epochs out of order, or of different clusters")
		}
		s.layouts = append(s.layouts, l)
	}
	s.settled = d.Uint()
	s.table = progressFrom(d)
	if d.Err() == nil && n == 0 {
		d.Fail("no live epoch")
	}
	return s, d.Done()
}
