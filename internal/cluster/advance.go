package cluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dunlindb/dunlin/ring"
)

// advance takes this node as far with the live epochs as what is known allows, and reports whether anything changed.
// Nothing is published before it is on the disk. The steps and their order are Garage's layout history: a node
// acknowledges an epoch when it coordinates nothing by older ones alone; once all have, copying into the epoch may begin
// to count; once all hold what is theirs, reads go over; once all read by it, older epochs end.
func (c *Cluster) advance() (changed bool) {
	c.epochMu.Lock()
	defer c.epochMu.Unlock()
	now := c.live()
	if len(now.layouts) == 0 {
		return false
	}
	next := now.clone()
	c.mu.Lock()
	next.table.merge(c.heardProgress)
	c.heardProgress = progressTable{}
	heardBase := c.heardBase
	alone := c.poison != "" || c.gone != ""
	c.mu.Unlock()
	next.table.keep(next.layouts, c.cfg.Self)
	if slices.Contains(next.waitedFor(), c.cfg.Self) && !alone {
		next.table.note(c.cfg.Self, c.ownProgress(next))
	}
	next.settled = max(next.settled, next.reached(ack))
	if base := c.endedBefore(next, heardBase); base > next.layouts[0].Epoch {
		next.layouts = slices.DeleteFunc(next.layouts, func(l ring.Layout) bool { return l.Epoch < base })
		next.table.keep(next.layouts, c.cfg.Self)
		c.log.Info("older epochs of the layout have ended", "op", "epoch", "epoch", base)
	}
	if next.equal(now) {
		return false
	}
	if err := c.install(next); err != nil {
		c.log.Error("progress with the layout could not be stored", "op", "epoch", "error", err)
		return false
	}
	return true
}

// endedBefore is the epoch before which all have ended: everybody has said that he reads by it, or another node goes by it
// alone, which proves the same. A member that leaves goes by the second only. Were it to end first, it could be stopped
// before the others have heard of it what they wait for.
func (c *Cluster) endedBefore(s epochState, heardBase uint64) uint64 {
	base := s.readable(heardBase)
	if _, stays := s.newest().Member(c.cfg.Self); stays {
		base = max(base, s.reached(syncAck))
	}
	return base
}

// lookForTheEnd asks others whether they are through: a member that leaves, all of them in the end; else one at random. Who
// has left may be gone before this node has heard of it that it is through, and the others forget it.
func (c *Cluster) lookForTheEnd() {
	s := c.live()
	if len(s.layouts) < 2 {
		return
	}
	others := slices.DeleteFunc(slices.Clone(s.newest().Members), func(m ring.Member) bool { return m.ID == c.cfg.Self || !c.Alive(m.ID) })
	if _, stays := s.newest().Member(c.cfg.Self); len(others) > 1 && (stays || s.table[c.cfg.Self].SyncAck < s.newest().Epoch) {
		others = others[c.intN(len(others)):][:1]
	}
	for _, m := range others {
		c.askSoon(m.ID)
	}
}

// ownProgress is how far this node has come. epochMu is held.
func (c *Cluster) ownProgress(s epochState) progress {
	p := s.table[c.cfg.Self]
	newest := s.newest().Epoch
	if p.Ack < newest && c.drained() {
		p.Ack = newest
	}
	// What settled just now is not in the snapshot that copying goes by, so it is looked at in the next step.
	if e := c.Epochs(); p.Sync < newest && e != nil && e.Newest().Epoch() == newest && e.FullySettled() && c.Incomplete() == nil {
		p.Sync = newest
	}
	with := s.table.clone()
	with[c.cfg.Self] = p
	p.SyncAck = max(p.SyncAck, epochState{s.layouts, s.settled, with}.reached(synced))
	return p
}

// Look has this node look at once how far it has come with the live epochs, such as when it may hold everything that is its
// own. It returns at once.
func (c *Cluster) Look() { c.inbox.kick() }

// Incomplete returns nil when this node holds everything that is its own in the newest epoch, or what is missing.
func (c *Cluster) Incomplete() error {
	e := c.Epochs()
	if c.cfg.Incomplete == nil || e == nil || !e.Changing() {
		return nil
	}
	return c.cfg.Incomplete(e)
}

// drained reports whether no operation goes by an older newest epoch than the present one. epochMu is held.
func (c *Cluster) drained() bool {
	c.older = slices.DeleteFunc(c.older, func(s *snapshot) bool { return s.ops.Load() == 0 })
	return len(c.older) == 0
}

func (s epochState) equal(o epochState) bool {
	if s.settled != o.settled || len(s.layouts) != len(o.layouts) || len(s.table) != len(o.table) {
		return false
	}
	for id, p := range s.table {
		if q, ok := o.table[id]; !ok || p != q {
			return false
		}
	}
	return true // the newest layout is the same, and older ones only go
}

// hearProgress takes what a node says of itself, or of others.
func (c *Cluster) hearProgress(t progressTable) {
	if c.heardProgress == nil {
		c.heardProgress = progressTable{}
	}
	if len(c.heardProgress)+len(t) <= maxEpochs*ring.MaxMembers {
		c.heardProgress.merge(t)
	}
}

// Progress says what a change of the layout waits for.
type Progress struct {
	Epoch   uint64   // the newest
	Live    []uint64 // epochs, oldest first
	Settled uint64
	// Waiting says in words what each step waits for: empty when nothing is under way.
	Waiting []string
}

// Progress returns how far the present change has come. Without one, Live has one epoch.
func (c *Cluster) Progress() Progress {
	s := c.live()
	if len(s.layouts) == 0 {
		return Progress{}
	}
	p := Progress{Epoch: s.newest().Epoch, Settled: s.settled}
	for _, l := range s.layouts {
		p.Live = append(p.Live, l.Epoch)
	}
	if len(s.layouts) == 1 {
		return p
	}
	for _, step := range []struct {
		of   func(progress) uint64
		what string
	}{
		{ack, "to finish writes of the older epoch"},
		{synced, "to hold everything that is theirs"},
		{syncAck, "to read by the new epoch"},
	} {
		if behind := s.behind(step.of); len(behind) > 0 {
			p.Waiting = append(p.Waiting, fmt.Sprintf("%s: %s", step.what, strings.Join(c.names(behind), ", ")))
			break
		}
	}
	return p
}

func (c *Cluster) names(ids []ring.NodeID) []string {
	s := c.live()
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.String()
		for _, l := range s.layouts {
			if m, ok := l.Member(id); ok {
				out[i] = m.Name
			}
		}
		if !c.Alive(id) {
			out[i] += " (does not answer)"
		}
	}
	return out
}

// errNoLayout is what is said to who asks a node without a layout.
var errNoLayout = errors.New("this node knows no layout yet")
