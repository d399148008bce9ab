package cluster

import (
	"fmt"
	"slices"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// strangerTTL is how long a node that is no member is sought after it stopped answering.
const strangerTTL = time.Hour

// conflictLogEvery limits one node's conflict warnings; gossip repeats them several times a second.
const conflictLogEvery = 10 * time.Second

// apply takes news into the view of peers and returns what subscribers should hear.
func (c *Cluster) apply(b batch) []Event {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	var events []Event
	for id, e := range b.nodes {
		if ev, ok := c.applyNode(id, e, now); ok {
			events = append(events, ev)
		}
	}
	for id, v := range b.bodies {
		c.applyBody(id, v)
	}
	for _, s := range b.sightings {
		c.applySighting(s, now)
	}
	for id, e := range b.foreign {
		c.keepOut(id, e.meta.Name, e.addr, now)
	}
	if c.layout != nil {
		for id, p := range c.peers { // heard before this node's own cluster had an id
			if p.heard && p.meta.Epoch > 0 && p.meta.Vote != c.layout.ClusterID {
				c.keepOut(id, p.Name, p.GossipAddr, now)
			}
		}
	}
	c.forgetStrangers(now)
	return events
}

func (c *Cluster) applyNode(id ring.NodeID, e nodeEvent, now time.Time) (Event, bool) {
	p := c.peers[id]
	if p == nil {
		if !e.alive {
			return Event{}, false // kept out, or never heard alive
		}
		if len(c.peers) >= maxPeers {
			c.counts.dropped.Add(1)
			return Event{}, false
		}
		p = &peer{since: now}
		c.peers[id] = p
	}
	wasAlive, before := p.alive, p.meta
	p.heard, p.meta = true, e.meta
	if e.meta.Epoch > 0 {
		c.heardEpoch = true
		c.hearProgress(progressTable{id: e.meta.Progress})
		if e.alive && (c.layout != nil && e.meta.Epoch > c.layout.Epoch) {
			c.askSoon(id)
		}
	}
	if wasAlive != e.alive {
		p.alive, p.since = e.alive, now
	}
	record := peerRecord{
		ID: id, Name: e.meta.Name, HTTPAddr: e.meta.HTTPAddr, RPCAddr: e.meta.RPCAddr,
		GossipAddr: e.addr, Zone: e.meta.Zone, Weight: e.meta.Weight, Start: e.meta.Start,
	}
	moved := record != p.peerRecord
	if moved {
		p.peerRecord = record
		c.dirty = true
	}
	switch {
	case e.alive && !wasAlive:
		return Event{Kind: EventAlive, Node: id}, true
	case !e.alive && wasAlive:
		return Event{Kind: EventDead, Node: id}, true
	case e.alive && (moved || before != e.meta):
		return Event{Kind: EventAddress, Node: id}, true
	}
	return Event{}, false
}

func (c *Cluster) applyBody(id ring.NodeID, b *body) {
	if id == c.cfg.Self {
		if b.Start != c.start { // equal: this node joined itself
			c.poisonLocked(fmt.Sprintf("%s: another live process answers with this node's id %s: stop one of them; bring it back with an empty directory as a new node", RolledBack, id))
		}
		return
	}
	if b.Cluster != c.cfg.Cluster {
		return // the label keeps these out; a state that claims otherwise is not trusted
	}
	var l ring.Layout
	var err error
	if len(b.Layout) > 0 {
		if l, err = ring.DecodeLayout(b.Layout); err == nil {
			ours := c.meetLineage(l, id, b.Name)
			if p := c.peers[id]; p != nil {
				p.seen, p.ours = l.Hash(), ours
			}
			if !ours {
				return
			}
		}
	}
	if c.peers[id] == nil {
		return
	}
	if len(b.Layout) > 0 {
		if err != nil {
			c.counts.malformed.Add(1)
		} else {
			c.heardEpoch = true
			if c.heardLayout == nil || l.Epoch >= c.heardLayout.Epoch {
				c.heardLayout = &l
				nudge(c.hasHeard)
			}
			_, member := l.Member(c.cfg.Self)
			if member && (c.layout == nil || l.Epoch > c.layout.Epoch) {
				c.askSoon(id)
			}
		}
		b.Layout = nil // the largest part, not needed again
	}
	if t, err := decodeProgress(b.Progress); err == nil && c.layout != nil {
		c.hearProgress(t)
	}
	b.Progress = nil
	c.bodies[id] = b
}

func (c *Cluster) applySighting(s sighting, now time.Time) {
	own := s.id.IsZero() || s.id == c.cfg.Self
	switch {
	case own && !c.ancestry[s.start]:
		c.ownElsewhere = s.addr // the other process, if it lives, must learn of this one too
		c.poisonLocked(fmt.Sprintf("%s: the cluster knows a start of this node's id %s (at %s) that this directory does not: it is an older or a second copy; bring this node back with an empty directory as a new node", RolledBack, c.cfg.Self, s.addr))
	case own:
		// Most often our own former address, which the others have not given up yet. The joiner looks there:
		// should a live process answer with our id, the exchange of states tells both.
		c.ownElsewhere = s.addr
	default:
		if c.quiet("conflict "+s.id.String(), now) {
			c.log.Warn("a live node's id appears at a second address: it restarted there, or two processes run on copies of one data directory",
				"op", "gossip", "peer", s.id, "addr", s.held, "other", s.addr)
		}
	}
}

// keepOut forgets a node of another cluster with the same name. memberlist may go on listing it: it met the
// node before either had a cluster.
func (c *Cluster) keepOut(id ring.NodeID, name, addr string, now time.Time) {
	if c.peers[id] != nil {
		delete(c.peers, id)
		delete(c.bodies, id)
		c.dirty = true
	}
	if c.quiet("foreign "+id.String(), now) {
		c.log.Error("a node of another cluster with the same cluster name is kept out: give the clusters different names, or correct the seeds", "op", "gossip", "peer", name, "addr", addr)
	}
}

// poisonLocked makes this process not ready until it is restarted. The first reason stays.
func (c *Cluster) poisonLocked(reason string) {
	if c.poison == "" {
		c.poison = reason
		c.counts.copies.Add(1)
		c.log.Error("this node stops serving", "op", "cluster", "error", reason)
	}
}

// quiet tells whether a repeated warning may be logged again.
func (c *Cluster) quiet(what string, now time.Time) bool {
	if last, ok := c.logged[what]; ok && now.Sub(last) < conflictLogEvery {
		return false
	}
	if len(c.logged) >= maxPeers {
		clear(c.logged)
	}
	c.logged[what] = now
	return true
}

// outlived reports whether a peer was a member and is none any more: removed for ever, or it has left and stopped.
func (c *Cluster) outlived(id ring.NodeID, p *peer) bool {
	return c.layout != nil && (slices.Contains(c.layout.Removed, id) || !p.alive && p.heard && p.meta.Epoch > 0)
}

func (c *Cluster) forgetStrangers(now time.Time) {
	for id, p := range c.peers {
		if !c.outlived(id, p) && (p.alive || p.since.IsZero() || now.Sub(p.since) < strangerTTL) {
			continue
		}
		if c.layout != nil {
			if c.state.member(id) {
				continue
			}
		}
		delete(c.peers, id)
		delete(c.bodies, id)
		c.dirty = true
	}
}
