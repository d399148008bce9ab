package antientropy

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// change is a world in the middle of a change of members: n0 to n3 are the old members, n4 joins.
type change struct {
	*world
	old, next *ring.Ring
	removed   []ring.NodeID
	joiner    *testNode
	moved     []int // partitions that the joiner gains
}

// newChange has some keys at all their old owners, and none of the nodes knows of the new layout yet.
func newChange(t *testing.T, keys int, o Options) *change {
	w := newWorld(t, worldOptions{nodes: 5, members: 4, partitions: 16, n: 3, opt: o, idle: true})
	c := &change{world: w, old: w.ring, joiner: w.nodes[4]}
	c.next = c.ringOf(2, 0, 1, 2, 3, 4)
	for i := range keys {
		w.writeAll(w.key(i), fmt.Sprint("value-", i))
	}
	e, err := ring.NewEpochs([]*ring.Ring{c.old, c.next}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.moved = e.Filling(c.joiner.id); len(c.moved) == 0 {
		t.Fatal("the joiner gains nothing")
	}
	return c
}

func (c *change) ringOf(epoch uint64, members ...int) *ring.Ring {
	l := c.old.Layout()
	l.Epoch, l.Members = epoch, nil
	for _, i := range members {
		l.Members = append(l.Members, ring.Member{ID: c.nodes[i].id, Name: fmt.Sprintf("n%d", i), Weight: 1})
	}
	r, err := ring.New(l, 3)
	if err != nil {
		c.t.Fatal(err)
	}
	return r
}

// know tells nodes of live rings, and which epoch has settled.
func (c *change) know(settled uint64, rings []*ring.Ring, nodes ...int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, i := range nodes {
		e, err := ring.NewEpochs(rings, settled, c.removed)
		if err != nil {
			c.t.Fatal(err)
		}
		c.nodes[i].epochs = e
	}
}

func (c *change) both() []*ring.Ring { return []*ring.Ring{c.old, c.next} }

// adopt makes the joiner's copies empty and marked, as before it shows that it holds them.
func (c *change) adopt(n *testNode, ps []int) {
	for _, p := range ps {
		n.store.with(p, func(part *memPart) {
			part.records, part.order, part.sums = map[Cursor]*memRecord{}, nil, [Leaves]Sum{}
		})
		n.store.setMark(p, MarkFilling)
	}
}

func (c *change) filling(n *testNode) (left []int) {
	for _, p := range c.moved {
		if m, _ := n.store.Marks(p); m&MarkFilling != 0 {
			left = append(left, p)
		}
	}
	return left
}

func (c *change) holdsAll(n *testNode, ps []int) string {
	for _, p := range ps {
		want := map[Cursor]bool{}
		for _, id := range c.old.Primaries(p) {
			if c.nodes[id[0]-1] == n || slices.Contains(c.removed, id) {
				continue
			}
			for k := range c.nodes[id[0]-1].store.contents(p) {
				want[k] = true
			}
		}
		got := n.store.contents(p)
		for k := range want {
			if _, ok := got[k]; !ok {
				return fmt.Sprintf("partition %d: %v is missing", p, k)
			}
		}
	}
	return ""
}

func bubble(t *testing.T, do func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, do)
}

