package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/hinted"
	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// hints is the store's hints as the coordinator sees them.
type hints struct{ store *storage.Store }

// Put implements coordinator.Hints. A hint that finds no room is refused, and its range is durably marked, so that
// the target learns that it missed something.
func (h hints) Put(ctx context.Context, target ring.NodeID, k coordinator.Key, o vclock.Object, round uint64) (bool, error) {
	ack, err := h.store.PutHint(ctx, target, storeKey(k), o, round)
	return ack.Fsynced, h.dropped(ctx, target, k, err)
}

// Mint implements coordinator.Hints.
func (h hints) Mint(
	ctx context.Context, target ring.NodeID, k coordinator.Key, w vclock.Write, applied func(coordinator.Applied),
) (coordinator.Applied, error) {
	m, ack, err := h.store.MintHint(ctx, target, storeKey(k), w, func(m vclock.Minted, round uint64) {
		applied(coordinator.Applied{Object: m.Record.Object, Existing: m.Existing, Round: round})
	})
	a := coordinator.Applied{Object: m.Record.Object, Existing: m.Existing, Fsynced: ack.Fsynced, Round: ack.Round}
	return a, h.dropped(ctx, target, k, err)
}

func (h hints) dropped(ctx context.Context, target ring.NodeID, k coordinator.Key, err error) error {
	if !errors.Is(err, storage.ErrHintsFull) {
		return storeError(err)
	}
	if markErr := h.store.MarkDropped(ctx, target, storeKey(k)); markErr != nil {
		err = errors.Join(err, markErr)
	}
	return fmt.Errorf("%w: %w", coordinator.ErrFull, err)
}

// Get implements coordinator.Hints.
func (h hints) Get(k coordinator.Key) (coordinator.Copy, bool, error) {
	o, found, round, err := h.store.HintsOf(storeKey(k))
	if err != nil || !found {
		return coordinator.Copy{}, false, storeError(err)
	}
	return coordinator.Copy{Object: o, Digest: o.Digest(k.Bucket, k.Key), Round: round}, true, nil
}

// hintQueue is the store as the worker that replays hints sees it.
type hintQueue struct{ store *storage.Store }

// Hints implements hinted.Store. A hint that cannot be read is given up here: the range that it stood for is marked.
func (q hintQueue) Hints(target ring.NodeID, after hinted.Cursor, maxItems, maxBytes int) ([]hinted.Hint, hinted.Cursor, bool, error) {
	from, _ := after.(storage.HintCursor)
	page, next, more, err := q.store.Hints(target, from, maxItems, maxBytes)
	if err != nil {
		return nil, nil, false, err
	}
	out := make([]hinted.Hint, 0, len(page))
	for _, h := range page {
		if h.Corrupt {
			if err := q.giveUp(h); err != nil {
				return nil, nil, false, err
			}
			continue
		}
		out = append(out, hinted.Hint{Key: hinted.Key(h.Key), Object: h.Object, Digest: h.Digest, Round: h.Round})
	}
	return out, next, more, nil
}

// giveUp replaces an unreadable hint by the mark that something was lost: first the mark, so that a crash between the
// two loses nothing.
func (q hintQueue) giveUp(h storage.Hint) error {
	ctx := context.Background() // both are local and short
	if err := q.store.MarkDropped(ctx, h.Target, h.Key); err != nil {
		return err
	}
	_, err := q.store.DeleteHint(ctx, h.Target, h.Key, vclock.Digest{})
	return err
}

// DeleteHint implements hinted.Store.
func (q hintQueue) DeleteHint(ctx context.Context, target ring.NodeID, k hinted.Key, d vclock.Digest) (bool, error) {
	return q.store.DeleteHint(ctx, target, storage.Key(k), d)
}

// HintTargets implements hinted.Store.
func (q hintQueue) HintTargets() []hinted.Target {
	var out []hinted.Target
	for _, t := range q.store.HintTargets() {
		out = append(out, hinted.Target{ID: t.Target, Hints: t.Count, Bytes: t.Bytes, Oldest: t.Oldest, Partitions: t.Partitions})
	}
	return out
}

// DroppedTargets implements hinted.Store.
func (q hintQueue) DroppedTargets() []ring.NodeID { return q.store.DroppedTargets() }

// Dropped implements hinted.Store.
func (q hintQueue) Dropped(target ring.NodeID) []hinted.Dropped {
	var out []hinted.Dropped
	for _, r := range q.store.Dropped(target) {
		out = append(out, hinted.Dropped(r))
	}
	return out
}

// ClearDropped implements hinted.Store.
func (q hintQueue) ClearDropped(ctx context.Context, target ring.NodeID, ds []hinted.Dropped) error {
	ranges := make([]storage.DroppedRange, len(ds))
	for i, d := range ds {
		ranges[i] = storage.DroppedRange(d)
	}
	return q.store.ClearDropped(ctx, target, ranges)
}

// receiver is the store as other nodes' hints reach it.
type receiver struct {
	store  *storage.Store
	epochs func() *ring.Epochs
	self   ring.NodeID
}

// Merge implements hinted.Receiver.
func (r receiver) Merge(ctx context.Context, partition int, bucket, key string, o vclock.Object, round uint64) error {
	_, err := r.store.Merge(ctx, storage.Key{Partition: partition, Bucket: bucket, Key: key}, o, storage.MergeOptions{Round: round, Cold: true})
	if errors.Is(err, storage.ErrStaleRound) {
		return fmt.Errorf("%w: %w", hinted.ErrStaleRound, err)
	}
	return err
}

// Round implements hinted.Receiver.
func (r receiver) Round(partition int) uint64 { return r.store.Round(partition) }

// MarkBehind implements hinted.Receiver.
func (r receiver) MarkBehind(ctx context.Context, partitions []int) error {
	return r.store.SetMark(ctx, r.alsoOwn(partitions), storage.MarkBehind)
}

// alsoOwn adds the partitions that single buckets have in the same slices, as far as this node holds them: who tells may
// not know yet that these buckets have their own, and mean them as well.
func (r receiver) alsoOwn(partitions []int) []int {
	e := r.epochs()
	if e == nil {
		return partitions
	}
	all := partitions
	for _, p := range partitions {
		for g := 1; g <= len(r.store.Numbered()); g++ {
			if own := g*e.Q() + p; p < e.Q() && e.Holds(own, r.self) && !slices.Contains(partitions, own) {
				all = append(all[:len(all):len(all)], own)
			}
		}
	}
	return all
}
