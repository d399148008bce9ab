package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	// maxLive bounds how many epochs may live at once: a change, its cancelling, and room for a member that is away.
	maxLive = 4
	// maxWithRemovals bounds them where the change takes out members that are stopped for good. The others may wait for
	// one of these, and would for ever were its removal to wait for them.
	maxWithRemovals = 16
	// maxEpochs bounds what is read from the disk and from others. A node may know for a while of more than the one that
	// made the last change: it has not heard that older ones ended.
	maxEpochs = 2 * maxWithRemovals
)

// ErrUnknownEpoch is wrapped by Learn's errors.
var ErrUnknownEpoch = errors.New("this node does not know that epoch of the layout")

// snapshot is what operations go by, and how many of them do.
type snapshot struct {
	epochs *ring.Epochs
	ops    *atomic.Int64 // begun by this newest epoch and not done; shared by all snapshots of it
}

// Epochs returns the live epochs, or nil while this node is a member of none.
func (c *Cluster) Epochs() *ring.Epochs {
	if s := c.snapshot.Load(); s != nil {
		return s.epochs
	}
	return nil
}

// Ring returns the ownership map that reads go by now, or nil while this node is a member of no live epoch.
func (c *Cluster) Ring() *ring.Ring {
	if e := c.Epochs(); e != nil {
		return e.Reading()
	}
	return nil
}

// Begin is Epochs for an operation that writes. The operation goes by the snapshot to its end, and then calls done, once:
// an epoch settles when no operation goes by older ones alone.
func (c *Cluster) Begin() (e *ring.Epochs, done func()) {
	for {
		s := c.snapshot.Load()
		if s == nil {
			return nil, func() {}
		}
		s.ops.Add(1)
		// Whoever took the snapshot away before this line may have seen no operation.
		if now := c.snapshot.Load(); now != nil && now.ops == s.ops {
			return s.epochs, func() { c.end(s) }
		}
		s.ops.Add(-1)
	}
}

func (c *Cluster) end(s *snapshot) {
	if now := c.snapshot.Load(); s.ops.Add(-1) == 0 && (now == nil || now.ops != s.ops) {
		c.inbox.kick()
	}
}

// epochState is what a node knows of the live epochs: it is on its disk before it is used or published.
type epochState struct {
	layouts []ring.Layout // oldest first
	settled uint64
	table   progressTable
}

// readable is the newest live epoch up to one, 0 if none.
func (s epochState) readable(most uint64) uint64 {
	for _, l := range slices.Backward(s.layouts) {
		if l.Epoch <= most {
			return l.Epoch
		}
	}
	return 0
}

func (s epochState) newest() *ring.Layout { return &s.layouts[len(s.layouts)-1] }

// clone copies what may be changed.
func (s epochState) clone() epochState {
	return epochState{slices.Clone(s.layouts), s.settled, s.table.clone()}
}

