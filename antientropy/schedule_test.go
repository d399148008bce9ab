package antientropy

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// No write that comes while exchanges run is lost or undone.
func TestWritesBesideExchangesAreKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 3, partitions: 4, opt: Options{Interval: time.Second}})
		for _, n := range w.nodes {
			n.store.commit = 2 * time.Millisecond
		}
		var mu sync.Mutex
		want := make(map[Key]vclock.Object)
		var writers sync.WaitGroup
		for replica := range 3 {
			writers.Go(func() {
				for i := range 1500 {
					k := w.key((i*7 + replica) % 60)
					store := w.holders(k.Partition)[replica].store
					store.write(k, fmt.Sprint(replica, i), i%5 > 0, i%11 == 0)
					c, _ := store.Get(k)
					mu.Lock()
					want[k] = vclock.Merge(want[k], c.Object)
					mu.Unlock()
					time.Sleep(7 * time.Millisecond)
				}
			})
		}
		writers.Wait()
		w.settle(time.Minute)
		for k, o := range want {
			if c, _ := w.holders(k.Partition)[0].store.Get(k); !c.Object.Equal(o) {
				t.Errorf("%s: %d siblings, want %d", k.Key, len(c.Object.Siblings), len(o.Siblings))
			}
		}
	})
}

// A peer that dies in the middle of an exchange is left alone, and the rest is done when it is back.
func TestPeerDiesMidExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 4, n: 2, idle: true})
		for i := range 3000 {
			w.nodes[0].store.write(w.key(i), "v", false, false)
		}
		pushes := 0
		w.setFault(func(_, _ int, endpoint string) fault {
			if endpoint == EndpointObjects {
				pushes++
			}
			return fault{lost: pushes > 3}
		})
		w.start()
		w.until(time.Minute, "the peer takes something", func() bool { return len(w.nodes[1].store.keys()) > 0 })
		w.setDown(w.nodes[1], true)
		time.Sleep(30 * time.Second)
		w.takeCalls()
		time.Sleep(5 * time.Minute)
		if calls := w.takeCalls(); len(calls) > 0 && calls[0].from == 0 {
			t.Errorf("a node that is down was asked: %+v", calls[0])
		}
		if n := len(w.nodes[1].store.keys()); n == 0 || n == 3000 {
			t.Fatalf("%d keys arrived", n)
		}
		w.setFault(nil)
		w.setDown(w.nodes[1], false)
		w.settle(10 * time.Second)
	})
}

// A wiped replica gets everything back, its marks go once it has it, and nobody else loses a key.
func TestWipedReplicaIsRefilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 4, partitions: 32})
		for i := range 3000 {
			w.writeAll(w.key(i), "v")
		}
		n := w.nodes[2]
		old := n.store.keys()
		w.setDown(n, true)
		time.Sleep(time.Minute)
		for p := range n.store.parts {
			n.store.with(p, func(q *memPart) { *q = memPart{records: map[Cursor]*memRecord{}} })
			n.store.setMark(p, MarkDamaged)
		}
		w.setDown(n, false)
		w.settle(time.Minute)
		if got := len(n.store.keys()); got != len(old) {
			t.Errorf("%d keys, want %d", got, len(old))
		}
		w.until(time.Minute, "marks are cleared", func() bool { return n.marked() == 0 })
		w.until(10*time.Second, "the status shows it", func() bool { return n.s.Status().Marked == 0 })
	})
}

// marked counts the node's own partitions that are marked.
func (n *testNode) marked() (count int) {
	for _, p := range n.w.ring.Owned(n.id) {
		if m, _ := n.store.Marks(p); m != 0 {
			count++
		}
	}
	return count
}

// marked makes a world of three nodes in which node 0 is marked and has lost everything.
func marked(t *testing.T, m Mark) *world {
	w := newWorld(t, worldOptions{nodes: 3, partitions: 1, idle: true})
	for i := range 10 {
		w.nodes[1].store.write(w.key(i), "only at 1", false, false)
		w.nodes[2].store.write(w.key(100+i), "only at 2", false, false)
	}
	w.nodes[0].store.setMark(0, m)
	return w
}

func (w *world) isMarked() bool {
	m, _ := w.nodes[0].store.Marks(0)
	return m != 0
}

func (w *world) mustOnce(a, b int) {
	w.t.Helper()
	if _, err := w.once(a, b); err != nil {
		w.t.Fatal(err)
	}
}

