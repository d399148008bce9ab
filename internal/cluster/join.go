package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// A member gathers nodes that want to join, so that several make one epoch: until no other one has asked for joinPause, or
// the first has waited for joinWindow.
const (
	joinPause  = time.Second
	joinWindow = 3 * time.Second
	// joinRetry is how long it takes until a node asks again, and until what could not be done is looked at again.
	joinRetry = time.Second
)

// joinState is whether this directory may become a member's. If it may not, and is a member's all the same and holds no
// layout, it has lost its files, and must not go on as that member.
type joinState byte

const (
	joinNever joinState = iota
	joinAsked           // it is new, or has asked
	joinDone
)

// setAsked stores how far this directory has come with joining.
func (c *Cluster) setAsked(s joinState) error {
	c.mu.Lock()
	known := c.asked
	c.mu.Unlock()
	if known == s {
		return nil
	}
	if err := c.cfg.State.Save(keyJoin, []byte{byte(s)}); err != nil {
		return fmt.Errorf("storing that this node joins: %w", err)
	}
	c.mu.Lock()
	c.asked = s
	c.mu.Unlock()
	return nil
}

// belongs notes that this directory is a member's from now on.
func (c *Cluster) belongs() {
	if err := c.setAsked(joinDone); err != nil {
		c.log.Warn("it will be stored at the next start", "op", "join", "error", err)
	}
}

const (
	joinVersion = 1
	joinFields  = 3
	maxJoins    = 256
)

// joinRequest is what a node asks that wants to become a member. Who it is, is proved by the connection.
type joinRequest struct {
	member  ring.Member
	replace bool // take the place of the member that has the name and another id
}

func (j *joinRequest) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(joinFields)
	e.Uint(joinVersion)
	memberTo(e, j.member)
	e.Bool(j.replace)
	return e.Copy()
}

func decodeJoin(b []byte) (joinRequest, error) {
	var j joinRequest
	d := wire.NewDecoder(b)
	newer := openMessage(d, joinFields, joinVersion, "request to join")
	j.member = memberFrom(d)
	j.replace = d.Bool()
	return j, endMessage(d, newer)
}

// serveJoin notes that a node wants to become a member. The answer comes at once; that it is one, the node learns like
// everybody. An error says why it cannot be.
func (c *Cluster) serveJoin(_ context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	j, err := decodeJoin(body)
	if err != nil {
		return nil, err
	}
	if j.member.ID != from {
		return nil, fmt.Errorf("node %s asks for %s", from, j.member.ID)
	}
	if err := c.mayVote(); err != nil {
		return nil, err
	}
	s := c.live()
	if s.member(from) {
		c.spawn(func() { _, _ = c.peersRPC.Call(context.Background(), from, EndpointNews, nil) })
		return nil, nil
	}
	if _, err := c.admit(*s.newest(), []joinRequest{j}); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.joins) >= maxJoins {
		return nil, errors.New("too many nodes want to join at once")
	}
	now := time.Now()
	if len(c.joins) == 0 {
		c.joinsSince = now
	}
	if _, again := c.joins[from]; !again {
		c.joinsLast = now
	}
	c.joins[from] = j
	nudge(c.admits)
	return nil, nil
}

// admit is the change that makes members of the nodes.
func (c *Cluster) admit(l ring.Layout, joins []joinRequest) (ring.Layout, error) {
	change := ring.Change{Replace: map[ring.NodeID]ring.Member{}}
	for _, j := range joins {
		i := slices.IndexFunc(l.Members, func(m ring.Member) bool { return m.Name == j.member.Name })
		switch {
		case i < 0:
			change.Join = append(change.Join, j.member)
		case l.Members[i].ID == j.member.ID:
		case c.Alive(l.Members[i].ID):
			return ring.Layout{}, fmt.Errorf("the name %q is that of a member that answers (%s): give the new node another name", j.member.Name, l.Members[i].ID)
		case !j.replace:
			return ring.Layout{}, fmt.Errorf("%q is the name of member %s, which does not answer: bring that member back with its directory, or, if its disk is lost for good, run `dunlin replace %s` or start this node with --replace", j.member.Name, l.Members[i].ID, j.member.Name)
		default:
			old := l.Members[i]
			if j.member.Zone == "" {
				j.member.Zone = old.Zone
			}
			change.Replace[old.ID] = j.member
			change.Remove = append(change.Remove, old.ID)
		}
	}
	if len(change.Join)+len(change.Replace) == 0 {
		return ring.Layout{}, errNothingToDo
	}
	return l.Next(change)
}

var errNothingToDo = errors.New("nothing to change")

// admitter makes members of those that asked, once no change is under way; who takes a dead member's place need not wait.
func (c *Cluster) admitter(ctx context.Context) {
	defer c.running.Done()
	pause := joinRetry
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.admits:
		case <-time.After(pause):
		}
		var joins []joinRequest
		if joins, pause = c.gathered(); len(joins) == 0 {
			continue
		}
		if joins = c.admissible(joins); len(joins) > 0 {
			c.admitAll(ctx, joins)
		}
	}
}

