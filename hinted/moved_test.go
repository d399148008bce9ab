package hinted

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// atEpochs has all nodes see some epochs.
func (w *world) atEpochs(settled uint64, removed []ring.NodeID, rings ...*ring.Ring) *ring.Epochs {
	w.t.Helper()
	e, err := ring.NewEpochs(rings, settled, removed)
	if err != nil {
		w.t.Fatal(err)
	}
	w.with(func(w *world) { w.epochs = e })
	return e
}

// layoutOf has some of the world's nodes as members.
func layoutOf(t *testing.T, epoch uint64, members ...int) *ring.Ring {
	t.Helper()
	l := layout(t, epoch, 8).Layout()
	all := l.Members
	l.Members = nil
	for _, i := range members {
		l.Members = append(l.Members, all[i])
	}
	r, err := ring.New(l, 3)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// everyPrimaryHas checks that all primaries of the newest epoch have what a hint held.
func (w *world) everyPrimaryHas(r *ring.Ring, ks []Key, size int) {
	w.t.Helper()
	for i, k := range ks {
		for _, id := range r.Primaries(k.Partition) {
			if got := w.replicas[id].get(k); !got.Covers(object(uint64(i+1), size)) {
				w.t.Fatalf("hint %d is lost: primary %v does not have it", i, id)
			}
		}
	}
}

// The target left, was removed, or was replaced by another node of its name: its hints reach the present primaries, and
// are deleted only when all of them have stored them.
func TestHintsOfATargetThatIsGoneReachThePresentPrimaries(t *testing.T) {
	for name, members := range map[string][]int{
		"left or removed": {0, 2, 3, 4}, "replaced": {0, 2, 3, 4, 5}, "holder is a primary": {0, 2, 3}, "holder is none": {2, 3, 4, 5, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				w := newWorld(t, 6)
				gone := node(1)
				ks := w.hint(gone, 300, 10)
				next := layoutOf(t, 2, members...)
				w.atEpochs(2, nil, next)
				w.up(gone, false)
				late := node(3)
				w.up(late, false)
				x := w.worker()
				defer x.Close()
				time.Sleep(time.Minute)
				for _, k := range ks {
					if next.IsPrimary(k.Partition, late) == (w.store.get(gone, k)).IsZero() {
						t.Fatalf("partition %d, a primary of it is down: %v; the hint is deleted: %v", k.Partition,
							next.IsPrimary(k.Partition, late), w.store.get(gone, k).IsZero())
					}
				}
				if n := x.Pending(); n != w.store.count(gone) {
					t.Errorf("%d pending, %d held", n, w.store.count(gone))
				}
				if s := of(x.Status(), gone); s.State != StateOrphaned || s.Misplaced != w.store.count(gone) && w.store.count(gone) > 0 {
					t.Errorf("%+v", s)
				}
				w.up(late, true)
				x.Kick(late)
				w.drained(time.Minute, gone)
				w.everyPrimaryHas(next, ks, 10)
				for _, c := range w.seen("") {
					if c.to == gone {
						t.Fatal("the node that is gone was called")
					}
				}
				if x.Pending() != 0 {
					t.Errorf("%d pending", x.Pending())
				}
			})
		})
	}
}

// A partition that moved away from a target which is a member still: others get its hints, it keeps getting its own.
func TestHintsOfAMovedPartition(t *testing.T) {
	for _, down := range []bool{false, true} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, 6)
			b := node(1)
			ks := w.hint(b, 200, 10) // of partitions that are its own in the layout of six
			next := layoutOf(t, 2, 0, 1, 2, 3, 4, 5, 6, 7)
			w.replicas[node(6)], w.replicas[node(7)] = &replica{held: map[Key]vclock.Object{}, behind: map[int]int{}}, &replica{held: map[Key]vclock.Object{}, behind: map[int]int{}}
			for _, i := range []int{6, 7} {
				y, err := New(Deps{Self: node(i), Store: newStore(), Receiver: w.replicas[node(i)], Peers: w, View: w}, Options{})
				if err != nil {
					t.Fatal(err)
				}
				w.handlers[node(i)] = y.Handlers()
				w.up(node(i), true)
			}
			w.atEpochs(2, nil, next)
			w.up(b, !down)
			x := w.worker()
			defer x.Close()
			time.Sleep(2 * time.Minute)
			movedAway := 0
			for i, k := range ks {
				own := next.IsPrimary(k.Partition, b)
				if held := !w.store.get(b, k).IsZero(); held != (own && down) {
					t.Fatalf("hint %d: held %v, the target's own %v, down %v", i, held, own, down)
				}
				if !own {
					movedAway++
					if !w.replicas[b].get(k).IsZero() {
						t.Errorf("hint %d went to a node that is no replica of it", i)
					}
					for _, id := range next.Primaries(k.Partition) {
						if !w.replicas[id].get(k).Covers(object(uint64(i+1), 10)) {
							t.Errorf("hint %d did not reach %v", i, id)
						}
					}
				}
			}
			if movedAway == 0 || movedAway == len(ks) {
				t.Fatalf("%d of %d moved: the test tests nothing", movedAway, len(ks))
			}
		})
	}
}