// A mark goes only when this node has finished exchanges with every other primary, each begun after the marking.
func TestMarksNeedEveryOtherPrimary(t *testing.T) {
	for _, m := range []Mark{MarkBehind, MarkDamaged} {
		synctest.Test(t, func(t *testing.T) {
			w := marked(t, m)
			w.mustOnce(1, 0)
			w.mustOnce(2, 0)
			w.mustOnce(0, 1)
			w.mustOnce(0, 1)
			if !w.isMarked() {
				t.Fatal("cleared without an exchange with node 2 begun here")
			}
			w.mustOnce(0, 2)
			if w.isMarked() {
				t.Fatal("not cleared")
			}
			if got := len(w.nodes[0].store.keys()); got != 20 {
				t.Errorf("%d keys", got)
			}
		})
	}
}

// An exchange that began before a marking says nothing about what was lost by then.
func TestMarkedAgainDuringAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := marked(t, MarkDamaged)
		w.mustOnce(0, 1)
		w.setFault(func(from, _ int, endpoint string) fault {
			if from == 0 && endpoint == EndpointRoots {
				w.nodes[0].store.setMark(0, MarkDamaged)
			}
			return fault{}
		})
		w.mustOnce(0, 2)
		w.setFault(nil)
		if !w.isMarked() {
			t.Fatal("cleared by exchanges begun before the marking")
		}
		w.mustOnce(0, 2)
		if !w.isMarked() {
			t.Fatal("cleared though the exchange with node 1 is from before the marking")
		}
		w.mustOnce(0, 1)
		if w.isMarked() {
			t.Fatal("not cleared")
		}
	})
}

// What could not be taken over keeps the mark: a key under removal, a stale round, a corrupt copy, a peer not ready.
func TestMarksStayWhileSomethingIsLeft(t *testing.T) {
	at := func(w *world, i int) Cursor { return Cursor{"b", w.key(i).Key} }
	cases := map[string]struct{ spoil, mend func(w *world) }{
		"removal": {
			func(w *world) { w.nodes[1].store.with(0, func(p *memPart) { p.records[at(w, 1)].removing = true }) },
			func(w *world) { w.nodes[1].store.with(0, func(p *memPart) { p.drop(at(w, 1)) }) },
		},
		"round": {
			func(w *world) {
				w.nodes[0].store.with(0, func(p *memPart) { p.round = 1 })
				w.nodes[1].store.behind = true
			},
			func(w *world) { w.nodes[1].store.with(0, func(p *memPart) { p.round = 1 }) },
		},
		"corrupt": {
			func(w *world) { w.nodes[1].store.with(0, func(p *memPart) { p.records[at(w, 1)].corrupt = true }) },
			func(w *world) { w.nodes[1].store.with(0, func(p *memPart) { p.records[at(w, 1)].corrupt = false }) },
		},
		"not ready": {
			func(w *world) { w.nodes[1].store.with(0, func(p *memPart) { p.unready = true }) },
			func(w *world) { w.nodes[1].store.with(0, func(p *memPart) { p.unready = false }) },
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := marked(t, MarkDamaged)
				w.nodes[0].store.with(0, func(p *memPart) { p.round = 0 })
				w.nodes[2].store.with(0, func(p *memPart) { p.round = 1 })
				c.spoil(w)
				w.mustOnce(0, 2)
				w.mustOnce(0, 1)
				if !w.isMarked() {
					t.Fatal("cleared")
				}
				c.mend(w)
				w.mustOnce(0, 1)
				if w.isMarked() {
					t.Fatal("not cleared")
				}
			})
		})
	}
}

// A cluster that lost power as a whole recovers: damaged peers count, since nobody else is left to ask.
func TestAllDamagedRecover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 3, partitions: 8, idle: true})
		for i := range 100 {
			w.write(w.key(i), i%3, "v")
		}
		for _, n := range w.nodes {
			for p := range n.store.parts {
				n.store.setMark(p, MarkDamaged)
			}
		}
		w.start()
		w.settle(time.Minute)
		w.until(time.Minute, "marks are cleared", func() bool {
			sum := 0
			for _, n := range w.nodes {
				sum += n.marked()
			}
			return sum == 0
		})
	})
}

// With one primary there is nobody to learn from, and nothing to wait for.
func TestOnlyPrimaryClearsItsMark(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 1, partitions: 2, n: 1, idle: true})
		w.nodes[0].store.setMark(0, MarkDamaged)
		w.start()
		w.until(10*time.Second, "cleared", func() bool { return !w.isMarked() })
	})
}

// Marks make exchanges come at once, not at the next interval.
func TestMarksAndKicksHasten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 3, partitions: 1, opt: Options{Interval: time.Hour}})
		time.Sleep(time.Minute) // the first exchanges, when peers are found alive
		w.takeCalls()
		w.nodes[0].store.setMark(0, MarkBehind)
		w.until(15*time.Second, "cleared", func() bool { return !w.isMarked() })
		w.takeCalls()
		for range 100 {
			w.nodes[2].s.Kick(w.nodes[1].id)
		}
		time.Sleep(30 * time.Second)
		if calls := w.takeCalls(); len(calls) < 1 || len(calls) > 2 || calls[0].from != 2 || calls[0].to != 1 {
			t.Errorf("%+v", calls)
		}
	})
}

