package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// A partition is a slice of the hash space and a set of buckets: those that have partitions of their own, each for
// itself, and all others together. On the disk a slice is one range, and in it each bucket is, so that a bucket gets
// partitions of its own without a record being moved. Sums, marks, and what is being dropped are of a partition; reap
// rounds and what is under removal are of a slice, so that they go on whatever happens to the buckets in it.
//
// Inside of this package a Key's Partition is the slice.

const groupsMagic = "DLGR"

// groups says which buckets have partitions of their own. It is immutable.
type groups struct {
	q      int // slices; 0: they are not known, and no bucket has its own
	names  []string
	place  map[string]int // of a name, from 1
	sorted []string
}

func newGroups(q int, names []string) *groups {
	g := &groups{q: q, names: names, place: make(map[string]int, len(names)), sorted: slices.Sorted(slices.Values(names))}
	for i, name := range names {
		g.place[name] = i + 1
	}
	return g
}

// of gives the partition of a bucket's keys in a slice.
func (g *groups) of(slice int, bucket string) int { return g.place[bucket]*g.q + slice }

// slice gives the slice of a partition.
func (g *groups) slice(p int) int {
	if p >= g.q*(1+len(g.names)) { // beyond the cluster's
		return p
	}
	return p % g.q
}

// bucket gives the bucket that a partition is of, if it is of one alone.
func (g *groups) bucket(p int) (name string, alone bool) {
	if p < g.q || p >= g.q*(1+len(g.names)) {
		return "", false
	}
	return g.names[p/g.q-1], true
}

// prefix is what all keys of a partition begin with, in a keyspace of records. Other partitions may have keys that begin
// so as well: see pass.
func (g *groups) prefix(space byte, p int) []byte {
	name, alone := g.bucket(p)
	if !alone {
		return partitionKey(space, g.slice(p))
	}
	b := appendRange(nil, g.slice(p), name)
	b[0] = space
	return b
}

// pass returns where to go on from a key that is of another partition than p, although it has p's prefix; nil: it is p's.
func (g *groups) pass(p int, key []byte) []byte {
	if len(g.names) == 0 || len(key) < 4 || p >= g.q {
		return nil // a bucket's own have a prefix of their own
	}
	bucket, _, ok := bytes.Cut(key[3:], []byte{0})
	if !ok || g.place[string(bucket)] == 0 {
		return nil
	}
	return append(bytes.Clone(key[:3+len(bucket)]), 1)
}

func bucketOf(key []byte) []byte {
	if len(key) < 3 {
		return nil
	}
	bucket, _, _ := bytes.Cut(key[3:], []byte{0})
	return bucket
}

// partition tells which partition a key in a keyspace of records is of. One that makes no sense counts as one of the
// slice.
func (g *groups) partition(key []byte) int {
	if len(g.names) == 0 {
		return partitionOf(key)
	}
	return g.place[string(bucketOf(key))]*g.q + partitionOf(key)
}

// next tells which partition a key in a keyspace of records is of, and the first key that may be of another; nil: there
// is none.
func (g *groups) next(key []byte) (p int, next []byte) {
	slice, bucket := partitionOf(key), bucketOf(key)
	if p = g.partition(key); p >= g.q && g.q > 0 {
		return p, append(bytes.Clone(key[:3+len(bucket)]), 1)
	}
	// The next bucket that has its own.
	if i, _ := slices.BinarySearch(g.sorted, string(bucket)); i < len(g.sorted) {
		next = appendRange(nil, slice, g.sorted[i])
		next[0] = key[0]
		return p, next
	}
	if slice >= maxSlice {
		return p, nil
	}
	return p, partitionKey(key[0], slice+1)
}

// number is the key of a partition in keyspaces that have one for each.
func (g *groups) number(space byte, p int) []byte { return g.appendNumber([]byte{space}, p) }

func (g *groups) appendNumber(b []byte, p int) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(g.slice(p)))
	if _, alone := g.bucket(p); alone {
		b = binary.BigEndian.AppendUint16(b, uint16(p/g.q))
	}
	return b
}

// readNumber reads what appendNumber wrote, which is all of b.
func (g *groups) readNumber(b []byte) (p int, ok bool) {
	switch {
	case len(b) == 2:
		return int(binary.BigEndian.Uint16(b)), true
	case len(b) == 4 && g.q > 0:
		p := int(binary.BigEndian.Uint16(b[2:]))*g.q + int(binary.BigEndian.Uint16(b))
		return p, p < g.q*(1+len(g.names))
	}
	return 0, false
}

// numbered holds the present groups. They are changed while all shards stand.
type numbered struct{ atomic.Pointer[groups] }

