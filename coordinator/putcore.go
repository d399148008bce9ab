package coordinator

import (
	"slices"

	"github.com/dunlindb/dunlin/ring"
)

// state is how far one replica's part in a request has come.
type state uint8

const (
	pending state = iota
	acked
	failed
)

// putGoal is what a write waits for: numbers, or the words of PutRequest until it is resolved by among.
type putGoal struct{ w, dw, pw int }

func (g putGoal) met(by putGoal) bool { return by.w >= g.w && by.dw >= g.dw && by.pw >= g.pw }

// among is the goal for a group of n slots.
func (g putGoal) among(n int) putGoal {
	w, dw := count(g.w, n), g.dw
	if dw == AsW {
		dw = w
	}
	return putGoal{w, count(dw, n), count(g.pw, n)}
}

// place is where a write is stored: in a node's own copy or, with a target, in its hint for the target.
type place struct{ node, target ring.NodeID }

// putCore decides when a write is done: a pure value that is told what became of each place that it was sent to.
//
// A write has one group of slots for each live ring, and is done when the goal is met in every one of them: whichever
// of the rings a reader goes by, its quorum then meets the write's. A group has one slot for each primary. A primary
// that is judged down may have a stand-in, a fallback that stores a hint for it; the slot is acked when either holds
// the write, and counts once, so that W slots of a write and R of a read always share one. Whatever a node answers, and
// however often, it counts once in each group that it is part of.
type putCore struct {
	groups []putGroup // the base ring's first
	one    [1]putGroup
}

type putGroup struct {
	goal  putGoal
	slots []putSlot
}

type putSlot struct {
	primary part
	// standIn is the fallback that stands in; its node is zero while there is none.
	standIn part
	// replaced are fallbacks that stood in and failed.
	replaced []part
}

// part is one node's part in a write.
type part struct {
	node    ring.NodeID
	state   state
	fsynced bool
	failure failure
}

// newPutCore waits for the goal among the primaries of each group.
func newPutCore(goal putGoal, groups ...[]ring.NodeID) *putCore {
	c := &putCore{}
	c.groups = c.one[:0]
	for _, primaries := range groups {
		group := putGroup{goal: goal.among(len(primaries)), slots: make([]putSlot, len(primaries))}
		for i, id := range primaries {
			group.slots[i].primary.node = id
		}
		c.groups = append(c.groups, group)
	}
	return c
}

// addAck records that the place holds the write. A later failure there does not take it back; an ack that comes after
// the node was given up counts.
func (c *putCore) addAck(at place, fsynced bool) {
	c.each(at, func(p *part) {
		if p.state != acked {
			p.state, p.fsynced = acked, fsynced
		}
	})
}

// addFailure records that the place will not hold the write.
func (c *putCore) addFailure(at place, f failure) {
	c.each(at, func(p *part) {
		if p.state == pending {
			p.state, p.failure = failed, f
		}
	})
}

// each calls f with the part that a place has in each group.
func (c *putCore) each(at place, f func(*part)) {
	for g := range c.groups {
		for i := range c.groups[g].slots {
			switch s := &c.groups[g].slots[i]; {
			case at.target == (ring.NodeID{}) && s.primary.node == at.node:
				f(&s.primary)
			case at.target != (ring.NodeID{}) && s.primary.node == at.target && s.standIn.node == at.node:
				f(&s.standIn)
			}
		}
	}
}

// setStandIn lets a fallback stand in for the primary of slot i of group g, which was judged down. What the fallback
// did for the same primary in another group holds in this one.
func (c *putCore) setStandIn(g, i int, fallback ring.NodeID) {
	s := &c.groups[g].slots[i]
	p := part{node: fallback}
	if known := c.standIn(place{fallback, s.primary.node}); known != nil {
		p = *known
	}
	if s.standIn.node != (ring.NodeID{}) {
		s.replaced = append(s.replaced, s.standIn)
	}
	s.standIn = p
}

// standIn finds a stand-in, replaced or not, in any group.
func (c *putCore) standIn(at place) *part {
	for g := range c.groups {
		for i := range c.groups[g].slots {
			s := &c.groups[g].slots[i]
			if s.primary.node != at.target {
				continue
			}
			if s.standIn.node == at.node {
				return &s.standIn
			}
			for r := range s.replaced {
				if s.replaced[r].node == at.node {
					return &s.replaced[r]
				}
			}
		}
	}
	return nil
}

// wantsStandIn lists the slots of group g whose primary is down and that nobody stands in for.
func (c *putCore) wantsStandIn(g int) []int {
	var out []int
	for i := range c.groups[g].slots {
		if c.groups[g].slots[i].wantsStandIn() {
			out = append(out, i)
		}
	}
	return out
}

func (s *putSlot) wantsStandIn() bool {
	down := s.primary.state == failed && s.primary.failure.word == wordDown
	return down && (s.standIn.node == (ring.NodeID{}) || s.standIn.state == failed)
}

func (s *putSlot) acked() bool { return s.primary.state == acked || s.standIn.state == acked }