// gathered are the requests that are to be met now, none while others may follow, and how long to wait until the next look.
func (c *Cluster) gathered() (joins []joinRequest, pause time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.joins) == 0 {
		return nil, joinRetry
	}
	if more := min(time.Until(c.joinsLast.Add(joinPause)), time.Until(c.joinsSince.Add(joinWindow))); more > 0 {
		return nil, more
	}
	joins = slices.SortedFunc(maps.Values(c.joins), func(a, b joinRequest) int { return a.member.ID.Compare(b.member.ID) })
	if len(c.state.layouts) > 1 { // the change that is under way may wait for who is replaced
		joins = slices.DeleteFunc(joins, func(j joinRequest) bool { return !c.replacesLocked(j) })
	}
	return joins, joinRetry
}

// replacesLocked reports whether a node asks for the place of a member. mu is held.
func (c *Cluster) replacesLocked(j joinRequest) bool {
	return j.replace && slices.ContainsFunc(c.layout.Members, func(m ring.Member) bool {
		return m.Name == j.member.Name && m.ID != j.member.ID
	})
}

// admissible are those of the requests that can be met now. The others are forgotten, so that none holds up the rest: who
// lives asks again, and hears why it cannot be.
func (c *Cluster) admissible(joins []joinRequest) (can []joinRequest) {
	newest := c.live().newest()
	for _, j := range joins {
		err := errors.New("it does not answer")
		if c.Alive(j.member.ID) {
			_, err = c.admit(*newest, append(slices.Clone(can), j))
		}
		if err == nil {
			can = append(can, j)
			continue
		}
		c.log.Info("a node that asked to join cannot", "op", "join", "peer", j.member.Name, "id", j.member.ID, "error", err)
		c.mu.Lock()
		delete(c.joins, j.member.ID)
		c.mu.Unlock()
	}
	return can
}

func (c *Cluster) admitAll(ctx context.Context, joins []joinRequest) {
	ctx, cancel := context.WithTimeout(ctx, 10*voteTimeout)
	defer cancel()
	won, err := c.Change(ctx, func(l ring.Layout, _ []ring.Layout) (ring.Layout, error) { return c.admit(l, joins) })
	switch conflict, ok := errors.AsType[*ConflictError](err); {
	case ok:
		won = conflict.Layout
	case errors.Is(err, ring.ErrInvalid), errors.Is(err, errNothingToDo):
		// It was possible when they asked, and will be judged anew when they ask again.
		c.log.Warn("nodes that asked to join cannot", "op", "join", "error", err)
		won = ring.Layout{}
		c.mu.Lock()
		clear(c.joins)
		c.mu.Unlock()
	case err != nil:
		c.log.Warn("nodes that asked to join wait", "op", "join", "nodes", len(joins), "error", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, j := range joins {
		if _, ok := won.Member(j.member.ID); ok {
			delete(c.joins, j.member.ID)
		}
	}
}

// joiner asks a member to let this node in. The members are asked in the same order by all, so that nodes which join at
// once meet in one epoch.
func (c *Cluster) joiner(ctx context.Context) {
	defer c.running.Done()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.hasHeard:
		case <-time.After(joinRetry):
		}
		l := c.mayJoin()
		if l == nil || c.peersRPC == nil {
			continue
		}
		if l.Partitions != c.cfg.Partitions {
			c.mu.Lock()
			c.joining = fmt.Sprintf("the cluster has %d partitions, and this node is set to %d: start it with --partitions %d", l.Partitions, c.cfg.Partitions, l.Partitions)
			c.mu.Unlock()
			continue
		}
		if err := c.setAsked(joinAsked); err != nil {
			c.log.Error("this node cannot join", "op", "join", "error", err)
			continue
		}
		j := joinRequest{c.cfg.self(), c.cfg.Replace}
		said := "no member answers"
		for _, m := range l.Members {
			if !c.Alive(m.ID) {
				continue
			}
			cctx, cancel := context.WithTimeout(ctx, voteTimeout)
			_, err := c.peersRPC.Call(cctx, m.ID, EndpointJoin, j.encode())
			cancel()
			if err == nil {
				said = "asked " + m.Name + " to become a member"
				break
			}
			said = fmt.Sprintf("%s says: %v", m.Name, err)
		}
		c.mu.Lock()
		c.joining = said
		c.mu.Unlock()
	}
}

// mayJoin returns the layout of a cluster that this node is to join; nil: it is not.
func (c *Cluster) mayJoin() *ring.Layout {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.layout != nil || c.vote != nil || c.poison != "" || c.heardLayout == nil || !c.nameTaken.IsZero() {
		return nil
	}
	if _, member := c.heardLayout.Member(c.cfg.Self); member || c.heard != nil && c.heard.member(c.cfg.Self) {
		return nil // it has been let in, and waits to hear of it
	}
	return c.heardLayout
}