func (s *Store) groups() *groups { return s.numbered.Load() }

// at is the key as it is stored: by its slice.
func (s *Store) at(k Key) Key {
	k.Partition = s.groups().slice(k.Partition)
	return k
}

// partition gives the partition of a key as it is stored.
func (s *Store) partition(k Key) int { return s.groups().of(k.Partition, k.Bucket) }

// outside is a stored key as others know it: by its partition.
func (s *Store) outside(k Key) Key {
	k.Partition = s.partition(k)
	return k
}

// Numbered returns the buckets that have partitions of their own, in the order of their numbers. The slice is not to be
// changed.
func (s *Store) Numbered() []string { return s.groups().names }

var groupsKey = []byte{spaceGroups}

func encodeGroups(q int, names []string) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Uint(uint64(q))
	e.Array(len(names))
	for _, name := range names {
		e.String(name)
	}
	return seal(groupsMagic, string(groupsKey), e.Copy())
}

func decodeGroups(b []byte) (q int, names []string, err error) {
	data, err := unseal(groupsMagic, string(groupsKey), b)
	if err != nil {
		return 0, nil, corrupt("buckets with partitions of their own: %v", err)
	}
	d := wire.NewDecoder(data)
	q = d.Count(ring.MaxPartitions)
	for range d.Array(ring.MaxBucketN) {
		names = append(names, d.String(MaxBucket))
	}
	if err := d.Done(); err != nil {
		return 0, nil, corrupt("buckets with partitions of their own: %v", err)
	}
	return q, names, nil
}

// loadGroups reads the groups when the store opens, before anything that is of a partition.
func (s *Store) loadGroups() error {
	var q int
	var names []string
	err := s.each(spaceGroups, func(item *badger.Item) error {
		return item.Value(func(v []byte) (err error) {
			q, names, err = decodeGroups(v)
			return err
		})
	})
	if err != nil {
		return err
	}
	if len(names) > 0 && s.opt.Partitions != q {
		return fmt.Errorf("buckets have partitions of their own behind %d others, and Options.Partitions is %d", q, s.opt.Partitions)
	}
	s.numbered.Store(newGroups(s.opt.Partitions, names))
	return nil
}

// Number durably gives buckets partitions of their own: all that the names have, in their order, of which the first ones
// have them already. Partition p of the i-th name is 1+i times Options.Partitions above that of other buckets. No record
// is moved; marks are taken over, and sums are counted before it returns. Calls that name the earlier partition of a key
// go on to work.
//
// It waits until all partitions were counted after Open. Errors: ErrKey (other names than before, or no
// Options.Partitions), ErrRead, ErrCommit, ErrUnhealthy, ErrClosed and the context's.
func (s *Store) Number(ctx context.Context, names []string) error {
	if fresh, err := s.fresh(names); err != nil || !fresh {
		return err
	}
	if err := s.Healthy(); err != nil {
		return err
	}
	if !s.join() {
		return ErrClosed
	}
	defer s.wg.Done()
	for {
		// What is being dropped has the numbers of before.
		if err := s.Drop(ctx, s.drops.list()); err != nil {
			return err
		}
		release, err := s.hold(ctx)
		if err != nil {
			return err
		}
		if len(s.drops.list()) > 0 {
			release()
			continue
		}
		defer release()
		fresh, err := s.fresh(names)
		if err != nil || !fresh {
			return err
		}
		return s.markWriter(ctx, func() error { return s.renumber(ctx, names) })
	}
}

// fresh reports whether names has more than there are.
func (s *Store) fresh(names []string) (bool, error) {
	g := s.groups()
	if n := min(len(names), len(g.names)); !slices.Equal(names[:n], g.names[:n]) {
		return false, fmt.Errorf("%w: partitions of the buckets %q, where those of %q are", ErrKey, names, g.names)
	}
	if len(names) <= len(g.names) {
		return false, nil
	}
	if g.q == 0 {
		return false, fmt.Errorf("%w: the number of the cluster's partitions is not known", ErrKey)
	}
	for _, name := range names {
		if err := checkBucket(name); err != nil {
			return false, err
		}
	}
	return len(names) > len(g.names), nil
}

// hold keeps others from dropping and from counting, once the first count is over.
func (s *Store) hold(ctx context.Context) (release func(), err error) {
	var held []chan struct{}
	release = func() {
		for _, c := range held {
			<-c
		}
	}
	select {
	case <-s.forest.built:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.stop:
		return nil, ErrClosed
	}
	for _, c := range []chan struct{}{s.drops.busy, s.forest.counting} {
		select {
		case c <- struct{}{}:
			held = append(held, c)
		case <-ctx.Done():
			release()
			return nil, ctx.Err()
		case <-s.stop:
			release()
			return nil, ErrClosed
		}
	}
	return release, nil
}

