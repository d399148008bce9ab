package cluster

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// caller calls the handlers of the other nodes of a world, as far as no cut is between them.
type caller struct {
	w    *world
	from *Cluster
}

var errCut = errors.New("cut off")

func (k *caller) Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	type result struct {
		b   []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		time.Sleep(2 * time.Millisecond)
		for _, c := range k.w.reachable(k.from) {
			if c.cfg.Self != to {
				continue
			}
			if err := c.Verify(k.from.cfg.Self, k.from.Hello()); err != nil {
				k.from.Refused(c.cfg.Self, err.Error())
				done <- result{nil, err}
				return
			}
			b, err := c.Handlers()[endpoint](ctx, k.from.cfg.Self, body)
			time.Sleep(2 * time.Millisecond)
			if !slices.Contains(k.w.reachable(c), k.from) {
				break
			}
			done <- result{b, err}
			return
		}
		<-ctx.Done()
		done <- result{nil, errCut}
	}()
	select {
	case r := <-done:
		return r.b, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// reachable are the nodes that run and that calls of one arrive at.
func (w *world) reachable(from *Cluster) (out []*Cluster) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, c := range w.running {
		if !w.dead[c] && !w.cut[[2]*Cluster{from, c}] {
			out = append(out, c)
		}
	}
	return out
}

// apart cuts all calls and all gossip between two sides.
func (w *world) apart(a, b []*Cluster) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, x := range a {
		for _, y := range b {
			w.cut[[2]*Cluster{x, y}], w.cut[[2]*Cluster{y, x}] = true, true
			w.net.Cut(x.gossipAddr, y.gossipAddr)
		}
	}
}

func (w *world) together() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
	w.net.HealAll()
}

func (w *world) kill(c *Cluster) {
	c.Kill()
	w.markDead(c)
}

func (w *world) markDead(c *Cluster) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dead[c] = true
}

// awaitEpoch waits until the nodes have only that epoch left.
func (w *world) awaitEpoch(d time.Duration, epoch uint64, nodes ...*Cluster) {
	w.t.Helper()
	w.await(d, "one epoch", func() bool {
		return !slices.ContainsFunc(nodes, func(c *Cluster) bool {
			e := c.Epochs()
			return e == nil || e.Changing() || e.Base().Epoch() != epoch
		})
	})
	w.oneLayout(nodes...)
}

// four starts three founders and a node that joins them.
func (w *world) four() (cfgs []Config, nodes []*Cluster) {
	w.t.Helper()
	cfgs, nodes = w.abc()
	cfgs = append(cfgs, w.config("d", abc))
	nodes = append(nodes, w.start(cfgs[3], addrOf(4)))
	w.awaitEpoch(time.Minute, 2, nodes...)
	return cfgs, nodes
}

func apply(t *testing.T, c *Cluster, req Request) ring.Layout {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := c.Apply(ctx, req)
	if err != nil {
		t.Fatalf("%s: %s %s: %v", c.cfg.Name, req.Action, req.Node, err)
	}
	return l
}

func TestANodeJoinsByItself(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.four()
		if l := nodes[0].Ring().Layout(); len(l.Members) != 4 || nodes[3].Ring().Owns(nodes[3].cfg.Self) == 0 {
			t.Fatalf("%d members", len(l.Members))
		}
		// It is one after a restart, too, and after one of all nodes at once.
		for _, n := range nodes {
			w.kill(n)
		}
		var again []*Cluster
		for i := range cfgs {
			again = append(again, w.start(cfgs[i], addrOf(i+1)))
		}
		w.awaitReady(time.Minute, again...)
		w.awaitEpoch(time.Minute, 2, again...)
	})
}

func TestNodesThatJoinAtOnceMakeOneEpoch(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		for i, name := range []string{"d", "e", "f"} {
			nodes = append(nodes, w.start(w.config(name, abc), addrOf(4+i)))
		}
		w.awaitEpoch(time.Minute, 2, nodes...)
		if n := len(nodes[0].Ring().Layout().Members); n != 6 {
			t.Fatalf("%d members", n)
		}
	})
}

