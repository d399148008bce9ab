package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// decision is what the event loop must store before it may publish it.
type decision struct {
	vote   *voteBody    // cast this vote
	layout *ring.Layout // the first layout exists
	fatal  error
}

// foundAlone casts the vote of a node without seeds, unless an earlier start has voted.
func (c *Cluster) foundAlone() error {
	if c.vote == nil {
		if err := c.cast(newVote(&c.cfg, []ring.Member{c.cfg.self()})); err != nil {
			return err
		}
	}
	return c.evaluate()
}

// evaluate moves from hearing founders to a vote, and from votes to the first layout, as far as what is known
// now allows. Only the event loop calls it (and Start, before there is one).
func (c *Cluster) evaluate() error {
	for range 3 { // a vote, then the layout that it completes, then nothing
		d := c.decide()
		if d.fatal != nil {
			c.die(d.fatal)
		}
		var err error
		switch {
		case d.vote != nil:
			err = c.cast(d.vote)
		case d.layout != nil:
			err = c.found(*d.layout)
		default:
			return nil
		}
		if err != nil {
			c.log.Error("the founding of the cluster is held up", "op", "found", "error", err)
			c.mu.Lock()
			c.wait = err.Error()
			c.mu.Unlock()
			return err
		}
	}
	return nil
}

// cast stores the one vote of this directory. It is published after that by the metadata.
func (c *Cluster) cast(v *voteBody) error {
	if err := c.cfg.State.Save(keyVote, v.encode()); err != nil {
		return fmt.Errorf("storing the founding vote: %w", err)
	}
	c.mu.Lock()
	c.vote = v
	c.mu.Unlock()
	c.log.Info("voted for the first layout", "op", "found", "vote", v.hash(), "founders", len(v.Founders))
	return nil
}

func (c *Cluster) found(l ring.Layout) error {
	c.epochMu.Lock()
	defer c.epochMu.Unlock()
	if len(c.live().layouts) > 0 {
		return nil // learnt from another founder meanwhile
	}
	if err := c.install(firstEpochs(l)); err != nil {
		return err
	}
	c.belongs()
	c.log.Info("the cluster is founded", "op", "found", "epoch", l.Epoch, "cluster", digest(l.ClusterID), "members", len(l.Members))
	return nil
}

// firstEpochs is the state with a first layout: nothing came before it, so all have come all the way.
func firstEpochs(l ring.Layout) epochState {
	s := epochState{layouts: []ring.Layout{l}, settled: l.Epoch, table: progressTable{}}
	for _, m := range l.Members {
		s.table[m.ID] = progress{l.Epoch, l.Epoch, l.Epoch}
	}
	return s
}

func (c *Cluster) decide() decision {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.want)
	switch {
	case c.layout != nil:
		c.checkFork()
		return decision{}
	case c.vote != nil:
		return c.countVotes()
	default:
		return c.considerVote(time.Now())
	}
}

// checkFork compares the layouts of live peers with this node's. It should never find anything. Epochs of another lineage
// may have the same numbers, so what a peer's state has not shown yet says nothing; a layout too large for that is believed.
func (c *Cluster) checkFork() {
	fork := ""
	for _, id := range slices.SortedFunc(maps.Keys(c.peers), ring.NodeID.Compare) {
		p := c.peers[id]
		if !p.alive || p.meta.Epoch != c.layout.Epoch || p.meta.Layout == c.layoutHash {
			continue
		}
		if p.seen == p.meta.Layout && p.ours || p.seen != p.meta.Layout && len(c.layout.Encode()) > maxLayoutLen {
			fork = fmt.Sprintf("node %s holds another layout of epoch %d (%s there, %s here): the cluster has forked; stop the nodes of one side and bring them back with empty directories", p.Name, p.meta.Epoch, p.meta.Layout, c.layoutHash)
			break
		}
	}
	if fork != "" && fork != c.fork {
		c.log.Error("layouts have forked", "op", "cluster", "error", fork)
	}
	c.fork = fork
}

// considerVote decides whether a node that has never voted may vote now; otherwise it says what is missing.
func (c *Cluster) considerVote(now time.Time) decision {
	if d, taken := c.checkName(now); taken {
		return d
	}
	switch {
	case c.heardEpoch:
		c.wait = c.outsider()
		return decision{}
	case !c.isListed:
		c.wait = fmt.Sprintf("node %q is not named in its own seeds list (%s), so it founds nothing, and it has heard of no cluster yet: to found one, put %s@host:port into the seeds of every founder", c.cfg.Name, orNone(c.listed), c.cfg.Name)
		return decision{}
	}
	founders := []ring.Member{c.cfg.self()}
	var missing, differ []string
	for _, name := range c.listed {
		if name == c.cfg.Name {
			continue
		}
		p, problem := c.liveNamed(name)
		switch {
		case problem != "":
			differ = append(differ, problem)
		case p == nil:
			missing = append(missing, name)
		case p.meta.Founding != c.founding:
			differ = append(differ, c.difference(p))
		default:
			founders = append(founders, ring.Member{ID: p.ID, Name: p.Name, Zone: p.Zone, Weight: p.Weight})
		}
	}
	differ = append(differ, c.unlisted()...)
	if len(differ) > 0 || len(missing) > 0 {
		c.wait = c.waitText(missing, differ)
		return decision{}
	}
	v := newVote(&c.cfg, founders)
	if err := v.layout().Validate(); err != nil {
		c.wait = fmt.Sprintf("the founders make no valid layout: %v", err)
		return decision{}
	}
	// A vote is for ever. One that cannot win, because a founder has voted for something else, is not cast:
	// that leaves the way out of correcting the setting.
	for _, m := range founders {
		if p := c.peers[m.ID]; p != nil && !p.meta.Vote.zero() && p.meta.Vote != v.hash() {
			c.want[p.GossipAddr] = true
			c.wait = fmt.Sprintf("founder %s has already voted for other founders or settings: %s", p.Name, c.voteDifference(p.ID, v))
			return decision{}
		}
	}
	return decision{vote: v}
}

