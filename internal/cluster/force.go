package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// With a majority of the members lost for good, no epoch can be decided any more. An operator may then say that those
// left go on alone: a forced removal. The epoch that makes it so is of a new lineage, so that whatever the lost side
// still decides, should it come back, is told from it (docs/membership.md).
//
// Whoever is asked is the proposer. It has every member that is left promise, durably, to take part in no other change;
// then it stores the epoch, which decides it; then it tells the others. A promise can be replaced by the proposer that
// it was given to, which knows that it has decided nothing, and by a proposer that removes that one.

// EndpointForce is about a forced removal: a forceMessage.
const EndpointForce = "layout.force"

// ErrApart is wrapped by Verify's error about a peer of another lineage.
var ErrApart = errors.New("another lineage of this cluster")

// apartFor is how long a node tells of another lineage after it last met it.
const apartFor = time.Minute

type forceKind uint8

const (
	forcePromise forceKind = iota + 1 // promise to take part in no other change
	forceCancel                       // the sender gives up
	forceAsk                          // answers whether it is still wanted
)

type forceMessage struct {
	kind   forceKind
	layout ring.Layout
}

func (m *forceMessage) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(3)
	e.Uint(persistVersion)
	e.Uint(uint64(m.kind))
	e.Raw(m.layout.Encode())
	return e.Copy()
}

func decodeForce(b []byte) (m forceMessage, err error) {
	d := wire.NewDecoder(b)
	d.ArrayOf(3)
	version(d, persistVersion, "forced removal")
	m.kind = forceKind(d.Count(int(forceAsk)))
	raw := d.Raw(maxLayout)
	if err := d.Done(); err != nil {
		return m, err
	}
	m.layout, err = ring.DecodeLayout(raw)
	return m, err
}

// promise is what this node has promised: to go by this layout's lineage, or by none other than it is of now.
type promise struct {
	proposer ring.NodeID
	layout   ring.Layout
}

func (p *promise) encode() []byte {
	if p == nil {
		return nil
	}
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(3)
	e.Uint(persistVersion)
	e.Raw(p.proposer[:])
	e.Raw(p.layout.Encode())
	return e.Copy()
}

func decodePromise(b []byte) (*promise, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var p promise
	d := wire.NewDecoder(b)
	d.ArrayOf(3)
	version(d, persistVersion, "promise of a forced removal")
	d.Fixed(p.proposer[:])
	raw := d.Raw(maxLayout)
	if err := d.Done(); err != nil {
		return nil, err
	}
	var err error
	p.layout, err = ring.DecodeLayout(raw)
	return &p, err
}

// outstanding reports whether a promise binds a node whose newest layout is l.
func (p *promise) outstanding(l ring.Layout) bool {
	return p != nil && p.layout.Kinship(l) == ring.Descendant
}

// newest is the newest state that was decided, adopted here or not.
func (c *Cluster) decidedState() epochState {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.heard != nil && (len(c.state.layouts) == 0 || c.heard.newest().Epoch > c.state.newest().Epoch) {
		return c.heard.clone()
	}
	return c.state.clone()
}

// plannedForce is the layout of those who are left when others, named by name or id, are given up.
func (c *Cluster) plannedForce(names []string, newest ring.Layout, live []ring.Layout) (ring.Layout, error) {
	var lost []ring.NodeID
	for _, name := range names {
		m, known := find(newest, name)
		for i := 0; !known && i < len(live); i++ {
			m, known = find(live[i], name)
		}
		switch {
		case !known:
			return ring.Layout{}, refuse("no member is called %q; the members are %s", name, strings.Join(memberNames(newest), ", "))
		case c.Alive(m.ID):
			return ring.Layout{}, refuse("%s answers: a forced removal gives up members that are lost for good", m.Name)
		case slices.Contains(lost, m.ID):
			return ring.Layout{}, refuse("%s is named twice", m.Name)
		}
		lost = append(lost, m.ID)
	}
	left := 0
	for _, m := range newest.Members {
		switch {
		case slices.Contains(lost, m.ID):
			continue
		case !c.Alive(m.ID):
			return ring.Layout{}, refuse("%s does not answer either: start it, or name it too if it is lost for good. Nobody that is left may miss a forced removal", m.Name)
		}
		left++
	}
	if left > len(newest.Members)/2 {
		return ring.Layout{}, refuse("%d of %d members are left, which is a majority: remove the others one after another, without force", left, len(newest.Members))
	}
	var lineage [16]byte
	_, _ = rand.Read(lineage[:]) // never fails
	return newest.Next(ring.Change{Remove: lost, Lineage: lineage})
}

