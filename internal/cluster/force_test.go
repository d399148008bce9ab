package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// members starts some founders, called a, b and so on.
func (w *world) members(n int) (cfgs []Config, nodes []*Cluster) {
	w.t.Helper()
	var seeds []string
	for i := range n {
		seeds = append(seeds, fmt.Sprintf("%c@%s", 'a'+i, addrOf(i+1)))
	}
	for i := range n {
		cfgs = append(cfgs, w.config(string(rune('a'+i)), strings.Join(seeds, ",")))
		nodes = append(nodes, w.start(cfgs[i], addrOf(i+1)))
	}
	w.awaitReady(time.Minute, nodes...)
	w.awaitWhole(time.Minute, nodes...)
	return cfgs, nodes
}

func (w *world) lose(seenBy []*Cluster, nodes ...*Cluster) {
	w.t.Helper()
	for _, n := range nodes {
		w.kill(n)
	}
	w.awaitDown(seenBy, nodes...)
}

func (w *world) awaitDown(seenBy []*Cluster, nodes ...*Cluster) {
	w.t.Helper()
	w.await(time.Minute, "seen as down", func() bool {
		return !slices.ContainsFunc(seenBy, func(s *Cluster) bool {
			return slices.ContainsFunc(nodes, func(n *Cluster) bool { return s.Alive(n.cfg.Self) })
		})
	})
}

// goneOn are five members of whom a and b, which are left, have gone on by force without the others, which are dead.
func (w *world) goneOn() (cfgs []Config, nodes, left []*Cluster) {
	w.t.Helper()
	cfgs, nodes = w.members(5)
	left = nodes[:2]
	w.lose(left, nodes[2:]...)
	apply(w.t, nodes[0], forced("c,d,e"))
	w.awaitEpoch(2*time.Minute, 2, left...)
	return cfgs, nodes, left
}

func forced(names string) Request { return Request{Action: ActionRemove, Node: names, Force: true} }

func TestAMajorityIsGivenUp(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.members(5)
		left := nodes[:2]
		w.lose(left, nodes[2:]...)
		short, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if _, err := nodes[0].Apply(short, Request{Action: ActionRemove, Node: "c"}); !errors.Is(err, ErrNoMajority) || !strings.Contains(err.Error(), "dunlin remove --force") {
			t.Fatalf("without a majority: %v", err)
		}
		now, then, err := nodes[1].Plan(forced("c,d,e"))
		if err != nil || now.Epoch() != 1 || then.Epoch() != 2 || len(then.Members()) != 2 {
			t.Fatalf("plan: %v", err)
		}
		l := apply(t, nodes[0], forced("c,d,e"))
		if l.Epoch != 2 || len(l.Lineages) != 1 || len(l.Removed) != 3 {
			t.Fatalf("%+v", l)
		}
		w.awaitEpoch(2*time.Minute, 2, left...)
		w.awaitReady(time.Minute, left...)
		apply(t, nodes[1], Request{Action: ActionUpdate, Node: "a", Weight: 2}) // they decide by themselves again
		w.awaitEpoch(2*time.Minute, 3, left...)

		// One comes back with its old disk. It is refused, also after a restart, and also out of reach of the others.
		c := w.start(cfgs[2], addrOf(3))
		w.await(time.Minute, "it is out of service", func() bool { return c.Ready() != nil })
		w.awaitText(time.Minute, c, "empty directory")
		w.await(time.Minute, "that is on its disk", func() bool { return cfgs[2].State.(*memState).saved(keyBehind) > 0 })
		for _, n := range left {
			if n.Alive(c.cfg.Self) || n.Ready() != nil {
				t.Errorf("%s: the one given up is alive, or it does not serve: %v", n.cfg.Name, n.Ready())
			}
		}
		w.kill(c)
		c = w.start(cfgs[2], addrOf(3))
		w.apart(left, []*Cluster{c})
		time.Sleep(time.Minute)
		if err := c.Ready(); err == nil || !strings.Contains(err.Error(), "left behind: a, b went on without this node") {
			t.Errorf("out of reach: %v", err)
		}
		// A new node of its name joins.
		wiped := w.config("f", abc)
		f := w.start(wiped, addrOf(6))
		w.awaitEpoch(2*time.Minute, 4, append(slices.Clone(left), f)...)
	})
}