// renumber is Number for who holds dropping, counting and marking.
func (s *Store) renumber(ctx context.Context, names []string) error {
	old, next := s.groups(), newGroups(s.opt.Partitions, names)
	if err := s.copyMarks(ctx, old, next); err != nil {
		return err
	}
	told := s.hints.split(old, next)
	for some := range slices.Chunk(told, marksPerTxn) {
		if err := s.change(ctx, func(txn *badger.Txn) error { return setDropped(txn, next, some) }); err != nil {
			return err
		}
	}
	var before *badger.Txn
	err := s.exclusive(ctx, func() error {
		s.hints.marking <- struct{}{} // what is marked as dropped from now on has the new number
		defer func() { <-s.hints.marking }()
		err := s.update(func(txn *badger.Txn) error {
			late := slices.DeleteFunc(s.hints.split(old, next), func(d dropped) bool { return slices.Contains(told, d) })
			return errors.Join(setDropped(txn, next, late), txn.Set(groupsKey, encodeGroups(next.q, names)))
		})
		if err == nil {
			err = s.syncDisk()
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCommit, err)
		}
		for _, d := range s.hints.split(old, next) {
			s.hints.mark(d.target, d.partition)
		}
		s.forest.split(old, next)
		s.numbered.Store(next)
		before = s.transaction(false)
		return nil
	})
	if err != nil {
		return err
	}
	defer before.Discard()
	s.splitSums(ctx, before, old, next)
	s.log.Info("buckets have partitions of their own", "op", "number", "buckets", names[len(old.names):])
	return nil
}

// copyMarks gives the new partitions the marks of those that their keys were in. Also that there is none is written
// down: an earlier try may have left some.
func (s *Store) copyMarks(ctx context.Context, old, next *groups) error {
	for g := len(old.names) + 1; g <= len(next.names); g++ {
		for from := 0; from < next.q; from += marksPerTxn {
			states := make(map[int]markState)
			for slice := from; slice < min(from+marksPerTxn, next.q); slice++ {
				states[g*next.q+slice] = s.marks.get(slice)
			}
			err := s.change(ctx, func(txn *badger.Txn) error {
				for p, state := range states {
					key := next.number(spaceMark, p)
					if err := txn.Set(key, encodeMark(key, state)); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				return err
			}
			for p, state := range states {
				s.marks.store(p, state)
			}
		}
	}
	return nil
}

func setDropped(txn *badger.Txn, g *groups, ds []dropped) error {
	for _, d := range ds {
		if err := txn.Set(droppedKey(g, d.target, d.partition), droppedValue); err != nil {
			return err
		}
	}
	return nil
}

// split lists the marks of dropped hints that the new partitions have to have.
func (t *hintTable) split(old, next *groups) (out []dropped) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for target, of := range t.dropped {
		for p := range of {
			for g := len(old.names) + 1; p < next.q && g <= len(next.names); g++ {
				out = append(out, dropped{target, g*next.q + p})
			}
		}
	}
	return out
}

// split makes room for the sums of new partitions. Neither these nor what they come from can be relied on until
// splitSums is through. All shards stand.
func (f *forest) split(old, next *groups) {
	rows := slices.Clone(*f.rows.Load())
	for g := len(old.names) + 1; g <= len(next.names); g++ {
		row := make([]tree, next.q)
		for i := range row {
			row[i].built, row[i].splitting = true, true
		}
		rows = append(rows, row)
	}
	for i := range rows[0] {
		rows[0][i].setSplitting(true)
	}
	f.rows.Store(&rows)
}

func (t *tree) setSplitting(on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.splitting = on
}

// splitSums moves what the records of the buckets count for from the sums that they were in to their own, by a snapshot
// of the moment of split. What cannot be done is counted anew in the background.
func (s *Store) splitSums(ctx context.Context, before *badger.Txn, old, next *groups) {
	failed := false
	for slice := range next.q {
		from := s.forest.tree(slice)
		for g := len(old.names) + 1; g <= len(next.names); g++ {
			p := g*next.q + slice
			to := s.forest.tree(p)
			var leaves *[Leaves]sum
			var err error
			if !failed {
				leaves, err = s.countPartition(ctx, before, next, p)
			}
			if failed = failed || err != nil; failed {
				s.forest.soil(slice)
				s.forest.soil(p)
			} else if leaves != nil {
				for leaf, sum := range leaves {
					to.add(leaf, sum)
					from.add(leaf, sumZero.sub(sum))
				}
			}
			to.setSplitting(false)
		}
		from.setSplitting(false)
	}
}

var sumZero sum
