package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// RolledBack begins the reason of every refusal that means: this id's directory went back in time or exists
// twice. It travels in the transport's handshake, and a node that hears it about itself stops serving.
const RolledBack = "rolled back or copied directory"

// ErrRolledBack is wrapped by Verify's errors of that kind.
var ErrRolledBack = errors.New(RolledBack)

// WasRemoved begins the reason of a refusal that means: this id was removed from the cluster for ever.
const WasRemoved = "removed from the cluster"

// ErrRemoved is wrapped by Verify's errors of that kind.
var ErrRemoved = errors.New(WasRemoved)

// ErrOtherCluster is wrapped by Verify's error about a peer of another cluster.
var ErrOtherCluster = errors.New("another cluster")

const (
	helloVersion = 2
	helloFields  = 6
)

// hello is what a node proves itself with when it connects.
type hello struct {
	ID        ring.NodeID
	Cluster   string
	ClusterID digest   // zero: no layout yet
	Starts    []uint64 // every start id of its directory, oldest first, the present one last
	Lineages  [][16]byte
}

func (h *hello) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(helloFields)
	e.Uint(helloVersion)
	e.Raw(h.ID[:])
	e.String(h.Cluster)
	e.Raw(h.ClusterID[:])
	startsTo(e, h.Starts)
	e.Array(len(h.Lineages))
	for _, id := range h.Lineages {
		e.Raw(id[:])
	}
	return e.Copy()
}

func decodeHello(b []byte) (*hello, error) {
	h := &hello{}
	d := wire.NewDecoder(b)
	newer := openMessage(d, helloFields, helloVersion, "hello")
	d.Fixed(h.ID[:])
	h.Cluster = nameFrom(d)
	d.Fixed(h.ClusterID[:])
	h.Starts = startsFrom(d)
	if d.Err() == nil && len(h.Starts) == 0 {
		d.Fail("no start id")
	}
	for range d.Array(ring.MaxLineages) {
		var id [16]byte
		if d.Fixed(id[:]); d.Err() != nil {
			break
		}
		h.Lineages = append(h.Lineages, id)
	}
	return h, endMessage(d, newer)
}

func (c *Cluster) setHello() {
	h := &hello{ID: c.cfg.Self, Cluster: c.cfg.Cluster, Starts: c.starts}
	if id := c.clusterID.Load(); id != nil {
		h.ClusterID = *id
	}
	if ids := c.lineages.Load(); ids != nil {
		h.Lineages = *ids
	}
	b := h.encode()
	c.hello.Store(&b)
}

// Hello returns what this node proves itself with to a peer, at most 12 kB. It must not be changed.
func (c *Cluster) Hello() []byte { return *c.hello.Load() }

// Verify judges a peer's Hello. It returns nil only when the peer is of this cluster (as far as both know) and
// no older or second copy of itself; a start id not seen before is on disk by then. The text of an error should
// be sent to the peer, which passes it to Refused.
func (c *Cluster) Verify(id ring.NodeID, raw []byte) error {
	h, err := decodeHello(raw)
	if err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	if h.ID != id {
		return fmt.Errorf("hello: node %s presents the hello of %s", id, h.ID)
	}
	if h.Cluster != c.cfg.Cluster {
		return fmt.Errorf("%w: it is called %q, this one %q", ErrOtherCluster, h.Cluster, c.cfg.Cluster)
	}
	if own := c.clusterID.Load(); own != nil && !h.ClusterID.zero() && h.ClusterID != *own {
		return fmt.Errorf("%w of the same name %q: its id is %s, this one's %s", ErrOtherCluster, h.Cluster, h.ClusterID, *own)
	}
	if id == c.cfg.Self {
		if h.Starts[len(h.Starts)-1] == c.start {
			return nil // this very process
		}
		return fmt.Errorf("%w: node %s meets a live process with its own id", ErrRolledBack, id)
	}
	if err := c.verifyLineage(id, h); err != nil {
		return err
	}
	if c.isRemoved(id) && !c.ahead(h) {
		return fmt.Errorf("%w: node %s; bring it back with an empty directory as a new node", ErrRemoved, id)
	}
	if err := c.checkLive(id, h); err != nil {
		return err
	}
	if err := c.remember(id, h); err != nil {
		return err
	}
	c.meetAgain(id)
	return nil
}

