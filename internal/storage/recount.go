package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dgraph-io/badger/v4"
)

// recountPause is how long the store waits before it counts a partition again that it could not count.
const recountPause = 10 * time.Second

// census sums up records as a snapshot shows them, slice by slice in ascending order.
type census struct {
	s       *Store
	it      *badger.Iterator
	g       *groups
	read    int
	corrupt int
	fills   bool // what is kept in memory, too: the snapshot is older than the first write
	kept    int  // records that it filled it with
}

func (s *Store) newCensus(txn *badger.Txn, g *groups, prefix []byte) *census {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = prefix
	it := txn.NewIterator(opt)
	it.Rewind()
	return &census{s: s, it: it, g: g}
}

// count sums up what begins with a prefix, by partition: all of them, or only one. A partition that is missing has no
// record that counts.
func (c *census) count(ctx context.Context, prefix []byte, only int) (sums map[int]*[Leaves]sum, err error) {
	defer c.s.recoverRead(&err)
	sums = make(map[int]*[Leaves]sum)
	for c.it.Valid() && bytes.HasPrefix(c.it.Item().Key(), prefix) {
		if c.read++; c.read%64 == 0 {
			if c.s.stopping() {
				return nil, ErrClosed
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
		}
		key := c.it.Item().Key()
		if only >= 0 {
			if next := c.g.pass(only, key); next != nil {
				c.it.Seek(next)
				continue
			}
		}
		if err := c.add(sums, key); err != nil {
			return nil, err
		}
		c.it.Next()
	}
	return sums, nil
}

// add counts the record that the iterator is at.
func (c *census) add(sums map[int]*[Leaves]sum, key []byte) error {
	var is tally
	err := c.it.Item().Value(func(v []byte) error {
		h, _, err := decodeHeader(key, v)
		if err != nil {
			is = tally{found: true, corrupt: true}
			return nil
		}
		if is = h.tally(); c.fills && !h.incomplete && !h.chunked && c.s.recent.fill(key, v) {
			c.kept++
		}
		return nil
	})
	switch {
	case err != nil:
		return readError(err)
	case is.corrupt:
		c.corrupt++
		if p := c.g.partition(key); c.s.recent.forget(key) && c.s.forest.tree(p) != nil {
			c.s.forest.soil(p) // a write that went by what was kept may have taken off what is not counted here
		}
	case is.sum != (sum{}):
		p := c.g.partition(key)
		if sums[p] == nil {
			sums[p] = new([Leaves]sum)
		}
		leaf := leafOf(key)
		sums[p][leaf] = sums[p][leaf].add(is.sum)
	}
	return nil
}

// countPartition sums up one partition as a snapshot shows it. nil: it has no record that counts.
func (s *Store) countPartition(ctx context.Context, txn *badger.Txn, g *groups, p int) (*[Leaves]sum, error) {
	prefix := g.prefix(spaceObject, p)
	c := s.newCensus(txn, g, prefix)
	defer c.it.Close()
	sums, err := c.count(ctx, prefix, p)
	return sums[p], err
}

// moment is what a tree said when a snapshot was taken.
type moment struct {
	leaves *[Leaves]sum // nil: all zero
	built  bool
	ready  bool
	soiled uint64
}

func (t *tree) moment() moment {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := moment{built: t.built, ready: t.ready(), soiled: t.soiled}
	if t.leaves != nil {
		leaves := *t.leaves
		m.leaves = &leaves
	}
	return m
}

// correct makes the tree what the disk said at the moment, and returns how many leaves differed. What was added since
// stays.
func (t *tree) correct(disk *[Leaves]sum, m moment) (differences int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range Leaves {
		var delta sum
		if disk != nil {
			delta = disk[i]
		}
		if m.leaves != nil {
			delta = delta.sub(m.leaves[i])
		}
		if delta != (sum{}) {
			t.addLocked(i, delta)
			differences++
		}
	}
	t.built, t.cleaned = true, m.soiled
	return differences
}

// plant builds all trees from the snapshot that was begun before the first write, while later writes add what they
// change, and then counts anew what has become dirty.
func (s *Store) plant(before *badger.Txn) {
	s.build(before)
	for {
		for p, ok := s.forest.takeDirty(); ok; p, ok = s.forest.takeDirty() {
			if _, err := s.Recount(context.Background(), p); err == nil {
				continue
			} else if errors.Is(err, ErrClosed) {
				return
			} else {
				s.log.Error("cannot count a partition; it takes no part in exchanges", "op", "recount", "partition", p, "err", err)
			}
			s.forest.soil(p)
			select {
			case <-time.After(recountPause):
			case <-s.stop:
				return
			}
		}
		select {
		case <-s.forest.wake:
		case <-s.stop:
			return
		}
	}
}

func (s *Store) build(before *badger.Txn) {
	defer before.Discard()
	defer close(s.forest.built)
	defer s.recent.filled()
	if s.opt.Partitions == 0 {
		return
	}
	c := s.newCensus(before, s.groups(), []byte{spaceObject})
	defer c.it.Close()
	c.fills = true
	begin := time.Now()
	for slice := range s.opt.Partitions {
		if !s.buildOne(c, slice) {
			return
		}
	}
	s.log.Info("counted all partitions", "op", "build", "records", c.read, "corrupt", c.corrupt, "kept", c.kept, "took", time.Since(begin))
}

// buildOne counts the partitions of the next slice of a build; false: it cannot go on. The groups do not change before
// the build is over.
func (s *Store) buildOne(c *census, slice int) bool {
	select {
	case s.forest.counting <- struct{}{}:
	case <-s.stop:
		return false
	}
	defer func() { <-s.forest.counting }()
	sums, err := c.count(context.Background(), partitionKey(spaceObject, slice), -1)
	if errors.Is(err, ErrClosed) {
		return false
	}
	q := s.opt.Partitions
	if err != nil {
		s.log.Error("cannot count a partition; counting each by itself", "op", "build", "partition", slice, "err", err)
		for ; slice < q; slice++ {
			for g := range len(c.g.names) + 1 {
				s.forest.soil(g*q + slice)
			}
		}
		return false
	}
	for g := range len(c.g.names) + 1 {
		p := g*q + slice
		t := s.forest.tree(p)
		if m := t.moment(); !m.built { // else a recount has been here
			// At the moment of the snapshot, before the first write, the tree was empty and nothing was soiled.
			t.correct(sums[p], moment{})
		}
	}
	return true
}

// Recount counts a partition from the disk and corrects the sums; it returns how many leaves were wrong though they
// looked right. Writes go on meanwhile. Errors: ErrKey for a partition that has no sums, ErrRead, ErrCorrupt (badger
// failed on a damaged table), ErrClosed and the context's.
func (s *Store) Recount(ctx context.Context, p int) (differences int, err error) {
	if s.forest.tree(p) == nil {
		return 0, fmt.Errorf("%w: partition %d has no sums", ErrKey, p)
	}
	if s.drops.has(p) {
		return 0, nil // it is counted when there is nothing of it
	}
	if !s.join() {
		return 0, ErrClosed
	}
	defer s.wg.Done()
	select {
	case s.forest.counting <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-s.stop:
		return 0, ErrClosed
	}
	defer func() { <-s.forest.counting }()
	txn, m, err := s.still(ctx, p)
	if err != nil {
		return 0, err
	}
	return s.recount(ctx, p, txn, m)
}

// still takes a snapshot, and what a tree says, between two batches. The caller discards the snapshot.
func (s *Store) still(ctx context.Context, p int) (txn *badger.Txn, m moment, err error) {
	err = s.exclusive(ctx, func() error {
		txn, m = s.transaction(false), s.forest.tree(p).moment()
		return nil
	})
	return txn, m, err
}

// recount corrects a tree by a snapshot, and discards that. m is what the tree said at its moment.
func (s *Store) recount(ctx context.Context, p int, txn *badger.Txn, m moment) (differences int, err error) {
	defer txn.Discard()
	leaves, err := s.countPartition(ctx, txn, s.groups(), p)
	if err != nil {
		return 0, err
	}
	if differences = s.forest.tree(p).correct(leaves, m); differences == 0 || !m.ready {
		return 0, nil
	}
	s.metrics.recounted.Add(float64(differences))
	s.log.Warn("the sums of a partition were wrong", "op", "recount", "partition", p, "leaves", differences)
	return differences, nil
}

// join makes Close wait for the caller, who calls s.wg.Done and heeds s.stop; false: the store is closed.
func (s *Store) join() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}