func TestAMemberLeaves(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.four()
		apply(t, nodes[0], Request{Action: ActionLeave, Node: "c"})
		left := []*Cluster{nodes[0], nodes[1], nodes[3]}
		w.awaitEpoch(time.Minute, 3, left...)
		w.awaitText(time.Minute, nodes[2], "has left the cluster")
		w.neverReady(time.Minute, nodes[2])
		w.stop(nodes[2])
		w.markDead(nodes[2])
		// It can come back as it was only with an empty directory.
		again := w.start(nodes[2].cfg, addrOf(3))
		w.awaitText(time.Minute, again, "has left the cluster")
	})
}

// A member that leaves tells the others that it reads by the new epoch before it ends, so that they need not wait for it
// when it is stopped the moment that it has left; also if it left while it was still joining.
func TestWhoHasLeftCanBeStoppedAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		d := w.start(w.config("d", abc), addrOf(4))
		w.await(time.Minute, "joining", func() bool { return d.Epochs() != nil })
		apply(t, nodes[0], Request{Action: ActionLeave, Node: "d"})
		w.awaitText(time.Minute, d, "has left the cluster")
		w.kill(d)
		w.awaitEpoch(time.Minute, 3, nodes...)
	})
}

// An id that was removed is refused by every handshake, and the node learns why.
func TestARemovedNodeIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.four()
		w.kill(nodes[3])
		w.await(time.Minute, "dead", func() bool { return !nodes[0].Alive(cfgs[3].Self) })
		apply(t, nodes[0], Request{Action: ActionRemove, Node: "d"})
		w.awaitEpoch(time.Minute, 3, nodes[:3]...)
		d := w.start(cfgs[3], addrOf(4))
		w.awaitText(time.Minute, d, "removed from the cluster")
		if nodes[0].Alive(cfgs[3].Self) {
			t.Error("a removed node counts as alive")
		}
	})
}

func TestAMemberThatAnswersIsNotRemoved(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		for _, action := range []Action{ActionRemove, ActionReplace} {
			if _, err := nodes[0].Apply(t.Context(), Request{Action: action, Node: "b"}); !errors.Is(err, ErrRequest) {
				t.Errorf("%s: %v", action, err)
			}
		}
		if _, err := nodes[0].Apply(t.Context(), Request{Action: ActionLeave, Node: "x"}); !errors.Is(err, ErrRequest) {
			t.Errorf("unknown: %v", err)
		}
		if nodes[0].Ring().Epoch() != 1 {
			t.Error("the layout changed")
		}
	})
}

func TestAWipedMemberIsReplaced(t *testing.T) {
	for name, auto := range map[string]bool{"by an operator": false, "by its own setting": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				cfgs, nodes := w.abc()
				owned := nodes[0].Ring().Owned(cfgs[1].Self)
				w.kill(nodes[1])
				wiped := w.config("b", abc)
				wiped.Self, wiped.Replace = nodeID("b, wiped"), auto
				b := w.start(wiped, addrOf(2))
				if !auto {
					w.awaitText(time.Minute, b, "dunlin replace b", "--replace")
					apply(t, nodes[2], Request{Action: ActionReplace, Node: "b"})
				}
				w.awaitEpoch(time.Minute, 2, nodes[0], b, nodes[2])
				if got := b.Ring().Owned(wiped.Self); !slices.Equal(got, owned) {
					t.Errorf("it owns %d partitions, the one before owned %d", len(got), len(owned))
				}
				// The old directory turns up again.
				old := w.start(cfgs[1], addrOf(7))
				w.awaitText(time.Minute, old, "removed from the cluster")
			})
		})
	}
}

// The operator is quicker than the new node, which has heard of no layout yet and has not asked for anything.
func TestAWipedMemberIsReplacedBeforeItAsks(t *testing.T) {
	for name, crashes := range map[string]bool{"and goes on": false, "and crashes": true} {
		t.Run(name, func(t *testing.T) { replacedBeforeItAsks(t, crashes) })
	}
}

