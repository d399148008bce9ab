package paxos

import (
	"os"
	"slices"
	"testing"
	"time"
)

func proposes(runs int, counters uint64) slot { return slot{runs: runs, counters: counters} }

func learns(runs int, counters uint64) slot {
	return slot{learns: true, runs: runs, counters: counters}
}

var (
	twoOnce    = scenario{name: "two proposers", acceptors: 3, slots: []slot{proposes(1, 1), proposes(1, 1)}}
	twoRounds  = scenario{name: "two proposers, two rounds", acceptors: 3, slots: []slot{proposes(1, 2), proposes(1, 1)}}
	restarted  = scenario{name: "two proposers, one restarts", acceptors: 3, slots: []slot{proposes(2, 1), proposes(1, 1)}}
	refusing   = scenario{name: "refusals", acceptors: 3, slots: []slot{proposes(1, 1), proposes(1, 1)}, refusals: true}
	announced  = scenario{name: "decisions are told", acceptors: 3, slots: []slot{proposes(1, 1), proposes(1, 1)}, announce: true}
	storing    = scenario{name: "acceptors crash before they store", acceptors: 3, slots: []slot{proposes(1, 1), proposes(1, 1)}, split: true}
	learning   = scenario{name: "a proposer and a learner", acceptors: 3, slots: []slot{proposes(1, 1), learns(1, 1)}, announce: true}
	threeOnce  = scenario{name: "three proposers", acceptors: 3, slots: []slot{proposes(1, 1), proposes(1, 1), proposes(1, 1)}}
	withReader = scenario{name: "two proposers and a learner", acceptors: 3, slots: []slot{proposes(1, 1), proposes(1, 1), learns(1, 1)}}
	fiveOnce   = scenario{name: "five acceptors", acceptors: 5, slots: []slot{proposes(1, 1), proposes(1, 1)}}
)

func scenarios() []scenario {
	all := []scenario{twoOnce, announced, storing, fiveOnce, twoRounds, restarted, refusing, learning, threeOnce, withReader}
	switch {
	case testing.Short():
		return all[:4]
	case os.Getenv("DUNLIN_EXPLORE") == "long":
		return append(all,
			scenario{name: "two proposers, two rounds each", acceptors: 3, slots: []slot{proposes(1, 2), proposes(1, 2)}},
		)
	}
	return all
}

// Every reachable state of small cases: at most one value is ever chosen; it was proposed; nobody reports another one
// as decided, nor one before it is chosen, and Mine is told truly; a learner that begins after a choice never finds
// nothing. DUNLIN_EXPLORE=long adds a case of 1.1 million states, which takes minutes.
func TestExploreAllInterleavings(t *testing.T) {
	total := 0
	for _, s := range scenarios() {
		t.Run(s.name, func(t *testing.T) {
			begin := time.Now()
			x := newExplorer(s, variant{})
			x.run()
			if x.violation != "" {
				t.Fatalf("violated:\n%s", x.trace())
			}
			t.Logf("%d states in %v; distinct steps to %v", len(x.seen), time.Since(begin).Round(time.Millisecond), x.outcomes)
			total += len(x.seen)
			x.mustReach(t)
		})
	}
	t.Logf("%d states", total)
}

// mustReach fails when the scenario did not come to what it is there for.
func (x *explorer) mustReach(t *testing.T) {
	t.Helper()
	want := []string{"promise", "accepted", "decided mine=true", "decided mine=false", "refused"}
	if x.announce {
		want = append(want, "decided")
	}
	if x.refusals {
		want = append(want, "refused mine=false")
	}
	if slices.ContainsFunc(x.slots, func(s slot) bool { return s.learns }) {
		want = append(want, "empty mine=false")
	}
	for _, w := range want {
		if x.outcomes[w] == 0 {
			t.Errorf("nothing ever led to %q", w)
		}
	}
	proposing := 0
	for _, s := range x.slots {
		if !s.learns {
			proposing += s.runs
		}
	}
	if len(x.values) != proposing {
		t.Errorf("only %q were ever chosen, want a value of each of %d proposers", x.values, proposing)
	}
}

func handled(s State, r Request) (State, Reply) {
	next, reply, err := s.Handle(r)
	if err != nil {
		panic(err)
	}
	return next, reply
}