// A kick while an exchange runs is not lost: what it told of may have come too late for that one.
func TestKickDuringAnExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, opt: Options{Interval: time.Hour}})
		time.Sleep(time.Minute)
		w.takeCalls()
		w.setFault(func(int, int, string) fault { return fault{delay: 5 * time.Second} })
		s := w.nodes[0].s
		s.Kick(w.nodes[1].id)
		time.Sleep(2 * time.Second)
		s.Kick(w.nodes[1].id)
		time.Sleep(time.Minute)
		if calls := w.takeCalls(); len(calls) != 2 || calls[0].from != 0 || calls[1].from != 0 {
			t.Errorf("%+v", calls)
		}
	})
}

// Two nodes that find each other alive at once do not move the same keys twice.
func TestExchangesDoNotCross(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 8, n: 2, idle: true})
		for i := range 2000 {
			w.nodes[i%2].store.write(w.key(i), strings.Repeat("x", 1000), false, false)
		}
		w.setFault(func(int, int, string) fault { return fault{delay: 500 * time.Millisecond} })
		w.start()
		w.settle(time.Minute)
		time.Sleep(time.Minute)
		bytes := 0
		for _, c := range w.takeCalls() {
			bytes += c.in + c.out
		}
		if bytes > 3_000_000 {
			t.Errorf("%d bytes moved for 2 MB", bytes)
		}
	})
}

// The budget holds for all that a node moves, on average, whoever began it.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 64 << 10
		w := newWorld(t, worldOptions{nodes: 3, partitions: 8, idle: true, opt: Options{BytesPerSecond: budget}})
		for i := range 2000 {
			w.write(w.key(i), i%3, strings.Repeat("x", 1000))
		}
		w.start()
		began := time.Now()
		w.settle(30 * time.Minute)
		took := time.Since(began).Seconds()
		moved := map[int]int{}
		total := 0
		for _, c := range w.takeCalls() {
			if c.failed {
				t.Errorf("a call was refused: %+v", c)
			}
			moved[c.from] += c.in + c.out
			total += c.in + c.out
			if c.endpoint == EndpointObjects {
				moved[c.to] += c.in + c.out
			}
		}
		t.Logf("%d bytes in %.0f s", total, took)
		for node, bytes := range moved {
			if rate := float64(bytes) / took; rate > budget*1.1 {
				t.Errorf("node %d moved %.0f bytes/s", node, rate)
			}
		}
		if took > 10*2000*1000/budget {
			t.Error("it took far longer than the budget asks for")
		}
	})
}

// At most two exchanges at once, at most one with a peer, repair included.
func TestFewExchangesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 5, partitions: 64, n: 5, idle: true, opt: Options{Interval: 5 * time.Second}})
		for i := range 2000 {
			w.write(w.key(i), i%5, "v")
		}
		var mu sync.Mutex
		pairs, nodes, most := map[[2]int]int{}, map[int]int{}, 0
		w.setFault(func(from, to int, _ string) fault {
			mu.Lock()
			pairs[[2]int{from, to}]++
			nodes[from]++
			if pairs[[2]int{from, to}] > 1 || nodes[from] > 2 {
				t.Errorf("node %d: %d calls at once, %d to node %d", from, nodes[from], pairs[[2]int{from, to}], to)
			}
			most = max(most, nodes[from])
			mu.Unlock()
			time.AfterFunc(20*time.Millisecond, func() {
				mu.Lock()
				defer mu.Unlock()
				pairs[[2]int{from, to}]--
				nodes[from]--
			})
			return fault{delay: 20 * time.Millisecond}
		})
		w.start()
		for _, n := range w.nodes {
			if _, err := n.s.Repair(Filter{}); err != nil {
				t.Fatal(err)
			}
		}
		w.settle(5 * time.Minute)
		mu.Lock()
		defer mu.Unlock()
		if most != 2 {
			t.Errorf("at most %d calls at once: nothing ran beside anything", most)
		}
	})
}

// An exchange with much to do makes room after its turn, and goes on at once.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 64, n: 2, idle: true, opt: Options{Turn: time.Second, Interval: time.Hour}})
		for i := range 640 {
			w.nodes[0].store.write(w.key(i), "v", false, false)
		}
		w.setFault(func(int, int, string) fault { return fault{delay: 400 * time.Millisecond} })
		if x, err := w.once(0, 1); err != errTurnOver || resultOf(x, err) != resultPartial || x.moved.Sent == 0 {
			t.Fatal(err)
		}
		w.start()
		w.settle(2 * time.Minute)
	})
}

