package paxos

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var three = [][16]byte{{1}, {2}, {3}}

func newProposer(t *testing.T, acceptors [][16]byte, value string, counter uint64) *Proposer {
	t.Helper()
	p, err := New(5, [16]byte{7, 15: 0xee}, acceptors, []byte(value), counter)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newLearner(t *testing.T, acceptors [][16]byte) *Proposer {
	t.Helper()
	p, err := Learn(5, [16]byte{8, 15: 0xee}, acceptors, 0)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A feed gives answers to the present round, in short.
type feed struct {
	t *testing.T
	p *Proposer
}

func (f feed) on(from byte, r Reply, want Outcome) Result {
	f.t.Helper()
	r.Epoch = 5
	if r.Ballot.IsZero() {
		r.Ballot = f.p.Request().Ballot
	}
	got := f.p.On([16]byte{from}, r)
	if got.Outcome != want {
		f.t.Fatalf("%v from %d: %v, want %v", r.Kind, from, got.Outcome, want)
	}
	return got
}

func promise() Reply { return Reply{Kind: KindPromise} }

func promiseOf(b Ballot, v string) Reply {
	return Reply{Kind: KindPromise, Accepted: b, Value: []byte(v)}
}

func accepted() Reply { return Reply{Kind: KindAccepted} }

func refused(b Ballot) Reply { return Reply{Kind: KindRefused, Promised: b} }

func TestProposerWins(t *testing.T) {
	p := newProposer(t, three, "mine", 4)
	f := feed{t, p}
	want := Request{Kind: KindPrepare, Epoch: 5, Ballot: ballot(5, 7)}
	if diff := cmp.Diff(want, p.Request()); diff != "" {
		t.Errorf("first phase (-want +got):\n%s", diff)
	}
	f.on(1, promise(), Pending)
	f.on(1, promise(), Pending)  // doubled
	f.on(9, promise(), Pending)  // a stranger
	f.on(2, accepted(), Pending) // of another phase
	f.on(2, Reply{}, Pending)    // nonsense
	f.on(3, promise(), Send)
	want.Kind, want.Value = KindAccept, []byte("mine")
	if diff := cmp.Diff(want, p.Request()); diff != "" {
		t.Errorf("second phase (-want +got):\n%s", diff)
	}
	f.on(2, promise(), Pending) // late
	f.on(2, accepted(), Pending)
	f.on(2, accepted(), Pending)
	r := f.on(3, accepted(), Decided)
	if !r.Mine || string(r.Value) != "mine" {
		t.Errorf("%+v", r)
	}
	want.Kind = KindDecide
	if diff := cmp.Diff(want, p.Request()); diff != "" {
		t.Errorf("announcement (-want +got):\n%s", diff)
	}
	if err := p.Restart(); err != nil || p.Request().Kind != KindDecide {
		t.Errorf("a decision is undone: %v", err)
	}
}

func TestProposerAdoptsTheHighestAccepted(t *testing.T) {
	p := newProposer(t, [][16]byte{{1}, {2}, {3}, {4}, {5}}, "mine", 9)
	f := feed{t, p}
	f.on(1, promiseOf(ballot(3, 1), "third"), Pending)
	f.on(2, promiseOf(ballot(8, 1), "eighth"), Pending)
	f.on(3, promiseOf(ballot(5, 1), "fifth"), Send)
	for from, want := range map[byte]Outcome{1: Pending, 2: Pending} {
		f.on(from, accepted(), want)
	}
	if r := f.on(5, accepted(), Decided); r.Mine || string(r.Value) != "eighth" {
		t.Errorf("%+v", r)
	}
}

// Another proposer brought through what this one had proposed before: that is a success.
func TestMineIsByValue(t *testing.T) {
	f := feed{t, newProposer(t, three, "mine", 0)}
	f.on(1, promiseOf(Ballot{}, ""), Pending)
	if r := f.on(2, Reply{Kind: KindDecided, Value: []byte("mine")}, Decided); !r.Mine {
		t.Errorf("%+v", r)
	}
	f = feed{t, newProposer(t, three, "mine", 0)}
	old := Reply{Kind: KindDecided, Ballot: ballot(77, 9), Value: []byte("theirs")}
	if r := f.on(2, old, Decided); r.Mine || string(r.Value) != "theirs" {
		t.Errorf("%+v", r)
	}
}

func TestRefusedRoundsStartAgainHigher(t *testing.T) {
	p := newProposer(t, three, "mine", 0)
	f := feed{t, p}
	first := p.Request().Ballot
	f.on(1, refused(ballot(6, 1)), Pending)
	f.on(1, refused(ballot(6, 1)), Pending) // doubled
	if r := f.on(2, refused(ballot(8, 1)), Refused); r.Higher != ballot(8, 1) {
		t.Errorf("higher: %v", r.Higher)
	}
	if err := p.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := p.Request().Ballot; got != ballot(9, 7) {
		t.Errorf("second round: %v", got)
	}
	late := promise()
	late.Ballot = first
	f.on(1, late, Pending)
	f.on(2, late, Pending)
	f.on(3, late, Pending)
	late = refused(ballot(20, 1))
	late.Ballot = first
	f.on(3, late, Pending)
	if p.Counter() != 20 {
		t.Errorf("counter %d", p.Counter())
	}
	f.on(1, promise(), Pending)
	f.on(2, promise(), Send)
	f.on(1, refused(ballot(30, 1)), Pending)
	f.on(3, refused(ballot(30, 1)), Refused)
	if err := p.Restart(); err != nil || p.Request().Ballot.Counter != 31 || p.Request().Kind != KindPrepare {
		t.Errorf("third round: %v, %v", p.Request().Ballot, err)
	}
}

func TestLostAnswersEndTheWait(t *testing.T) {
	p := newProposer(t, three, "mine", 0)
	f := feed{t, p}
	old := p.Request()
	if r := p.Lost([16]byte{1}, old); r.Outcome != Pending {
		t.Errorf("%v", r.Outcome)
	}
	if r := p.Lost([16]byte{1}, old); r.Outcome != Pending {
		t.Errorf("counted twice: %v", r.Outcome)
	}
	if r := p.Lost([16]byte{2}, old); r.Outcome != Unreachable {
		t.Errorf("%v", r.Outcome)
	}
	f.on(2, promise(), Pending) // it comes all the same
	f.on(1, promise(), Send)
	if r := p.Lost([16]byte{1}, old); r.Outcome != Pending {
		t.Errorf("a lost prepare counts in the second phase: %v", r.Outcome)
	}
	p.Lost([16]byte{1}, p.Request())
	f.on(2, refused(ballot(9, 9)), Refused)
	p.Lost([16]byte{9}, p.Request())
}

func TestLearn(t *testing.T) {
	f := feed{t, newLearner(t, three)}
	f.on(1, promise(), Pending)
	f.on(2, promise(), Empty)
	f.on(3, promiseOf(ballot(1, 1), "late"), Empty)

	f = feed{t, newLearner(t, three)}
	f.on(1, promise(), Pending)
	f.on(2, promiseOf(Ballot{Counter: 1, Proposer: [16]byte{1}}, "half"), Send)
	f.on(1, accepted(), Pending)
	if r := f.on(2, accepted(), Decided); r.Mine || string(r.Value) != "half" {
		t.Errorf("%+v", r)
	}
}

func TestOneAcceptorIsAMajority(t *testing.T) {
	f := feed{t, newProposer(t, [][16]byte{{1}}, "mine", 0)}
	f.on(1, promise(), Send)
	f.on(1, accepted(), Decided)
}

func TestProposersThatCannotBe(t *testing.T) {
	run, v := [16]byte{1}, []byte("v")
	for name, start := range map[string]func() (*Proposer, error){
		"no value":         func() (*Proposer, error) { return New(5, run, three, nil, 0) },
		"large value":      func() (*Proposer, error) { return New(5, run, three, make([]byte, MaxValue+1), 0) },
		"no run":           func() (*Proposer, error) { return New(5, [16]byte{}, three, v, 0) },
		"no acceptors":     func() (*Proposer, error) { return Learn(5, run, nil, 0) },
		"doubled acceptor": func() (*Proposer, error) { return New(5, run, [][16]byte{{1}, {2}, {1}}, v, 0) },
		"acceptor 0":       func() (*Proposer, error) { return Learn(5, run, [][16]byte{{1}, {}}, 0) },
	} {
		if _, err := start(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := New(5, run, three, v, MaxCounter); !errors.Is(err, ErrExhausted) {
		t.Errorf("no ballot left: %v", err)
	}
}
