package storage

import (
	"cmp"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// hintTable counts the hints of each target, so that neither a read nor a bound asks the disk. It follows what badger
// shows: it is changed after each commit, and after a failed one by looking.
type hintTable struct {
	held atomic.Int64 // hints of all targets: a read of a node that holds none costs nothing

	mu      sync.Mutex
	targets map[ring.NodeID]*hintCounts
	dropped map[ring.NodeID]map[int]uint64 // partition, and when it was marked
	marked  uint64                         // counts markings
	// marking is held, before mu, by who marks, and by Number while it gives what is marked other numbers. That takes a commit, so
	// nobody but who marks waits for it, and not in a mutex.
	marking chan struct{}
}

type hintCounts struct {
	count    int
	bytes    int64
	reserved int64 // of batches that are not committed
	parts    map[hintPart]int
	ages     map[int64]int // hints by when they were first stored, in units of ageUnit
}

// hintPart is a bucket's keys in a slice of the hash space.
type hintPart struct {
	slice  int
	bucket string
}

// ageUnit is how exactly the table knows the age of hints, in milliseconds.
const ageUnit = 1 << 14

func (t *hintTable) counts(target ring.NodeID) *hintCounts {
	c := t.targets[target]
	if c == nil {
		c = &hintCounts{parts: make(map[hintPart]int), ages: make(map[int64]int)}
		t.targets[target] = c
	}
	return c
}

// reserve makes room for delta bytes more of a target, unless that is over the limit. Less is always granted.
func (t *hintTable) reserve(target ring.NodeID, delta, limit int64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts(target)
	if delta > 0 && c.bytes+c.reserved+delta > limit {
		t.tidy(target, c)
		return false
	}
	c.reserved += delta
	return true
}

// settle replaces what was counted of a hint, and gives its reservation back.
func (t *hintTable) settle(target ring.NodeID, p hintPart, was, is tally, reserved int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.counts(target)
	c.reserved -= reserved
	t.count(c, p, was, -1)
	t.count(c, p, is, 1)
	t.tidy(target, c)
}

func (t *hintTable) count(c *hintCounts, p hintPart, h tally, n int) {
	if !h.found {
		return
	}
	t.held.Add(int64(n))
	c.count += n
	c.bytes = max(0, c.bytes+int64(n)*h.bytes)
	bump(c.parts, p, n)
	bump(c.ages, h.since/ageUnit, n)
}

func bump[K comparable](m map[K]int, k K, n int) {
	if m[k] += n; m[k] <= 0 {
		delete(m, k)
	}
}

func (t *hintTable) tidy(target ring.NodeID, c *hintCounts) {
	if c.count == 0 && c.reserved == 0 {
		delete(t.targets, target)
	}
}

// of returns the targets that have hints of a bucket in a slice.
func (t *hintTable) of(k Key) []ring.NodeID {
	if t.held.Load() == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []ring.NodeID
	for target, c := range t.targets {
		if c.parts[hintPart{k.Partition, k.Bucket}] > 0 {
			out = append(out, target)
		}
	}
	return out
}

func (t *hintTable) totals() (count int64, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.targets {
		bytes += c.bytes
	}
	return t.held.Load(), bytes
}

// HintTarget is what is held for a target.
type HintTarget struct {
	Target ring.NodeID
	Count  int
	Bytes  int64     // as Options.HintBytes counts
	Oldest time.Time // when the oldest one was first stored, up to 17 s earlier
	// Partitions are those of the hints, in no order.
	Partitions []int
}

// HintTargets returns the targets that hints are held for, by id. It does not touch the disk.
func (s *Store) HintTargets() []HintTarget {
	t := &s.hints
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []HintTarget
	for target, c := range t.targets {
		if c.count > 0 {
			oldest := slices.Min(slices.Collect(maps.Keys(c.ages)))
			parts := make(map[int]struct{})
			for part := range c.parts {
				parts[s.groups().of(part.slice, part.bucket)] = struct{}{}
			}
			out = append(out, HintTarget{
				target, c.count, c.bytes, time.UnixMilli(oldest * ageUnit), slices.Collect(maps.Keys(parts)),
			})
		}
	}
	slices.SortFunc(out, func(a, b HintTarget) int { return a.Target.Compare(b.Target) })
	return out
}

// mark notes that hints of a partition were dropped.
func (t *hintTable) mark(target ring.NodeID, p int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dropped[target] == nil {
		t.dropped[target] = make(map[int]uint64)
	}
	t.marked++
	t.dropped[target][p] = t.marked
}

func (t *hintTable) droppedOf(target ring.NodeID) []DroppedRange {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []DroppedRange
	for p, since := range t.dropped[target] {
		out = append(out, DroppedRange{p, since})
	}
	slices.SortFunc(out, func(a, b DroppedRange) int { return cmp.Compare(a.Partition, b.Partition) })
	return out
}

func (t *hintTable) droppedTargets() []ring.NodeID {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Keys(t.dropped), ring.NodeID.Compare)
}

// same returns those of the ranges that were not marked again.
func (t *hintTable) same(target ring.NodeID, ranges []DroppedRange) (out []DroppedRange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range ranges {
		if since, ok := t.dropped[target][r.Partition]; ok && since == r.Since {
			out = append(out, r)
		}
	}
	return out
}

// unmark forgets ranges, and returns the partitions of those that were marked again.
func (t *hintTable) unmark(target ring.NodeID, ranges []DroppedRange) (again []int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.dropped[target]
	for _, r := range ranges {
		if of[r.Partition] == r.Since {
			delete(of, r.Partition)
		} else if of[r.Partition] != 0 {
			again = append(again, r.Partition)
		}
	}
	if len(of) == 0 {
		delete(t.dropped, target)
	}
	return again
}