// Partitions that are written to all the time, and differ in every exchange, do not keep others from their turn.
func TestBusyPartitionsStarveNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 16, n: 2, idle: true, opt: Options{Turn: time.Second}})
		w.setFault(func(int, int, string) fault { return fault{delay: 400 * time.Millisecond} })
		var busy, quiet []Key
		for i := range 400 {
			if k := w.key(i); k.Partition < chunkPartitions {
				busy = append(busy, k)
			} else {
				quiet = append(quiet, k)
			}
		}
		for _, k := range quiet {
			w.nodes[0].store.write(k, "v", false, false)
		}
		w.start()
		w.until(5*time.Minute, "the quiet partitions are the same", func() bool {
			for _, k := range busy {
				w.nodes[0].store.write(k, "v", true, false)
			}
			for _, k := range quiet {
				if c, _ := w.nodes[1].store.Get(k); c.Object.IsZero() {
					return false
				}
			}
			return true
		})
	})
}

func (s *memStore) keys() (out []Cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts {
		for c := range p.records {
			out = append(out, c)
		}
	}
	return out
}

// Of two damaged copies each is healed by the merge of all others, and only once all of them answer.
func TestHealNeedsEveryOtherPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 3, partitions: 1, idle: true})
		k, at := w.key(1), Cursor{"b", w.key(1).Key}
		w.nodes[1].store.write(k, "only at 1", false, false)
		w.nodes[2].store.write(k, "only at 2", false, false)
		w.nodes[0].store.write(k, "lost", false, false)
		w.nodes[0].store.with(0, func(p *memPart) { p.records[at].corrupt = true })
		w.setDown(w.nodes[2], true)
		w.start()
		time.Sleep(2 * time.Minute)
		c, _ := w.nodes[0].store.Get(k)
		if c.Corrupt || !c.Incomplete || len(c.Object.Siblings) != 1 {
			t.Fatalf("with one peer down: %+v", c)
		}
		if w.nodes[0].s.Status().Healing != 1 {
			t.Error("the record does not wait for healing")
		}
		w.setDown(w.nodes[2], false)
		w.settle(time.Minute)
		c, _ = w.nodes[0].store.Get(k)
		if c.Incomplete || len(c.Object.Siblings) != 2 {
			t.Fatalf("healed: %+v", c)
		}
	})
}

// The scrub finds what sums do not show: a record that vanished, and damage that nobody has read.
func TestScrubFindsSilentLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 3, partitions: 8})
		for i := range 100 {
			w.writeAll(w.key(i), "v")
		}
		lost, bad := w.key(1), w.key(2)
		w.nodes[0].store.with(lost.Partition, func(p *memPart) {
			delete(p.records, Cursor{"b", lost.Key})
			p.order = nil
		})
		w.nodes[1].store.with(bad.Partition, func(p *memPart) { p.records[Cursor{"b", bad.Key}].corrupt = true })
		time.Sleep(time.Minute)
		if w.difference() == "" {
			t.Fatal("sums showed it: the test tests nothing")
		}
		w.settle(70 * time.Minute)
		w.until(time.Hour, "all partitions are scrubbed", func() bool { return w.nodes[0].s.Status().Scrub.Partitions >= 8 })
		if st := w.nodes[0].s.Status().Scrub; st.Differences != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// Close ends exchanges under way and leaves nothing behind.
func TestCloseMidExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, idle: true})
		w.nodes[0].store.write(w.key(1), "v", false, false)
		w.setFault(func(int, int, string) fault { return fault{lost: true} })
		w.start()
		time.Sleep(3 * time.Second)
		began := time.Now()
		w.close()
		if took := time.Since(began); took > time.Second {
			t.Errorf("Close took %v", took)
		}
	})
}

// Nodes that left the layout are forgotten, and no exchange is tried without one.
func TestLayoutComesAndChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 3, partitions: 4, n: 2, idle: true})
		full := w.ring
		w.ring = nil
		w.start()
		time.Sleep(time.Minute)
		if calls := w.takeCalls(); len(calls) != 0 {
			t.Errorf("%d calls without a layout", len(calls))
		}
		if _, err := w.nodes[0].s.Repair(Filter{}); err != ErrNoLayout {
			t.Error(err)
		}
		l := full.Layout()
		l.Epoch, l.Members = 2, l.Members[:2]
		w.setRing(full)
		time.Sleep(time.Minute)
		if got := len(w.nodes[0].s.Status().Peers); got != 2 {
			t.Errorf("%d peers", got)
		}
		smaller, err := ring.New(l, 2)
		if err != nil {
			t.Fatal(err)
		}
		w.setRing(smaller)
		time.Sleep(time.Minute)
		if peers := w.nodes[0].s.Status().Peers; len(peers) != 1 || peers[0].Result != resultSame {
			t.Errorf("%+v", peers)
		}
	})
}