func replacedBeforeItAsks(t *testing.T, crashes bool) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.abc()
		w.kill(nodes[1])
		w.await(time.Minute, "dead", func() bool { return !nodes[2].Alive(cfgs[1].Self) })
		wiped := w.config("b", abc)
		wiped.Self = nodeID("b, wiped")
		b := w.start(wiped, addrOf(2))
		w.await(time.Minute, "it is known", func() bool {
			time.Sleep(10 * time.Millisecond)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := nodes[2].Apply(ctx, Request{Action: ActionReplace, Node: "b"})
			return err == nil
		})
		for _, n := range []*Cluster{nodes[0], nodes[2]} {
			n.mu.Lock()
			asked := len(n.joins)
			n.mu.Unlock()
			if asked > 0 {
				t.Fatal("it had asked before, so this tests nothing")
			}
		}
		if crashes { // before it has heard of that
			w.kill(b)
			b = w.start(wiped, addrOf(2))
		}
		w.awaitEpoch(time.Minute, 2, nodes[0], b, nodes[2])
	})
}

// Reads and writes never wait for a change, but a change waits for the writes that ignore it.
func TestAnEpochSettlesWhenNoWriteGoesByOlderOnes(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		e, done := nodes[1].Begin()
		d := w.start(w.config("d", abc), addrOf(4))
		w.await(time.Minute, "two epochs", func() bool { return nodes[0].Epochs().Changing() })
		time.Sleep(time.Minute)
		for _, n := range append(nodes, d) {
			if got := n.Epochs(); !got.Changing() || got.FullySettled() {
				t.Fatalf("%s went on without the write: settled %d", n.cfg.Name, got.Settled())
			}
		}
		if e.Changing() {
			t.Error("the snapshot of an operation changed")
		}
		if p := nodes[0].Progress(); len(p.Waiting) != 1 {
			t.Errorf("progress: %+v", p)
		}
		done()
		w.awaitEpoch(time.Minute, 2, append(nodes, d)...)
	})
}

// The epoch does not end before a node holds what is its own, and its reads go by the old one until then.
func TestReadsGoByTheOldEpochUntilAllIsHeld(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		cfg := w.config("d", abc)
		var filled atomic.Bool
		cfg.Incomplete = func(e *ring.Epochs) error {
			if !e.FullySettled() {
				t.Error("asked before the epoch had settled")
			}
			if filled.Load() {
				return nil
			}
			return errors.New("not filled yet")
		}
		d := w.start(cfg, addrOf(4))
		all := append(nodes, d)
		w.await(time.Minute, "settled", func() bool {
			return !slices.ContainsFunc(all, func(c *Cluster) bool { e := c.Epochs(); return e == nil || !e.FullySettled() })
		})
		time.Sleep(time.Minute)
		for _, n := range all {
			if n.Ring().Epoch() != 1 {
				t.Fatalf("%s reads by epoch %d", n.cfg.Name, n.Ring().Epoch())
			}
		}
		filled.Store(true)
		w.awaitEpoch(time.Minute, 2, all...)
	})
}

// A node is prepared for an epoch before any operation can go by it, and again after a crash in the middle.
func TestANodeIsPreparedForAnEpochFirst(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		cfg := w.config("d", abc)
		var self atomic.Pointer[Cluster]
		var tries atomic.Int32
		cfg.Prepare = func(_ context.Context, e *ring.Epochs) error {
			if d := self.Load(); d.Epochs() != nil || len(e.Filling(cfg.Self)) == 0 {
				t.Error("operations go by the epoch already, or it has nothing to be filled with")
			}
			if tries.Add(1) < 3 {
				return errors.New("the old owners do not answer")
			}
			return nil
		}
		d := w.start(cfg, addrOf(4))
		self.Store(d)
		w.awaitEpoch(time.Minute, 2, append(nodes, d)...)
		if tries.Load() != 3 {
			t.Errorf("prepared %d times", tries.Load())
		}
	})
}

// Two nodes that gain partitions of each other ask each other while both prepare, and after a crash they still know what
// they said.
func TestNodesThatPrepareAnswerEachOther(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.four()
		for _, n := range nodes {
			w.kill(n)
		}
		var again []*Cluster
		var asked atomic.Int32
		for i := range cfgs {
			cfgs[i].Prepare = func(ctx context.Context, e *ring.Epochs) error {
				asked.Add(1)
				for _, n := range w.reachable(nil) {
					if err := n.Hear(ctx, cfgs[i].Self, e.Newest().Epoch()); err != nil {
						return err
					}
				}
				return nil
			}
		}
		for i := range cfgs {
			again = append(again, w.start(cfgs[i], addrOf(i+1)))
		}
		w.awaitReady(time.Minute, again...)
		w.awaitWhole(time.Minute, again...)
		apply(t, again[0], Request{Action: ActionUpdate, Node: "a", Weight: 3})
		w.awaitEpoch(time.Minute, 3, again...)
		if asked.Load() < 4 {
			t.Errorf("%d of 4 prepared", asked.Load())
		}
	})
}

