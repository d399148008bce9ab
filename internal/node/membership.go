package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dunlindb/dunlin/api"
	"github.com/dunlindb/dunlin/internal/cluster"
	"github.com/dunlindb/dunlin/ring"
)

// transferRate is how many bytes a second a node's exchanges move at most, those that fill it included.
const transferRate = 16 << 20

// membership is what the HTTP interface shows of the layout's changes.
type membership struct{ n *Node }

// changeError tells what kind of error a change met.
func changeError(err error) error {
	conflict, other := errors.AsType[*cluster.ConflictError](err)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ring.ErrInvalid):
		return fmt.Errorf("%w: %w", api.ErrChangeInvalid, err)
	case other:
		return fmt.Errorf("%w: %w", api.ErrChangeConflict, conflict)
	case errors.Is(err, cluster.ErrRequest), errors.Is(err, cluster.ErrTooMany):
		return fmt.Errorf("%w: %w", api.ErrChangeConflict, err)
	}
	return err
}

func request(c api.MemberChange) cluster.Request {
	return cluster.Request{Action: cluster.Action(c.Action), Node: c.Node, Weight: c.Weight, Zone: c.Zone, Bucket: c.Bucket, N: c.N, Force: c.Force}
}

// Apply implements api.Membership.
func (m membership) Apply(ctx context.Context, c api.MemberChange) (uint64, error) {
	l, err := m.n.cluster.Apply(ctx, request(c))
	if errors.Is(err, cluster.ErrNotPrepared) {
		return l.Epoch, nil // it is made, and goes on
	}
	return l.Epoch, changeError(err)
}

// Plan implements api.Membership.
func (m membership) Plan(ctx context.Context, c api.MemberChange) (api.MemberPlan, error) {
	now, then, err := m.n.cluster.Plan(request(c))
	if err != nil {
		return api.MemberPlan{}, changeError(err)
	}
	if c.Action == string(cluster.ActionBucket) {
		return m.planOfBucket(ctx, now, then, c.Bucket)
	}
	p := api.MemberPlan{Epoch: then.Epoch(), Moved: ring.Moved(now, then), Slots: slots(then)}
	most := 0
	for _, id := range membersOf(now, then) {
		s := api.MemberShare{ID: id, Before: now.Owns(id), After: then.Owns(id), Gains: len(ring.Gained(now, then, id)), Loses: len(ring.Gained(then, now, id))}
		for _, r := range []*ring.Ring{now, then} {
			if member, ok := r.Layout().Member(id); ok {
				s.Name, s.Zone, s.Weight = member.Name, member.Zone, member.Weight
			}
		}
		most = max(most, s.Gains)
		p.Nodes = append(p.Nodes, s)
	}
	each := m.n.bytesOfPartition(now)
	p.Bytes = each * int64(p.Moved)
	p.Duration = time.Duration(float64(each) * float64(most) / transferRate * float64(time.Second))
	p.SharedZone = sharedZones(then, 0, then.Partitions())
	// What is read now is what there is to lose.
	if held := m.n.cluster.Ring(); held != nil {
		for q := range held.Partitions() {
			removed, answer := m.answering(held, then, q)
			if removed && answer < held.NOf(q)/2+1 {
				p.AtRisk = append(p.AtRisk, q)
			}
			if removed && answer == 0 {
				p.Lost = append(p.Lost, q)
			}
		}
	}
	return p, nil
}

// answering counts the owners of a partition who answer and stay; removed: somebody gives it up without being asked for it.
// What only the others acknowledged is lost.
func (m membership) answering(held, then *ring.Ring, q int) (removed bool, answer int) {
	for _, id := range held.Primaries(q) {
		gone := then.Layout().IsRemoved(id)
		removed = removed || gone
		if m.n.cluster.Alive(id) && !gone {
			answer++
		}
	}
	return removed, answer
}

// slots counts the replicas of all partitions.
func slots(r *ring.Ring) (n int) {
	for p := range r.Partitions() {
		n += r.NOf(p)
	}
	return n
}

// sharedZones counts the partitions from first to before end that have two replicas in one zone, of members that name one.
func sharedZones(r *ring.Ring, first, end int) (shared int) {
	zone := map[ring.NodeID]string{}
	for _, m := range r.Members() {
		zone[m.ID] = m.Zone
	}
	for p := first; p < end; p++ {
		seen := map[string]bool{}
		for _, id := range r.Primaries(p) {
			z := zone[id]
			if z != "" && seen[z] {
				shared++
				break
			}
			seen[z] = true
		}
	}
	return shared
}

func membersOf(rings ...*ring.Ring) (out []ring.NodeID) {
	for _, r := range rings {
		for _, m := range r.Members() {
			if !slices.Contains(out, m.ID) {
				out = append(out, m.ID)
			}
		}
	}
	return out
}

// bytesOfPartition estimates the size of a partition by this node's own.
func (n *Node) bytesOfPartition(r *ring.Ring) int64 {
	lsm, vlog := n.store.DataBytes()
	return int64(lsm+vlog) / int64(max(r.Owns(n.self()), 1))
}

// Transfers implements api.Membership.
func (m membership) Transfers() api.Transfers {
	p := m.n.cluster.Progress()
	t := api.Transfers{Epoch: p.Epoch, Live: p.Live, Settled: p.Settled, Waiting: p.Waiting}
	s := m.n.syncer.Transfers()
	t.ToFill, t.Copied, t.Filled, t.Objects, t.Bytes = s.Total, s.Copied, s.Whole, s.Objects, s.Bytes
	t.BytesPerS, t.Remaining, t.From, t.Silent = s.Rate, s.Left, s.From, s.Waiting
	if e := m.n.cluster.Epochs(); e != nil {
		if left, err := m.n.store.Leftovers(); err == nil {
			for _, q := range left {
				if !e.Holds(q, m.n.self()) {
					t.ToDrop++
				}
			}
		}
	}
	return t
}