// live is the state now. It is not to be changed.
func (c *Cluster) live() epochState {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// install stores a state and makes it the present one. The caller holds epochMu.
func (c *Cluster) install(next epochState) error {
	if err := c.cfg.State.Save(keyEpochs, next.encode()); err != nil {
		return fmt.Errorf("storing the live epochs of the layout: %w", err)
	}
	return c.adopt(next)
}

// adopt makes a state that is on the disk the present one. The caller holds epochMu, or nobody else has the cluster.
func (c *Cluster) adopt(next epochState) error {
	snap, err := c.snapshotOf(next)
	if err != nil {
		return err
	}
	newest := next.newest()
	id, hash := digest(newest.ClusterID), newest.Hash()
	removed := make(map[ring.NodeID]bool, len(newest.Removed))
	for _, id := range newest.Removed {
		removed[id] = true
	}
	c.mu.Lock()
	c.state, c.layout, c.layoutHash = next, newest, hash
	c.wait = ""
	if snap == nil {
		c.poisonOutside(newest, removed)
	}
	// Who has been let in asks no more. Were it asked for later, a change that takes it out would be undone.
	maps.DeleteFunc(c.joins, func(id ring.NodeID, _ joinRequest) bool { return next.member(id) })
	c.mu.Unlock()
	c.removed.Store(&removed)
	c.clusterID.Store(&id)
	c.lineages.Store(&newest.Lineages)
	c.setHello()
	if old := c.snapshot.Swap(snap); old != nil && (snap == nil || old.ops != snap.ops) {
		c.older = append(c.older, old)
	}
	c.wakeWaiters()
	return nil
}

// poisonOutside tells why a node that was a member serves no more. mu is held.
func (c *Cluster) poisonOutside(newest *ring.Layout, removed map[ring.NodeID]bool) {
	if removed[c.cfg.Self] {
		c.gone = fmt.Sprintf("this node was removed from the cluster (epoch %d): what its disk holds is never merged back; bring it back with an empty directory as a new node", newest.Epoch)
		return
	}
	c.gone = fmt.Sprintf("this node has left the cluster (epoch %d): it may be stopped; to come back, start it with an empty directory", newest.Epoch)
}

// snapshotOf computes the rings of a state, nil if this node is in none of its layouts.
func (c *Cluster) snapshotOf(s epochState) (*snapshot, error) {
	old := c.snapshot.Load()
	member := false
	var rings []*ring.Ring
	for _, l := range s.layouts {
		if _, ok := l.Member(c.cfg.Self); ok {
			member = true
		}
		var r *ring.Ring
		if old != nil {
			r = old.epochs.At(l.Epoch)
		}
		if r == nil {
			var err error
			if r, err = ring.New(l, l.N); err != nil {
				return nil, fmt.Errorf("layout of epoch %d: %w", l.Epoch, err)
			}
		}
		rings = append(rings, r)
	}
	if !member {
		return nil, nil
	}
	e, err := ring.NewEpochs(rings, s.settled, s.newest().Removed)
	if err != nil {
		return nil, err
	}
	// Who says that it reads by an epoch does so from the moment that it may be heard.
	if read := s.readable(s.table[c.cfg.Self].SyncAck); read > e.Base().Epoch() {
		if e, err = e.ReadBy(read); err != nil {
			return nil, err
		}
	}
	snap := &snapshot{epochs: e, ops: new(atomic.Int64)}
	if old != nil && old.epochs.Newest().Epoch() == e.Newest().Epoch() {
		snap.ops = old.ops
	}
	return snap, nil
}

// wakeWaiters ends every wait of awaitChange.
func (c *Cluster) wakeWaiters() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

// awaitEpoch waits until this node knows the epoch.
func (c *Cluster) awaitEpoch(ctx context.Context, epoch uint64) error {
	return c.await(ctx, func() bool { return c.layout != nil && c.layout.Epoch >= epoch })
}

// await waits until something holds, which is asked with mu held, whenever the state has changed.
func (c *Cluster) await(ctx context.Context, holds func() bool) error {
	for {
		c.mu.Lock()
		known, changed := holds(), c.changed
		c.mu.Unlock()
		if known {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Learn returns nil once this node knows the epoch or a later one, of which from has told. It asks that node, and waits
// until this one is prepared for its part in the epoch.
func (c *Cluster) Learn(ctx context.Context, from ring.NodeID, epoch uint64) error {
	if e := c.Epochs(); e != nil && e.Newest().Epoch() >= epoch {
		return nil
	}
	if err := c.fetch(ctx, from); err != nil {
		return fmt.Errorf("%w: epoch %d, of which %s tells: %w", ErrUnknownEpoch, epoch, from, err)
	}
	if err := c.awaitEpoch(ctx, epoch); err != nil {
		return fmt.Errorf("%w: epoch %d, of which %s tells: %w", ErrUnknownEpoch, epoch, from, err)
	}
	return nil
}

// Settle returns nil once it is on this node's disk that the epoch has settled, as from says: from then on the node
// refuses operations of older epochs.
func (c *Cluster) Settle(ctx context.Context, from ring.NodeID, epoch uint64) error {
	if e := c.Epochs(); e != nil && e.Settled() >= epoch {
		return nil
	}
	if err := c.Learn(ctx, from, epoch); err != nil {
		return err
	}
	c.epochMu.Lock()
	defer c.epochMu.Unlock()
	next := c.live().clone()
	if next.settled >= epoch {
		return nil
	}
	next.settled = min(epoch, next.newest().Epoch)
	return c.install(next)
}

// isRemoved reports whether a node was removed from the cluster for ever. It is called under memberlist's lock.
func (c *Cluster) isRemoved(id ring.NodeID) bool {
	removed := c.removed.Load()
	return removed != nil && (*removed)[id]
}

// Removed lists the ids that were removed from the cluster for ever.
func (c *Cluster) Removed() []ring.NodeID {
	s := c.live()
	if len(s.layouts) == 0 {
		return nil
	}
	return s.newest().Removed
}

// offer hands over what another node says of the live epochs.
func (c *Cluster) offer(s epochState) {
	c.mu.Lock()
	if c.offered == nil || s.newest().Epoch > c.offered.newest().Epoch {
		c.offered = &s
	}
	c.mu.Unlock()
	nudge(c.offers)
}

// adopter prepares this node for epochs that it hears of, and adopts them: one at a time, since to prepare may take a
// while, and again and again while that fails.
func (c *Cluster) adopter(ctx context.Context) {
	defer c.running.Done()
	for {
		c.mu.Lock()
		s := c.offered
		c.offered = nil
		c.mu.Unlock()
		var again <-chan time.Time
		if s != nil {
			if err := c.take(ctx, *s); err != nil && ctx.Err() == nil {
				c.log.Warn("a new epoch of the layout cannot be adopted yet", "op", "epoch", "epoch", s.newest().Epoch, "error", err)
				c.mu.Lock()
				if c.offered == nil {
					c.offered = s
				}
				c.mu.Unlock()
				again = time.After(c.cfg.Timing.PersistDelay)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-c.offers:
		case <-again:
		}
	}
}

// take merges another node's state into this node's. It calls Prepare before it adopts an epoch.
func (c *Cluster) take(ctx context.Context, s epochState) error {
	now := c.live()
	next, err := c.joined(now, s)
	if err != nil || next == nil {
		return err
	}
	if err := c.note(*next); err != nil {
		return err
	}
	if c.cfg.Prepare != nil {
		snap, err := c.snapshotOf(*next)
		if err != nil {
			return err
		}
		if snap != nil {
			if err := c.cfg.Prepare(ctx, snap.epochs); err != nil {
				return err
			}
		}
	}
	c.epochMu.Lock()
	defer c.epochMu.Unlock()
	if next, err = c.joined(c.live(), s); err != nil || next == nil { // trackers moved meanwhile
		return err
	}
	if err := c.install(*next); err != nil {
		return err
	}
	if len(now.layouts) == 0 {
		c.belongs()
	}
	c.log.Info("a new epoch of the layout", "op", "epoch", "epoch", next.newest().Epoch, "members", len(next.newest().Members), "live", len(next.layouts))
	c.inbox.kick()
	return nil
}

// note stores that an epoch was decided, before this node is prepared for it: who asks meanwhile may rely on that, also
// after a crash.
func (c *Cluster) note(s epochState) error {
	c.mu.Lock()
	known := c.heard != nil && c.heard.newest().Epoch >= s.newest().Epoch
	c.mu.Unlock()
	if known {
		return nil
	}
	if err := c.cfg.State.Save(keyHeard, s.encode()); err != nil {
		return fmt.Errorf("storing an epoch of the layout that was decided: %w", err)
	}
	c.mu.Lock()
	c.heard = &s
	c.mu.Unlock()
	c.wakeWaiters()
	return nil
}

// Heard is the newest epoch of which this node knows for certain that it was decided, also if it is not prepared for it
// yet; 0: none.
func (c *Cluster) Heard() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.heardLocked()
}

func (c *Cluster) heardLocked() (epoch uint64) {
	if c.layout != nil {
		epoch = c.layout.Epoch
	}
	if c.heard != nil {
		epoch = max(epoch, c.heard.newest().Epoch)
	}
	return epoch
}

// Hear returns nil once Heard is at least epoch, of which from has told. Unlike Learn it does not wait until this node is
// prepared: two nodes that need each other's answers for that would wait for ever.
func (c *Cluster) Hear(ctx context.Context, from ring.NodeID, epoch uint64) error {
	heard := func() bool { return c.heardLocked() >= epoch }
	if c.Heard() < epoch {
		if err := c.fetch(ctx, from); err != nil {
			return fmt.Errorf("%w: epoch %d, of which %s tells: %w", ErrUnknownEpoch, epoch, from, err)
		}
	}
	if err := c.await(ctx, heard); err != nil {
		return fmt.Errorf("%w: epoch %d, of which %s tells: %w", ErrUnknownEpoch, epoch, from, err)
	}
	return nil
}

// follows reports whether a node may go from now to s: both of one lineage, unless this node has promised to go by
// another, or s of a forced removal that counts it in, or lets it leave.
func (c *Cluster) follows(now, s epochState) (bool, error) {
	p := c.promised()
	counted := s.member(c.cfg.Self) && !s.newest().IsRemoved(c.cfg.Self)
	switch s.newest().Kinship(*now.newest()) {
	case ring.Same:
		if p.outstanding(*now.newest()) {
			return false, fmt.Errorf("epoch %d, while %w", s.newest().Epoch, errPromised)
		}
		return true, nil
	case ring.Descendant:
		for _, l := range s.layouts { // what they had before the removal has to be what this node has
			if l.Epoch <= now.newest().Epoch && l.Kinship(*now.newest()) == ring.Descendant {
				return false, nil
			}
		}
		return counted, nil
	}
	return false, nil
}

// joined is what comes of now when another node says s; nil if s is nothing new.
func (c *Cluster) joined(now, s epochState) (*epochState, error) {
	for _, l := range s.layouts {
		if l.Cluster != c.cfg.Cluster || l.ClusterID != s.layouts[0].ClusterID || len(now.layouts) > 0 && l.ClusterID != now.layouts[0].ClusterID {
			return nil, fmt.Errorf("%w: its layout has id %s", ErrOtherCluster, digest(l.ClusterID))
		}
	}
	if len(now.layouts) == 0 {
		c.mu.Lock()
		newcomer := c.asked == joinAsked
		c.mu.Unlock()
		if !s.member(c.cfg.Self) || !newcomer { // of an older one: its joining was taken back, and others wait for it
			return nil, nil // not, or not yet, a member; or one that lost its files
		}
		if p := s.newest().Partitions; p != c.cfg.Partitions {
			return nil, fmt.Errorf("the cluster has %d partitions, and this node is set to %d: start it with --partitions %d", p, c.cfg.Partitions, p)
		}
		next := s.clone()
		return &next, nil
	}
	newest := now.newest().Epoch
	if s.newest().Epoch <= newest {
		return nil, nil
	}
	if ok, err := c.follows(now, s); !ok {
		return nil, err
	}
	next := now.clone()
	if s.layouts[0].Epoch > newest {
		// The others went on without this node, as they do without one that has left or was removed.
		next.layouts = nil
	}
	// Older ones than the other node's have ended: it would know them otherwise.
	next.layouts = slices.DeleteFunc(next.layouts, func(l ring.Layout) bool { return l.Epoch < s.layouts[0].Epoch })
	for _, l := range s.layouts {
		if l.Epoch > newest {
			next.layouts = append(next.layouts, l)
		}
	}
	next.settled = max(next.settled, s.settled)
	next.table.merge(s.table)
	next.table.keep(next.layouts, c.cfg.Self)
	if _, member := s.layouts[0].Member(c.cfg.Self); member && s.layouts[0].Epoch > newest+1 {
		return nil, fmt.Errorf("epochs %d to %d passed without this node, although it is a member: its directory was rolled back", newest+1, s.layouts[0].Epoch-1)
	}
	return &next, nil
}
