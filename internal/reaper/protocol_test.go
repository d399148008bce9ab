package reaper

import (
	"context"
	"errors"
	"testing"

	"github.com/dunlindb/dunlin/vclock"
)

// scene is a world without chance: key 0 was written at node 0, stored at all primaries, and deleted everywhere.
// Nothing happens between steps but what the script does.
type scene struct {
	*world
	t      *testing.T
	v1, v2 vclock.Object // the value; the tombstone
}

func newScene(t *testing.T, ru rules) *scene {
	w := newWorld(3, ru)
	w.faults, w.tries, w.drivers = false, 3, []int{0}
	for i := range w.nodes {
		w.nodes[i].store.lazy, w.skew[i] = false, 0
		w.boot(i)
	}
	s := &scene{world: w, t: t}
	s.v1 = s.write(0, vclock.Write{Value: []byte("v1")})
	return s
}

func (s *scene) write(i int, x vclock.Write) vclock.Object {
	m, err := s.nodes[i].store.mint(-1, 0, x)
	if err != nil {
		s.t.Fatal(err)
	}
	for j := range 3 {
		if j != i {
			s.arrives(s.at(i, m.Record.Object, j))
		}
	}
	return m.Record.Object
}

// at is a frame with an object that node i read just now.
func (s *scene) at(i int, o vclock.Object, to int) frame {
	return frame{kind: replicate, from: i, to: to, target: -1, k: 0, obj: o, round: s.nodes[i].store.mem.round}
}

func (s *scene) arrives(f frame) { s.deliver(f) }

func (s *scene) delete() {
	s.v2 = s.write(0, vclock.Write{Deleted: true, Context: s.v1.Answer(s.now, false).Context})
	s.now += 10
}

// reap visits until nothing is left to do.
func (s *scene) reap() {
	for range 12 {
		s.now += 10
		s.visit(0)
	}
}

// once runs f at the first message of an endpoint.
func (s *scene) once(endpoint string, f func()) {
	s.script = func(l letter, answered bool) error {
		if l.endpoint == endpoint && !answered {
			s.script = nil
			f()
		}
		return nil
	}
}

// hintAt3 is a late frame that stores the value as a hint for node 1.
func (s *scene) hintAt3() frame {
	f := s.at(0, s.v1, 3)
	f.target = 1
	return f
}

func (s *scene) replay() frame {
	return frame{kind: handoff, from: 3, to: 1, target: 1, k: 0, obj: s.nodes[3].store.mem.hints[1][0], round: s.nodes[3].store.mem.round}
}

// interleavings are the ways in which a deleted key came back, each with the rule that stops it.
var interleavings = map[string]struct {
	off rules
	run func(*scene)
}{
	"a late replicate frame": {rules{noRounds: true}, func(s *scene) {
		late := s.at(0, s.v1, 2)
		s.delete()
		s.reap()
		s.arrives(late)
	}},
	"a hint": {rules{noHints: true}, func(s *scene) {
		hint := s.hintAt3()
		s.delete()
		s.arrives(hint)
		s.reap()
		s.arrives(s.replay())
	}},
	"a hint that slips in between confirming and entering": {rules{noRepeat: true}, func(s *scene) {
		hint := s.hintAt3()
		s.delete()
		s.once(EndpointEnter, func() { s.arrives(hint) })
		s.reap()
		if !s.nodes[3].store.mem.hints[1][0].IsZero() {
			s.arrives(s.replay())
		}
	}},
	"a doubled hint, and a member asked twice to enter": {rules{repeatRound: true}, func(s *scene) {
		hint := s.hintAt3()
		s.delete()
		s.once(EndpointEnter, func() {
			s.arrives(hint)
			s.script = func(l letter, answered bool) error {
				if l.to == 3 && answered {
					return errLost
				}
				return nil
			}
		})
		s.visit(0) // all enter; node 3 saw a hint, but its answer is lost
		s.script = nil
		twice := s.replay()
		s.arrives(twice)
		s.nodes[3].store.deleteHint(1, 0, digest(0, s.v1))
		s.reap()
		s.arrives(twice)
	}},
	"a repair of copies read before and after": {rules{latestRound: true}, func(s *scene) {
		x := reading{k: 0}
		s.gather(&x, 1)
		s.delete()
		s.reap()
		s.gather(&x, 2)
		s.arrives(frame{kind: repair, from: 3, to: 1, target: -1, k: 0, obj: x.obj, round: x.round})
	}},
	"a node rolled back to before the delete": {rules{noFence: true}, func(s *scene) {
		s.takeBackup(1)
		s.delete()
		s.reap()
		for range 100 { // restoring is up to chance
			s.restore(1)
		}
		// It catches up with a round it had forgotten, which no rolled back node may.
		s.arrives(s.at(1, s.v1, 2))
		s.nodes[1].reaper.CatchUp(context.Background(), 0, s.nodes[2].store.mem.round)
		s.arrives(s.at(1, s.v1, 2))
	}},
	"a tombstone confirmed from memory": {rules{noDurability: true}, func(s *scene) {
		s.nodes[1].store.lazy = true
		s.delete()
		crashed := false
		s.script = func(l letter, answered bool) error {
			if l.endpoint == EndpointRemove && !crashed {
				crashed = true
				s.crash(1)
			}
			return nil
		}
		s.reap()
		s.arrives(s.at(1, s.nodes[1].store.mem.recs[0].Object, 2))
	}},
}