func TestAJoinerIsFilledFromEveryOldOwnerAndOnlyThenWhole(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 400, Options{})
		// One write of each moved partition is at a single old owner, a different one each time.
		for i := range 200 {
			if k := c.key(1000 + i); slices.Contains(c.moved, k.Partition) {
				c.write(k, i%3, "alone")
			}
		}
		c.adopt(c.joiner, c.moved)
		c.know(1, c.both(), 4)
		c.know(1, c.both()[:1], 0, 1, 2, 3) // who has not heard learns it when asked
		down := c.nodes[c.old.Primaries(c.moved[0])[2][0]-1]
		c.setDown(down, true)
		c.start()
		time.Sleep(2 * time.Minute)
		if left := c.filling(c.joiner); !slices.Equal(left, c.moved) {
			t.Fatalf("%d of %d partitions are whole before the epoch has settled", len(c.moved)-len(left), len(c.moved))
		}
		tr := c.joiner.s.Transfers()
		if tr.Settled || tr.Total != len(c.moved) || tr.Copied == 0 || tr.Whole != 0 || tr.Objects == 0 || !slices.Contains(tr.Waiting, down.id) {
			t.Errorf("%+v", tr)
		}
		c.know(2, c.both(), 0, 1, 2, 3, 4)
		time.Sleep(2 * time.Minute)
		for _, p := range c.moved {
			m, _ := c.joiner.store.Marks(p)
			if waits := c.old.IsPrimary(p, down.id); waits != (m&MarkFilling != 0) {
				t.Errorf("partition %d: filling %v, an old owner is down: %v", p, m&MarkFilling != 0, waits)
			}
		}
		c.setDown(down, false)
		c.until(time.Minute, "whole", func() bool { _, left := c.joiner.s.Unfilled(); return len(left) == 0 })
		if d := c.holdsAll(c.joiner, c.moved); d != "" || len(c.filling(c.joiner)) > 0 {
			t.Error(d, c.filling(c.joiner))
		}
		if tr := c.joiner.s.Transfers(); tr.Whole != tr.Total || tr.Copied != tr.Total || len(tr.Waiting) > 0 || len(tr.From) > 0 {
			t.Errorf("%+v", tr)
		}
	})
}

// once5 runs one exchange of the joiner with every old owner.
func (c *change) round() {
	for i := range 4 {
		if _, err := c.once(4, i); err != nil {
			c.t.Error(err)
		}
	}
}

// PROTOCOL 7 (i): a coordinator that does not know the new epoch writes to old owners after they were scanned.
func TestAnExchangeBegunBeforeTheEpochSettledDoesNotCount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 100, Options{})
		c.adopt(c.joiner, c.moved)
		c.know(1, c.both(), 0, 1, 2, 3, 4)
		// The epoch settles while the last of these exchanges is under way.
		c.setFault(func(_, to int, endpoint string) fault {
			if to == 3 && endpoint == EndpointRoots {
				return fault{delay: time.Second}
			}
			return fault{}
		})
		go func() {
			time.Sleep(500 * time.Millisecond)
			c.know(2, c.both(), 0, 1, 2, 3, 4)
		}()
		c.round()
		k := c.keyIn(c.moved[0])
		c.write(k, 2, "by a coordinator of the old epoch") // acknowledged by others than the joiner
		if e := c.joiner.Epochs(); !e.FullySettled() {
			t.Fatal("the test settled nothing")
		}
		if left := c.filling(c.joiner); !slices.Equal(left, c.moved) {
			t.Fatalf("whole by exchanges begun before the epoch settled: %v of %v are left", left, c.moved)
		}
		c.setFault(nil)
		if _, err := c.once(4, 0); err != nil { // one that counts beside three that do not
			t.Error(err)
		}
		for _, p := range c.filling(c.joiner) {
			if len(c.joiner.s.sources(c.joiner.Epochs(), p)) < 2 {
				t.Errorf("partition %d has one source", p)
			}
		}
		if left := c.filling(c.joiner); !slices.Equal(left, c.moved) {
			t.Fatalf("whole by one exchange that counts: %v of %v are left", left, c.moved)
		}
		c.round()
		if left := c.filling(c.joiner); len(left) > 0 {
			t.Errorf("%v are not whole", left)
		}
		if got, _ := c.joiner.store.Get(k); got.Object.IsZero() {
			t.Error("the write of the old epoch is not here")
		}
	})
}

func (c *change) keyIn(p int) Key {
	for i := 5000; ; i++ {
		if k := c.key(i); k.Partition == p {
			return k
		}
	}
}

