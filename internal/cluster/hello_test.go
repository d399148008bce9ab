package cluster

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

func TestHellosOfMembersAreAccepted(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, n := w.abc()
		w.awaitWhole(time.Minute, n...)
		for _, x := range n {
			for _, y := range n {
				if err := x.Verify(y.cfg.Self, y.Hello()); err != nil {
					t.Fatalf("%s refuses %s: %v", x.cfg.Name, y.cfg.Name, err)
				}
			}
		}
		if err := n[0].Verify(nodeID("b"), n[2].Hello()); err == nil {
			t.Fatal("c passes for b")
		}
		// Ten restarts, only the last of which a sees, are no rollback.
		n[1].Kill()
		for range 10 {
			if _, err := New(cfgs[1]); err != nil {
				t.Fatal(err)
			}
		}
		b := w.start(cfgs[1], addrOf(2))
		w.awaitWhole(time.Minute, n[0], b)
		if err := n[0].Verify(nodeID("b"), b.Hello()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestARestoredDirectoryIsRefusedAndStopsServing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, n := w.abc()
		n[1].Kill()
		backup := cfgs[1].State.(*memState).copy()
		b := w.start(cfgs[1], addrOf(2))
		if err := n[0].Verify(nodeID("b"), b.Hello()); err != nil {
			t.Fatal(err)
		}
		b.Kill()
		n[0].Kill()
		time.Sleep(time.Minute)

		// a restarts too: what it has seen of b is on disk.
		n[0] = w.start(cfgs[0], addrOf(1))
		cfgs[1].State = backup
		restored, err := New(cfgs[1])
		if err != nil {
			t.Fatal(err)
		}
		err = n[0].Verify(nodeID("b"), restored.Hello())
		if !errors.Is(err, ErrRolledBack) || !strings.HasPrefix(err.Error(), RolledBack) {
			t.Fatalf("a restored directory: %v", err)
		}
		restored.Refused(nodeID("a"), "hello refused: "+err.Error())
		if err := restored.Ready(); err == nil || !strings.Contains(err.Error(), RolledBack) {
			t.Fatalf("ready: %v", err)
		}
	})
}

func TestARestoredDirectoryIsSeenByGossipAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		cfgs, n := w.abc()
		n[1].Kill()
		backup := cfgs[1].State.(*memState).copy()
		b := w.start(cfgs[1], addrOf(2))
		w.await(time.Minute, "the others have heard of the later start", func() bool {
			return startHeard(n[0], "b") == b.start && startHeard(n[2], "b") == b.start
		})
		b.Kill()
		cfgs[1].State = backup // restored at once: the others still list the later start
		restored := w.start(cfgs[1], addrOf(2))
		w.awaitText(time.Minute, restored, RolledBack)
		if n[0].Ready() != nil {
			t.Fatal(n[0].Ready())
		}
	})
}

// Two processes on copies of one directory, whichever way the copy was made, must not both serve.
func TestACopiedDirectoryLiveTwiceStopsBoth(t *testing.T) {
	for _, running := range []bool{false, true} {
		inWorld(t, func(t *testing.T, w *world) {
			cfgs, n := w.abc()
			second := cfgs[1]
			if running { // copied under the living process: the copy knows its start id
				second.State = cfgs[1].State.(*memState).copy()
			} else { // copied before it started
				n[1].Kill()
				second.State = cfgs[1].State.(*memState).copy()
				n[1] = w.start(cfgs[1], addrOf(2))
			}
			w.awaitWhole(time.Minute, n...)
			time.Sleep(3 * time.Second)
			double := w.start(second, addrOf(9))
			w.awaitText(2*time.Minute, double, RolledBack)
			w.awaitText(2*time.Minute, n[1], RolledBack)
			if n[0].Stats().Conflicts+n[2].Stats().Conflicts == 0 {
				t.Fatal("no conflict was counted")
			}
			if n[0].Ready() != nil || n[2].Ready() != nil {
				t.Fatal("others suffer" + w.dump())
			}
			if !running {
				if err := n[0].Verify(nodeID("b"), double.Hello()); !errors.Is(err, ErrRolledBack) {
					t.Fatalf("hello of the double: %v", err)
				}
			}
		})
	}
}

func TestAStartIDIsOnDiskBeforeTheHelloIsAccepted(t *testing.T) {
	w := &world{t: t}
	acfg, bcfg := w.config("a", ""), w.config("b", "")
	a, err := New(acfg)
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(bcfg)
	if err != nil {
		t.Fatal(err)
	}
	disk := acfg.State.(*memState)
	disk.broken = keySeen
	if err := a.Verify(nodeID("b"), b.Hello()); err == nil || !strings.Contains(err.Error(), "disk is full") {
		t.Fatalf("accepted without a record: %v", err)
	}
	disk.broken = ""
	for range 2 {
		if err := a.Verify(nodeID("b"), b.Hello()); err != nil {
			t.Fatal(err)
		}
	}
	if disk.saved(keySeen) != 1 {
		t.Fatalf("%d writes for one start id", disk.saved(keySeen))
	}
	seen, err := decodeSeen(disk.files[keySeen])
	if err != nil || seen[nodeID("b")] != b.start {
		t.Fatalf("on disk: %v, %v", seen, err)
	}
}

func TestStartsKeepTheLastThousand(t *testing.T) {
	w := &world{t: t}
	cfg := w.config("a", "")
	many := make([]uint64, maxStarts)
	for i := range many {
		many[i] = uint64(i + 1)
	}
	cfg.State.(*memState).files[keyStarts] = encodeStarts(many)
	a, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h, err := decodeHello(a.Hello())
	if err != nil {
		t.Fatal(err)
	}
	if len(h.Starts) != maxStarts || h.Starts[0] != 2 || h.Starts[maxStarts-1] != a.start || len(a.Hello()) > 10_000 {
		t.Fatalf("%d starts from %d, hello of %d bytes", len(h.Starts), h.Starts[0], len(a.Hello()))
	}
	onDisk, err := decodeStarts(cfg.State.(*memState).files[keyStarts])
	if err != nil || !slices.Equal(onDisk, h.Starts) {
		t.Fatalf("disk and hello differ: %v", err)
	}
}

func TestHelloOfAnotherClusterNameIsRefused(t *testing.T) {
	w := &world{t: t}
	a, err := New(w.config("a", ""))
	if err != nil {
		t.Fatal(err)
	}
	h := &hello{ID: nodeID("b"), Cluster: "other", Starts: []uint64{1}}
	if err := a.Verify(nodeID("b"), h.encode()); !errors.Is(err, ErrOtherCluster) {
		t.Fatal(err)
	}
	if err := a.Verify(ring.NodeID{1}, []byte("garbage")); err == nil {
		t.Fatal("garbage accepted")
	}
}

func TestOtherRefusalsDoNotStopANode(t *testing.T) {
	w := &world{t: t}
	a, err := New(w.config("a", ""))
	if err != nil {
		t.Fatal(err)
	}
	a.Refused(nodeID("b"), "overloaded")
	if got := a.Ready(); got == nil || strings.Contains(got.Error(), "overloaded") {
		t.Fatal(got)
	}
}

// startHeard is the start id that a node's view shows for another.
func startHeard(c *Cluster, name string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.peers[nodeID(name)]; p != nil {
		return p.meta.Start
	}
	return 0
}