// checkName watches for another live node of this node's name.
func (c *Cluster) checkName(now time.Time) (decision, bool) {
	for _, p := range c.peers {
		if !p.alive || p.Name != c.cfg.Name {
			continue
		}
		// Of two nodes without a past the older id stays: both leaving would help nobody.
		if p.meta.Epoch == 0 && p.meta.Vote.zero() && c.cfg.Self.Compare(p.ID) < 0 {
			c.nameTaken = time.Time{}
			c.wait = fmt.Sprintf("another live node (%s at %s) is also called %q: give it another name", p.ID, p.GossipAddr, p.Name)
			return decision{}, true
		}
		if c.nameTaken.IsZero() {
			c.nameTaken = now
		}
		c.wait = fmt.Sprintf("the name %q is taken by a live node (%s at %s): give this node another name, or stop the other one", p.Name, p.ID, p.GossipAddr)
		// A grace, since this node may replace one that crashed a moment ago and still counts as alive.
		if now.Sub(c.nameTaken) < c.cfg.Timing.NameGrace {
			return decision{}, true
		}
		return decision{fatal: errors.New(c.wait)}, true
	}
	c.nameTaken = time.Time{}
	return decision{}, false
}

// outsider says why a node without a vote can take no part in a cluster that exists.
func (c *Cluster) outsider() string {
	if c.heardLayout == nil {
		for _, p := range c.peers {
			if p.alive && p.meta.Epoch > 0 {
				c.want[p.GossipAddr] = true
			}
		}
		return "a cluster exists already, so this node founds none; waiting to hear its layout"
	}
	l := c.heardLayout
	if _, ok := l.Member(c.cfg.Self); ok && c.asked == joinAsked {
		return fmt.Sprintf("this node has become a member (epoch %d) and learns the layout", l.Epoch)
	}
	if _, ok := l.Member(c.cfg.Self); ok {
		return fmt.Sprintf("the cluster counts this node as a member (epoch %d), but its directory holds neither layout nor vote: files were lost; bring the node back with an empty directory, as a replacement", l.Epoch)
	}
	said := c.joining
	if said == "" {
		said = "asking to become a member"
	}
	return fmt.Sprintf("a cluster exists already (epoch %d, %d members) and node %q is not one of them: %s", l.Epoch, len(l.Members), c.cfg.Name, said)
}

// liveNamed finds the one live node of a name. It returns nil when there is none and a problem when there are several.
func (c *Cluster) liveNamed(name string) (found *peer, problem string) {
	for _, p := range c.peers {
		if !p.alive || !p.heard || p.Name != name {
			continue
		}
		if found != nil {
			return nil, fmt.Sprintf("two live nodes are called %q (%s and %s): rename one", name, found.GossipAddr, p.GossipAddr)
		}
		found = p
	}
	return found, ""
}

// unlisted names live nodes that list this node as a founder but are not in this node's list, or have other
// lists: they will never agree, so saying it early helps.
func (c *Cluster) unlisted() (out []string) {
	for _, p := range c.peers {
		if !p.alive || p.meta.Founding == c.founding || slices.Contains(c.listed, p.Name) {
			continue
		}
		if b := c.bodies[p.ID]; b == nil {
			c.want[p.GossipAddr] = true
		} else if slices.Contains(b.Listed, p.Name) && slices.Contains(b.Listed, c.cfg.Name) {
			out = append(out, c.difference(p))
		}
	}
	slices.Sort(out)
	return out
}

// difference says in words how a founder's settings differ from this node's.
func (c *Cluster) difference(p *peer) string {
	b := c.bodies[p.ID]
	if b == nil {
		c.want[p.GossipAddr] = true
		return fmt.Sprintf("node %s has other founding settings (seeds, partitions or n); asking it which", p.Name)
	}
	var diffs []string
	if !slices.Equal(b.Listed, c.listed) {
		diffs = append(diffs, fmt.Sprintf("its seeds name %s, here they name %s", orNone(b.Listed), orNone(c.listed)))
	}
	if b.Partitions != c.cfg.Partitions {
		diffs = append(diffs, fmt.Sprintf("partitions are %d there, %d here", b.Partitions, c.cfg.Partitions))
	}
	if b.N != c.cfg.N {
		diffs = append(diffs, fmt.Sprintf("n is %d there, %d here", b.N, c.cfg.N))
	}
	if len(diffs) == 0 {
		c.want[p.GossipAddr] = true // it restarted with other settings since
		return fmt.Sprintf("node %s has other founding settings; asking it which", p.Name)
	}
	return fmt.Sprintf("node %s differs: %s", p.Name, strings.Join(diffs, "; "))
}

