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