// A peer may refuse a node that was given up before gossip has told it why: that it was left behind is stored all the same.
func TestWhoWasRefusedFirstIsLeftBehindForGood(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes, _ := w.goneOn()
		c, err := New(cfgs[2])
		if err != nil {
			t.Fatal(err)
		}
		err = nodes[0].Verify(c.cfg.Self, c.Hello())
		if !errors.Is(err, ErrRemoved) {
			t.Fatal(err)
		}
		c = w.start(cfgs[2], addrOf(3))
		c.Refused(nodes[0].cfg.Self, err.Error())
		w.await(2*time.Minute, "that is on its disk", func() bool { return cfgs[2].State.(*memState).saved(keyBehind) > 0 })
		w.awaitText(time.Minute, c, "left behind: a, b went on without this node")
	})
}

// The lost side comes back as a whole, out of reach of the others, and decides on: it is a majority of what was. When the
// two meet, nobody is dragged back, and what it decided is not taken up.
func TestALostSideThatComesBackDragsNobodyBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes, left := w.goneOn()
		want := nodes[0].Ring().Layout().Hash()
		var lost []*Cluster
		for i := 2; i < 5; i++ {
			lost = append(lost, w.start(cfgs[i], addrOf(i+1)))
			w.apart(left, lost[i-2:])
		}
		w.awaitReady(time.Minute, lost...)
		w.await(time.Minute, "they see each other", func() bool { return lost[0].Alive(lost[1].cfg.Self) && lost[0].Alive(lost[2].cfg.Self) })
		for _, name := range []string{"a", "b"} {
			apply(t, lost[0], Request{Action: ActionRemove, Node: name})
		}
		w.await(2*time.Minute, "they have gone on", func() bool {
			return !slices.ContainsFunc(lost, func(c *Cluster) bool { e := c.Epochs(); return e.Changing() || e.Base().Epoch() != 3 })
		})
		joined := w.start(w.config("g", "c@10.0.0.3:7000"), addrOf(7)) // and somebody has joined them
		w.apart(left, []*Cluster{joined})
		w.await(2*time.Minute, "joined", func() bool { return joined.Ready() == nil })
		lost = append(lost, joined)
		w.together()
		for _, c := range lost {
			w.awaitText(2*time.Minute, c, "empty directory")
		}
		time.Sleep(2 * time.Minute)
		for _, n := range left {
			if n.Ready() != nil || n.Ring().Layout().Hash() != want {
				t.Errorf("%s: %v", n.cfg.Name, n.Ready())
			}
			for _, c := range lost {
				if err := n.Verify(c.cfg.Self, c.Hello()); err == nil {
					t.Errorf("%s takes %s in", n.cfg.Name, c.cfg.Name)
				}
			}
		}
	})
}

// Both sides of a split are forced. Each goes on for itself, neither takes the other for a part of it, and both say so.
func TestTwoForcedSidesStayApart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.members(4)
		one, two := nodes[:2], nodes[2:]
		w.apart(one, two)
		w.awaitDown(one, two...)
		w.awaitDown(two, one...)
		apply(t, one[0], forced("c,d"))
		apply(t, two[1], forced("b,a"))
		w.awaitEpoch(2*time.Minute, 2, one...)
		w.awaitEpoch(2*time.Minute, 2, two...)
		if one[0].Apart() != "" {
			t.Error("told of what nobody can know yet")
		}
		w.together()
		for i, n := range nodes {
			w.await(2*time.Minute, n.cfg.Name+" says that there are two", func() bool { return strings.Contains(n.Apart(), "two sides were forced apart") })
			other := nodes[(i+2)%4]
			if n.Ready() != nil || n.Alive(other.cfg.Self) || n.Ring().Layout().Hash() == other.Ring().Layout().Hash() {
				t.Errorf("%s: %v", n.cfg.Name, n.Ready())
			}
			if err := n.Verify(other.cfg.Self, other.Hello()); !errors.Is(err, ErrApart) {
				t.Errorf("%s to %s: %v", n.cfg.Name, other.cfg.Name, err)
			}
		}
		w.lose(nil, two...)
		time.Sleep(3 * apartFor)
		if text := one[0].Apart(); text != "" {
			t.Errorf("the other side is gone: %s", text)
		}
	})
}