// voteDifference says in words how a founder's vote differs from v.
func (c *Cluster) voteDifference(id ring.NodeID, v *voteBody) string {
	b := c.bodies[id]
	if b == nil || len(b.Vote) == 0 {
		return "asking it which"
	}
	theirs, err := decodeVote(b.Vote)
	if err != nil {
		return "its vote is unreadable"
	}
	var diffs []string
	if theirs.Partitions != v.Partitions {
		diffs = append(diffs, fmt.Sprintf("partitions %d there, %d here", theirs.Partitions, v.Partitions))
	}
	if theirs.N != v.N {
		diffs = append(diffs, fmt.Sprintf("n %d there, %d here", theirs.N, v.N))
	}
	for _, m := range v.Founders {
		diffs = append(diffs, memberDifference(theirs, m)...)
	}
	for _, m := range theirs.Founders {
		if !slices.ContainsFunc(v.Founders, func(o ring.Member) bool { return o.Name == m.Name }) {
			diffs = append(diffs, fmt.Sprintf("founder %s is there and not here", m.Name))
		}
	}
	return strings.Join(diffs, "; ") + ". Correct the setting; if a founder was wiped, wipe every founder, since this cluster has no data yet"
}

func memberDifference(theirs *voteBody, m ring.Member) []string {
	i := slices.IndexFunc(theirs.Founders, func(o ring.Member) bool { return o.Name == m.Name })
	if i < 0 {
		return []string{fmt.Sprintf("founder %s is here and not there", m.Name)}
	}
	o := theirs.Founders[i]
	switch {
	case o.ID != m.ID:
		return []string{fmt.Sprintf("founder %s has id %s there, %s here (its directory was wiped)", m.Name, o.ID, m.ID)}
	case o.Zone != m.Zone:
		return []string{fmt.Sprintf("founder %s has zone %q there, %q here", m.Name, o.Zone, m.Zone)}
	case o.Weight != m.Weight:
		return []string{fmt.Sprintf("founder %s has weight %d there, %d here", m.Name, o.Weight, m.Weight)}
	}
	return nil
}

// countVotes decides whether the vote that this node cast has won.
func (c *Cluster) countVotes() decision {
	own := c.vote.hash()
	var missing, differ []string
	for _, p := range c.peers {
		// Whoever has a layout of this cluster proves that all founders voted for it.
		if p.heard && p.meta.Epoch > 0 && p.meta.Vote == own {
			l := c.vote.layout()
			return decision{layout: &l}
		}
		if p.heard && p.meta.Epoch > 0 {
			differ = append(differ, fmt.Sprintf("node %s belongs to another cluster of the same name (%s), and this node has voted for %s", p.Name, p.meta.Vote, own))
		}
	}
	for _, m := range c.vote.Founders {
		if m.ID == c.cfg.Self {
			continue
		}
		p := c.peers[m.ID]
		switch {
		case p != nil && p.heard && p.meta.Vote == own:
		case p != nil && p.heard && !p.meta.Vote.zero():
			c.want[p.GossipAddr] = true
			differ = append(differ, fmt.Sprintf("founder %s has voted differently: %s", m.Name, c.voteDifference(m.ID, c.vote)))
		default:
			if other, _ := c.liveNamed(m.Name); other != nil && other.ID != m.ID {
				differ = append(differ, fmt.Sprintf("this node has voted for founder %s with id %s, but it runs with id %s: its directory was wiped before the cluster existed; wipe every founder", m.Name, m.ID, other.ID))
			} else {
				missing = append(missing, m.Name)
			}
		}
	}
	if len(missing) == 0 && len(differ) == 0 {
		l := c.vote.layout()
		return decision{layout: &l}
	}
	slices.Sort(differ)
	c.wait = c.waitText(missing, differ)
	if len(missing) > 0 {
		c.wait += " (this node has voted)"
	}
	return decision{}
}

// waitText joins what is missing and what differs into one line.
func (c *Cluster) waitText(missing, differ []string) string {
	var parts []string
	if len(missing) > 0 {
		known := make([]string, len(missing))
		for i, name := range missing {
			known[i] = name
			for _, s := range c.cfg.Seeds {
				if s.Name == name {
					known[i] = name + " (" + s.Addr + ")"
				}
			}
		}
		parts = append(parts, "waiting for founder "+strings.Join(known, ", ")+": start it, or check that it can be reached with the same cluster name and secret")
	}
	if len(differ) > 0 {
		parts = append(parts, "founders disagree, so none may found: "+strings.Join(differ, " | ")+": give all the same settings and restart the one that is wrong")
	}
	return strings.Join(parts, "; ")
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ",")
}
