package coordinator

import (
	"slices"
	"testing"

	"github.com/dunlindb/dunlin/ring"
)

func ids(letters string) (out []ring.NodeID) {
	for _, l := range letters {
		out = append(out, ring.NodeID{byte(l)})
	}
	return out
}

// changes are the primaries of one partition in the rings that live at once.
var changes = [][]string{
	{"ABC"}, {"ABC", "ABD"}, {"ABC", "ADE"}, {"ABC", "DEF"}, {"AB", "ABC"}, {"ABC", "AB"}, {"A", "ABC"}, {"A", "BCD"},
	{"ABC", "BA"}, {"ABC", "ABD", "BDE"}, {"AB", "ABC", "BCD"}, {"ABC", "ABCDE"}, {"ABCD", "AB"},
}

func coreOf(g putGoal, rings []string) *putCore {
	var groups [][]ring.NodeID
	for _, r := range rings {
		groups = append(groups, ids(r))
	}
	return newPutCore(g, groups...)
}

// eachWrite goes through every goal and every outcome of every node of the rings, given out in some order, and calls
// check after each answer with who acked, who fsynced and who failed.
func eachWrite(rings []string, check func(c *putCore, g putGoal, acks, syncs, fails []ring.NodeID)) {
	var nodes []ring.NodeID
	for _, r := range rings {
		for _, id := range ids(r) {
			if !slices.Contains(nodes, id) {
				nodes = append(nodes, id)
			}
		}
	}
	outcomes := 1
	for range nodes {
		outcomes *= 3
	}
	n := len(rings[0])
	for goal := range (n + 1) * (n + 1) * (n + 1) {
		g := putGoal{w: goal % (n + 1), dw: goal / (n + 1) % (n + 1), pw: goal / (n + 1) / (n + 1)}
		if g.dw > g.w {
			continue // no request asks for that
		}
		for outcome := range outcomes {
			for turn := range max(1, 6-len(nodes)) {
				c := coreOf(g, rings)
				var acks, syncs, fails []ring.NodeID
				x := outcome
				for i := range nodes {
					id := nodes[(i+turn)%len(nodes)]
					if x%3 == 0 {
						c.addFailure(place{node: id}, failure{})
						fails = append(fails, id)
					} else {
						c.addAck(place{node: id}, x%3 == 2)
						acks = append(acks, id)
						if x%3 == 2 {
							syncs = append(syncs, id)
						}
					}
					x /= 3
					check(c, g, acks, syncs, fails)
				}
			}
		}
	}
}

func among(nodes, of []ring.NodeID) (n int) {
	for _, id := range nodes {
		if slices.Contains(of, id) {
			n++
		}
	}
	return n
}

// A write is enough when each ring counts it for enough by hand, whatever node answers when, and impossible when one
// ring cannot count it any more.
func TestPutCoreOfSeveralRingsExhaustively(t *testing.T) {
	for _, rings := range changes {
		eachWrite(rings, func(c *putCore, g putGoal, acks, syncs, fails []ring.NodeID) {
			enough, impossible, weakest := true, false, 99
			for _, r := range rings {
				of := ids(r)
				want := g.among(len(of))
				a, s, left := among(of, acks), among(of, syncs), len(of)-among(of, acks)-among(of, fails)
				enough = enough && a >= want.w && s >= want.dw && a >= want.pw
				impossible = impossible || a+left < want.w || s+left < want.dw || a+left < want.pw
				weakest = min(weakest, a)
			}
			if got, _ := c.acks(); c.enough() != enough || c.impossible() != impossible || got != weakest || enough && impossible {
				t.Fatalf("%v, %+v, acks %v: enough %v impossible %v acks %d", rings, g, acks, c.enough(), c.impossible(), got)
			}
		})
	}
}

// Whatever nodes acked a write that was enough, R of the primaries of any one live ring hold one of them, if R + W > N.
func TestReadsOfAnyRingMeetTheWrite(t *testing.T) {
	for _, rings := range changes {
		met := 0
		eachWrite(rings, func(c *putCore, g putGoal, acks, syncs, _ []ring.NodeID) {
			if g.dw+g.pw+len(syncs) > 0 || !c.enough() {
				return
			}
			for _, r := range rings {
				of := ids(r)
				for readers := 1; readers < 1<<len(of); readers++ {
					var quorum []ring.NodeID
					for i, id := range of {
						if readers>>i&1 == 1 {
							quorum = append(quorum, id)
						}
					}
					if len(quorum)+g.w > len(of) && among(quorum, acks) == 0 {
						t.Fatalf("%v, w=%d acked by %v, is missed by %v of %s", rings, g.w, acks, quorum, r)
					}
					met++
				}
			}
		})
		if met == 0 {
			t.Errorf("%v: nothing was ever enough", rings)
		}
	}
}

