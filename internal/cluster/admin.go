package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/dunlindb/dunlin/ring"
)

// Action is what an operator asks of the member set.
type Action string

// The actions.
const (
	ActionJoin    Action = "join"    // for plans only: a node joins by asking itself
	ActionLeave   Action = "leave"   // the member hands over what it holds, and goes
	ActionRemove  Action = "remove"  // the member is stopped for good: nobody waits for it, and its id never comes back
	ActionReplace Action = "replace" // a waiting node takes the place of the member whose name it has
	ActionUpdate  Action = "update"  // another weight or zone
	ActionCancel  Action = "cancel"  // back to what was before the change that is under way
	ActionBucket  Action = "bucket"  // another number of replicas of a bucket's keys
)

// Request is an action and what it is about.
type Request struct {
	Action Action
	Node   string  // a name, or an id in hexadecimal; empty for ActionCancel. With Force a comma list of them
	Weight int     // ActionUpdate, ActionJoin; 0: as it is, or 1
	Zone   *string // ActionUpdate, ActionJoin; nil: as it is
	Bucket string  // ActionBucket
	N      int     // ActionBucket: the number of replicas, 0: the cluster's
	Force  bool    // ActionRemove: a majority is lost, and those that are left go on alone
}

// ErrRequest is wrapped by errors about a request that cannot be done as it is.
var ErrRequest = errors.New("the change is not possible")

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrRequest, fmt.Sprintf(format, args...))
}

// Plan returns the newest ring and what a request would make of it. Nothing changes. Errors wrap ErrRequest or
// ring.ErrInvalid.
func (c *Cluster) Plan(req Request) (now, then *ring.Ring, err error) {
	e := c.Epochs()
	if e == nil {
		return nil, nil, errNoLayout
	}
	s := c.live()
	if req.Force {
		s = c.decidedState()
	}
	next, err := c.planned(req, *s.newest(), s.layouts)
	if err != nil {
		return nil, nil, err
	}
	then, err = ring.New(next, next.N)
	return e.Newest(), then, err
}

// Apply makes the change: it is decided when Apply returns, and goes on in the background; Progress says how far. Errors
// are Plan's and Change's.
func (c *Cluster) Apply(ctx context.Context, req Request) (ring.Layout, error) {
	if req.Force && req.Action == ActionRemove {
		return c.force(ctx, strings.Split(req.Node, ","))
	}
	if req.Action == ActionJoin {
		return ring.Layout{}, refuse("a node joins by itself: start it with a member among its seeds")
	}
	return c.Change(ctx, func(newest ring.Layout, live []ring.Layout) (ring.Layout, error) {
		return c.planned(req, newest, live)
	})
}

func (c *Cluster) planned(req Request, newest ring.Layout, live []ring.Layout) (ring.Layout, error) {
	if req.Action == ActionCancel {
		if len(live) == 1 {
			return ring.Layout{}, refuse("no change is under way")
		}
		return newest.Back(live[0])
	}
	if req.Action == ActionJoin {
		return c.plannedJoin(req, newest)
	}
	if req.Action == ActionBucket {
		return plannedBucket(req, newest)
	}
	if req.Action == ActionRemove && req.Force {
		return c.plannedForce(strings.Split(req.Node, ","), newest, live)
	}
	m, known := find(newest, req.Node)
	if !known && req.Action == ActionRemove {
		for _, l := range live { // it leaves already, and died meanwhile
			if m, known = find(l, req.Node); known {
				break
			}
		}
	}
	if !known {
		return ring.Layout{}, refuse("no member is called %q; the members are %s", req.Node, strings.Join(memberNames(newest), ", "))
	}
	switch req.Action {
	case ActionLeave:
		if !c.Alive(m.ID) {
			return ring.Layout{}, refuse("%s does not answer, so it cannot hand over what it holds: start it, or remove it if it is lost for good", m.Name)
		}
		return newest.Next(ring.Change{Leave: []ring.NodeID{m.ID}})
	case ActionRemove:
		if c.Alive(m.ID) {
			return ring.Layout{}, refuse("%s answers: stop it first, or let it leave", m.Name)
		}
		return newest.Next(ring.Change{Remove: []ring.NodeID{m.ID}})
	case ActionReplace:
		return c.plannedReplace(m, newest)
	case ActionUpdate:
		if req.Weight != 0 {
			m.Weight = req.Weight
		}
		if req.Zone != nil {
			m.Zone = *req.Zone
		}
		return newest.Next(ring.Change{Update: []ring.Member{m}})
	}
	return ring.Layout{}, refuse("unknown action %q", req.Action)
}

// plannedBucket gives a bucket another number of replicas. More than there are members would all be the members, as many
// as there are; whoever asks for them should know.
func plannedBucket(req Request, newest ring.Layout) (ring.Layout, error) {
	known := slices.ContainsFunc(newest.Buckets, func(b ring.BucketN) bool { return b.Bucket == req.Bucket })
	switch n := len(newest.Members); {
	case req.N > n:
		return ring.Layout{}, refuse("n=%d needs as many members, there are %d: %s", req.N, n, strings.Join(memberNames(newest), ", "))
	case !known && len(newest.Buckets) == ring.MaxBucketN && req.N != 0 && req.N != newest.N:
		return ring.Layout{}, refuse("%d buckets have an n of their own already, which is the most", ring.MaxBucketN)
	}
	return newest.Next(ring.Change{BucketN: map[string]int{req.Bucket: req.N}})
}

func (c *Cluster) plannedJoin(req Request, newest ring.Layout) (ring.Layout, error) {
	m := ring.Member{Name: req.Node, Weight: max(req.Weight, 1)}
	m.ID[0] = 1 // stands for the id that the node will have
	if req.Zone != nil {
		m.Zone = *req.Zone
	}
	return newest.Next(ring.Change{Join: []ring.Member{m}})
}

// plannedReplace lets the waiting node that has a member's name take its place.
func (c *Cluster) plannedReplace(old ring.Member, newest ring.Layout) (ring.Layout, error) {
	if c.Alive(old.ID) {
		return ring.Layout{}, refuse("%s answers, so there is nothing to replace", old.Name)
	}
	c.mu.Lock()
	p, problem := c.liveNamed(old.Name)
	if p != nil {
		if b := c.bodies[p.ID]; b != nil && b.Partitions != newest.Partitions {
			problem = fmt.Sprintf("the new %q is set to %d partitions, the cluster has %d: start it with --partitions %d", old.Name, b.Partitions, newest.Partitions, newest.Partitions)
		}
	}
	c.mu.Unlock()
	switch {
	case problem != "":
		return ring.Layout{}, refuse("%s", problem)
	case p == nil:
		return ring.Layout{}, refuse("no new node is called %q: start one under this name with an empty directory first, or remove the member", old.Name)
	}
	m := ring.Member{ID: p.ID, Name: old.Name, Zone: p.Zone, Weight: p.Weight}
	if m.Zone == "" {
		m.Zone = old.Zone
	}
	return newest.Next(ring.Change{Replace: map[ring.NodeID]ring.Member{old.ID: m}, Remove: []ring.NodeID{old.ID}})
}

func find(l ring.Layout, node string) (ring.Member, bool) {
	for _, m := range l.Members {
		if m.Name == node || m.ID.String() == node {
			return m, true
		}
	}
	return ring.Member{}, false
}

func memberNames(l ring.Layout) []string {
	out := make([]string, len(l.Members))
	for i, m := range l.Members {
		out[i] = m.Name
	}
	return out
}