// While the epoch lives in which a leaving target holds the partition, reads go by it: it gets its hints too.
func TestALeavingTargetGetsItsHintsToo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 5)
		leaver := node(1)
		ks := w.hint(leaver, 50, 10)
		next := layoutOf(t, 2, 0, 2, 3, 4)
		w.atEpochs(2, nil, w.layout, next)
		x := w.worker()
		defer x.Close()
		w.drained(time.Minute, leaver)
		w.everyPrimaryHas(next, ks, 10)
		w.holds(leaver, ks, 10)
	})
	bubble(t, func(t *testing.T) { // removed: it is not called, though the epoch lives
		w := newWorld(t, 5)
		gone := node(1)
		ks := w.hint(gone, 50, 10)
		next := layoutOf(t, 2, 0, 2, 3, 4)
		w.atEpochs(2, []ring.NodeID{gone}, w.layout, next)
		x := w.worker()
		defer x.Close()
		w.drained(time.Minute, gone)
		w.everyPrimaryHas(next, ks, 10)
		for _, c := range w.seen("") {
			if c.to == gone {
				t.Fatal("a removed node was called")
			}
		}
	})
}

// What is merged into a hint while it is on its way stays.
func TestAMovedHintThatGrowsStays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 5)
		gone := node(1)
		ks := w.hint(gone, 1, 10)
		next := layoutOf(t, 2, 0, 2, 3, 4)
		w.atEpochs(2, nil, next)
		grown := false
		w.after = func(ring.NodeID, string, []byte) error {
			if !grown {
				grown = true
				w.store.put(gone, ks[0], object(77, 20))
			}
			return nil
		}
		x := w.worker()
		defer x.Close()
		w.drained(5*time.Minute, gone)
		for _, id := range next.Primaries(ks[0].Partition) {
			if !w.replicas[id].get(ks[0]).Covers(object(77, 20)) {
				t.Errorf("%v lacks what was merged into the hint on its way", id)
			}
		}
	})
}

// A leaver's hints must not wait for a round that nobody brings it into while members change.
func TestCatchesUpWhileMembersChange(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 5)
		leaver := node(1)
		ks := w.hint(leaver, 20, 10)
		next := layoutOf(t, 2, 0, 2, 3, 4)
		w.atEpochs(2, nil, w.layout, next)
		for _, i := range []int{0, 1, 2, 3, 4} {
			w.replicas[node(i)].set(func(r *replica) { r.round = 5 })
		}
		w.catchUp = func(_ context.Context, _ int, round uint64) error {
			w.store.mu.Lock()
			defer w.store.mu.Unlock()
			w.store.round = max(w.store.round, round)
			return nil
		}
		x := w.worker()
		defer x.Close()
		w.drained(5*time.Minute, leaver)
		w.everyPrimaryHas(next, ks, 10)
	})
}

// In quiet times, too: who drove a round may be gone for good, and have taken only some into it.
func TestCatchesUpWhereTheDriverIsGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 5)
		target := node(1)
		ks := w.hint(target, 20, 10)
		for i := range 5 {
			w.replicas[node(i)].set(func(r *replica) { r.round = 5 })
		}
		w.catchUp = func(_ context.Context, _ int, round uint64) error {
			w.store.mu.Lock()
			defer w.store.mu.Unlock()
			w.store.round = max(w.store.round, round)
			return nil
		}
		x := w.worker()
		defer x.Close()
		w.drained(10*time.Minute, target)
		for i, k := range ks {
			if !w.replicas[target].get(k).Covers(object(uint64(i+1), 10)) {
				t.Errorf("%v is lost", k)
			}
		}
	})
}

func TestReceiverGoesByEpochs(t *testing.T) {
	w := newWorld(t, 5)
	next := layoutOf(t, 2, 0, 2, 3, 4)
	b := node(1)
	k := w.keys(1, b)[0]
	send := func(epoch uint64) error {
		m := batchMessage{epoch: epoch, items: []item{{k.Bucket, k.Key, 0, object(1, 10)}}}
		reply, err := w.handlers[b][EndpointBatch](t.Context(), holder, m.encode())
		if err != nil {
			return err
		}
		a, err := decodeAnswer(reply)
		if err == nil && a.statuses[0] != stored {
			err = errors.New(a.text)
		}
		return err
	}
	refusedBy := func(err error) bool {
		var c codeError
		return errors.As(err, &c) && Code(c.Code()) == CodeEpoch
	}
	w.atEpochs(1, nil, w.layout, next)
	if err := send(1); err != nil {
		t.Errorf("the older epoch before the newer one has settled: %v", err)
	}
	if err := send(2); err != nil {
		t.Errorf("the newest epoch, of a key that is the leaver's in the older one: %v", err)
	}
	w.atEpochs(2, nil, w.layout, next)
	if err := send(1); !refusedBy(err) {
		t.Errorf("an epoch before the one that has settled: %v", err)
	}
	if err := send(3); !refusedBy(err) {
		t.Errorf("an epoch that nobody knows: %v", err)
	}
	w.atEpochs(2, nil, next)
	if err := send(2); err == nil || refusedBy(err) {
		t.Errorf("a key of another node: %v", err)
	}
	w.atEpochs(2, []ring.NodeID{holder}, w.layout, next)
	if err := send(2); !refusedBy(err) {
		t.Errorf("a removed sender: %v", err)
	}
}

// Nobody is left who could be told of what hints were dropped, and the marks hold nothing up.
func TestMarksOfATargetThatIsGoneAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 5)
		gone := node(1)
		ks := w.hint(gone, 5, 10)
		w.store.drop(gone, 1, 2)
		w.store.drop(node(9), 3)
		next := layoutOf(t, 2, 0, 2, 3, 4)
		w.atEpochs(2, nil, next)
		x := w.worker()
		defer x.Close()
		w.drained(time.Minute, gone)
		w.everyPrimaryHas(next, ks, 10)
		w.until(time.Minute, "forgotten", func() bool { return len(w.store.DroppedTargets()) == 0 })
		if n := len(w.seen(EndpointDropped)); n > 0 {
			t.Errorf("%d calls", n)
		}
	})
}
