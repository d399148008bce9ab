package cluster

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

func TestADecidedEpochIsKnownAfterACrash(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		cfg := w.config("d", abc)
		cfg.Prepare = func(context.Context, *ring.Epochs) error { return errors.New("never prepared") }
		d := w.start(cfg, addrOf(4))
		w.await(time.Minute, "heard", func() bool { return d.Heard() == 2 })
		if d.Epochs() != nil || nodes[0].Epochs().FullySettled() {
			t.Error("it goes by an epoch that it is not prepared for")
		}
		w.kill(d)
		cfg.Prepare = nil
		d = w.start(cfg, addrOf(4))
		if d.Heard() != 2 {
			t.Errorf("heard of epoch %d", d.Heard())
		}
		w.awaitEpoch(time.Minute, 2, append(nodes, d)...)
	})
}

func TestOfTwoChangesAtOnceOneWins(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.four()
		type result struct {
			l   ring.Layout
			err error
		}
		results := make(chan result)
		for i, weight := range []int{2, 3} {
			go func() {
				l, err := nodes[i].Apply(t.Context(), Request{Action: ActionUpdate, Node: "c", Weight: weight})
				results <- result{l, err}
			}()
		}
		first, second := <-results, <-results
		if first.err != nil {
			first, second = second, first
		}
		conflict, ok := errors.AsType[*ConflictError](second.err)
		if first.err != nil || !ok || conflict.Layout.Hash() != first.l.Hash() {
			t.Fatalf("%v and %v", first.err, second.err)
		}
		w.awaitEpoch(time.Minute, 3, nodes...)
	})
}

// Of the two sides of a split the majority can change the layout; the other learns it afterwards.
func TestOnlyAMajorityChangesTheLayout(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		w.apart(nodes[:1], nodes[1:])
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if _, err := nodes[0].Apply(ctx, Request{Action: ActionUpdate, Node: "a", Weight: 5}); !errors.Is(err, ErrNoMajority) {
			t.Fatal(err)
		}
		l := apply(t, nodes[1], Request{Action: ActionUpdate, Node: "a", Weight: 2})
		if nodes[0].Ring().Epoch() != 1 || nodes[1].Epochs().Settled() != 1 {
			t.Error("the split was no obstacle")
		}
		w.together()
		w.awaitEpoch(2*time.Minute, l.Epoch, nodes...)
	})
}

func TestAChangeIsCancelled(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		cfg := w.config("d", abc)
		cfg.Incomplete = func(e *ring.Epochs) error {
			if len(e.Filling(cfg.Self)) > 0 {
				return errors.New("never filled")
			}
			return nil
		}
		d := w.start(cfg, addrOf(4))
		w.await(time.Minute, "two epochs", func() bool { return d.Epochs() != nil })
		before := nodes[0].Ring()
		apply(t, nodes[0], Request{Action: ActionCancel})
		w.awaitEpoch(2*time.Minute, 3, nodes...)
		if ring.Moved(before, nodes[0].Ring()) != 0 {
			t.Error("partitions moved")
		}
	})
}

// A node whose joining was taken back before it was prepared for its first epoch is waited for all the same.
func TestAJoinIsCancelledBeforeTheNodeIsPrepared(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		var may atomic.Bool
		cfg := w.config("d", abc)
		cfg.Prepare = func(context.Context, *ring.Epochs) error {
			if !may.Load() {
				return errors.New("not yet")
			}
			return nil
		}
		d := w.start(cfg, addrOf(4))
		w.await(time.Minute, "it is let in", func() bool { return nodes[0].Epochs().Changing() })
		time.Sleep(5 * time.Second)
		apply(t, nodes[0], Request{Action: ActionCancel})
		time.Sleep(5 * time.Second)
		may.Store(true)
		w.awaitEpoch(2*time.Minute, 3, nodes...)
		w.awaitText(time.Minute, d, "has left the cluster")
	})
}

// Who is stopped for good can be taken out however many changes wait for it.
func TestARemovalIsPossibleWhileTooManyChangesAreUnderWay(t *testing.T) {
	for name, auto := range map[string]bool{"removed": false, "replaced by its own setting": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				cfgs, nodes := w.four()
				w.kill(nodes[3])
				w.await(time.Minute, "dead", func() bool { return !nodes[0].Alive(cfgs[3].Self) })
				for weight := 2; weight <= maxLive; weight++ {
					apply(t, nodes[0], Request{Action: ActionUpdate, Node: "a", Weight: weight})
				}
				w.await(time.Minute, "all know of it", func() bool { return len(nodes[1].Epochs().Rings()) == maxLive })
				_, err := nodes[1].Apply(t.Context(), Request{Action: ActionUpdate, Node: "a", Weight: 9})
				if !errors.Is(err, ErrTooMany) {
					t.Fatalf("one more: %v", err)
				}
				now := nodes[:3]
				if auto {
					wiped := w.config("d", abc)
					wiped.Self, wiped.Replace = nodeID("d, wiped"), true
					now = append(slices.Clone(now), w.start(wiped, addrOf(4)))
				} else {
					apply(t, nodes[1], Request{Action: ActionRemove, Node: "d"})
				}
				w.awaitEpoch(2*time.Minute, uint64(maxLive+2), now...)
			})
		})
	}
}

// Who has left may be stopped before all have heard that it is through. The others forget it, and tell nobody of it.
func TestAMemberThatHasLeftIsNotWaitedForWhenOthersAreThrough(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.four()
		before := nodes[0].live().layouts[0]
		apply(t, nodes[0], Request{Action: ActionLeave, Node: "d"})
		w.awaitEpoch(time.Minute, 3, nodes[:3]...)
		w.awaitText(time.Minute, nodes[3], "has left the cluster")
		after := nodes[0].live().layouts[0]
		w.kill(nodes[3])
		w.kill(nodes[2])
		time.Sleep(5 * time.Minute) // nobody tells of it any more
		s := epochState{layouts: []ring.Layout{before, after}, settled: 3, table: progressTable{cfgs[3].Self: {3, 3, 2}}}
		for _, cfg := range cfgs[:3] {
			s.table[cfg.Self] = progress{3, 3, 3}
		}
		if err := cfgs[2].State.Save(keyEpochs, s.encode()); err != nil { // as it may have been when it crashed
			t.Fatal(err)
		}
		nodes[2] = w.start(cfgs[2], addrOf(3))
		if !nodes[2].Epochs().Changing() {
			t.Fatal("it knows already")
		}
		w.awaitEpoch(time.Minute, 3, nodes[:3]...)
	})
}
