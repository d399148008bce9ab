package cluster

import (
	"cmp"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// States of a node in Members.
const (
	StateMember     = "member"      // owns partitions
	StateJoining    = "joining"     // a member of the newest epoch; reads do not go by that one yet
	StateLeaving    = "leaving"     // a member of an older epoch that still lives
	StateLeft       = "left"        // has left and may be stopped
	StateRemoved    = "removed"     // stopped for good; an older epoch with it still lives
	StateWaiting    = "waiting"     // known to gossip, in no layout
	StateLeftBehind = "left-behind" // bears a member's name with another id: that member's directory was wiped
)

// MemberStatus is one line of the member table.
type MemberStatus struct {
	ID         ring.NodeID
	Name       string
	HTTPAddr   string
	RPCAddr    string
	GossipAddr string
	Zone       string
	Weight     int
	State      string
	Alive      bool
	Epoch      uint64    // newest epoch that it published; 0: none heard
	Since      time.Time // when Alive last changed; zero: not heard since this process started
}

// Members returns the layout's members and every other node that gossip knows, sorted by name, then id.
func (c *Cluster) Members() []MemberStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	byID := map[ring.NodeID]MemberStatus{}
	names := map[string]bool{}
	for _, l := range c.state.layouts {
		for _, m := range l.Members {
			names[m.Name] = true
			byID[m.ID] = MemberStatus{ID: m.ID, Name: m.Name, Zone: m.Zone, Weight: m.Weight, State: c.stateLocked(m.ID)}
		}
	}
	for id, p := range c.peers {
		s, member := byID[id]
		if !member {
			if !p.heard {
				continue // a stranger of an earlier start
			}
			s = MemberStatus{ID: id, Name: p.Name, Zone: p.Zone, Weight: p.Weight, State: StateWaiting}
			switch {
			case p.meta.Epoch > 0:
				s.State = StateLeft
			case names[p.Name]:
				s.State = StateLeftBehind
			}
		}
		s.HTTPAddr, s.RPCAddr, s.GossipAddr = p.HTTPAddr, p.RPCAddr, p.GossipAddr
		s.Alive, s.Epoch, s.Since = p.alive, p.meta.Epoch, p.since
		byID[id] = s
	}
	byID[c.cfg.Self] = c.selfStatus(byID[c.cfg.Self])
	out := make([]MemberStatus, 0, len(byID))
	for _, s := range byID {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b MemberStatus) int { return cmp.Or(cmp.Compare(a.Name, b.Name), a.ID.Compare(b.ID)) })
	return out
}

// stateLocked is the state of a member of a live epoch. mu is held.
func (c *Cluster) stateLocked(id ring.NodeID) string {
	_, now := c.layout.Member(id)
	_, before := c.state.layouts[0].Member(id)
	switch {
	case now && before:
		return StateMember
	case now:
		return StateJoining
	case slices.Contains(c.layout.Removed, id):
		return StateRemoved
	}
	return StateLeaving
}

func (c *Cluster) selfStatus(s MemberStatus) MemberStatus {
	if s.State == "" {
		s = MemberStatus{ID: c.cfg.Self, Name: c.cfg.Name, Zone: c.cfg.Zone, Weight: c.cfg.Weight, State: StateWaiting}
	}
	s.HTTPAddr, s.RPCAddr, s.GossipAddr = c.cfg.HTTPAddr, c.cfg.RPCAddr, c.gossipAddr
	s.Alive, s.Epoch, s.Since = true, c.published.Epoch, c.started
	return s
}

// Ready returns nil when this node may serve. Otherwise the error says what is waited for, who or what differs,
// and what to do.
func (c *Cluster) Ready() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.poison != "":
		return errors.New("not ready: " + c.poison)
	case c.started.IsZero():
		return errNotStarted
	case c.fork != "":
		return errors.New("not ready: " + c.fork)
	case c.gone != "":
		return errors.New("not ready: " + c.gone)
	case c.snapshot.Load() != nil:
		return nil
	case c.wait == "":
		return errors.New("not ready: looking for the cluster")
	}
	return errors.New("not ready: " + c.wait)
}

// Gone reports whether this node was a member and is none any more: it has left, or was removed.
func (c *Cluster) Gone() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone != ""
}

// Stats are counts since the process started.
type Stats struct {
	Conflicts uint64 // times a live node's id appeared at a second address
	Copies    uint64 // times this node was found to be rolled back or copied (0 or 1)
	Foreign   uint64 // alive messages of another cluster of the same name
	Malformed uint64 // unreadable metadata or states
	Dropped   uint64 // news dropped because too many nodes are known
	Rejoins   uint64 // attempts to reach a lost peer or a seed
	Rejoined  uint64 // of those, how many exchanged states
}

type counters struct {
	conflicts, copies, foreign, malformed, dropped, rejoins, rejoined atomic.Uint64
}

// Stats returns the counts.
func (c *Cluster) Stats() Stats {
	n := &c.counts
	return Stats{
		Conflicts: n.conflicts.Load(), Copies: n.copies.Load(), Foreign: n.foreign.Load(), Malformed: n.malformed.Load(),
		Dropped: n.dropped.Load(), Rejoins: n.rejoins.Load(), Rejoined: n.rejoined.Load(),
	}
}
