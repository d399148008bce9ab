package cluster

import (
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/dunlindb/dunlin/internal/paxos"
	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// Names of the files in State.
const (
	keyStarts   = "starts"   // start ids of this directory, oldest first
	keySeen     = "seen"     // latest start id accepted from each peer
	keyPeers    = "peers"    // where peers were last; a cache, may be lost
	keyVote     = "vote"     // this node's only vote
	keyEpochs   = "epochs"   // the live epochs: their layouts, and how far everybody has come
	keyHeard    = "heard"    // live epochs that were decided, and that this node may not be prepared for yet
	keyJoin     = "join"     // whether this node asked to become a member, and became one
	keyRegister = "register" // this node's vote on the next epoch
	keyPromise  = "promise"  // the forced removal that this node has promised to go by
	keyBehind   = "behind"   // why this node was left behind by a forced removal
)

const (
	maxStarts      = 1000
	maxPeers       = 4096
	persistVersion = 1
)

// peerRecord is what is remembered of a peer over a restart.
type peerRecord struct {
	ID         ring.NodeID
	Name       string
	HTTPAddr   string
	RPCAddr    string
	GossipAddr string
	Zone       string
	Weight     int
	Start      uint64 // start id last heard in gossip, unverified
}

func encodeStarts(ids []uint64) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(2)
	e.Uint(persistVersion)
	startsTo(e, ids)
	return e.Copy()
}

func startsTo(e *wire.Encoder, ids []uint64) {
	e.Array(len(ids))
	for _, id := range ids {
		e.Uint(id)
	}
}

func startsFrom(d *wire.Decoder) (ids []uint64) {
	n := d.Array(maxStarts)
	for i := 0; i < n && d.Err() == nil; i++ {
		ids = append(ids, d.Uint())
	}
	return ids
}

func decodeStarts(b []byte) ([]uint64, error) {
	d := wire.NewDecoder(b)
	d.ArrayOf(2)
	version(d, persistVersion, "start ids")
	ids := startsFrom(d)
	return ids, d.Done()
}

func encodeSeen(seen map[ring.NodeID]uint64) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(2)
	e.Uint(persistVersion)
	e.Array(2 * len(seen))
	for _, id := range slices.SortedFunc(maps.Keys(seen), ring.NodeID.Compare) {
		e.Raw(id[:])
		e.Uint(seen[id])
	}
	return e.Copy()
}

func decodeSeen(b []byte) (map[ring.NodeID]uint64, error) {
	seen := map[ring.NodeID]uint64{}
	d := wire.NewDecoder(b)
	d.ArrayOf(2)
	version(d, persistVersion, "start ids of peers")
	n := d.Array(2 * maxPeers)
	if n%2 != 0 {
		d.Fail("odd number of values")
	}
	for i := 0; i < n && d.Err() == nil; i += 2 {
		var id ring.NodeID
		d.Fixed(id[:])
		seen[id] = d.Uint()
	}
	return seen, d.Done()
}

func encodePeers(peers []peerRecord) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(2)
	e.Uint(persistVersion)
	e.Array(len(peers))
	for _, p := range peers {
		e.Array(8)
		e.Raw(p.ID[:])
		e.String(p.Name)
		e.String(p.HTTPAddr)
		e.String(p.RPCAddr)
		e.String(p.GossipAddr)
		e.String(p.Zone)
		e.Uint(uint64(p.Weight))
		e.Uint(p.Start)
	}
	return e.Copy()
}

func decodePeers(b []byte) ([]peerRecord, error) {
	var peers []peerRecord
	d := wire.NewDecoder(b)
	d.ArrayOf(2)
	version(d, persistVersion, "peers")
	n := d.Array(maxPeers)
	for i := 0; i < n && d.Err() == nil; i++ {
		var p peerRecord
		d.ArrayOf(8)
		d.Fixed(p.ID[:])
		p.Name = nameFrom(d)
		p.HTTPAddr = d.String(MaxAddress)
		p.RPCAddr = d.String(MaxAddress)
		p.GossipAddr = d.String(MaxAddress)
		p.Zone = d.String(MaxZone)
		p.Weight = d.Count(maxWeight)
		p.Start = d.Uint()
		peers = append(peers, p)
	}
	return peers, d.Done()
}

// load reads everything that a former start left. Only the peers file may be damaged: it is a cache, while a
// lost vote, layout or list of start ids could let this node vote twice or hide that it was rolled back.
func (c *Cluster) load() error {
	if err := c.welcome(); err != nil {
		return err
	}
	if err := c.loadStarts(); err != nil {
		return err
	}
	raw, err := c.read(keySeen)
	if err != nil {
		return err
	}
	if raw != nil {
		if c.seen, err = decodeSeen(raw); err != nil {
			return damaged(keySeen, err)
		}
	}
	if raw, err = c.read(keyVote); err != nil {
		return err
	}
	if raw != nil {
		if c.vote, err = decodeVote(raw); err != nil {
			return damaged(keyVote, err)
		}
		if c.vote.Cluster != c.cfg.Cluster {
			return fmt.Errorf("the data directory belongs to cluster %q and this node is set to cluster %q: change the cluster name or the data directory", c.vote.Cluster, c.cfg.Cluster)
		}
		if _, ok := c.vote.founder(c.cfg.Self); !ok {
			return fmt.Errorf("the data directory holds the vote of another node: its founders do not include this node's id %x", c.cfg.Self[:])
		}
	}
	if err := c.loadEpochs(); err != nil {
		return err
	}
	if err := c.loadForce(); err != nil {
		return err
	}
	return c.loadPeers()
}

