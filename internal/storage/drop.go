package storage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// A partition that this node no longer holds is dropped: its records with their own actors, marks, sums and list of
// keys under removal. The reap round stays, since it only grows, and so do hints, which are for others.
//
// First it is durably noted, with all writers standing, that the partition is being dropped; from then on it is
// neither read nor written, also after a crash, until nothing of it is left. So the steps between need no order.

const (
	// dropStep is how many keys one transaction deletes: about what a full batch of a shard writes.
	dropStep = 1000
	// dropParts and dropMarks bound the transaction that begins the dropping of some partitions.
	dropParts = 256
	dropMarks = MaxStatements
)

var droppingValue = []byte{1}

// dropTable is the partitions that are being dropped.
type dropTable struct {
	busy  chan struct{} // holds one while somebody drops
	count atomic.Int64
	bytes atomic.Int64 // what was deleted and not yet given back to the disk, about

	mu    sync.RWMutex
	parts map[int]bool // true: the disk says so too
}

func (t *dropTable) has(p int) bool {
	if t.count.Load() == 0 {
		return false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, ok := t.parts[p]
	return ok
}

func (t *dropTable) list() []int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Sorted(maps.Keys(t.parts))
}

func (t *dropTable) noted(p int) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.parts[p]
}

func (t *dropTable) set(noted bool, ps ...int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, p := range ps {
		t.parts[p] = noted
	}
	t.count.Store(int64(len(t.parts)))
}

func (t *dropTable) remove(p int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.parts, p)
	t.count.Store(int64(len(t.parts)))
}

func dropping(p int) error { return fmt.Errorf("%w: partition %d", ErrDropping, p) }

// Drop removes partitions from the store, durably: records, tombstones and own actors, marks, sums, and what was under
// removal. Their reap rounds stay, and hints for other nodes. While a partition is being dropped, reads and writes of it
// are refused with ErrDropping. Writes of other partitions go on.
//
// What Drop has begun is finished, whatever happens: by the next Drop of the partition, or in the background after the
// next start. For a partition without anything it costs next to nothing. Errors: ErrKey, ErrRead, ErrCommit,
// ErrUnhealthy, ErrClosed and the context's. Safe for concurrent use; one caller at a time drops.
func (s *Store) Drop(ctx context.Context, partitions []int) error {
	for _, p := range partitions {
		if err := s.groups().check(p); err != nil {
			return err
		}
	}
	if err := s.Healthy(); err != nil {
		return err
	}
	if !s.join() {
		return ErrClosed
	}
	defer s.wg.Done()
	select {
	case s.drops.busy <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stop:
		return ErrClosed
	}
	defer func() { <-s.drops.busy }()
	for group := range slices.Chunk(partitions, dropParts) {
		begun, err := s.beginDrop(ctx, group)
		if err != nil {
			return err
		}
		if err := s.dropAll(ctx, begun); err != nil {
			return err
		}
	}
	return nil
}

// finishDrops goes on with what was being dropped when the last run ended.
func (s *Store) finishDrops() {
	begin, parts := time.Now(), s.drops.list()
	if len(parts) == 0 {
		return
	}
	if err := s.Drop(context.Background(), parts); err != nil && !errors.Is(err, ErrClosed) {
		s.log.Error("cannot finish dropping partitions; they stay refused until it is done", "op", "drop", "partitions", len(parts), "err", err)
		return
	}
	s.log.Info("finished dropping partitions", "op", "drop", "partitions", len(parts), "took", time.Since(begin))
}

// beginDrop notes durably which partitions are being dropped, and returns them: those that have something.
func (s *Store) beginDrop(ctx context.Context, group []int) (begun []int, err error) {
	for len(group) > 0 && err == nil {
		n, marks := 0, 0
		size := func(p int) int { return s.removing.size(s.groups().slice(p)) }
		for n < len(group) && (n == 0 || marks+size(group[n]) <= dropMarks) {
			marks += size(group[n])
			n++
		}
		err = s.markWriter(ctx, func() error { // taken before exclusion
			return s.exclusive(ctx, func() error {
				some, err := s.noteDrop(group[:n])
				begun = append(begun, some...)
				return err
			})
		})
		group = group[n:]
	}
	return begun, err
}

