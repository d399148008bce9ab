package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/ring"
)

// prepare makes the node ready for an epoch, before any operation goes by it, and may be repeated: the store numbers
// partitions as the epoch does; what is left of an earlier time in partitions that this node gains is dropped, since a
// value that was deleted meanwhile may be there; it goes into their reap rounds while it holds nothing; and it marks them
// as being filled. A new member goes into the rounds of all partitions: it may get hints of each, and must take none that
// was read before something was reaped.
func (n *Node) prepare(ctx context.Context, e *ring.Epochs) error {
	if err := n.number(ctx, e); err != nil {
		return err
	}
	gained := e.Filling(n.self())
	entered, joins := gained, false
	if now := n.cluster.Epochs(); now != nil { // what an earlier change has begun goes on
		gained = slices.DeleteFunc(gained, func(p int) bool { return now.Holds(p, n.self()) })
		entered = gained
	} else if e.Changing() { // a new member
		joins = true
		entered = make([]int, e.Partitions())
		for p := range entered {
			entered[p] = p
		}
	}
	if len(entered) == 0 {
		return nil
	}
	if joins {
		if err := n.learnBuckets(ctx, e); err != nil {
			return err
		}
	}
	// A sweep that began before this node heard of the epoch must not drop what comes now.
	if err := n.beginDrop(ctx); err != nil {
		return err
	}
	defer n.endDrop()
	if err := n.store.Drop(ctx, gained); err != nil {
		return fmt.Errorf("dropping what is left in partitions that this node gains: %w", err)
	}
	rounds, err := n.roundsOf(ctx, e, entered)
	if err != nil {
		return err
	}
	if err := n.reaper.CatchUpAll(ctx, rounds); err != nil {
		return fmt.Errorf("entering the reap rounds of partitions: %w", err)
	}
	if len(gained) == 0 {
		return nil
	}
	if err := n.store.SetMark(ctx, gained, storage.MarkFilling); err != nil {
		return fmt.Errorf("marking partitions that this node gains: %w", err)
	}
	n.log.Info("gaining partitions", "op", "epoch", "epoch", e.Newest().Epoch(), "partitions", len(gained))
	return nil
}

// number gives buckets their own partitions in the store, if they have them in the newest epoch.
func (n *Node) number(ctx context.Context, e *ring.Epochs) error {
	l := e.Newest().Layout()
	names := make([]string, len(l.Buckets))
	for i, b := range l.Buckets {
		names[i] = b.Bucket
	}
	if err := n.store.Number(ctx, names); err != nil {
		return fmt.Errorf("giving buckets partitions of their own: %w", err)
	}
	return nil
}

// learnBuckets takes over the properties of buckets, without which a new member would go by the wrong policy.
func (n *Node) learnBuckets(ctx context.Context, e *ring.Epochs) error {
	var old []ring.NodeID
	for _, m := range e.Base().Members() {
		if m.ID != n.self() && n.cluster.Alive(m.ID) {
			old = append(old, m.ID)
		}
	}
	if n.buckets.SyncFrom(ctx, old) == 0 {
		return errors.New("no member tells the properties of buckets")
	}
	return nil
}

// beginDrop waits for the turn to drop partitions. Who has it may wait for other nodes, so that a node that is to stop
// must not wait for who has it.
func (n *Node) beginDrop(ctx context.Context) error {
	select {
	case n.dropping <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *Node) endDrop() { <-n.dropping }

// incomplete returns nil when nothing of what is this node's in the newest epoch is still being filled and, if it leaves,
// when nothing waits in it for others.
func (n *Node) incomplete(e *ring.Epochs) error {
	switch epoch, ps := n.syncer.Unfilled(); {
	case epoch != e.Newest().Epoch():
		return fmt.Errorf("epoch %d came meanwhile", epoch)
	case len(ps) > 0:
		return fmt.Errorf("%d partitions are being filled", len(ps))
	}
	if _, stays := e.Newest().Layout().Member(n.self()); !stays {
		if hints := n.handoff.Pending(); hints > 0 {
			return fmt.Errorf("%d hints for other nodes are still here", hints)
		}
	}
	return nil
}
