package cluster

import (
	"errors"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const abcd = abc + ",d@10.0.0.4:7000"

func (w *world) abcd() (cfgs []Config, nodes []*Cluster) {
	w.t.Helper()
	for i, name := range []string{"a", "b", "c", "d"} {
		cfgs = append(cfgs, w.config(name, abcd))
		nodes = append(nodes, w.start(cfgs[i], addrOf(i+1)))
	}
	w.awaitReady(time.Minute, nodes...)
	w.awaitWhole(time.Minute, nodes...)
	return cfgs, nodes
}

func TestACutOfTwoAndTwoHealsWithinAMinute(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, n := w.abcd()
		each := func(f func(a, b string)) {
			for _, a := range []int{1, 2} {
				for _, b := range []int{3, 4} {
					f(addrOf(a), addrOf(b))
				}
			}
		}
		before := n[0].Ring()
		each(w.net.Cut)
		time.Sleep(45 * time.Second)
		if n[0].Alive(nodeID("c")) || n[2].Alive(nodeID("b")) || !n[0].Alive(nodeID("b")) || !n[2].Alive(nodeID("d")) {
			t.Fatal("the cut was not noticed" + w.dump())
		}
		for _, c := range n {
			if c.Ready() != nil {
				t.Fatal("a cut made a member unready" + w.dump())
			}
		}
		each(w.net.Heal)
		w.awaitWhole(time.Minute, n...)
		if n[0].Ring() != before {
			t.Fatal("a cut changed who owns what")
		}
	})
}

func TestAOneWayCutHeals(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, n := w.abcd()
		for _, to := range []int{2, 3, 4} {
			w.net.CutOneWay(addrOf(1), addrOf(to))
		}
		w.await(2*time.Minute, "a is not heard", func() bool { return !n[1].Alive(nodeID("a")) && !n[3].Alive(nodeID("a")) })
		w.net.HealAll()
		w.awaitWhole(time.Minute, n...)
	})
}

func TestAllKilledAtOnceComeBackWithNewAddresses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, n := w.abcd()
		time.Sleep(3 * time.Second) // peers are written once a second
		for _, c := range n {
			c.Kill()
		}
		before := n[0].Ring().Layout().Hash()
		time.Sleep(time.Second)
		var again []*Cluster
		for i := range cfgs {
			cfgs[i].Fresh = false
			// Seeds follow the names, as a resolver would; d's is gone.
			cfgs[i].Seeds, _ = ParseSeeds("a@10.0.0.11:7000,b@10.0.0.12:7000,c@10.0.0.13:7000")
			c := w.start(cfgs[i], addrOf(i+11))
			if err := c.Ready(); err != nil {
				t.Fatalf("a member waits for others: %v", err)
			}
			again = append(again, c)
		}
		w.awaitWhole(time.Minute, again...)
		w.oneLayout(again...)
		if again[0].Ring().Layout().Hash() != before {
			t.Fatal("another layout after the restart")
		}
		if m := again[0].Members()[3]; m.GossipAddr != addrOf(14) || !m.Alive {
			t.Fatalf("d is %+v", m)
		}
	})
}

func TestOneCrashedNodeComesBackWithANewAddress(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, n := w.abcd()
		n[1].Kill()
		cfgs[1].RPCAddr = "b:8101"
		n[1] = w.start(cfgs[1], addrOf(22))
		w.await(time.Minute, "all know b's new address", func() bool {
			for _, i := range []int{0, 2, 3} {
				if addr, _ := n[i].Address(nodeID("b")); addr != "b:8101" || !n[i].Alive(nodeID("b")) {
					return false
				}
			}
			return true
		})
		time.Sleep(time.Minute)
		for _, c := range n {
			if err := c.Ready(); err != nil {
				t.Fatalf("a plain restart was taken for a copy: %v", err)
			}
		}
	})
}