// noteDrop is beginDrop's step. All shards stand, and no mark is being changed.
func (s *Store) noteDrop(group []int) ([]int, error) {
	txn := s.transaction(true)
	defer txn.Discard()
	g := s.groups()
	var known, fresh []int
	for _, p := range group {
		if s.drops.noted(p) {
			known = append(known, p)
			continue
		}
		held, err := s.holdsAny(txn, p)
		if err != nil {
			return nil, err
		}
		if mark, _ := s.Marks(p); held || s.drops.has(p) || mark != 0 || len(s.removingOf(p)) > 0 {
			fresh = append(fresh, p)
		}
	}
	if len(fresh) == 0 {
		return known, nil
	}
	// That a partition has no mark is written down, not only deleted: all may have been marked by one record.
	none := markState{0, s.marks.latest() + 1}
	for _, p := range fresh {
		key := g.number(spaceMark, p)
		err := errors.Join(txn.Set(g.number(spaceDropping, p), droppingValue), txn.Set(key, encodeMark(key, none)))
		for _, object := range s.removingOf(p) {
			err = errors.Join(err, txn.Delete(removingKey([]byte(object))))
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTooLarge, err)
		}
	}
	// Refused from here on, even if the commit fails: nobody knows then what the disk has.
	s.drops.set(false, fresh...)
	err := s.commit(txn)
	if err == nil {
		err = s.syncDisk()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCommit, err)
	}
	s.drops.set(true, fresh...)
	for _, p := range fresh {
		s.marks.store(p, none)
		s.removing.drop(g.slice(p), s.removingOf(p))
	}
	return append(known, fresh...), nil
}

// removingOf lists what is under removal of a partition, as badger's keys of the records.
func (s *Store) removingOf(p int) []string {
	g := s.groups()
	if s.removing.size(g.slice(p)) == 0 {
		return nil
	}
	prefix := g.prefix(spaceObject, p)
	return slices.DeleteFunc(s.removing.list(g.slice(p)), func(object string) bool {
		return !strings.HasPrefix(object, string(prefix)) || g.pass(p, []byte(object)) != nil
	})
}

// dropAll deletes what there is of partitions that are being dropped. Small ones share transactions and flushes: who
// gains partitions serves by the new epoch only when what is left in them is gone.
func (s *Store) dropAll(ctx context.Context, parts []int) error {
	d := deletion{store: s}
	for _, p := range parts {
		if !s.drops.has(p) || slices.Contains(d.parts, p) {
			continue // given twice
		}
		for _, space := range []byte{spaceObject, spaceChunk, spaceRemoving} {
			if err := d.add(ctx, space, p); err != nil {
				return err
			}
		}
		d.parts = append(d.parts, p)
		if d.keys >= dropStep {
			if err := d.finish(ctx); err != nil {
				return err
			}
		}
	}
	return d.finish(ctx)
}

// deletion deletes what there is of some partitions.
type deletion struct {
	store *Store
	parts []int // all of their keys are deleted, or pending
	keys  int   // of parts

	pending    [][]byte
	size       int   // of pending
	withValues int64 // the size of pending and of their values, about
}

// add deletes all keys of a partition in a keyspace, in transactions of at most dropStep keys. The last ones may stay
// pending.
func (d *deletion) add(ctx context.Context, space byte, p int) error {
	s := d.store
	from := s.groups().prefix(space, p)
	for {
		if s.stopping() {
			return ErrClosed
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := s.Healthy(); err != nil {
			return err
		}
		keys, withValues, err := s.keysFrom(space, p, from)
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			return nil
		}
		size := 0
		for _, key := range keys {
			size += len(key)
		}
		if len(d.pending)+len(keys) > dropStep || d.size+size > batchBytes/2 {
			if err := d.commit(); err != nil {
				return err
			}
		}
		d.pending = append(d.pending, keys...)
		d.keys += len(keys)
		d.size += size
		d.withValues += withValues
		// Onward, not from the prefix again: badger would pass over all that was deleted.
		from = append(slices.Clone(keys[len(keys)-1]), 0)
	}
}