func (s *scene) shown() bool {
	for i := range 3 {
		if n := s.nodes[i]; !n.fenced && !dead(n.store.mem.recs[0].Object, s.now) {
			return true
		}
	}
	return false
}

func TestInterleavingsThatBroughtADeletedKeyBack(t *testing.T) {
	for name, x := range interleavings {
		t.Run(name, func(t *testing.T) {
			without := newScene(t, x.off)
			x.run(without)
			if !without.shown() {
				t.Error("without the rule nothing comes back: the test shows nothing")
			}
			with := newScene(t, rules{})
			x.run(with)
			if with.shown() {
				t.Error("the deleted value is back")
			}
			with.calm = true
			if err := with.settle(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestAWriteBetweenAnyTwoStepsIsKept(t *testing.T) {
	for _, endpoint := range []string{EndpointConfirm, EndpointEnter, EndpointRemove} {
		for at := range 3 {
			s := newScene(t, rules{})
			s.delete()
			var o vclock.Object
			s.once(endpoint, func() { o = s.write(at, vclock.Write{Value: []byte("new")}) })
			s.reap()
			s.calm = true
			if err := s.settle(); err != nil {
				t.Error(err)
			}
			dot := o.Siblings[len(o.Siblings)-1].Dot
			for _, x := range o.Siblings {
				if !x.Deleted {
					dot = x.Dot
				}
			}
			for i := range 3 {
				kept := false
				for _, x := range s.nodes[i].store.mem.recs[0].Siblings {
					kept = kept || x.Dot == dot
				}
				if !kept {
					t.Errorf("written at %d before %s: lost at %d", at, endpoint, i)
				}
			}
		}
	}
}

// Each member dies at each of its steps in turn: node 0 is the driver.
func TestWhoDiesAnywhereCarriesOnOrGivesUp(t *testing.T) {
	for victim, least := range map[int]int{0: 12, 1: 4, 3: 3} {
		step := 0
		for ; step < 60; step++ {
			s := newScene(t, rules{})
			s.delete()
			s.victim, s.killAt = victim, step
			s.visit(0)
			died := s.killAt < 0
			s.killAt = -1
			s.reap()
			s.calm = true
			if err := s.settle(); err != nil {
				t.Errorf("node %d, step %d: %v", victim, step, err)
			}
			for i, n := range s.nodes {
				if !n.store.mem.recs[0].IsZero() || n.store.mem.round != s.nodes[0].store.mem.round {
					t.Errorf("node %d, step %d: node %d: round %d, %+v", victim, step, i, n.store.mem.round, n.store.mem.recs[0])
				}
			}
			if !died {
				break
			}
		}
		if step < least || step == 60 {
			t.Errorf("node %d took %d steps", victim, step)
		}
	}
}

func TestASilentMemberHoldsReapingUp(t *testing.T) {
	for _, endpoint := range []string{EndpointConfirm, EndpointEnter} {
		s := newScene(t, rules{})
		s.delete()
		s.script = func(l letter, answered bool) error {
			if l.to == 3 && l.endpoint == endpoint {
				return errors.New("silent")
			}
			return nil
		}
		s.reap()
		for i := range 3 {
			if s.nodes[i].store.mem.recs[0].IsZero() {
				t.Fatalf("%s: node %d removed the key", endpoint, i)
			}
		}
		st := s.nodes[0].reaper.Status()
		if len(st.Waiting) == 1 && st.Waiting[0].Peer != ringIDs[3] || endpoint == EndpointConfirm && (len(st.Waiting) != 1 || st.Rounds != 0) {
			t.Errorf("%s: %+v", endpoint, st)
		}
		s.script = nil
		s.reap()
		if st := s.nodes[0].reaper.Status(); st.Removed != 1 || len(st.Waiting) != 0 || len(st.Open) != 0 {
			t.Errorf("%s: %+v", endpoint, st)
		}
	}
}

// A second driver, of another view of who is first, does its whole pass at each step of the first.
func TestASecondDriverAtAnyStepHarmsNothing(t *testing.T) {
	for at := range 30 {
		s := newScene(t, rules{})
		s.drivers = []int{0, 1}
		s.boot(1)
		late := s.at(0, s.v1, 2)
		s.delete()
		letters := 0
		s.script = func(l letter, answered bool) error {
			if l.from == 0 {
				if letters++; letters == at+1 {
					s.visit(1)
				}
			}
			return nil
		}
		s.visit(0)
		s.script = nil
		more := letters > at
		round := s.nodes[0].store.mem.round
		s.reap()
		s.visit(1)
		s.arrives(late)
		s.calm = true
		if err := s.settle(); err != nil {
			t.Errorf("step %d: %v", at, err)
		}
		if s.shown() || round == 0 || s.nodes[0].store.mem.round < round {
			t.Errorf("step %d: back: %v, round %d after %d", at, s.shown(), s.nodes[0].store.mem.round, round)
		}
		if !more {
			if at < 9 {
				t.Errorf("only %d letters", letters)
			}
			return
		}
	}
	t.Error("a pass never ends")
}
