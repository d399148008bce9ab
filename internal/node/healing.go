package node

import (
	"context"
	"errors"
	"fmt"

	"github.com/dunlindb/dunlin/antientropy"
	"github.com/dunlindb/dunlin/api"
	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// replica is the store as anti-entropy sees it.
type replica struct{ store *storage.Store }

// Numbered implements antientropy.Replica.
func (r replica) Numbered() int { return len(r.store.Numbered()) }

// Root implements antientropy.Replica.
func (r replica) Root(p int) (antientropy.Sum, bool) {
	sum, ready := r.store.Root(p)
	return antientropy.Sum(sum), ready
}

// LeafSums implements antientropy.Replica.
func (r replica) LeafSums(p int) (*[antientropy.Leaves]antientropy.Sum, bool) {
	sums, ready := r.store.LeafSums(p)
	if !ready {
		return nil, false
	}
	out := new([antientropy.Leaves]antientropy.Sum)
	for i, s := range sums {
		out[i] = antientropy.Sum(s)
	}
	return out, true
}

// Keys implements antientropy.Replica.
func (r replica) Keys(ctx context.Context, q antientropy.KeyQuery) ([]antientropy.KeyEntry, bool, error) {
	keys, next, more, err := r.store.Keys(ctx, q.Partition, q.Leaf, storage.ScanCursor(q.After), q.Limit)
	for err == nil && len(keys) == 0 && more { // a page of the store may be empty before the end
		keys, next, more, err = r.store.Keys(ctx, q.Partition, q.Leaf, next, q.Limit)
	}
	if err != nil {
		return nil, false, err
	}
	out := make([]antientropy.KeyEntry, len(keys))
	for i, k := range keys {
		out[i] = antientropy.KeyEntry{
			Bucket: k.Bucket, Key: k.Key, Digest: k.Digest, Incomplete: k.Incomplete, Corrupt: k.Corrupt, Removing: k.Removing,
		}
	}
	return out, more, nil
}

// Get implements antientropy.Replica.
func (r replica) Get(k antientropy.Key) (antientropy.Copy, error) {
	s, err := r.store.Peek(storage.Key(k))
	if errors.Is(err, storage.ErrCorrupt) {
		return antientropy.Copy{Corrupt: true, Round: r.store.Round(k.Partition)}, nil
	}
	return antientropy.Copy{Object: s.Record.Object, Digest: s.Digest, Round: s.Round, Incomplete: s.Incomplete}, err
}

// Merge implements antientropy.Replica.
func (r replica) Merge(ctx context.Context, k antientropy.Key, o vclock.Object, opt antientropy.MergeOptions) error {
	_, err := r.store.Merge(ctx, storage.Key(k), o.Clone(), storage.MergeOptions{Heal: opt.Heal, Round: opt.Round, Cold: true})
	if errors.Is(err, storage.ErrStaleRound) {
		return fmt.Errorf("%w: %w", antientropy.ErrStaleRound, err)
	}
	return err
}

// Round implements antientropy.Replica.
func (r replica) Round(p int) uint64 { return r.store.Round(p) }

// Marks implements antientropy.Replica.
func (r replica) Marks(p int) (antientropy.Mark, uint64) {
	m, since := r.store.Marks(p)
	return antientropy.Mark(m), since
}

// ClearMark implements antientropy.Replica.
func (r replica) ClearMark(ctx context.Context, p int, m antientropy.Mark, since uint64) error {
	return r.store.ClearMark(ctx, p, storage.Mark(m), since)
}

// Recount implements antientropy.Replica.
func (r replica) Recount(ctx context.Context, p int) (int, error) { return r.store.Recount(ctx, p) }

// healing is what the HTTP interface shows of handoff and anti-entropy.
type healing struct{ n *Node }

// Handoff implements api.Healing.
func (h healing) Handoff() []api.Handoff {
	// The worker looks about once a second; what the store holds is told as of now.
	held := make(map[ring.NodeID]storage.HintTarget)
	for _, t := range h.n.store.HintTargets() {
		held[t.Target] = t
	}
	var out []api.Handoff
	for _, t := range h.n.handoff.Status().Targets {
		x := api.Handoff{
			Target: t.Target, State: t.State, Hints: int64(held[t.Target].Count), Bytes: held[t.Target].Bytes, Age: t.Age,
			BytesPerS: float64(t.Rate), Dropped: t.Dropped, Replayed: t.Replayed, LastError: t.LastError,
		}
		delete(held, t.Target)
		out = append(out, x)
	}
	for _, t := range held {
		out = append(out, api.Handoff{Target: t.Target, State: "new", Hints: int64(t.Count), Bytes: t.Bytes})
	}
	return out
}

// Digests implements api.Healing.
func (h healing) Digests() (map[int][16]byte, bool) {
	r := h.n.cluster.Ring()
	if r == nil {
		return nil, false
	}
	out := make(map[int][16]byte)
	for _, p := range r.Owned(h.n.self()) {
		sum, ready := h.n.store.Root(p)
		if !ready {
			return nil, false
		}
		out[p] = sum
	}
	return out, true
}

// Repair implements api.Healing.
func (h healing) Repair() api.Repair {
	s := h.n.syncer.Status()
	p := s.Repair
	return api.Repair{
		State: string(p.State), Started: p.Started, Finished: p.Finished, Done: p.Done, Total: p.Total,
		Compared: p.Moved.Compared, Sent: p.Moved.Sent, Received: p.Moved.Received, Bytes: p.Moved.BytesIn + p.Moved.BytesOut,
		Unrepaired: p.Unrepaired, Remaining: p.ETA, LastError: p.LastError, Waiting: p.Waiting,
		Marked: s.Marked, NotReady: s.NotReady, Scrubbed: s.Scrub.Partitions, ScrubDifferences: s.Scrub.Differences,
	}
}

// StartRepair implements api.Healing.
func (h healing) StartRepair(partition *int) error {
	f := antientropy.Filter{}
	if partition != nil {
		f.Partitions = []int{*partition}
	}
	_, err := h.n.syncer.Repair(f)
	return err
}