// PROTOCOL 7 (ii): a source that has not learnt the epoch would take writes of older ones after it was scanned.
func TestASourceLearnsAndSettlesTheEpochBeforeItSaysWhatItHolds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 100, Options{})
		c.adopt(c.joiner, c.moved)
		c.know(2, c.both(), 4)
		c.round()
		for i := range 4 {
			if e := c.nodes[i].Epochs(); e.Newest().Epoch() != 2 || !e.FullySettled() {
				t.Errorf("node %d was read at epoch %d, settled %d", i, e.Newest().Epoch(), e.Settled())
			}
		}
		if left := c.filling(c.joiner); len(left) > 0 {
			t.Errorf("%v are not whole", left)
		}
		// Who asks at an older epoch is refused.
		c.know(1, c.both()[:1], 0)
		if _, err := c.once(0, 1); !refused(err) {
			t.Errorf("an exchange at an older epoch: %v", err)
		}
	})
}

// PROTOCOL 7 (iii): with W=1 a write may be on the one old owner that leaves.
func TestTheLeaverIsASourceToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 50, Options{})
		c.next = c.ringOf(2, 0, 1, 2, 4) // n3 leaves
		e, _ := ring.NewEpochs(c.both(), 1, nil)
		gained := e.Filling(c.joiner.id)
		at := slices.IndexFunc(gained, func(p int) bool { return c.old.IsPrimary(p, c.nodes[3].id) })
		k := c.keyIn(gained[at])
		c.write(k, slices.Index(c.old.Primaries(k.Partition), c.nodes[3].id), "on the leaver only")
		c.moved = gained
		c.adopt(c.joiner, gained)
		c.know(2, c.both(), 0, 1, 2, 3, 4)
		for i := range 3 {
			if _, err := c.once(4, i); err != nil {
				t.Error(err)
			}
		}
		if m, _ := c.joiner.store.Marks(k.Partition); m&MarkFilling == 0 {
			t.Fatal("whole without the leaver")
		}
		if _, err := c.once(4, 3); err != nil {
			t.Error(err)
		}
		if got, _ := c.joiner.store.Get(k); got.Object.IsZero() || len(c.filling(c.joiner)) > 0 {
			t.Error("the write is lost, or the joiner is not whole", c.filling(c.joiner))
		}
	})
}

func TestADamagedOrFillingSourceDoesNotCount(t *testing.T) {
	for _, m := range []Mark{MarkDamaged, MarkFilling} {
		bubble(t, func(t *testing.T) {
			c := newChange(t, 100, Options{})
			c.adopt(c.joiner, c.moved)
			c.know(2, c.both(), 0, 1, 2, 3, 4)
			p := c.moved[0]
			source := c.nodes[c.old.Primaries(p)[1][0]-1]
			source.store.setMark(p, m)
			c.round()
			if left := c.filling(c.joiner); !slices.Equal(left, []int{p}) {
				t.Errorf("mark %b at a source of partition %d: %v are left", m, p, left)
			}
			_, since := source.store.Marks(p)
			if err := source.store.ClearMark(t.Context(), p, m, since); err != nil {
				t.Fatal(err)
			}
			c.round()
			if left := c.filling(c.joiner); len(left) > 0 {
				t.Errorf("%v are left", left)
			}
		})
	}
}

func TestARemovedOwnerIsNotWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 100, Options{})
		c.next = c.ringOf(2, 0, 1, 2, 4)
		c.removed = []ring.NodeID{c.nodes[3].id}
		e, _ := ring.NewEpochs(c.both(), 1, nil)
		c.moved = e.Filling(c.joiner.id)
		c.adopt(c.joiner, c.moved)
		c.nodes[0].store.setMark(c.old.Owned(c.nodes[0].id)[0], MarkDamaged)
		c.know(2, c.both(), 0, 1, 2, 4)
		c.setDown(c.nodes[3], true)
		c.start()
		c.until(2*time.Minute, "whole", func() bool { return len(c.filling(c.joiner)) == 0 })
		c.until(2*time.Minute, "no damage", func() bool {
			m, _ := c.nodes[0].store.Marks(c.old.Owned(c.nodes[0].id)[0])
			return m == 0
		})
		for _, call := range c.takeCalls() {
			if call.to == 3 {
				t.Fatal("the removed node was called")
			}
		}
		if tr := c.joiner.s.Transfers(); len(tr.Waiting) > 0 {
			t.Errorf("%+v", tr)
		}
	})
}

