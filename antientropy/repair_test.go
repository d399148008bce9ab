package antientropy

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A repair compares every key, whatever the sums say, and tells how far it is.
func TestRepairTrustsNoSums(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 3, partitions: 8, opt: Options{Interval: 24 * time.Hour, ScrubEvery: -1}})
		for i := range 400 {
			w.writeAll(w.key(i), "v")
		}
		lost := w.key(1)
		// Silent losses whose sums still stand: one here, one at a peer.
		for _, n := range w.nodes[:2] {
			n.store.with(lost.Partition, func(p *memPart) {
				delete(p.records, Cursor{"b", lost.Key})
				p.order = nil
			})
		}
		bad := w.key(2)
		w.nodes[0].store.with(bad.Partition, func(p *memPart) { p.records[Cursor{"b", bad.Key}].corrupt = true })
		time.Sleep(time.Minute)
		if p := w.nodes[0].s.RepairProgress(); p.State != RepairNone {
			t.Fatalf("%+v", p)
		}
		if p, err := w.nodes[0].s.Repair(Filter{}); err != nil || p.State != RepairRunning || p.Total != 8 {
			t.Fatalf("%+v %v", p, err)
		}
		w.until(time.Minute, "done", func() bool { return w.nodes[0].s.RepairProgress().State == RepairDone })
		p := w.nodes[0].s.RepairProgress()
		if p.Done != 8 || p.Moved.Compared < 800 || p.Moved.Received == 0 || p.Finished.IsZero() || p.Corrected != 1 || p.Unrepaired != 0 {
			t.Errorf("%+v", p)
		}
		for _, n := range w.nodes {
			if c, _ := n.store.Get(lost); c.Object.IsZero() {
				t.Errorf("node %d still lacks the key", n.index)
			}
		}
		w.until(time.Minute, "healed", func() bool {
			c, _ := w.nodes[0].store.Get(bad)
			return !c.Corrupt && !c.Incomplete
		})
	})
}

// A repair waits for peers that are down, can be stopped, and goes on where it was.
func TestRepairResumes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 3, partitions: 16, opt: Options{Interval: 24 * time.Hour}})
		time.Sleep(time.Minute)
		for i := range 200 {
			w.nodes[1].store.write(w.key(i), "v", false, false)
		}
		w.setDown(w.nodes[2], true)
		s := w.nodes[0].s
		if _, err := s.Repair(Filter{}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		p := s.RepairProgress()
		if p.State != RepairRunning || p.Done != 0 || len(p.Waiting) != 1 || p.Waiting[0] != w.nodes[2].id || p.Moved.Received != 200 {
			t.Fatalf("%+v", p)
		}
		if _, err := s.Repair(Filter{Partitions: []int{1}}); !errors.Is(err, ErrRepairRunning) {
			t.Error(err)
		}
		s.StopRepair()
		w.setDown(w.nodes[2], false)
		time.Sleep(time.Minute)
		if p := s.RepairProgress(); p.State != RepairStopped || p.Done != 0 {
			t.Fatalf("%+v", p)
		}
		w.takeCalls()
		if _, err := s.Repair(Filter{}); err != nil {
			t.Fatal(err)
		}
		w.until(time.Minute, "done", func() bool { return s.RepairProgress().State == RepairDone })
		for _, c := range w.takeCalls() {
			if c.from == 0 && c.to == 1 {
				t.Fatalf("node 1 was done and is asked again: %+v", c)
			}
		}
		if p := s.RepairProgress(); p.Done != 16 || p.ETA != 0 || len(p.Waiting) != 0 {
			t.Errorf("%+v", p)
		}
	})
}

// A repair of one partition touches no other; one that this node does not own is refused.
func TestRepairOfOnePartition(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 4, partitions: 16, opt: Options{Interval: 24 * time.Hour, ScrubEvery: -1}})
		time.Sleep(time.Minute)
		s := w.nodes[0].s
		other := filter(16, func(p int) bool { return !w.ring.IsPrimary(p, w.nodes[0].id) })
		for _, p := range []int{-1, 16, other[0]} {
			if _, err := s.Repair(Filter{Partitions: []int{p}}); err == nil {
				t.Errorf("partition %d was taken", p)
			}
		}
		mine := w.ring.Owned(w.nodes[0].id)[0]
		for i := range 200 {
			w.write(w.key(i), 0, "v")
		}
		if _, err := s.Repair(Filter{Partitions: []int{mine}}); err != nil {
			t.Fatal(err)
		}
		w.until(time.Minute, "done", func() bool { return s.RepairProgress().State == RepairDone })
		for p := range w.ring.Partitions() {
			hs := w.holders(p)
			if p == mine || len(hs[0].store.contents(p)) == 0 {
				continue
			}
			if len(hs[1].store.contents(p)) != 0 {
				t.Errorf("partition %d was repaired too", p)
			}
		}
		if p := s.RepairProgress(); p.Total != 1 || p.Done != 1 || p.Moved.Sent+p.Moved.Received == 0 {
			t.Errorf("%+v", p)
		}
	})
}

// Keys that cannot be moved are reported in the end and do not keep a repair going for ever.
func TestRepairGivesUpOnKeysThatStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, opt: Options{Interval: 24 * time.Hour}})
		time.Sleep(time.Minute)
		w.nodes[0].store.write(w.key(1), "v", false, true)
		w.nodes[0].store.with(0, func(p *memPart) { p.records[Cursor{"b", w.key(1).Key}].removing = true })
		if _, err := w.nodes[0].s.Repair(Filter{}); err != nil {
			t.Fatal(err)
		}
		w.until(time.Minute, "done", func() bool { return w.nodes[0].s.RepairProgress().State == RepairDone })
		if p := w.nodes[0].s.RepairProgress(); p.Unrepaired != 1 || p.Done != 1 {
			t.Errorf("%+v", p)
		}
	})
}
