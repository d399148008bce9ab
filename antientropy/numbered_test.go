package antientropy

import (
	"fmt"
	"maps"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// number gives a bucket partitions of its own, as storage does: with the marks of those that its keys were in.
func (s *memStore) number(bucket string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.numbered++
	q := len(s.parts) / s.numbered
	for p := range q {
		old := s.parts[p]
		part := &memPart{records: make(map[Cursor]*memRecord), mark: old.mark, since: old.since, round: old.round}
		for _, c := range sortedCursors(old.records) {
			if r := old.records[c]; c.Bucket == bucket {
				old.drop(c)
				part.put(Key{p, c.Bucket, c.Key}, *r)
			}
		}
		s.parts = append(s.parts, part)
	}
}

func sortedCursors(of map[Cursor]*memRecord) (out []Cursor) {
	for c := range maps.Keys(of) {
		out = append(out, c)
	}
	return out
}

// bucketChange is a world of five members of which a bucket's n is changed.
func newBucketChange(t *testing.T, n int) (c *change, own func(Key) Key) {
	w := newWorld(t, worldOptions{nodes: 5, partitions: 16, n: 3, idle: true})
	c = &change{world: w, old: w.ring, joiner: w.nodes[4]}
	l, err := c.old.Layout().Next(ring.Change{BucketN: map[string]int{"wide": n}})
	if err != nil {
		t.Fatal(err)
	}
	if c.next, err = ring.New(l, 3); err != nil {
		t.Fatal(err)
	}
	return c, func(k Key) Key {
		k.Partition = c.next.Partition(k.Bucket, k.Key)
		return k
	}
}

func (c *change) wideKey(i int) Key {
	k := Key{Bucket: "wide", Key: fmt.Sprint("wide-", i)}
	k.Partition = c.old.Partition(k.Bucket, k.Key)
	return k
}

// From 3 to 5 replicas: two more nodes are filled with the bucket, from every old owner, and with nothing else.
func TestABucketWithMoreReplicasIsFilledAlone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, own := newBucketChange(t, 5)
		for i := range 200 {
			c.writeAll(c.key(i), fmt.Sprint("value-", i))
			c.write(c.wideKey(i), i%3, "alone") // acknowledged by one old owner
		}
		before := map[int]int{}
		for _, n := range c.nodes {
			for p := range 16 {
				for k := range n.store.contents(p) {
					if k.Bucket != "wide" {
						before[n.index]++
					}
				}
			}
			n.store.number("wide")
		}
		c.know(2, c.both(), 0, 1, 2, 3, 4)
		for _, n := range c.nodes {
			gained := n.Epochs().Filling(n.id)
			if len(gained) == 0 {
				t.Fatalf("n%d gains nothing", n.index)
			}
			for _, p := range gained {
				n.store.setMark(p, MarkFilling)
			}
		}
		c.start()
		c.until(5*time.Minute, "whole", func() bool {
			for _, n := range c.nodes {
				if _, left := n.s.Unfilled(); len(left) > 0 {
					return false
				}
			}
			return true
		})
		for i := range 200 {
			k := own(c.wideKey(i))
			for _, n := range c.nodes {
				if got, _ := n.store.Get(k); got.Object.IsZero() {
					t.Errorf("n%d lacks %v", n.index, k)
				}
			}
		}
		for _, n := range c.nodes {
			others := 0
			for p := range 16 {
				others += len(n.store.contents(p))
			}
			if others != before[n.index] {
				t.Errorf("n%d had %d keys of other buckets, now %d", n.index, before[n.index], others)
			}
		}
	})
}

// A node whose copy is damaged must not take an exchange with a peer for whole that already means fewer keys by the
// partition's number: what it has lost of the bucket would never be sought again.
func TestNoMarkIsClearedByNodesThatNumberOtherwise(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c, own := newBucketChange(t, 2)
		k := c.wideKey(0)
		c.writeAll(k, "acknowledged")
		holders := c.holders(k.Partition)
		lost := holders[0]
		lost.store.with(k.Partition, func(p *memPart) { p.drop(Cursor{k.Bucket, k.Key}) })
		lost.store.setMark(k.Partition, MarkDamaged)
		for _, n := range c.nodes { // they prepare for the epoch that comes
			if n != lost {
				n.store.number("wide")
			}
		}
		for _, n := range holders[1:] {
			if _, err := c.once(lost.index, n.index); err == nil {
				t.Error("an exchange with a node that numbers partitions otherwise")
			}
		}
		if m, _ := lost.store.Marks(k.Partition); m&MarkDamaged == 0 {
			t.Fatal("whole, without what was lost")
		}
		lost.store.number("wide")
		for _, n := range holders[1:] { // now they all agree, but not with the epoch
			if _, err := c.once(lost.index, n.index); err == nil {
				t.Error("an exchange by an epoch that numbers partitions otherwise")
			}
		}
		c.know(2, c.both(), 0, 1, 2, 3, 4)
		k = own(k)
		for _, n := range holders[1:] {
			if _, err := c.once(lost.index, n.index); err != nil {
				t.Error(err)
			}
		}
		if got, _ := lost.store.Get(k); got.Object.IsZero() {
			t.Error("what was lost is not back")
		}
		if m, _ := lost.store.Marks(k.Partition); m != 0 {
			t.Errorf("mark %b stays", m)
		}
	})
}

// From 5 to 2 replicas nobody gains anything. What was acknowledged by those alone who lose it must be with those who
// keep it before the epoch can stand alone: with each of them, as a reader may ask any.
func TestWhoKeepsANarrowedPartitionTakesAllOver(t *testing.T) {
	for _, down := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			c, own := newBucketChange(t, 5)
			c.old = c.next
			l, err := c.old.Layout().Next(ring.Change{BucketN: map[string]int{"wide": 2}})
			if err != nil {
				t.Fatal(err)
			}
			if c.next, err = ring.New(l, 3); err != nil {
				t.Fatal(err)
			}
			for _, n := range c.nodes {
				n.store.number("wide")
			}
			c.ring = c.old
			for i := range 100 {
				c.write(own(c.wideKey(i)), 2+i%3, "acknowledged by one that loses it")
			}
			c.know(2, c.both(), 0, 1, 2, 3, 4) // it has not settled
			away := c.nodes[4]
			c.setDown(away, down)
			c.start()
			time.Sleep(2 * time.Minute)
			kept := 0
			for _, n := range c.nodes {
				_, left := n.s.Unfilled()
				if kept += len(left); len(n.Epochs().Filling(n.id)) > 0 {
					t.Errorf("n%d gains something", n.index)
				}
			}
			if from, end := c.next.PartitionsOf("wide"); kept != 2*(end-from) {
				t.Fatalf("%d partitions are to be taken over before the epoch has settled, want %d", kept, 2*(end-from))
			}
			c.know(3, c.both(), 0, 1, 2, 3, 4)
			whole := func() bool {
				for _, n := range c.nodes {
					if _, left := n.s.Unfilled(); len(left) > 0 {
						return false
					}
				}
				return true
			}
			if down {
				time.Sleep(5 * time.Minute)
				if whole() {
					t.Fatal("whole without an old owner that is down")
				}
				c.setDown(away, false)
			}
			c.until(5*time.Minute, "whole", whole)
			for i := range 100 {
				k := own(c.wideKey(i))
				for _, id := range c.next.Primaries(k.Partition) {
					if got, _ := c.nodes[id[0]-1].store.Get(k); got.Object.IsZero() {
						t.Errorf("%v is not at %s", k, id)
					}
				}
			}
		})
	}
}