func TestARestartInTheMiddleOfFillingGoesOn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 600, Options{BytesPerSecond: 16 << 10})
		c.adopt(c.joiner, c.moved)
		c.know(2, c.both(), 0, 1, 2, 3, 4)
		c.start()
		for step := range 5 {
			time.Sleep(time.Duration(500+step*700) * time.Millisecond)
			c.joiner.s.Close()
			c.joiner.boot(uint64(100+step), Options{})
			c.joiner.s.Start()
		}
		c.until(5*time.Minute, "whole", func() bool { _, left := c.joiner.s.Unfilled(); return len(left) == 0 })
		if d := c.holdsAll(c.joiner, c.moved); d != "" || len(c.filling(c.joiner)) > 0 {
			t.Error(d, c.filling(c.joiner))
		}
		// Nothing is marked, but what was proven before a restart is proven again.
		c.joiner.s.Close()
		c.joiner.boot(200, Options{})
		if _, left := c.joiner.s.Unfilled(); !slices.Equal(left, c.moved) {
			t.Errorf("unfilled after a restart: %v", left)
		}
		c.joiner.s.Start()
		c.until(time.Minute, "proven again", func() bool { _, left := c.joiner.s.Unfilled(); return len(left) == 0 })
	})
}

func TestASourceThatCrashesInTheMiddleIsWaitedFor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 400, Options{})
		c.adopt(c.joiner, c.moved)
		c.know(2, c.both(), 0, 1, 2, 3, 4)
		source := c.nodes[c.old.Primaries(c.moved[0])[0][0]-1]
		only := c.keyIn(c.moved[0])
		c.write(only, 0, "here alone")
		fetches := 0
		c.setFault(func(_, to int, endpoint string) fault { // called under world.mu
			if to == source.index && endpoint == EndpointObjects {
				fetches++
				c.down[source.id] = true // in the middle of this call
				return fault{lostReply: true}
			}
			return fault{}
		})
		c.start()
		time.Sleep(time.Minute)
		if fetches > 0 && len(c.filling(c.joiner)) == 0 {
			t.Fatal("whole without the source that crashed")
		}
		c.setFault(nil)
		c.setDown(source, false)
		c.until(2*time.Minute, "whole", func() bool { return len(c.filling(c.joiner)) == 0 })
		if got, _ := c.joiner.store.Get(only); got.Object.IsZero() {
			t.Error("what only the crashed source held is missing")
		}
	})
}

func TestAWriteDuringTheFillArrives(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 600, Options{BytesPerSecond: 24 << 10})
		c.adopt(c.joiner, c.moved)
		c.know(2, c.both(), 0, 1, 2, 3, 4)
		c.start()
		var keys []Key
		for i := 0; len(c.filling(c.joiner)) > 0; i++ {
			k := c.keyIn(c.moved[i%len(c.moved)])
			k.Key += fmt.Sprint("-", i)
			if k.Partition = c.old.Partition(k.Bucket, k.Key); slices.Contains(c.moved, k.Partition) {
				c.write(k, i%3, "during")
				keys = append(keys, k)
			}
			time.Sleep(50 * time.Millisecond)
			if i > 10_000 {
				t.Fatal("never whole beside writes")
			}
		}
		c.until(2*time.Minute, "the writes arrive", func() bool {
			for _, k := range keys {
				if got, _ := c.joiner.store.Get(k); got.Object.IsZero() {
					return false
				}
			}
			return true
		})
	})
}

