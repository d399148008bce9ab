package cluster

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

func TestFoundersStartedAtOnceFoundOneCluster(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		w.oneLayout(nodes...)
		l := nodes[0].Ring().Layout()
		if l.Epoch != 1 || len(l.Members) != 3 || l.N != 3 || l.Partitions != 64 || l.Cluster != "dunlin" {
			t.Fatalf("layout %+v", l)
		}
		for _, c := range nodes {
			if addr, ok := c.Address(nodeID("b")); !ok || addr != "b:8100" {
				t.Fatalf("%s has address %q of b", c.cfg.Name, addr)
			}
			m := c.Members()
			if len(m) != 3 || m[0].Name != "a" || m[2].Name != "c" || m[1].State != StateMember || m[1].HTTPAddr != "b:8000" || m[1].GossipAddr != addrOf(2) {
				t.Fatalf("members %+v", m)
			}
		}
	})
}

func TestFoundersStartedMinutesApartInAnyOrder(t *testing.T) {
	for _, order := range [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}} {
		inWorld(t, func(t *testing.T, w *world) {
			nodes := make([]*Cluster, 3)
			for k, i := range order {
				name := string(rune('a' + i))
				nodes[i] = w.start(w.config(name, abc), addrOf(i+1))
				if k < 2 {
					w.neverReady(3*time.Minute, nodes[i])
				}
			}
			w.awaitReady(time.Minute, nodes...)
			w.oneLayout(nodes...)
		})
	}
}

func TestFoundersOverALossyNetwork(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.net.SetFaults(MemFaults{MinLatency: time.Millisecond, MaxLatency: 80 * time.Millisecond, Loss: 0.2, Duplicate: 0.2})
		var nodes []*Cluster
		for i, name := range []string{"a", "b", "c"} {
			nodes = append(nodes, w.start(w.config(name, abc), addrOf(i+1)))
		}
		w.awaitReady(2*time.Minute, nodes...)
		w.oneLayout(nodes...)
	})
}

func TestWaitingNamesTheMissingFounder(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start(w.config("a", abc), addrOf(1))
		b := w.start(w.config("b", abc), addrOf(2))
		w.awaitText(time.Minute, a, "waiting for founder c (10.0.0.3:7000)")
		w.awaitText(time.Minute, b, "waiting for founder c (10.0.0.3:7000)")
		w.neverReady(10*time.Minute, a, b)
		for _, c := range []*Cluster{a, b} {
			if c.metaNow().Vote != (digest{}) {
				t.Fatal("voted before all founders were heard")
			}
		}
	})
}

func TestNoSeedsIsAClusterOfOne(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfg := w.config("a", "")
		a := w.start(cfg, addrOf(1))
		if err := a.Ready(); err != nil {
			t.Fatal(err)
		}
		if l := a.Ring().Layout(); len(l.Members) != 1 || l.N != 3 || a.Ring().N() != 1 {
			t.Fatalf("layout %+v", l)
		}
		id := a.Ring().Layout().ClusterID
		a.Kill()
		again := w.start(cfg, addrOf(9))
		if again.Ready() != nil || again.Ring().Layout().ClusterID != id {
			t.Fatal("the restarted cluster of one is another one")
		}
	})
}

func TestFoundersWithDifferentSettingsBlockAndSayWhich(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(w *world, c *Config)
		words  []string
	}{
		{"n", func(_ *world, c *Config) { c.N = 2 }, []string{"node c differs", "n is 2 there, 3 here"}},
		{"partitions", func(_ *world, c *Config) { c.Partitions = 128 }, []string{"node c differs", "partitions are 128 there, 64 here"}},
		{"longer list", func(w *world, c *Config) {
			c.Seeds = w.config("c", abc+",d@10.0.0.4:7000").Seeds
		}, []string{"node c differs", "its seeds name a,b,c,d, here they name a,b,c"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				a, b := w.start(w.config("a", abc), addrOf(1)), w.start(w.config("b", abc), addrOf(2))
				wrong := w.config("c", abc)
				tt.change(w, &wrong)
				c := w.start(wrong, addrOf(3))
				for _, n := range []*Cluster{a, b} {
					w.awaitText(time.Minute, n, tt.words...)
				}
				w.awaitText(time.Minute, c, "node a differs", "node b differs")
				w.neverReady(5*time.Minute, a, b, c)

				// Nobody has voted, so the correction is enough.
				c.Kill()
				right := w.config("c", abc)
				right.State = wrong.State
				c = w.start(right, addrOf(3))
				w.awaitReady(2*time.Minute, a, b, c)
				w.oneLayout(a, b, c)
			})
		})
	}
}

// A's list is {a,b,c}, B's is {a,b}: B must not found with A alone.
func TestAShorterListDoesNotFoundWithoutTheRest(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start(w.config("a", abc), addrOf(1))
		b := w.start(w.config("b", "a@10.0.0.1:7000,b@10.0.0.2:7000"), addrOf(2))
		w.awaitText(time.Minute, b, "node a differs", "its seeds name a,b,c, here they name a,b")
		w.neverReady(5*time.Minute, a, b)
	})
}