// A store cannot take another number of partitions.
func TestANodeWithOtherPartitionsReplacesNobody(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		w.kill(nodes[1])
		wiped := w.config("b", abc)
		wiped.Self, wiped.Partitions = nodeID("b, wiped"), 2*wiped.Partitions
		b := w.start(wiped, addrOf(2))
		w.awaitText(time.Minute, b, "partitions")
		w.await(time.Minute, "the old one is dead", func() bool { return !nodes[0].Alive(nodes[1].cfg.Self) })
		_, err := nodes[0].Apply(t.Context(), Request{Action: ActionReplace, Node: "b"})
		if !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), "--partitions") {
			t.Error(err)
		}
	})
}

// A change during which a member crashes waits for it, and goes on when it is back, or is removed.
func TestACrashedMemberHoldsAChangeUp(t *testing.T) {
	for name, removed := range map[string]bool{"until it is back": false, "until it is removed": true} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				cfgs, nodes := w.four()
				w.kill(nodes[3])
				w.await(time.Minute, "dead", func() bool { return !nodes[0].Alive(cfgs[3].Self) })
				apply(t, nodes[0], Request{Action: ActionUpdate, Node: "a", Weight: 3})
				time.Sleep(5 * time.Minute)
				for _, n := range nodes[:3] {
					if !n.Epochs().Changing() || n.Ready() != nil {
						t.Fatalf("%s went on without a member, or does not serve", n.cfg.Name)
					}
				}
				if removed {
					apply(t, nodes[1], Request{Action: ActionRemove, Node: "d"})
					w.awaitEpoch(2*time.Minute, 4, nodes[:3]...)
					return
				}
				nodes[3] = w.start(cfgs[3], addrOf(4))
				w.awaitEpoch(2*time.Minute, 3, nodes...)
			})
		})
	}
}

// A member whose files of the cluster are lost is not the same node any more, even if its id is.
func TestAMemberWithoutItsFilesDoesNotGoOn(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.four()
		w.kill(nodes[3])
		state := cfgs[3].State.(*memState)
		state.files = map[string][]byte{keyStarts: state.files[keyStarts]}
		d := w.start(cfgs[3], addrOf(4))
		w.awaitText(time.Minute, d, "files were lost")
		w.neverReady(time.Minute, d)
	})
}

func TestEpochsAreReadStrictly(t *testing.T) {
	l := ring.Layout{Epoch: 3, Cluster: "c", ClusterID: [16]byte{1}, Partitions: 8, N: 1, Members: []ring.Member{{ID: nodeID("a"), Name: "a", Weight: 1}}}
	next := l
	next.Epoch = 4
	s := epochState{layouts: []ring.Layout{l, next}, settled: 3, table: progressTable{nodeID("a"): {4, 3, 3}}}
	b := s.encode()
	got, err := decodeEpochs(b)
	if err != nil || got.settled != 3 || len(got.layouts) != 2 || got.table[nodeID("a")] != (progress{4, 3, 3}) {
		t.Fatalf("%+v, %v", got, err)
	}
	for i := range b {
		if _, err := decodeEpochs(b[:i]); err == nil {
			t.Errorf("%d of %d bytes are taken", i, len(b))
		}
	}
	for name, layouts := range map[string][]ring.Layout{"none": nil, "twice": {l, l}, "backward": {next, l}} {
		if _, err := decodeEpochs(epochState{layouts: layouts}.encode()); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func FuzzEpochs(f *testing.F) {
	l := ring.Layout{Epoch: 1, Cluster: "c", ClusterID: [16]byte{1}, Partitions: 8, N: 1, Members: []ring.Member{{ID: nodeID("a"), Name: "a", Weight: 1}}}
	f.Add(firstEpochs(l).encode())
	f.Add((&joinRequest{member: l.Members[0], replace: true}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := decodeEpochs(b); err == nil && len(s.layouts) == 0 {
			t.Error("no layout and no error")
		}
		_, _ = decodeJoin(b)
	})
}
