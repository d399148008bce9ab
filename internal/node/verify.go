package node

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/ring"
)

const (
	verifyLimit = 5 * time.Second // after which a node that meets nobody serves alone
	verifyPause = 50 * time.Millisecond
)

// errVerifying is what a node says that is not ready because it has not met its peers yet.
var errVerifying = errors.New("asking the other nodes whether this data directory is the latest one; ready in a few seconds")

// verification holds a node back that has a past, until most of the members have met it: a peer that knows a later
// start of this node refuses it, and a directory that was restored or copied must not acknowledge a write before
// that. A node that meets nobody serves alone after verifyLimit, since it must be writable when all others are down.
type verification struct{ done atomic.Bool }

func (v *verification) err() error {
	if v.done.Load() {
		return nil
	}
	return errVerifying
}

// verify runs until the node may serve, or ctx ends.
func (n *Node) verify(ctx context.Context) {
	defer n.verified.done.Store(true)
	r := n.cluster.Ring()
	if n.dir.Identity().Fresh || r == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, verifyLimit)
	defer cancel()
	met := map[ring.NodeID]bool{n.self(): true}
	tick := time.NewTicker(verifyPause)
	defer tick.Stop()
	defer n.buckets.Sync(ctx) // a policy may have been set meanwhile
	for len(met) <= len(r.Members())/2 {
		for _, m := range r.Members() {
			if met[m.ID] {
				continue
			}
			call, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
			// It must be alive for gossip too, or the first requests would be refused for want of replicas.
			if _, err := n.transport.Call(call, m.ID, coordinator.EndpointPing, nil); err == nil && n.cluster.Alive(m.ID) {
				met[m.ID] = true
			}
			cancel()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
