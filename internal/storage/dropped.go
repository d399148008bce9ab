package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/ring"
)

// DroppedRange is a partition of which hints for a target were dropped.
type DroppedRange struct {
	Partition int
	Since     uint64 // grows with each marking, within the life of the Store
}

// MarkDropped durably notes that hints for a target were dropped, or not taken, of the partition of a key: the target
// does not get to know of something. It counts at once, whatever the error. Errors are as with PutMeta.
func (s *Store) MarkDropped(ctx context.Context, target ring.NodeID, k Key) error {
	if err := s.groups().checkRange(k.Partition, k.Bucket); err != nil {
		return err
	}
	s.hints.marking <- struct{}{} // Number may be changing it
	p := s.partition(s.at(k))
	s.hints.mark(target, p)
	<-s.hints.marking
	return s.storeDropped(ctx, target, p)
}

func (s *Store) storeDropped(ctx context.Context, target ring.NodeID, p int) error {
	return s.change(ctx, func(txn *badger.Txn) error { return txn.Set(droppedKey(s.groups(), target, p), droppedValue) })
}

// Dropped returns, ascending, the partitions of which hints for the target were dropped. It does not touch the disk.
func (s *Store) Dropped(target ring.NodeID) []DroppedRange { return s.hints.droppedOf(target) }

// DroppedTargets returns the nodes for which hints were dropped, by id. It does not touch the disk.
func (s *Store) DroppedTargets() []ring.NodeID { return s.hints.droppedTargets() }

// ClearDropped durably forgets the marks that Dropped gave, but those that were set again since. Errors are as with
// PutMeta.
func (s *Store) ClearDropped(ctx context.Context, target ring.NodeID, ranges []DroppedRange) error {
	ranges = s.hints.same(target, ranges)
	if len(ranges) == 0 {
		return ctx.Err()
	}
	err := s.change(ctx, func(txn *badger.Txn) error {
		for _, r := range ranges {
			if err := txn.Delete(droppedKey(s.groups(), target, r.Partition)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	// What was marked in the meantime may have been written before the deletion.
	for _, p := range s.hints.unmark(target, ranges) {
		s.hints.mark(target, p)
		if err := s.storeDropped(ctx, target, p); err != nil {
			return fmt.Errorf("mark partition %d again: %w", p, err)
		}
	}
	return nil
}

// change commits a few entries beside the shards' keys, and has them on the disk whatever the durability is.
func (s *Store) change(ctx context.Context, fn func(*badger.Txn) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := s.Healthy(); err != nil {
		return err
	}
	if err := s.guard.check(levelNothing); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return ErrClosed
	}
	err := s.update(fn)
	if errors.Is(err, badger.ErrTxnTooBig) {
		return fmt.Errorf("%w: more than one transaction takes", ErrTooLarge)
	}
	if err == nil {
		err = s.syncDisk()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCommit, err)
	}
	return nil
}

// syncDisk has all that was committed before it on the disk, where commits do not see to that. badger's own Sync
// misses the log that was rotated out last.
func (s *Store) syncDisk() error {
	if s.opt.Durability == Fsync || s.opt.InMemory {
		return nil
	}
	return s.dir.syncData()
}
