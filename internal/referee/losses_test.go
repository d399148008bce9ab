package referee

import (
	"testing"
	"time"
)

func span(from, to int) Span {
	return Span{time.Duration(from) * time.Second, time.Duration(to) * time.Second}
}

func loss(at, nodes int, owners map[string]int) Loss {
	return Loss{time.Duration(at) * time.Second, nodes, owners}
}

// What was read and not acknowledged may go with a copy that moves. Read while one layout was in force, it is handed on,
// unless a disk was lost after it was written.
func TestWhatWasReadIsHandedOn(t *testing.T) {
	for name, tc := range map[string]struct {
		outcome Outcome
		quiet   []Span
		losses  []Loss
		want    Rule
	}{
		"acknowledged":                         {Acked, nil, nil, Lost},
		"while members changed":                {Unknown, nil, nil, ""},
		"in a quiet time":                      {Unknown, []Span{span(0, 1), span(3, 4)}, nil, Vanished},
		"which began too late":                 {Unknown, []Span{span(4, 9)}, nil, ""},
		"which ended too early":                {Unknown, []Span{span(0, 3)}, nil, ""},
		"in a quiet time, but a disk was lost": {Unknown, []Span{span(0, 9)}, []Loss{loss(1, 1, nil)}, ""},
		"a disk was lost before":               {Unknown, []Span{span(0, 9)}, []Loss{loss(0, 1, nil)}, Vanished},
	} {
		t.Run(name, func(t *testing.T) {
			h := &History{
				Options: Options{N: 3, Wiped: true}, Quiet: tc.quiet, Losses: tc.losses,
				Operations: []*Operation{put("a", 1, 2, Operation{Outcome: tc.outcome}), get(3, 4, "a")},
			}
			check(t, h, tc.want)
		})
	}
}

// A quiet time that goes on is one.
func TestAQuietTimeGoesOn(t *testing.T) {
	h := &History{}
	for _, s := range []Span{span(1, 2), span(1, 5), span(7, 8)} {
		h.WasQuiet(s)
	}
	if len(h.Quiet) != 2 || h.Quiet[0] != span(1, 5) {
		t.Errorf("%v", h.Quiet)
	}
}

// What may be gone with lost disks is what nobody else need have had: no more acknowledged it than were lost, of the key's
// owners if only these could.
func TestLostDisks(t *testing.T) {
	acked := func(w int, strict bool) Operation { return Operation{W: w, Strict: strict} }
	b := put("b", 3, 4, Operation{W: 2, Sure: []string{"a"}, Strict: true})
	for name, tc := range map[string]struct {
		ops    []*Operation
		losses []Loss
		final  []string
		want   Rule
	}{
		"more had it":           {[]*Operation{put("a", 1, 2, acked(2, false))}, []Loss{loss(5, 1, nil)}, nil, Lost},
		"as many had it":        {[]*Operation{put("a", 1, 2, acked(2, false))}, []Loss{loss(5, 2, nil)}, nil, ""},
		"one after the other":   {[]*Operation{put("a", 1, 2, acked(2, false))}, []Loss{loss(5, 1, nil), loss(6, 1, nil)}, nil, ""},
		"of two owners one":     {[]*Operation{put("a", 1, 2, acked(2, true))}, []Loss{loss(5, 3, map[string]int{"b/k": 1})}, nil, Lost},
		"two of two owners":     {[]*Operation{put("a", 1, 2, acked(2, true))}, []Loss{loss(5, 3, map[string]int{"b/k": 2})}, nil, ""},
		"of no owner":           {[]*Operation{put("a", 1, 2, acked(1, true))}, []Loss{loss(5, 3, map[string]int{"b/k": 0})}, nil, Lost},
		"a sloppy write":        {[]*Operation{put("a", 1, 2, acked(2, false))}, []Loss{loss(5, 3, map[string]int{"b/k": 1})}, nil, ""},
		"before it was written": {[]*Operation{put("a", 3, 4, acked(1, false))}, []Loss{loss(2, 3, nil)}, nil, Lost},
		"while it was written":  {[]*Operation{put("a", 1, 4, acked(1, false))}, []Loss{loss(2, 3, nil)}, nil, ""},
		"the older is back":     {[]*Operation{put("a", 1, 2, acked(3, true)), b}, []Loss{loss(5, 2, nil)}, []string{"a"}, ""},
		"both are gone":         {[]*Operation{put("a", 1, 2, acked(3, true)), b}, []Loss{loss(5, 2, nil)}, nil, ""},
		"the older came back":   {[]*Operation{put("a", 1, 2, acked(3, true)), b, del(5, 6, Operation{W: 2, Sure: []string{"b"}})}, []Loss{loss(7, 1, nil)}, []string{"a"}, CameBack},
		"unread before":         {[]*Operation{put("a", 1, 2, acked(2, true)), get(3, 4)}, []Loss{loss(5, 2, nil)}, nil, Unread},
		"unread after":          {[]*Operation{put("a", 1, 2, acked(2, true)), get(6, 7)}, []Loss{loss(5, 2, nil)}, nil, ""},
		"stale before":          {[]*Operation{put("a", 1, 2, acked(3, true)), b, del(5, 8, with(over("b"), Unknown)), get(6, 7, "a")}, []Loss{loss(9, 2, nil)}, nil, Stale},
		"stale after":           {[]*Operation{put("a", 1, 2, acked(3, true)), b, get(8, 9, "a")}, []Loss{loss(7, 2, nil)}, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			h := &History{Options: Options{N: 3, Wiped: true}, Losses: tc.losses, Operations: tc.ops}
			h.Final.Keys = map[string]FinalKey{"b/k": {Values: tc.final}}
			check(t, h, tc.want)
		})
	}
}

// In an lww bucket, too.
func TestLostDisksWhereTheLastWriterWins(t *testing.T) {
	for nodes, want := range map[int]Rule{1: Lost, 2: ""} {
		h := &History{Options: Options{N: 3, LWW: []string{"b"}}, Losses: []Loss{loss(5, nodes, nil)}, Operations: []*Operation{put("a", 1, 2, Operation{W: 2})}}
		check(t, h, want)
	}
	for nodes, want := range map[int]Rule{1: CameBack, 2: ""} {
		h := &History{Options: Options{N: 3, LWW: []string{"b"}}, Losses: []Loss{loss(5, nodes, nil)}}
		h.Operations = []*Operation{put("a", 1, 2, Operation{W: 3}), put("b", 3, 4, Operation{W: 2, Sure: []string{"a"}})}
		h.Final.Keys = map[string]FinalKey{"b/k": {Values: []string{"a"}}}
		check(t, h, want)
	}
}

// A bucket with a number of replicas of its own has that many owners of each of its partitions.
func TestSettledWithAnotherNumber(t *testing.T) {
	nodes := []Node{{Name: "a", Digests: map[string]string{"7": "x", "9": "y"}}, {Name: "b", Digests: map[string]string{"7": "x"}}}
	if err := Settled(Final{Nodes: nodes, Numbered: map[string]int{"9": 1}}, 2); err != nil {
		t.Error(err)
	}
	if Settled(Final{Nodes: nodes}, 2) == nil || Settled(Final{Nodes: nodes, Numbered: map[string]int{"9": 2}}, 2) == nil {
		t.Error("a replica too few, and nobody noticed")
	}
}