// Two operators at once, or one after the other: one forced removal is made.
func TestForcedRemovalsAtOnceAreOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.members(5)
		left := nodes[:2]
		w.lose(left, nodes[2:]...)
		var wg sync.WaitGroup
		errs := make([]error, 2)
		for i, n := range left {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				_, errs[i] = n.Apply(ctx, forced("c,d,e"))
			})
		}
		wg.Wait()
		if errs[0] == nil && errs[1] == nil {
			t.Error("both were made")
		}
		time.Sleep(time.Minute)
		if errs[0] != nil && errs[1] != nil { // neither: each was promised to itself first
			for _, err := range errs {
				if !errors.Is(err, ErrRequest) {
					t.Error(err)
				}
			}
			apply(t, nodes[1], forced("c,d,e"))
		}
		w.awaitEpoch(2*time.Minute, 2, left...)
	})
}

func TestForcedRemovalsThatAreRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.members(5)
		left := nodes[:2]
		refusals := func(at *Cluster, texts map[string]string) {
			t.Helper()
			for names, text := range texts {
				if _, err := at.Apply(t.Context(), forced(names)); !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), text) {
					t.Errorf("%s: %v", names, err)
				}
			}
		}
		refusals(nodes[0], map[string]string{"c,d,e": "answers"})
		w.lose(left, nodes[2:]...)
		refusals(nodes[0], map[string]string{
			"c,d": "e does not answer either", "c,d,x": "no member is called \"x\"", "c,c,d": "twice", "b,c,d,e": "b answers", "": "no member",
		})
		breaks := func(n *Cluster, name string) {
			state := n.cfg.State.(*memState)
			state.mu.Lock()
			defer state.mu.Unlock()
			state.broken = name
		}
		breaks(nodes[1], keyPromise)
		refusals(nodes[0], map[string]string{"c,d,e": "b: storing a promise"}) // it cannot promise
		breaks(nodes[1], "")
		breaks(nodes[0], keyHeard)
		if _, err := nodes[0].Apply(t.Context(), forced("c,d,e")); err == nil {
			t.Error("decided without being stored")
		}
		breaks(nodes[0], "")
		time.Sleep(time.Minute)
		for _, n := range left {
			if n.promised() != nil || n.live().newest().Epoch != 1 {
				t.Errorf("%s: something is left of what was refused", n.cfg.Name)
			}
		}
	})
}

// A promise binds: who gave it votes on nothing else, whoever comes back, until its proposer is asked, or given up itself.
func TestAPromiseBinds(t *testing.T) {
	for name, proposerBack := range map[string]bool{"the proposer comes back": true, "the proposer is given up": false} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				cfgs, nodes := w.members(5)
				a, b := nodes[0], nodes[1]
				w.lose(nodes[:2], nodes[2:]...)
				s := a.decidedState()
				next, err := a.plannedForce([]string{"c", "d", "e"}, *s.newest(), s.layouts)
				if err != nil {
					t.Fatal(err)
				}
				if err := a.gatherPromises(t.Context(), next); err != nil {
					t.Fatal(err)
				}
				w.lose(nodes[1:2], a) // before it has stored its decision, or after: b cannot know
				var back []*Cluster
				for _, i := range []int{2, 3} {
					back = append(back, w.start(cfgs[i], addrOf(i+1)))
				}
				w.await(time.Minute, "they are back", func() bool { return b.Alive(cfgs[2].Self) && b.Alive(cfgs[3].Self) && back[0].Alive(b.cfg.Self) })
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				if _, err := back[0].Apply(ctx, Request{Action: ActionUpdate, Node: "c", Weight: 2}); !errors.Is(err, ErrNoMajority) {
					t.Fatalf("decided with a vote that was promised: %v", err)
				}
				if proposerBack {
					nodes[0] = w.start(cfgs[0], addrOf(1))
					w.await(2*time.Minute, "the promise is over", func() bool { return b.promised() == nil && nodes[0].promised() == nil })
					apply(t, back[0], Request{Action: ActionUpdate, Node: "c", Weight: 3})
					w.awaitEpochAtLeast(2*time.Minute, 2, b)
					return
				}
				w.lose(nodes[1:2], back...)
				apply(t, b, forced("a,c,d,e"))
				w.awaitEpoch(2*time.Minute, 2, b)
			})
		})
	}
}