// The newest epoch has the old assignment again: nobody needs to be filled, and the joiner, whose copies stay marked,
// gains nothing.
func TestACancelledChangeNeedsNoFill(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 100, Options{})
		c.adopt(c.joiner, c.moved)
		back := c.ringOf(3, 0, 1, 2, 3)
		c.know(2, []*ring.Ring{c.old, c.next, back}, 0, 1, 2, 3, 4)
		for i, n := range c.nodes {
			if epoch, left := n.s.Unfilled(); epoch != 3 || len(left) > 0 {
				t.Errorf("node %d: epoch %d, unfilled %v", i, epoch, left)
			}
		}
		c.start()
		time.Sleep(2 * time.Minute)
		if left := c.filling(c.joiner); !slices.Equal(left, c.moved) {
			t.Errorf("the epoch has not settled, and only %v are marked", left)
		}
	})
}

// An old copy, kept from an earlier ownership, holds a key that was deleted and reaped since. It is dropped before the
// partition is held again, in the round of the others: neither it nor a late message brings the key back.
func TestLeftoversOfAnEarlierOwnershipDoNotComeBack(t *testing.T) {
	for _, dropped := range []bool{true, false} {
		bubble(t, func(t *testing.T) {
			c := newChange(t, 20, Options{})
			k := c.keyIn(c.moved[0])
			c.joiner.store.write(k, "deleted long ago", true, false)
			late, _ := c.joiner.store.Get(k) // and as a message of then
			for _, n := range c.holders(k.Partition) {
				n.store.with(k.Partition, func(p *memPart) { p.round = 4 }) // reaped in round 4
			}
			if dropped {
				c.adopt(c.joiner, c.moved)
				if err := c.joiner.store.catchUp(t.Context(), k.Partition, 4); err != nil {
					t.Fatal(err)
				}
			} else {
				for _, p := range c.moved {
					c.joiner.store.setMark(p, MarkFilling)
				}
			}
			c.know(2, c.both(), 0, 1, 2, 3, 4)
			c.start()
			time.Sleep(time.Minute)
			err := c.joiner.store.Merge(t.Context(), k, late.Object, MergeOptions{Round: late.Round})
			time.Sleep(time.Minute)
			shown := false
			for _, n := range append(c.holders(k.Partition), c.joiner) {
				got, _ := n.store.Get(k)
				shown = shown || !got.Object.IsZero()
			}
			if shown == dropped {
				t.Errorf("dropped first: %v; the deleted key is shown: %v; a late message: %v", dropped, shown, err)
			}
		})
	}
}

// Sources in different rounds: while members change nobody else brings them into one.
func TestSourcesInDifferentRoundsFillAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		c := newChange(t, 100, Options{})
		c.adopt(c.joiner, c.moved)
		p := c.moved[0]
		c.holders(p)[1].store.with(p, func(part *memPart) { part.round = 6 })
		c.joiner.store.with(p, func(part *memPart) { part.round = 6 }) // told by that one
		k := c.keyIn(p)
		c.write(k, 2, "in an earlier round")
		// A key that a round had begun to remove, and that the others have removed already.
		gone := c.key(1)
		for i := 1; gone.Partition != p; i++ {
			gone = c.key(i)
		}
		c.holders(p)[0].store.with(p, func(part *memPart) { part.records[Cursor{gone.Bucket, gone.Key}].removing = true })
		for _, n := range c.holders(p)[1:] {
			n.store.with(p, func(part *memPart) { part.drop(Cursor{gone.Bucket, gone.Key}) })
		}
		c.know(2, c.both(), 0, 1, 2, 3, 4)
		c.start()
		c.until(time.Minute, "whole", func() bool { return len(c.filling(c.joiner)) == 0 })
		if got, _ := c.joiner.store.Get(k); got.Object.IsZero() {
			t.Error("a key of a source in an earlier round is missing")
		}
	})
}

