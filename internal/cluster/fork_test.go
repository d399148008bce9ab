package cluster

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// Starts, crashes, wipes and cuts come in random order while three founders look for each other. One of them is
// never wiped, so it votes once and every layout that ever exists must be the same.
func TestNoOrderOfCrashesWipesAndCutsForksTheFirstEpoch(t *testing.T) {
	founded := 0
	for seed := range uint64(40) {
		inWorld(t, func(t *testing.T, w *world) {
			if c := newChaos(w, seed); c.run() {
				founded++
			}
		})
	}
	if founded < 10 { // most runs must get as far as a layout, or this proves nothing
		t.Fatalf("only %d of 40 runs founded a cluster", founded)
	}
}

type chaos struct {
	w     *world
	seed  uint64
	rand  *rand.Rand
	cfgs  []Config
	nodes []*Cluster // nil: down
	first *ring.Layout
	wipes int
}

func newChaos(w *world, seed uint64) *chaos {
	c := &chaos{w: w, seed: seed, rand: rand.New(rand.NewPCG(seed, 7)), nodes: make([]*Cluster, 3)}
	for _, name := range []string{"a", "b", "c"} {
		c.cfgs = append(c.cfgs, w.config(name, abc))
	}
	return c
}

func (c *chaos) run() bool {
	for range 40 {
		i := c.rand.IntN(3)
		switch op := c.rand.IntN(10); {
		case c.nodes[i] == nil:
			c.nodes[i] = c.w.start(c.cfgs[i], addrOf(i+1))
		case op == 0:
			c.kill(i)
		case op == 1 && i > 0:
			c.kill(i)
			c.wipes++
			c.cfgs[i].Self = nodeID(fmt.Sprintf("wiped %d", c.wipes))
			c.cfgs[i].State = newState()
		case op < 4:
			c.w.net.Cut(addrOf(i+1), addrOf((i+1)%3+1))
		case op < 6:
			c.w.net.HealAll()
		}
		for range c.rand.IntN(30) {
			time.Sleep(100 * time.Millisecond)
			c.check()
		}
	}
	return c.first != nil
}

func (c *chaos) kill(i int) {
	c.nodes[i].Kill()
	c.nodes[i] = nil
}

func (c *chaos) check() {
	c.w.t.Helper()
	for _, n := range c.nodes {
		if n == nil || n.Ring() == nil {
			continue
		}
		l := n.Ring().Layout()
		if c.first == nil {
			c.first = &l
		}
		if l.Hash() != c.first.Hash() {
			c.w.t.Fatalf("seed %d: two first layouts: %v and %v%s", c.seed, l.Members, c.first.Members, c.w.dump())
		}
	}
}

// Of a side that was given up, somebody is left of whom those who went on have never heard, by a layout with the number of
// theirs. It is kept out, and that there are two layouts of that number is no fork.
func TestAStrangerOfALostSideIsNoFork(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.members(5)
		left, rest := nodes[:2], nodes[2:]
		w.apart(left, rest)
		w.awaitDown(rest, left...)
		g := w.start(w.config("g", "a@10.0.0.1:7000,c@10.0.0.3:7000"), addrOf(7))
		w.apart(left, []*Cluster{g})
		w.await(2*time.Minute, "g is a member", func() bool { e := g.Epochs(); return e != nil && e.Newest().Epoch() == 2 })
		w.lose(left, rest...)
		apply(t, nodes[0], forced("c,d,e"))
		w.awaitEpoch(2*time.Minute, 2, left...)
		w.awaitReady(time.Minute, left...)
		w.together()
		for range 120 {
			time.Sleep(time.Second)
			for _, n := range left {
				if err := n.Ready(); err != nil {
					t.Fatal(err)
				}
			}
		}
		w.awaitText(time.Minute, g, "empty directory")
	})
}

// A member that leaves when a majority is lost is none of those that are left, and yet no stranger: it goes along with the
// forced removal, hands over, and has left.
func TestWhoLeavesGoesAlongWithAForcedRemoval(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.members(5)
		a, b := nodes[0], nodes[1]
		apply(t, b, Request{Action: ActionLeave, Node: "a"})
		for _, n := range nodes[2:] {
			w.kill(n)
		}
		w.awaitDown([]*Cluster{a, b}, nodes[2:]...)
		w.await(time.Minute, "a has heard that it leaves", func() bool { return a.Epochs() != nil && a.Epochs().Newest().Epoch() == 2 })
		apply(t, b, forced("c,d,e"))
		w.await(2*time.Minute, "b is alone", func() bool { return !b.Epochs().Changing() && b.Epochs().Base().Epoch() == 3 })
		w.awaitText(time.Minute, a, "this node has left the cluster (epoch 3)")
	})
}