// force makes a forced removal. Errors wrap ErrRequest or ring.ErrInvalid, with nothing decided, or ErrNotPrepared.
func (c *Cluster) force(ctx context.Context, names []string) (ring.Layout, error) {
	select {
	case c.changes <- struct{}{}:
		defer func() { <-c.changes }()
	case <-ctx.Done():
		return ring.Layout{}, ctx.Err()
	}
	if err := c.mayDecide(); err != nil {
		return ring.Layout{}, err
	}
	s := c.decidedState()
	if len(s.layouts) >= maxWithRemovals {
		return ring.Layout{}, fmt.Errorf("%w (epochs %d to %d): %v", ErrTooMany, s.layouts[0].Epoch, s.newest().Epoch, c.Progress().Waiting)
	}
	next, err := c.plannedForce(names, *s.newest(), s.layouts)
	if err != nil {
		return ring.Layout{}, err
	}
	if err := c.gatherPromises(ctx, next); err != nil {
		return ring.Layout{}, err
	}
	s.layouts = append(s.layouts, next)
	// It is decided by being stored here: every member that is left takes part in nothing else.
	if err := c.note(s); err != nil {
		c.tellForce(ctx, forceCancel, next)
		return ring.Layout{}, err
	}
	c.log.Warn("a majority of the members was given up by force", "op", "force", "epoch", next.Epoch, "lineage", lineageText(next.Lineages), "members", namesOf(next), "given_up", strings.Join(names, ","))
	c.offer(s)
	c.tell(ctx, s, next)
	if err := c.awaitEpoch(ctx, next.Epoch); err != nil {
		return next, fmt.Errorf("%w: epoch %d: %w", ErrNotPrepared, next.Epoch, err)
	}
	return next, nil
}

// gatherPromises asks every member of a forced layout. All or none.
func (c *Cluster) gatherPromises(ctx context.Context, next ring.Layout) error {
	errs := make(chan error, len(next.Members))
	for _, m := range next.Members {
		c.spawn(func() {
			err := c.callForce(ctx, m.ID, &forceMessage{forcePromise, next})
			if err != nil {
				err = fmt.Errorf("%s: %w", m.Name, err)
			}
			errs <- err
		})
	}
	var failed error
	for range next.Members {
		select {
		case err := <-errs:
			failed = errors.Join(failed, err)
		case <-ctx.Done():
			failed = errors.Join(failed, ctx.Err())
		}
		if ctx.Err() != nil {
			break
		}
	}
	if failed == nil {
		return nil
	}
	c.tellForce(ctx, forceCancel, next)
	return refuse("all who are left have to agree: %s", strings.ReplaceAll(failed.Error(), "\n", "; "))
}

func (c *Cluster) tellForce(ctx context.Context, kind forceKind, l ring.Layout) {
	for _, m := range l.Members {
		c.spawn(func() { _ = c.callForce(context.WithoutCancel(ctx), m.ID, &forceMessage{kind, l}) })
	}
}

func (c *Cluster) callForce(ctx context.Context, to ring.NodeID, m *forceMessage) error {
	ctx, cancel := context.WithTimeout(ctx, voteTimeout)
	defer cancel()
	if to == c.cfg.Self {
		return c.onForce(ctx, to, m)
	}
	if c.peersRPC == nil {
		return errNotStarted
	}
	_, err := c.peersRPC.Call(ctx, to, EndpointForce, m.encode())
	return err
}

func (c *Cluster) serveForce(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeForce(body)
	if err != nil {
		return nil, err
	}
	return nil, c.onForce(ctx, from, &m)
}

func (c *Cluster) onForce(ctx context.Context, from ring.NodeID, m *forceMessage) error {
	switch m.kind {
	case forcePromise:
		return c.givePromise(ctx, from, m.layout)
	case forceCancel:
		c.voteMu.Lock()
		defer c.voteMu.Unlock()
		if p := c.promised(); p != nil && p.proposer == from && slices.Equal(p.layout.Lineages, m.layout.Lineages) {
			return c.setPromise(nil)
		}
		return nil
	case forceAsk:
		return c.stillWanted(m.layout)
	}
	return errors.New("unknown message about a forced removal")
}