// broken are protocols with one bug each, and a case that is large enough to show it.
var broken = []struct {
	name string
	in   scenario
	variant
}{
	{"an acceptor answers before its state is durable", twoOnce, variant{early: true}},
	{"an acceptor comes back with an older disk", twoOnce, variant{wiped: true}},
	{"an acceptor does not look at its promise when it accepts", twoOnce, variant{
		handle: func(s State, r Request) (State, Reply) {
			if r.Kind == KindAccept {
				s.Promised = Ballot{}
			}
			return handled(s, r)
		}}},
	{"an acceptor promises a lower ballot", twoOnce, variant{
		handle: func(s State, r Request) (State, Reply) {
			if r.Kind == KindPrepare && !s.Decided {
				s.Promised = Ballot{}
				if s.Accepted.Compare(r.Ballot) >= 0 {
					s.Accepted, s.Value = Ballot{}, nil
				}
			}
			return handled(s, r)
		}}},
	{"an acceptor does not tell what it accepted", twoOnce, variant{
		handle: func(s State, r Request) (State, Reply) {
			next, reply := handled(s, r)
			if reply.Kind == KindPromise {
				reply.Accepted, reply.Value = Ballot{}, nil
			}
			return next, reply
		}}},
	{"a majority of doubled replies", twoOnce, variant{
		on: func(p *Proposer, from [16]byte, r Reply) Result {
			if at := slices.Index(p.acceptors, from); p.answers[at] == yes && (r.Kind == KindPromise || r.Kind == KindAccepted) {
				from = p.acceptors[(at+1)%len(p.acceptors)]
			}
			return p.On(from, r)
		}}},
	{"less than a majority", twoOnce, variant{begun: func(p *Proposer) { p.quorum = len(p.acceptors) / 2 }}},
	{"a proposer adopts the first accepted value, not the highest", threeOnce, variant{
		on: func(p *Proposer, from [16]byte, r Reply) Result {
			best, value := p.best, p.value
			result := p.On(from, r)
			if r.Kind == KindPromise && !best.IsZero() {
				p.best, p.value = best, value
			}
			return result
		}}},
	{"a proposer adopts nothing", twoOnce, variant{
		on: func(p *Proposer, from [16]byte, r Reply) Result {
			result := p.On(from, r)
			if result.Outcome == Send {
				p.value = p.own
			}
			return result
		}}},
	{"a proposer counts replies to its earlier rounds", twoRounds, variant{
		on: func(p *Proposer, from [16]byte, r Reply) Result {
			if r.Ballot.Proposer == p.run && r.Accepted.Compare(p.ballot) < 0 {
				r.Ballot = p.ballot
			}
			return p.On(from, r)
		}}},
	{"a restarted proposer has the run id of the one before", restarted, variant{sameRun: true}},
	{"a proposer takes a refusal for an acceptance", refusing, variant{
		on: func(p *Proposer, from [16]byte, r Reply) Result {
			if r.Kind == KindRefused && p.phase == accepting {
				r.Kind, r.Promised = KindAccepted, Ballot{}
			}
			return p.On(from, r)
		}}},
	{"a proposer takes every decision for its own", twoOnce, variant{
		on: func(p *Proposer, from [16]byte, r Reply) Result {
			result := p.On(from, r)
			result.Mine = result.Outcome == Decided
			return result
		}}},
	{"a learner believes the first that accepted nothing", learning, variant{
		on: func(p *Proposer, from [16]byte, r Reply) Result {
			if p.own == nil && p.phase == preparing && r.Kind == KindPromise && r.Ballot == p.ballot && r.Accepted.IsZero() {
				p.phase = empty
			}
			return p.On(from, r)
		}}},
}

// The explorer must find what is wrong, or its silence says nothing.
func TestExploreFindsPlantedBugs(t *testing.T) {
	for _, b := range broken {
		t.Run(b.name, func(t *testing.T) {
			x := newExplorer(b.in, b.variant)
			x.run()
			if x.violation == "" {
				t.Fatalf("%d states of %q, and nothing is wrong", len(x.seen), b.in.name)
			}
			t.Logf("after %d states: %s", len(x.seen), x.violation)
		})
	}
}