// A votes for {a, B1, c} and founds as soon as C's vote is there; B is wiped before C has seen B1's vote.
func TestAFounderWipedDuringTheVoteCannotForkTheFirstEpoch(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start(w.config("a", abc), addrOf(1))
		b1cfg := w.config("b", abc)
		b1 := w.start(b1cfg, addrOf(2))
		w.net.Cut(addrOf(2), addrOf(3)) // c never hears B1
		c := w.start(w.config("c", abc), addrOf(3))
		// a and B1 hear all three through a; c hears of B1 by gossip through a, and of its vote.
		w.await(time.Minute, "a and b voted", func() bool {
			return a.metaNow().Vote != digest{} && b1.metaNow().Vote != digest{}
		})
		b1.Kill()
		w.net.Heal(addrOf(2), addrOf(3))
		b2cfg := w.config("b", abc)
		b2cfg.Self = nodeID("b, wiped")
		b2 := w.start(b2cfg, addrOf(2))
		w.neverReady(3*time.Minute, b2)
		for _, n := range []*Cluster{a, c} {
			if r := n.Ring(); r != nil {
				if _, ok := r.Layout().Member(nodeID("b")); !ok {
					t.Fatalf("%s founded with the wiped node", n.cfg.Name)
				}
			}
		}
		if a.Ring() != nil && c.Ring() != nil {
			w.oneLayout(a, c)
		}
	})
}

// C has heard neither B1 nor any vote when B comes back wiped: its vote would be for {a, B2, c}.
func TestAFounderThatHearsTheWipedNodeFirstDoesNotVoteAgainstTheOthers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		acfg := w.config("a", abc)
		// a has voted for B1 in an earlier life.
		v := newVote(&acfg, membersOf(w, "a", "b", "c"))
		acfg.State.(*memState).files[keyVote] = v.encode()
		a := w.start(acfg, addrOf(1))
		b2cfg := w.config("b", abc)
		b2cfg.Self = nodeID("b, wiped")
		b2 := w.start(b2cfg, addrOf(2))
		c := w.start(w.config("c", abc), addrOf(3))
		w.awaitText(time.Minute, c, "founder a has already voted", "founder b has id "+nodeID("b").String()+" there")
		w.awaitText(time.Minute, a, "founder b with id "+nodeID("b").String(), "wipe every founder")
		w.neverReady(5*time.Minute, a, b2, c)
		if c.metaNow().Vote != (digest{}) || b2.metaNow().Vote != (digest{}) {
			t.Fatal("a vote was cast that cannot win")
		}
	})
}

func TestRestartBetweenVoteAndFirstEpochKeepsTheVote(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs := []Config{w.config("a", abc), w.config("b", abc), w.config("c", abc)}
		v := newVote(&cfgs[0], membersOf(w, "a", "b", "c"))
		for _, cfg := range cfgs[:2] {
			cfg.State.(*memState).files[keyVote] = v.encode()
		}
		a := w.start(cfgs[0], addrOf(1))
		b := w.start(cfgs[1], addrOf(2))
		w.awaitText(time.Minute, a, "waiting for founder c", "has voted")
		a.Kill()
		cfgs[0].Weight = 7 // would be another vote, had this node not voted already
		a = w.start(cfgs[0], addrOf(1))
		w.neverReady(time.Minute, a, b)
		c := w.start(cfgs[2], addrOf(3))
		w.awaitText(time.Minute, c, "founder a has already voted", "weight 1 there, 7 here")
		a.Kill()
		cfgs[0].Weight = 1
		a = w.start(cfgs[0], addrOf(1))
		w.awaitReady(time.Minute, a, b, c)
		w.oneLayout(a, b, c)
		if got := digest(a.Ring().Layout().ClusterID); got != v.hash() {
			t.Fatalf("cluster id %s, the vote was %s", got, v.hash())
		}
	})
}

func TestALateFounderWithTheSameVoteCompletesFromOneThatHasALayout(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.abc()
		for _, n := range nodes {
			n.Kill()
		}
		files := cfgs[2].State.(*memState).files // c crashed between its vote and the layout
		delete(files, keyEpochs)
		files[keyJoin] = []byte{byte(joinAsked)}
		a := w.start(cfgs[0], addrOf(1))
		if a.Ready() != nil {
			t.Fatal("a node with a layout waits for others")
		}
		c := w.start(cfgs[2], addrOf(3))
		w.awaitReady(time.Minute, c) // b is down
		w.oneLayout(a, c)
	})
}

// A founder that has a layout, and loses it, must not go on as if it had only voted: others may have gone on.
func TestAFounderThatLosesItsLayoutSaysSo(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, nodes := w.abc()
		nodes[2].Kill()
		delete(cfgs[2].State.(*memState).files, keyEpochs)
		if _, err := New(cfgs[2]); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("started: %v", err)
		}
	})
}