// stillWanted returns nil if this node, the proposer, is about a forced removal or has decided it.
func (c *Cluster) stillWanted(l ring.Layout) error {
	for _, s := range []epochState{c.decidedState(), c.live()} {
		if len(s.layouts) > 0 {
			if k := s.newest().Kinship(l); k == ring.Same || k == ring.Descendant {
				return nil
			}
		}
	}
	if len(c.changes) > 0 { // perhaps this one
		return nil
	}
	return errors.New("this node is about no such removal")
}

func (c *Cluster) promised() *promise {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.promise
}

// setPromise stores a promise, or that there is none. voteMu is held.
func (c *Cluster) setPromise(p *promise) error {
	if err := c.cfg.State.Save(keyPromise, p.encode()); err != nil {
		return fmt.Errorf("storing a promise: %w", err)
	}
	c.mu.Lock()
	c.promise = p
	c.mu.Unlock()
	return nil
}

// givePromise promises to take part in no other change than the forced removal that makes l, if it fits what this node
// knows.
func (c *Cluster) givePromise(ctx context.Context, from ring.NodeID, l ring.Layout) error {
	if err := c.mayDecide(); err != nil {
		return err
	}
	if from != c.cfg.Self {
		if err := c.Hear(ctx, from, l.Epoch-1); err != nil {
			return err
		}
	}
	c.voteMu.Lock() // no vote is given meanwhile
	defer c.voteMu.Unlock()
	s := c.decidedState()
	if l.Epoch != s.newest().Epoch+1 || l.ClusterID != s.newest().ClusterID {
		return fmt.Errorf("it is at epoch %d, not %d", s.newest().Epoch, l.Epoch-1)
	}
	if l.Kinship(*s.newest()) != ring.Descendant || len(l.Lineages) != len(s.newest().Lineages)+1 {
		return errors.New("it is of another lineage")
	}
	for _, id := range []ring.NodeID{from, c.cfg.Self} {
		if _, ok := l.Member(id); !ok {
			return fmt.Errorf("%s would be no member", id)
		}
	}
	for _, m := range s.newest().Members {
		if _, stays := l.Member(m.ID); !stays && c.Alive(m.ID) {
			return fmt.Errorf("%s answers there", m.Name)
		}
	}
	if p := c.promised(); p.outstanding(*s.newest()) && p.proposer != from && !l.IsRemoved(p.proposer) {
		return fmt.Errorf("another forced removal is being made, by %s", c.names([]ring.NodeID{p.proposer})[0])
	}
	return c.setPromise(&promise{from, l})
}

// mayDecide is mayVote for who is asked about a forced removal.
func (c *Cluster) mayDecide() error {
	err := c.mayVote()
	if errors.Is(err, errPromised) {
		return nil
	}
	return err
}

var errPromised = errors.New("a forced removal of members is under way")

// keepPromise asks the proposer of an outstanding promise, if it answers, whether it is still about it, and forgets the
// promise if it is not: it has ended without a word.
func (c *Cluster) keepPromise(ctx context.Context) {
	p, s := c.promised(), c.decidedState()
	if p == nil || len(s.layouts) == 0 || len(c.asking) > 0 {
		return
	}
	kept := p.outstanding(*s.newest())
	if kept && !c.Alive(p.proposer) {
		return
	}
	select {
	case c.asking <- struct{}{}:
	default:
		return
	}
	c.spawn(func() {
		defer func() { <-c.asking }()
		if kept {
			err := c.callForce(ctx, p.proposer, &forceMessage{forceAsk, p.layout})
			if err == nil || !strings.Contains(err.Error(), "no such removal") {
				return
			}
		}
		c.voteMu.Lock()
		defer c.voteMu.Unlock()
		if now := c.promised(); now != nil && bytes.Equal(now.encode(), p.encode()) {
			if err := c.setPromise(nil); err != nil {
				c.log.Warn("a promise that is over stays", "op", "force", "error", err)
			}
		}
	})
}

func namesOf(l ring.Layout) string {
	names := memberNames(l)
	slices.Sort(names)
	return strings.Join(names, ", ")
}

