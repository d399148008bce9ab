package node

import (
	"context"
	"math/rand/v2"
	"slices"
	"time"
)

const (
	dropEvery = time.Minute // how often what is no longer owned is looked for
	// dropAtOnce partitions are dropped in one go; then comes a rest of dropRest times what it took, since clients' writes
	// wait for the same disk, at most dropRestMost.
	dropAtOnce   = 16
	dropRest     = 3
	dropRestMost = time.Second
	// reclaimWithin is until when the tables are rewritten after that: at a random moment, as all old owners drop at the
	// same time, and a rewriting takes a whole processor for seconds.
	reclaimWithin = time.Minute
)

// sweep drops partitions that this node does not hold any more, while no change is under way, and gives their disk space
// back.
func (n *Node) sweep(ctx context.Context) {
	reclaim := time.NewTimer(rand.N(reclaimWithin)) // what was being dropped at the last stop
	defer reclaim.Stop()
	for total := 0; ; {
		begin := time.Now()
		dropped, more, err := n.dropSome(ctx)
		if err != nil && ctx.Err() == nil {
			n.log.Warn("partitions of other nodes are still on the disk", "op", "drop", "err", err)
		}
		total += dropped
		wait := dropEvery
		switch {
		case more:
			wait = min(dropRest*time.Since(begin), dropRestMost)
		case total > 0:
			n.log.Info("dropped partitions that other nodes own now", "op", "drop", "partitions", total)
			total = 0
			reclaim.Reset(rand.N(reclaimWithin))
		}
		select {
		case <-ctx.Done():
			return
		case <-n.swept:
		case <-time.After(wait):
		case <-reclaim.C:
			n.reclaim(ctx, reclaim)
		}
	}
}

// dropSome drops some partitions that other nodes own now, and reports whether there are more.
func (n *Node) dropSome(ctx context.Context) (dropped int, more bool, err error) {
	if err := n.beginDrop(ctx); err != nil {
		return 0, false, err
	}
	defer n.endDrop()
	e := n.cluster.Epochs()
	if e == nil || e.Changing() || n.cluster.Heard() != e.Newest().Epoch() || e.Partitions() != e.Q()*(1+len(n.store.Numbered())) {
		return 0, false, nil // it may be gaining some of them, or mean others by these numbers
	}
	left, err := n.store.Leftovers()
	if err != nil {
		return 0, false, err
	}
	left = slices.DeleteFunc(left, func(p int) bool { return e.Holds(p, n.self()) })
	some := left[:min(len(left), dropAtOnce)]
	if len(some) == 0 {
		return 0, false, nil
	}
	if err := n.store.Drop(ctx, some); err != nil {
		return 0, false, err
	}
	return len(some), len(left) > len(some), nil
}

// reclaim gives the disk back what dropped partitions took, or sees to it that it is tried later.
func (n *Node) reclaim(ctx context.Context, again *time.Timer) {
	if e := n.cluster.Epochs(); e != nil && e.Changing() { // the disk has enough to do
		again.Reset(reclaimWithin)
		return
	}
	if err := n.store.Reclaim(ctx); err != nil && ctx.Err() == nil {
		n.log.Warn("the disk space of dropped partitions comes back later", "op", "reclaim", "err", err)
	}
}