func TestAFounderWipedInYearTwoDoesNotFoundAnew(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		nodes[1].Kill()
		time.Sleep(time.Hour)
		wiped := w.config("b", abc)
		wiped.Self = nodeID("b, wiped")
		b := w.start(wiped, addrOf(2))
		w.awaitText(time.Minute, b, "dunlin replace b", "its disk is lost for good")
		w.neverReady(10*time.Minute, b)
		for _, n := range []*Cluster{nodes[0], nodes[2]} {
			if n.Ready() != nil {
				t.Fatalf("%s: %v", n.cfg.Name, n.Ready())
			}
			i := slices.IndexFunc(n.Members(), func(m MemberStatus) bool { return m.ID == wiped.Self })
			if i < 0 || n.Members()[i].State != StateLeftBehind {
				t.Fatalf("%s shows %+v", n.cfg.Name, n.Members())
			}
		}
	})
}

func TestAnUnlistedNodeFoundsNothingAndJoins(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		d := w.start(w.config("d", abc), addrOf(4))
		w.awaitText(time.Minute, d, `node "d" is not named in its own seeds list (a,b,c)`)
		w.neverReady(3*time.Minute, d)
		_, nodes := w.abc()
		w.awaitEpoch(time.Minute, 2, append(nodes, d)...)
	})
}

func TestANameTakenByALiveNodeIsFatal(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		cfg := w.config("b", abc)
		cfg.Self = nodeID("another b")
		b := w.start(cfg, addrOf(4))
		w.awaitText(10*time.Second, b, `the name "b" is taken by a live node`)
		select {
		case err := <-b.Fatal():
			if !strings.Contains(err.Error(), "give this node another name") {
				t.Fatal(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("not fatal")
		}
		if len(nodes[1].Fatal()) != 0 || nodes[1].Ready() != nil {
			t.Fatal("the rightful owner of the name suffers")
		}
	})
}

func TestOfTwoNewNodesWithOneNameOneStays(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		one, two := w.config("a", abc), w.config("a", abc)
		two.Self = nodeID("second a")
		if two.Self.Compare(one.Self) < 0 {
			one, two = two, one
		}
		w.start(w.config("b", abc), addrOf(2)) // through which they hear of each other
		older, younger := w.start(one, addrOf(1)), w.start(two, addrOf(5))
		w.await(time.Minute, "fatal", func() bool { return len(younger.Fatal()) == 1 })
		w.awaitText(time.Second, older, "is also called")
		younger.Kill()
		w.awaitText(time.Minute, older, "waiting for founder c")
		if len(older.Fatal()) != 0 {
			t.Fatal("both died")
		}
	})
}

func TestAVoteThatCannotBeStoredIsNotPublished(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfg := w.config("a", abc)
		cfg.State.(*memState).broken = keyVote
		a := w.start(cfg, addrOf(1))
		b, c := w.start(w.config("b", abc), addrOf(2)), w.start(w.config("c", abc), addrOf(3))
		w.awaitText(time.Minute, a, "storing the founding vote", "disk is full")
		w.neverReady(time.Minute, a, b, c)
		if a.metaNow().Vote != (digest{}) {
			t.Fatal("published a vote that is not on disk")
		}
		s := cfg.State.(*memState)
		s.mu.Lock()
		s.broken = ""
		s.mu.Unlock()
		w.awaitReady(time.Minute, a, b, c)
		w.oneLayout(a, b, c)
	})
}

func TestEventsTellOfPeersAndEpoch(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		seen := make(chan Event, 100)
		tr, err := w.net.Transport(addrOf(1))
		if err != nil {
			t.Fatal(err)
		}
		cfg := w.config("a", abc)
		cfg.Transport = tr
		a, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		a.Subscribe(func(e Event) {
			_ = a.Members() // a subscriber may ask
			seen <- e
		})
		if err := a.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.running = append(w.running, a)
		b := w.start(w.config("b", abc), addrOf(2))
		c := w.start(w.config("c", abc), addrOf(3))
		w.awaitReady(time.Minute, a, b, c)
		w.stop(b)
		w.await(10*time.Second, "b dead", func() bool { return !a.Alive(nodeID("b")) })
		synctest.Wait()
		var epoch, alive, dead int
		for len(seen) > 0 {
			switch e := <-seen; e.Kind {
			case EventEpoch:
				epoch += int(e.Epoch)
			case EventAlive:
				alive++
			case EventDead:
				dead++
				if e.Node != nodeID("b") {
					t.Fatalf("%+v", e)
				}
			}
		}
		if epoch != 1 || alive != 2 || dead != 1 {
			t.Fatalf("epoch %d, alive %d, dead %d", epoch, alive, dead)
		}
	})
}

func membersOf(w *world, names ...string) (out []ring.Member) {
	for _, n := range names {
		cfg := w.config(n, abc)
		out = append(out, cfg.self())
	}
	return out
}