// commit deletes the pending keys.
func (d *deletion) commit() error {
	if len(d.pending) == 0 {
		return nil
	}
	err := d.store.update(func(txn *badger.Txn) error {
		for _, key := range d.pending {
			if err := txn.Delete(key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCommit, err)
	}
	d.store.metrics.droppedKeys.Add(float64(len(d.pending)))
	d.store.drops.bytes.Add(d.withValues)
	d.pending, d.size, d.withValues = nil, 0, 0
	return nil
}

// finish ends the dropping of the partitions so far.
func (d *deletion) finish(ctx context.Context) error {
	if err := d.commit(); err != nil || len(d.parts) == 0 {
		return err
	}
	s := d.store
	for _, p := range d.parts {
		if err := s.clearSums(ctx, p); err != nil {
			return err
		}
	}
	// The deletions first: with the notes gone, what a power cut brought back would be taken for the partitions'.
	err := s.syncDisk()
	if err == nil {
		err = s.update(func(txn *badger.Txn) error {
			for _, p := range d.parts {
				if err := txn.Delete(s.groups().number(spaceDropping, p)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err == nil {
		err = s.syncDisk()
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCommit, err)
	}
	s.recent.clear() // before anything of the partitions is read or written again
	for _, p := range d.parts {
		s.drops.remove(p)
	}
	s.metrics.droppedParts.Add(float64(len(d.parts)))
	d.parts, d.keys = nil, 0
	return nil
}

// keysFrom lists keys of a partition, from one on, as many as one transaction deletes, and what they take with their
// values.
func (s *Store) keysFrom(space byte, p int, from []byte) (keys [][]byte, bytes int64, err error) {
	defer s.recoverRead(&err)
	g := s.groups()
	err = s.db.View(func(txn *badger.Txn) error {
		it := txn.NewIterator(keyOptions(g.prefix(space, p)))
		defer it.Close()
		size := 0
		it.Seek(from)
		for it.Valid() && len(keys) < dropStep && size < batchBytes/2 {
			if next := g.pass(p, it.Item().Key()); next != nil {
				it.Seek(next)
				continue
			}
			key := it.Item().KeyCopy(make([]byte, 0, it.Item().KeySize()+1))
			keys = append(keys, key)
			size += len(key)
			bytes += it.Item().EstimatedSize()
			it.Next()
		}
		return nil
	})
	if err != nil {
		return nil, 0, readError(err)
	}
	return keys, bytes, nil
}

func keyOptions(prefix []byte) badger.IteratorOptions {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = prefix
	return opt
}

// clearSums makes a partition's tree that of no records. Nothing writes to it: it is being dropped.
func (s *Store) clearSums(ctx context.Context, p int) error {
	t := s.forest.tree(p)
	if t == nil {
		return nil
	}
	select {
	case s.forest.counting <- struct{}{}: // whoever counts holds sums of before
	case <-ctx.Done():
		return ctx.Err()
	case <-s.stop:
		return ErrClosed
	}
	defer func() { <-s.forest.counting }()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leaves, t.root, t.built, t.cleaned = nil, sum{}, true, t.soiled
	return nil
}

// holdsAny reports whether a snapshot shows a record, or a piece of one, of a partition.
func (s *Store) holdsAny(txn *badger.Txn, p int) (found bool, err error) {
	defer s.recoverRead(&err)
	g := s.groups()
	for _, space := range []byte{spaceObject, spaceChunk} {
		prefix := g.prefix(space, p)
		it := txn.NewIterator(keyOptions(prefix))
		for it.Seek(prefix); it.Valid(); {
			next := g.pass(p, it.Item().Key())
			if next == nil {
				found = true
				break
			}
			it.Seek(next)
		}
		it.Close()
	}
	return found, nil
}

// Holds reports whether there is something of a partition that Drop would remove: a record, live or deleted, or one
// that is being dropped. In doubt it says so.
func (s *Store) Holds(p int) bool {
	if s.groups().check(p) != nil {
		return false
	}
	if s.drops.has(p) {
		return true
	}
	held := false
	err := s.view(func(txn *badger.Txn) (err error) {
		held, err = s.holdsAny(txn, p)
		return err
	})
	return held || err != nil
}

// Leftovers returns, ascending, the partitions of which the store has anything: those that Holds reports, and those
// marked as being filled. It seeks about once a partition that it finds. Errors: ErrRead, ErrCorrupt and ErrClosed.
func (s *Store) Leftovers() ([]int, error) {
	found := make(map[int]struct{})
	g := s.groups()
	err := s.view(func(txn *badger.Txn) error {
		for _, space := range []byte{spaceObject, spaceChunk} {
			it := txn.NewIterator(keyOptions([]byte{space}))
			for it.Rewind(); it.Valid(); {
				p, next := g.next(it.Item().Key())
				found[p] = struct{}{}
				if next == nil {
					break
				}
				it.Seek(next)
			}
			it.Close()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, p := range slices.Concat(s.drops.list(), s.marks.with(MarkFilling)) {
		found[p] = struct{}{}
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// loadDrops reads what was being dropped when the last run ended.
func (s *Store) loadDrops() error {
	s.drops.busy, s.drops.parts = make(chan struct{}, 1), make(map[int]bool)
	return s.each(spaceDropping, func(item *badger.Item) error {
		if p, ok := s.groups().readNumber(item.Key()[1:]); ok {
			s.drops.set(true, p)
		}
		return nil
	})
}