// The lost come back, a majority of what was, and decide without the one that has promised. It does not follow: the
// removal may have been decided. It does once the proposer is there to say that it was not.
func TestAPromiseBindsAgainstWhatOthersDecide(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.members(5)
		a, b := nodes[0], nodes[1]
		w.lose(nodes[:2], nodes[2:]...)
		s := a.decidedState()
		next, err := a.plannedForce([]string{"c", "d", "e"}, *s.newest(), s.layouts)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.gatherPromises(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		w.lose(nodes[1:2], a)
		var back []*Cluster
		for i := 2; i < 5; i++ {
			back = append(back, w.start(cfgs[i], addrOf(i+1)))
		}
		w.awaitWhole(time.Minute, append(slices.Clone(back), b)...)
		apply(t, back[0], Request{Action: ActionUpdate, Node: "c", Weight: 2})
		time.Sleep(2 * time.Minute)
		if e := b.Epochs().Newest(); e.Epoch() != 1 {
			t.Fatalf("it follows to epoch %d", e.Epoch())
		}
		a = w.start(cfgs[0], addrOf(1))
		w.awaitEpoch(3*time.Minute, 2, append(slices.Clone(back), a, b)...)
	})
}

// The proposer decides and dies before anybody hears of it, and is given up with the others. When it comes back it is of a
// lineage of its own, in which it counts in who has given it up: it stops, and the other goes on as if alone.
func TestAProposerThatWasGivenUpStops(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.members(5)
		a, b := nodes[0], nodes[1]
		w.lose(nodes[:2], nodes[2:]...)
		s := a.decidedState()
		next, err := a.plannedForce([]string{"c", "d", "e"}, *s.newest(), s.layouts)
		if err != nil {
			t.Fatal(err)
		}
		if err := a.gatherPromises(t.Context(), next); err != nil {
			t.Fatal(err)
		}
		s.layouts = append(s.layouts, next)
		if err := a.note(s); err != nil {
			t.Fatal(err)
		}
		w.lose(nodes[1:2], a)
		apply(t, b, forced("a,c,d,e"))
		w.awaitEpoch(2*time.Minute, 2, b)
		a = w.start(cfgs[0], addrOf(1))
		w.awaitText(2*time.Minute, a, "left behind: b went on without this node")
		time.Sleep(time.Minute)
		if b.Ready() != nil || b.Apart() != "" || b.Alive(a.cfg.Self) {
			t.Errorf("b: %v, apart %q", b.Ready(), b.Apart())
		}
	})
}

func (w *world) awaitEpochAtLeast(d time.Duration, epoch uint64, nodes ...*Cluster) {
	w.t.Helper()
	w.await(d, "an epoch", func() bool {
		return !slices.ContainsFunc(nodes, func(c *Cluster) bool { return c.Epochs().Newest().Epoch() < epoch })
	})
}

// A change that was under way when the majority was lost is a part of what goes on.
func TestAChangeUnderWayIsForcedToo(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.members(5)
		left := nodes[:2]
		w.lose(nodes[:4], nodes[4])
		apply(t, nodes[0], Request{Action: ActionUpdate, Node: "a", Weight: 3}) // it waits for e
		w.await(time.Minute, "all know it", func() bool {
			return !slices.ContainsFunc(nodes[:4], func(c *Cluster) bool { return c.Epochs().Newest().Epoch() != 2 })
		})
		w.lose(left, nodes[2:4]...)
		l := apply(t, nodes[1], forced("c,d,e"))
		if m, _ := l.Member(nodeID("a")); l.Epoch != 3 || m.Weight != 3 {
			t.Fatalf("%+v", l)
		}
		w.awaitEpoch(2*time.Minute, 3, left...)
	})
}

func TestForceFormats(t *testing.T) {
	l := ring.Layout{Epoch: 3, Cluster: "c", ClusterID: [16]byte{1}, Partitions: 8, N: 1, Members: []ring.Member{{ID: nodeID("a"), Name: "a", Weight: 1}}, Lineages: [][16]byte{{7}}}
	m := forceMessage{forceCancel, l}
	got, err := decodeForce(m.encode())
	if err != nil || got.kind != forceCancel || got.layout.Hash() != l.Hash() {
		t.Errorf("%+v, %v", got, err)
	}
	p := &promise{nodeID("a"), l}
	back, err := decodePromise(p.encode())
	if err != nil || back.proposer != p.proposer || back.layout.Hash() != l.Hash() {
		t.Errorf("%+v, %v", back, err)
	}
	for i := range m.encode() {
		if _, err := decodeForce(m.encode()[:i]); err == nil {
			t.Errorf("%d bytes of a message are taken", i)
		}
	}
	for i := 1; i < len(p.encode()); i++ {
		if _, err := decodePromise(p.encode()[:i]); err == nil {
			t.Errorf("%d bytes of a promise are taken", i)
		}
	}
}