// Quorum and All are of each ring by itself. Whatever words a writer and a reader use of which R + W > N always, they
// meet in any ring.
func TestWordsMeetInAnyRing(t *testing.T) {
	sizes := append(slices.Clone(changes), []string{"ABC", "ABCDE"}, []string{"ABCDE", "AB"}, []string{"AB", "ABC"}, []string{"ABCDE", "ABC", "ABCD"})
	for _, rings := range sizes {
		for _, words := range [][2]int{{Quorum, Quorum}, {All, 1}, {1, All}, {All, Quorum}, {Quorum, All}} {
			for _, r := range rings {
				n := len(r)
				g := putGoal{w: words[0], dw: AsW}.among(n)
				if g.dw != g.w || g.w < 1 || g.w > n || g.w+count(words[1], n) <= n {
					t.Errorf("%v: %+v and r=%d of %s", words, g, count(words[1], n), r)
				}
			}
		}
	}
	for _, tc := range []struct{ k, n, want int }{{1, 3, 1}, {3, 2, 2}, {3, 5, 3}, {Quorum, 1, 1}, {Quorum, 2, 2}, {Quorum, 4, 3}, {All, 4, 4}} {
		if got := count(tc.k, tc.n); got != tc.want {
			t.Errorf("%d of %d is %d, want %d", tc.k, tc.n, got, tc.want)
		}
	}
}

// A hint for a primary of two rings counts in both where its holder stands in in both, however late it began to in one;
// elsewhere it does not.
func TestStandInsOfSeveralRings(t *testing.T) {
	x, y := ring.NodeID{'X'}, ring.NodeID{'Y'}
	a := ids("A")[0]
	for _, standIns := range [][2]ring.NodeID{{x, x}, {x, y}} {
		for late := range 2 {
			for outcome := range 3 {
				c := newPutCore(putGoal{w: 1}, ids("ABC"), ids("ADE"))
				c.addFailure(place{node: a}, failure{word: wordDown})
				c.setStandIn(0, 0, standIns[0])
				if late == 0 {
					c.setStandIn(1, 0, standIns[1])
				}
				switch outcome {
				case 0:
					c.addAck(place{x, a}, true)
				case 1:
					c.addFailure(place{x, a}, failure{word: wordFull})
				}
				if late == 1 {
					c.setStandIn(1, 0, standIns[1])
				}
				both := standIns[0] == standIns[1]
				if c.enough() != (outcome == 0 && both) {
					t.Errorf("shared %v, late %d, outcome %d: enough %v", both, late, outcome, c.enough())
				}
				first, second := len(c.wantsStandIn(0)) == 1, len(c.wantsStandIn(1)) == 1
				if first != (outcome == 1) || second != (outcome == 1 && both) {
					t.Errorf("shared %v, late %d, outcome %d: wants stand-ins %v, %v", both, late, outcome, first, second)
				}
			}
		}
	}
}

// A node that is a primary in one ring and stands in for another node in the other is two places.
func TestPrimaryThatStandsInElsewhere(t *testing.T) {
	c := newPutCore(putGoal{w: 2}, ids("ABC"), ids("BCD"))
	a, b, d := ids("A")[0], ids("B")[0], ids("D")[0]
	c.addFailure(place{node: d}, failure{word: wordDown})
	c.setStandIn(1, 2, a)
	c.addAck(place{node: a}, true)
	c.addAck(place{node: b}, true)
	if c.enough() {
		t.Fatal("a copy of a node counts as its hint")
	}
	c.addAck(place{a, d}, true)
	if acks, n := c.acks(); !c.enough() || acks != 2 || n != 3 {
		t.Fatalf("%d of %d", acks, n)
	}
	out := c.outcomes(func(id ring.NodeID) string { return string(id[:1]) })
	if len(out) != 5 {
		t.Fatalf("each place once: %+v", out)
	}
}