// All seeds have become useless, as when a whole rack of names moved.
func TestPeersOnDiskAreEnoughToFindTheClusterAgain(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, n := w.abcd()
		time.Sleep(3 * time.Second)
		for _, c := range n {
			c.Kill()
		}
		for i := range cfgs {
			cfgs[i].Seeds, _ = ParseSeeds("10.0.9.9:7000")
			n[i] = w.start(cfgs[i], addrOf(i+1))
			if i == 0 {
				if addr, ok := n[0].Address(nodeID("c")); !ok || addr != "c:8100" || n[0].Alive(nodeID("c")) {
					t.Fatalf("c is at %q, alive %v", addr, n[0].Alive(nodeID("c")))
				}
			}
		}
		w.awaitWhole(time.Minute, n...)
	})
}

func TestAGracefulStopIsNoticedAtOnce(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, n := w.abcd()
		w.stop(n[3])
		w.await(2*time.Second, "d is gone", func() bool {
			return !n[0].Alive(nodeID("d")) && !n[1].Alive(nodeID("d")) && !n[2].Alive(nodeID("d"))
		})
		if _, ok := n[0].Ring().Layout().Member(nodeID("d")); !ok {
			t.Fatal("stopping a node changed who owns what")
		}
	})
}

func TestClustersOfDifferentNamesNeverMix(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const seeds = "a@10.0.0.1:7000,b@10.0.0.2:7000,x@10.0.0.3:7000,y@10.0.0.4:7000"
		var n []*Cluster
		for i, name := range []string{"a", "b", "x", "y"} {
			cfg := w.config(name, seeds)
			cfg.Seeds = cfg.Seeds[:2]
			if i >= 2 {
				cfg = w.config(name, seeds)
				cfg.Cluster, cfg.Seeds = "other", cfg.Seeds[2:]
			}
			cfg.Seeds = append(cfg.Seeds, Seed{Addr: addrOf(4 - i)}) // one of the other cluster
			n = append(n, w.start(cfg, addrOf(i+1)))
		}
		w.awaitReady(2*time.Minute, n...)
		time.Sleep(10 * time.Minute)
		for i, c := range n {
			if len(c.Members()) != 2 || c.Ready() != nil {
				t.Fatalf("%s: %+v", n[i].cfg.Name, c.Members())
			}
		}
	})
}

func TestClustersOfOneNameAndDifferentIDsNeverMix(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		a := w.start(w.config("a", "a@10.0.0.1:7000"), addrOf(1))
		cfg := w.config("b", "b@10.0.0.2:7000")
		b := w.start(cfg, addrOf(2))
		b.Kill()
		cfg.Seeds = append(cfg.Seeds, Seed{Addr: addrOf(1)})
		b = w.start(cfg, addrOf(2))
		time.Sleep(5 * time.Minute)
		if len(a.Members()) != 1 || len(b.Members()) != 1 || a.Ready() != nil || b.Ready() != nil {
			t.Fatal("mixed" + w.dump())
		}
		if b.Stats().Foreign == 0 {
			t.Fatal("not even met")
		}
		if err := a.Verify(nodeID("b"), b.Hello()); !errors.Is(err, ErrOtherCluster) {
			t.Fatalf("hello of another cluster: %v", err)
		}
	})
}

func TestAWrongSecretNeverJoins(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var n []*Cluster
		for i, name := range []string{"a", "b", "c"} {
			cfg := w.config(name, abc)
			cfg.Secret = "open sesame"
			if name == "c" {
				cfg.Secret = "open barley"
			}
			n = append(n, w.start(cfg, addrOf(i+1)))
		}
		w.awaitText(time.Minute, n[0], "waiting for founder c", "secret")
		w.awaitText(time.Minute, n[2], "waiting for founder a")
		w.neverReady(5*time.Minute, n...)
		if len(n[2].Members()) != 1 {
			t.Fatal("c knows others without the secret")
		}
	})
}

func TestTheRightSecretJoins(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var n []*Cluster
		for i, name := range []string{"a", "b", "c"} {
			cfg := w.config(name, abc)
			cfg.Secret = "open sesame"
			n = append(n, w.start(cfg, addrOf(i+1)))
		}
		w.awaitReady(time.Minute, n...)
		w.oneLayout(n...)
	})
}