// A second change comes while two nodes are still being filled for the first: they do not wait for each other.
func TestTwoJoinersAndASecondChange(t *testing.T) {
	const d = MarkDamaged
	for name, tc := range map[string]struct {
		marks  [6]Mark
		filled bool // the marks of filling are gone
	}{
		"all is well": {},
		// With durability os: what others hold no longer brings back what was lost, and nobody may wait for it.
		"the power was cut everywhere":                              {[6]Mark{d, d, d, d, d, d}, false},
		"it was cut, and a disk forgot that a copy had been filled": {[6]Mark{d | MarkFilling, d, d, d, d, d}, false},
		"it was cut at two who had been filled":                     {[6]Mark{3: d, 4: d}, true},
	} {
		t.Run(name, func(t *testing.T) { twoJoinersAndASecondChange(t, tc.marks, tc.filled) })
	}
}

func twoJoinersAndASecondChange(t *testing.T, marks [6]Mark, filled bool) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 6, members: 3, partitions: 16, n: 3, idle: true})
		c := &change{world: w, old: w.ring}
		c.next = c.ringOf(2, 0, 1, 2, 3, 4)
		last := c.ringOf(3, 1, 2, 3, 4, 5)
		for i := range 200 {
			w.writeAll(w.key(i), "v")
		}
		three := []*ring.Ring{c.old, c.next, last}
		e, _ := ring.NewEpochs(three, 1, nil)
		for _, n := range w.nodes {
			for p := range 16 {
				if e.Holds(p, n.id) && !c.old.IsPrimary(p, n.id) {
					c.adopt(n, []int{p})
				}
			}
		}
		c.know(3, three, 0, 1, 2, 3, 4, 5)
		for i, n := range w.nodes {
			for p := range 16 {
				if marks[i] == 0 || !e.Holds(p, n.id) {
					continue
				}
				n.store.setMark(p, marks[i])
				if m, since := n.store.Marks(p); filled && m&MarkFilling != 0 {
					if err := n.store.ClearMark(t.Context(), p, MarkFilling, since); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		c.start()
		for _, i := range []int{1, 2, 3, 4, 5} {
			c.until(3*time.Minute, fmt.Sprint("whole: node ", i), func() bool { _, left := w.nodes[i].s.Unfilled(); return len(left) == 0 })
		}
	})
}

// 200 000 keys to an empty node: the sums of leaves are not asked for, and a message carries many keys of many
// partitions.
func TestFillingAnEmptyNodeIsEfficient(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, members: 1, partitions: 256, n: 2, idle: true})
		c := &change{world: w, old: w.ring, joiner: w.nodes[1]}
		c.next = c.ringOf(2, 0, 1)
		value := string(make([]byte, 100))
		const keys = 200_000
		for i := range keys {
			w.nodes[0].store.write(w.key(i), value, false, false)
		}
		e, _ := ring.NewEpochs(c.both(), 2, nil)
		c.moved = e.Filling(c.joiner.id)
		c.adopt(c.joiner, c.moved)
		c.know(2, c.both(), 0, 1)
		began := time.Now()
		x, err := c.once(1, 0)
		if err != nil {
			t.Fatal(err)
		}
		count := map[string]int{}
		bytes := 0
		for _, call := range c.takeCalls() {
			count[call.endpoint]++
			bytes += call.in + call.out
		}
		tr := c.joiner.s.Transfers()
		t.Logf("%d keys in %v of virtual time: %v messages, %d bytes a key, %+v", x.moved.Received, time.Since(began), count, bytes/keys, tr)
		if len(c.filling(c.joiner)) > 0 || x.moved.Received != keys || tr.Objects != keys {
			t.Errorf("%d partitions are left, %d keys came", len(c.filling(c.joiner)), x.moved.Received)
		}
		total := 0
		for _, n := range count {
			total += n
		}
		if count[EndpointLeaves] > 0 || total > keys/fetchKeys+2*keys/listKeys+100 || bytes > 350*keys {
			t.Errorf("%d messages, %v, %d bytes", total, count, bytes)
		}
	})
}