// meetAgain has gossip look at once for a node that seems dead, and has just shaken hands: requests pass it by until then.
func (c *Cluster) meetAgain(id ring.NodeID) {
	c.mu.Lock()
	addr := ""
	if p := c.peers[id]; p != nil && p.heard && !p.alive {
		addr = p.GossipAddr
	}
	c.mu.Unlock()
	if addr == "" {
		return
	}
	select {
	case c.met <- addr:
	default: // the round that comes anyway finds it
	}
}

// ahead reports whether a peer goes by a forced removal that this node has not learnt. What this node knows of removals
// may be what the lost side decided.
func (c *Cluster) ahead(h *hello) bool {
	own := c.lineages.Load()
	return own != nil && !h.ClusterID.zero() && ring.KinshipOf(h.Lineages, *own) == ring.Descendant
}

// verifyLineage refuses a peer that was left behind by a forced removal, or goes by another one.
func (c *Cluster) verifyLineage(id ring.NodeID, h *hello) error {
	own := c.lineages.Load()
	if own == nil || h.ClusterID.zero() {
		return nil
	}
	switch ring.KinshipOf(h.Lineages, *own) {
	case ring.Ancestor:
		// A member of an older epoch leaves: what it holds has still to be had from it.
		if s := c.live(); !s.member(id) || c.isRemoved(id) {
			return fmt.Errorf("%w: node %s, when a majority was given up by force (epoch %d, lineage %s); what its disk holds is never merged back; bring it back with an empty directory as a new node", ErrRemoved, id, s.newest().Epoch, lineageText(*own))
		}
	case ring.Apart:
		return fmt.Errorf("%w: %s there, %s here", ErrApart, lineageText(h.Lineages), lineageText(*own))
	}
	return nil
}

// checkLive refuses an id that gossip shows alive under a start that the peer's directory does not know.
func (c *Cluster) checkLive(id ring.NodeID, h *hello) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.peers[id]
	if p != nil && p.alive && p.heard && !slices.Contains(h.Starts, p.meta.Start) {
		return fmt.Errorf("%w: node %s is alive at %s with a start that this directory does not know; bring it back with an empty directory as a new node", ErrRolledBack, id, p.GossipAddr)
	}
	return nil
}

// remember compares the hello with the latest start id accepted from the peer and stores a newer one.
func (c *Cluster) remember(id ring.NodeID, h *hello) error {
	latest := h.Starts[len(h.Starts)-1]
	c.seenMu.Lock()
	defer c.seenMu.Unlock()
	held, known := c.seen[id]
	if known && !slices.Contains(h.Starts, held) {
		return fmt.Errorf("%w: node %s has started later than this directory knows; bring it back with an empty directory as a new node", ErrRolledBack, id)
	}
	if known && held == latest {
		return nil
	}
	if !known && len(c.seen) >= maxPeers {
		return fmt.Errorf("start ids of %d nodes are held already; a new one is not accepted", len(c.seen))
	}
	next := maps.Clone(c.seen)
	next[id] = latest
	if err := c.cfg.State.Save(keySeen, encodeSeen(next)); err != nil {
		return fmt.Errorf("storing the start id of node %s: %w", id, err)
	}
	c.seen = next
	return nil
}

// Refused takes the reason for which a peer refused this node's hello. One that says that this directory was
// rolled back or copied makes the node not ready for as long as the process lives.
func (c *Cluster) Refused(id ring.NodeID, reason string) {
	c.log.Warn("a peer refused this node", "op", "hello", "peer", id, "reason", reason)
	if strings.Contains(reason, RolledBack) || strings.Contains(reason, WasRemoved) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.refusal = c.refusal || c.poison == ""
		c.poisonLocked(fmt.Sprintf("refused by node %s: %.400s", id, reason))
	}
}