// welcome notes of a directory that has never been used that it may become a member's: it may be made one before it could
// ask, by an operator who has it replace another. Later, what is missing was lost.
func (c *Cluster) welcome() error {
	for _, name := range []string{keyStarts, keyJoin, keyEpochs, keyHeard, keyVote, keyRegister} {
		if raw, err := c.read(name); err != nil || raw != nil {
			return err
		}
	}
	return c.setAsked(joinAsked)
}

func (c *Cluster) read(name string) ([]byte, error) {
	b, err := c.cfg.State.Load(name)
	if err != nil {
		return nil, fmt.Errorf("reading %q of the data directory: %w", name, err)
	}
	return b, nil
}

func damaged(name string, err error) error {
	return fmt.Errorf("%q in the data directory is damaged and cannot be ignored: %w: restore the node as a replacement (empty directory)", name, err)
}

// loadStarts appends this start's id durably before anything else can publish it.
func (c *Cluster) loadStarts() error {
	raw, err := c.read(keyStarts)
	if err != nil {
		return err
	}
	if raw != nil {
		if c.starts, err = decodeStarts(raw); err != nil {
			return damaged(keyStarts, err)
		}
	}
	c.start = newStartID()
	if len(c.starts) >= maxStarts {
		c.starts = slices.Clone(c.starts[len(c.starts)-maxStarts+1:])
	}
	c.starts = append(c.starts, c.start)
	if err := c.cfg.State.Save(keyStarts, encodeStarts(c.starts)); err != nil {
		return fmt.Errorf("storing this start's id: %w", err)
	}
	return nil
}

// newStartID is never zero, which means "none" elsewhere. It comes from the system and never from Config.Rand:
// two copies of one directory must not draw the same id.
func newStartID() uint64 {
	for {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		if id := binary.BigEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}

func (c *Cluster) loadEpochs() error {
	raw, err := c.read(keyRegister)
	if err != nil {
		return err
	}
	if raw != nil {
		if c.register, err = paxos.DecodeState(raw); err != nil {
			return damaged(keyRegister, err)
		}
	}
	if raw, err = c.read(keyHeard); err != nil {
		return err
	}
	if raw != nil {
		s, err := decodeEpochs(raw)
		if err != nil {
			return damaged(keyHeard, err)
		}
		c.heard, c.offered = &s, &s
	}
	if raw, err = c.read(keyJoin); err != nil {
		return err
	}
	if len(raw) > 0 {
		c.asked = joinState(raw[0])
	}
	if raw, err = c.read(keyEpochs); err != nil {
		return err
	}
	if raw == nil {
		if c.asked == joinDone {
			return damaged(keyEpochs, errors.New("it is missing, although this node was a member"))
		}
		return nil
	}
	if c.asked == joinAsked {
		if err := c.setAsked(joinDone); err != nil {
			return err
		}
	}
	s, err := decodeEpochs(raw)
	if err != nil {
		return damaged(keyEpochs, err)
	}
	l := s.newest()
	if l.Cluster != c.cfg.Cluster {
		return fmt.Errorf("the data directory belongs to cluster %q and this node is set to cluster %q: change the cluster name or the data directory", l.Cluster, c.cfg.Cluster)
	}
	if c.vote == nil && l.Epoch == 1 {
		return damaged(keyVote, fmt.Errorf("it is missing although there is a layout"))
	}
	return c.adopt(s)
}

func (c *Cluster) loadPeers() error {
	raw, err := c.read(keyPeers)
	if err != nil {
		return err
	}
	if raw == nil {
		return nil
	}
	peers, err := decodePeers(raw)
	if err != nil {
		c.log.Warn("the file of known peers is damaged and ignored; peers are found again by the seeds", "op", "load", "error", err)
		return nil
	}
	for _, p := range peers {
		// Once there is a layout its members are who to look for; strangers that left are forgotten here.
		known := c.layout == nil
		if !known {
			known = c.state.member(p.ID)
		}
		if known && p.ID != c.cfg.Self {
			c.peers[p.ID] = &peer{peerRecord: p}
		}
	}
	return nil
}

// savePeers writes the peers file. Losing it costs time only, so a failure is logged.
func (c *Cluster) savePeers() {
	c.mu.Lock()
	records := make([]peerRecord, 0, len(c.peers))
	for _, p := range c.peers {
		records = append(records, p.peerRecord)
	}
	c.mu.Unlock()
	slices.SortFunc(records, func(a, b peerRecord) int { return cmp.Or(cmp.Compare(a.Name, b.Name), a.ID.Compare(b.ID)) })
	if err := c.cfg.State.Save(keyPeers, encodePeers(records)); err != nil {
		c.log.Warn("known peers could not be stored", "op", "save", "error", err)
	}
}