func lineageText(ids [][16]byte) string {
	if len(ids) == 0 {
		return "first"
	}
	return digest(ids[len(ids)-1]).String()
}

// meetLineage compares a peer's layout with this node's, and reports whether they are of one lineage. mu is held.
func (c *Cluster) meetLineage(l ring.Layout, id ring.NodeID, name string) bool {
	if c.layout == nil || l.ClusterID != c.layout.ClusterID {
		return true
	}
	_, member := l.Member(c.cfg.Self)
	switch l.Kinship(*c.layout) {
	case ring.Same:
		return true
	case ring.Descendant:
		_, stays := c.layout.Member(c.cfg.Self)
		switch {
		case member: // it has promised, and learns it now
			return true
		case stays || l.IsRemoved(c.cfg.Self):
			c.leaveBehind(l)
			return false
		}
		return true // it leaves, before and after
	case ring.Ancestor:
		if !c.state.member(id) || c.layout.IsRemoved(id) {
			c.tellBehind(name)
		}
		return false // or it learns the lineage from here
	}
	// Apart: two sides were forced. If neither has anybody of the other, each goes on for itself.
	switch shared := slices.ContainsFunc(l.Members, func(m ring.Member) bool { return c.layoutHas(m.ID) }); {
	case shared && l.IsRemoved(c.cfg.Self):
		c.leaveBehind(l)
		return false
	case shared: // it counts in who has given it up, and stops when it hears of that
		c.tellBehind(name)
		return false
	}
	text := fmt.Sprintf("%s (%s) go by another lineage (%s) of this cluster than this node (%s): two sides were forced apart, and neither sees what the other writes; choose one, export what is wanted of the other, and bring its nodes back with empty directories",
		name, namesOf(l), lineageText(l.Lineages), lineageText(c.layout.Lineages))
	if c.apart != text {
		c.log.Error("two lineages of one cluster", "op", "force", "error", text)
	}
	c.apart, c.apartAt = text, time.Now()
	return false
}

// tellBehind logs that a node is about that was given up. mu is held.
func (c *Cluster) tellBehind(name string) {
	if c.quiet("behind "+name, time.Now()) {
		c.log.Warn("a node that was given up by force is about; it is refused, and has to come back with an empty directory", "op", "force", "peer", name)
	}
}

// leaveBehind ends this node's service for good: others went on without it. mu is held. A peer may have refused it before
// it heard so by gossip: that refusal lasts for this process only, so it gives way to what is stored.
func (c *Cluster) leaveBehind(l ring.Layout) {
	if c.behind {
		return
	}
	c.behind = true
	if c.refusal {
		c.poison, c.refusal = "", false
	}
	text := fmt.Sprintf("left behind: %s went on without this node by a forced removal (epoch %d, lineage %s). What its disk holds is never merged back, and may be exported; bring it back with an empty directory as a new node",
		namesOf(l), l.Epoch, lineageText(l.Lineages))
	c.poisonLocked(text)
	c.leftBehind = text
}

// keepBehind stores that this node was left behind: the next start need not meet anybody to know.
func (c *Cluster) keepBehind() {
	c.mu.Lock()
	text := c.leftBehind
	c.mu.Unlock()
	if text == "" {
		return
	}
	if err := c.cfg.State.Save(keyBehind, []byte(text)); err != nil {
		c.log.Warn("that this node was left behind could not be stored; it is tried again", "op", "force", "error", err)
		return
	}
	c.mu.Lock()
	c.leftBehind = ""
	c.mu.Unlock()
}

// Apart says, if there is one, that another lineage of this cluster is about, and what to do; else it is empty.
func (c *Cluster) Apart() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.apartAt) > apartFor {
		return ""
	}
	return c.apart
}

func (c *Cluster) layoutHas(id ring.NodeID) bool {
	_, ok := c.layout.Member(id)
	return ok
}

// loadForce reads what a former start left of forced removals.
func (c *Cluster) loadForce() error {
	raw, err := c.read(keyPromise)
	if err != nil {
		return err
	}
	if c.promise, err = decodePromise(raw); err != nil {
		return damaged(keyPromise, err)
	}
	if raw, err = c.read(keyBehind); err != nil {
		return err
	}
	if len(raw) > 0 {
		c.poison, c.behind = string(raw), true
		c.log.Error("this node stays out of service", "op", "force", "error", c.poison)
	}
	return nil
}