func (s *putSlot) fsynced() bool {
	return s.primary.state == acked && s.primary.fsynced || s.standIn.state == acked && s.standIn.fsynced
}

func (s *putSlot) pending() bool {
	return s.primary.state == pending || s.standIn.node != (ring.NodeID{}) && s.standIn.state == pending
}

// tally counts what is acked in a group, and what would be if everything that is still pending acked and fsynced.
func (g *putGroup) tally() (have, could putGoal) {
	for i := range g.slots {
		s := &g.slots[i]
		if s.acked() {
			have.w++
		}
		if s.fsynced() {
			have.dw++
		}
		if s.primary.state == acked {
			have.pw++
		}
		if s.acked() || s.pending() {
			could.w++
		}
		if s.fsynced() || s.pending() {
			could.dw++
		}
		if s.primary.state != failed {
			could.pw++
		}
	}
	return have, could
}

// enough reports whether the write is done.
func (c *putCore) enough() bool {
	for g := range c.groups {
		if have, _ := c.groups[g].tally(); !c.groups[g].goal.met(have) {
			return false
		}
	}
	return true
}

// impossible reports whether nothing that can still come would make it enough.
func (c *putCore) impossible() bool {
	for g := range c.groups {
		if _, could := c.groups[g].tally(); !c.groups[g].goal.met(could) {
			return true
		}
	}
	return false
}

// acks counts the slots that hold the write in the group where they are fewest, and all slots of that group.
func (c *putCore) acks() (acks, n int) {
	for g := range c.groups {
		have, _ := c.groups[g].tally()
		if g == 0 || have.w < acks {
			acks, n = have.w, len(c.groups[g].slots)
		}
	}
	return acks, n
}

// anyPending reports whether an answer is still to come.
func (c *putCore) anyPending() bool {
	for g := range c.groups {
		for i := range c.groups[g].slots {
			if c.groups[g].slots[i].pending() {
				return true
			}
		}
	}
	return false
}

// shortfall is a parameter that is not reached: what it asks for and what was reached in a group of n slots.
type shortfall struct {
	parameter        string
	required, got, n int
}

// missing names the parameter that is not reached: first one that cannot be reached any more, in any group.
func (c *putCore) missing() shortfall {
	for _, hopeless := range []bool{true, false} {
		for g := range c.groups {
			group := &c.groups[g]
			have, by := group.tally()
			if !hopeless {
				by = have
			}
			goal, n := group.goal, len(group.slots)
			switch {
			case by.w < goal.w:
				return shortfall{"w", goal.w, have.w, n}
			case by.pw < goal.pw:
				return shortfall{"pw", goal.pw, have.pw, n}
			case by.dw < goal.dw:
				return shortfall{"dw", goal.dw, have.dw, n}
			}
		}
	}
	acks, n := c.acks()
	return shortfall{"w", c.groups[0].goal.w, acks, n}
}

func (c *putCore) failures() (out []failure) {
	for g := range c.groups {
		for i := range c.groups[g].slots {
			s := &c.groups[g].slots[i]
			for _, p := range []part{s.primary, s.standIn} {
				if p.state == failed {
					out = append(out, p.failure)
				}
			}
		}
	}
	return out
}

// refuser is a node that refused the write because it was made for another epoch of the layout; zero: none did.
func (c *putCore) refuser() ring.NodeID {
	for g := range c.groups {
		for i := range c.groups[g].slots {
			s := &c.groups[g].slots[i]
			for _, p := range []part{s.primary, s.standIn} {
				if p.state == failed && p.failure.word == wordEpoch {
					return p.node
				}
			}
		}
	}
	return ring.NodeID{}
}

// outcomes tells what became of each place, once.
func (c *putCore) outcomes(name func(ring.NodeID) string) []ReplicaOutcome {
	var out []ReplicaOutcome
	var told []place
	tell := func(p part, target ring.NodeID) {
		if len(c.groups) > 1 {
			if slices.Contains(told, place{p.node, target}) {
				return
			}
			told = append(told, place{p.node, target})
		}
		out = append(out, p.outcome(name, target == ring.NodeID{}))
	}
	for g := range c.groups {
		for i := range c.groups[g].slots {
			s := &c.groups[g].slots[i]
			tell(s.primary, ring.NodeID{})
			for _, p := range s.replaced {
				tell(p, s.primary.node)
			}
			if s.standIn.node != (ring.NodeID{}) {
				tell(s.standIn, s.primary.node)
			}
		}
	}
	return out
}

func (p part) outcome(name func(ring.NodeID) string, primary bool) ReplicaOutcome {
	o := ReplicaOutcome{Node: p.node, Name: name(p.node), Role: role(primary)}
	switch {
	case p.state == acked && !primary:
		o.Outcome = "hinted"
	case p.state == acked && p.fsynced:
		o.Outcome = "fsynced"
	case p.state == acked:
		o.Outcome = "acked"
	case p.state == failed:
		o.Outcome, o.Detail = p.failure.word, p.failure.detail
	default:
		o.Outcome = "pending"
	}
	return o
}

func role(primary bool) string {
	if primary {
		return "primary"
	}
	return "fallback"
}