func TestTwoLayoutsOfOneEpochAreSeen(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, n := w.abcd()
		n[3].Kill()
		l := n[3].Ring().Layout()
		l.N = 2
		cfgs[3].State.(*memState).files[keyEpochs] = firstEpochs(l).encode()
		n[3] = w.start(cfgs[3], addrOf(4))
		w.awaitText(time.Minute, n[0], "node d holds another layout of epoch 1")
		w.awaitText(time.Minute, n[3], "holds another layout of epoch 1")
	})
}

func TestStoppedNodesLeaveNoWork(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, n := w.abcd()
		w.stop(n[0])
		w.stop(n[0]) // again: nothing
		n[0].Kill()
		saves := cfgs[0].State.(*memState).saved(keyPeers)
		time.Sleep(time.Minute)
		if cfgs[0].State.(*memState).saved(keyPeers) != saves {
			t.Fatal("a stopped node still writes")
		}
	})
}

func TestPeersAreWrittenAtMostOnceASecond(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		begin := time.Now()
		cfgs, _ := w.abcd()
		time.Sleep(30 * time.Second)
		saves := cfgs[0].State.(*memState).saved(keyPeers)
		if limit := int(time.Since(begin)/time.Second) + 1; saves == 0 || saves > min(limit, 10) {
			t.Fatalf("%d writes in %v", saves, time.Since(begin))
		}
	})
}

func TestSockets(t *testing.T) {
	w := &world{t: t}
	cfg := w.config("a", "a@127.0.0.1:1")
	cfg.GossipBind, cfg.Secret = "127.0.0.1:0", "s"
	cfg.Seeds = []Seed{{Name: "a", Addr: "127.0.0.1:1"}, {Name: "b", Addr: "127.0.0.1:1"}}
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer a.Kill()
	self := a.Members()[0].GossipAddr

	other := w.config("b", "a@localhost:"+self[strings.LastIndexByte(self, ':')+1:]+",b@127.0.0.1:1")
	other.GossipBind, other.Secret = "localhost:0", "s"
	b, err := New(other)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{})
	b.Subscribe(func(e Event) {
		if e.Kind == EventEpoch {
			close(ready)
		}
	})
	select {
	case <-ready:
	case <-time.After(20 * time.Second):
		t.Fatal(b.Ready())
	}
	b.Stop(t.Context())

	third := w.config("c", "")
	third.GossipBind = self
	c, err := New(third)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(t.Context()); err == nil || !strings.Contains(err.Error(), "gossip address "+self) {
		t.Fatalf("address in use: %v", err)
	}
}

// lateLog counts the lines that are written to it after its end.
type lateLog struct{ over, late atomic.Int32 }

func (l *lateLog) Write(p []byte) (int, error) {
	l.late.Add(l.over.Load())
	return len(p), nil
}

func TestNothingIsLoggedAfterTheEnd(t *testing.T) {
	for _, after := range []time.Duration{500, 900, 1300, 1700, 2100, 2500} { // ms, since some probe is under way in one of them
		inWorld(t, func(t *testing.T, w *world) {
			var log lateLog
			cfgs := []Config{w.config("a", abc), w.config("b", abc), w.config("c", abc)}
			cfgs[0].Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
			var nodes []*Cluster
			for i, cfg := range cfgs {
				nodes = append(nodes, w.start(cfg, addrOf(i+1)))
			}
			w.awaitReady(time.Minute, nodes...)
			w.net.Cut(addrOf(1), addrOf(2))
			w.net.Cut(addrOf(1), addrOf(3))
			time.Sleep(after * time.Millisecond)
			nodes[0].Kill()
			log.over.Store(1)
			time.Sleep(time.Minute)
			if n := log.late.Load(); n > 0 {
				t.Errorf("%d lines after the end", n)
			}
		})
	}
}
