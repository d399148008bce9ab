package referee

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// put, del and get are operations that took from one second to another.
func put(value string, from, to int, o Operation) *Operation {
	o.Kind, o.Value = Put, value
	return o.at(from, to)
}

func del(from, to int, o Operation) *Operation {
	o.Kind = Delete
	return o.at(from, to)
}

func get(from, to int, got ...string) *Operation {
	o := Operation{Kind: Get, Strict: true, Got: got}
	return o.at(from, to)
}

func dots(o *Operation, dots ...string) *Operation {
	o.Dots = dots
	return o
}

func (o Operation) at(from, to int) *Operation {
	o.Bucket, o.Key, o.Start, o.End = "b", "k", time.Duration(from)*time.Second, time.Duration(to)*time.Second
	if o.Outcome == "" {
		o.Outcome = Acked
	}
	return &o
}

var strict = Operation{Strict: true}

func over(values ...string) Operation { return Operation{Strict: true, Sure: values} }

func with(o Operation, is Outcome) Operation { o.Outcome = is; return o }

// Each history has one thing wrong, or nothing.
var cases = map[string]struct {
	ops   []*Operation
	final []string
	want  Rule // "": nothing is wrong
}{
	"nothing":                       {},
	"kept":                          {[]*Operation{put("a", 1, 2, strict)}, []string{"a"}, ""},
	"lost":                          {[]*Operation{put("a", 1, 2, Operation{})}, nil, Lost},
	"indeterminate may be gone":     {[]*Operation{put("a", 1, 2, Operation{Outcome: Unknown})}, nil, ""},
	"indeterminate may be there":    {[]*Operation{put("a", 1, 2, Operation{Outcome: Unknown})}, []string{"a"}, ""},
	"indeterminate, read, gone":     {[]*Operation{put("a", 1, 2, Operation{Outcome: Unknown}), get(3, 4, "a")}, nil, Vanished},
	"indeterminate, read, replaced": {[]*Operation{put("a", 1, 2, Operation{Outcome: Unknown}), get(3, 4, "a"), put("b", 5, 6, over("a"))}, []string{"b"}, ""},
	"none is there":                 {[]*Operation{put("a", 1, 2, Operation{Outcome: None})}, []string{"a"}, NotNone},
	"none was read":                 {[]*Operation{put("a", 1, 2, Operation{Outcome: None}), get(3, 4, "a")}, nil, NotNone},
	"invented":                      {nil, []string{"x"}, Invented},
	"invented in a read":            {[]*Operation{get(1, 2, "x")}, nil, Invented},
	"replaced":                      {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, over("a"))}, []string{"b"}, ""},
	"lost update":                   {[]*Operation{put("a", 1, 2, strict), put("b", 1, 2, strict), put("c", 3, 4, over("a"))}, []string{"c"}, Lost},
	"replaced by none":              {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, with(over("a"), None))}, nil, Lost},
	"replaced by indeterminate":     {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, with(over("a"), Unknown))}, []string{"b"}, ""},
	"not replaced by indeterminate": {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, with(over("a"), Unknown))}, []string{"a"}, ""},
	"came back":                     {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, over("a")), del(5, 6, over("b"))}, []string{"a"}, CameBack},
	"beside what it replaced":       {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, with(over("a"), Unknown))}, []string{"a", "b"}, Beside},
	"beside, two generations on":    {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, with(over("a"), Unknown)), put("c", 5, 6, with(over("b"), Unknown))}, []string{"a", "c"}, Beside},
	"siblings":                      {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, strict)}, []string{"a", "b"}, ""},
	"own context may not cover":     {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, Operation{Maybe: []string{"a"}})}, []string{"a", "b"}, ""},
	"own context may cover":         {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, Operation{Maybe: []string{"a"}})}, []string{"b"}, ""},
	"deleted":                       {[]*Operation{put("a", 1, 2, strict), del(3, 4, over("a"))}, nil, ""},
	"undeleted":                     {[]*Operation{put("a", 1, 2, strict), del(3, 4, over("a"))}, []string{"a"}, CameBack},
	"blindly deleted":               {[]*Operation{put("a", 1, 2, strict), del(3, 4, Operation{Blind: true})}, nil, ""},
	"not seen by a sloppy delete":   {[]*Operation{put("a", 1, 2, strict), del(3, 4, Operation{Blind: true})}, []string{"a"}, ""},
	"not seen by a strict delete":   {[]*Operation{put("a", 1, 2, strict), del(3, 4, Operation{Blind: true, Strict: true})}, []string{"a"}, CameBack},
	"written after a blind delete":  {[]*Operation{del(1, 2, Operation{Blind: true}), put("a", 3, 4, strict)}, nil, Lost},
	"before a delete that may hang": {[]*Operation{del(1, 2, Operation{Blind: true, Outcome: Unknown}), put("a", 3, 4, strict)}, nil, ""},
	"twice":                         {[]*Operation{put("a", 1, 2, strict)}, []string{"a", "a"}, Twice},
	"twice in a read":               {[]*Operation{put("a", 1, 2, strict), get(3, 4, "a", "a")}, []string{"a"}, Twice},
	"unread":                        {[]*Operation{put("a", 1, 2, strict), get(3, 4)}, []string{"a"}, Unread},
	"unread while written":          {[]*Operation{put("a", 1, 3, strict), get(2, 4)}, []string{"a"}, ""},
	"unread after a sloppy write":   {[]*Operation{put("a", 1, 2, Operation{}), get(3, 4)}, []string{"a"}, ""},
	"unread since being replaced":   {[]*Operation{put("a", 1, 2, strict), put("b", 3, 6, over("a")), get(4, 5, "b")}, []string{"b"}, ""},
	"unread, replaced only later":   {[]*Operation{put("a", 1, 2, strict), get(3, 4), put("b", 5, 6, over("a"))}, []string{"b"}, Unread},
	"stale": {[]*Operation{
		put("a", 1, 2, strict), put("b", 3, 4, over("a")), del(5, 8, with(over("b"), Unknown)), get(6, 7, "a"),
	}, []string{"b"}, Stale},
	"stale of a sloppy write": {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, Operation{Sure: []string{"a"}}), get(5, 6, "a")}, []string{"b"}, ""},
	"stale while written":     {[]*Operation{put("a", 1, 2, strict), put("b", 3, 5, over("a")), get(4, 6, "a")}, []string{"b"}, ""},
	"a dot of its own":        {[]*Operation{put("a", 1, 2, strict), put("b", 1, 2, strict), dots(get(3, 4, "a", "b"), "x:1", "x:2")}, []string{"a", "b"}, ""},
	"a dot of two values": {[]*Operation{
		put("a", 1, 2, strict), dots(get(3, 4, "a"), "x:1"), put("b", 5, 6, over("a")), dots(get(7, 8, "b"), "x:1"),
	}, []string{"b"}, DotReused},
}

// rules lists which rules were broken, each once, and whether one is broken twice for one reason is not looked at.
func rules(vs []Violation) (out []Rule) {
	seen := map[Rule]bool{}
	for _, v := range vs {
		if !seen[v.Rule] {
			seen[v.Rule] = true
			out = append(out, v.Rule)
		}
	}
	return out
}

func TestRefereeJudges(t *testing.T) {
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h := &History{Options: Options{N: 3}, Final: Final{Keys: map[string]FinalKey{"b/k": {Values: tc.final}}}}
			for _, o := range tc.ops {
				h.Record(o)
			}
			check(t, h, tc.want)
		})
	}
}

// check wants exactly one broken rule, or none; the history's file must tell the same.
func check(t *testing.T, h *History, want Rule) {
	t.Helper()
	got := h.Judge()
	if found := rules(got); want == "" && len(found) > 0 || want != "" && (len(found) != 1 || found[0] != want) {
		t.Errorf("%v, want %q", got, want)
	}
	var file bytes.Buffer
	if err := h.Write(&file); err != nil {
		t.Fatal(err)
	}
	again, err := Read(&file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got, again.Judge()); diff != "" {
		t.Errorf("the file is judged otherwise:\n%s", diff)
	}
	if diff := cmp.Diff(h, again, cmpopts.IgnoreUnexported(History{}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("the file:\n%s", diff)
	}
}

func TestRefereeJudgesTheLastWriter(t *testing.T) {
	for name, tc := range map[string]struct {
		ops   []*Operation
		final []string
		want  Rule
	}{
		"the last":                {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, strict)}, []string{"b"}, ""},
		"a fast clock":            {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, strict)}, []string{"a"}, ""},
		"two":                     {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, strict)}, []string{"a", "b"}, Several},
		"nobody":                  {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, strict)}, nil, Lost},
		"nobody, it may be":       {[]*Operation{put("a", 1, 2, Operation{Outcome: Unknown})}, nil, ""},
		"nobody but a delete":     {[]*Operation{put("a", 1, 2, strict), del(1, 2, Operation{Blind: true})}, nil, ""},
		"one that was covered":    {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, over("a"))}, []string{"a"}, CameBack},
		"one that was covered?":   {[]*Operation{put("a", 1, 2, strict), put("b", 3, 4, with(over("a"), Unknown))}, []string{"a"}, ""},
		"several, only in a read": {[]*Operation{put("a", 1, 2, strict), put("b", 1, 2, strict), get(3, 4, "a", "b")}, []string{"a"}, Several},
	} {
		t.Run(name, func(t *testing.T) {
			h := &History{Options: Options{N: 3, LWW: []string{"b"}}, Operations: tc.ops}
			h.Final.Keys = map[string]FinalKey{"b/k": {Values: tc.final}}
			check(t, h, tc.want)
		})
	}
}

// With durability "os" and power cuts, writes may be lost, and what they replaced may be back; dots, names and
// convergence must hold.
func TestRefereeJudgesALossyRun(t *testing.T) {
	stillWrong := map[Rule]bool{Invented: true, NotNone: true, Twice: true, Beside: true, DotReused: true}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			h := &History{Options: Options{N: 3, Lossy: true}, Operations: tc.ops}
			h.Final.Keys = map[string]FinalKey{"b/k": {Values: tc.final}}
			want := tc.want
			if !stillWrong[want] {
				want = ""
			}
			check(t, h, want)
		})
	}
}

func TestRefereeJudgesReplicas(t *testing.T) {
	same := func(change func(r []Replica)) FinalKey {
		r := []Replica{{Node: "n1", Primary: true, Digest: "d"}, {Node: "n2", Primary: true, Digest: "d"}, {Node: "n3", Primary: true, Digest: "d"}, {Node: "n4"}}
		change(r)
		return FinalKey{Replicas: r}
	}
	for name, tc := range map[string]struct {
		key    FinalKey
		reaped bool
		want   Rule
	}{
		"equal":                    {same(func([]Replica) {}), true, ""},
		"one differs":              {same(func(r []Replica) { r[1].Digest = "e" }), false, Diverged},
		"one lacks it":             {same(func(r []Replica) { r[2].Digest = "" }), false, Diverged},
		"one is damaged":           {same(func(r []Replica) { r[2].Damaged = true }), false, Diverged},
		"a fallback differs":       {same(func(r []Replica) { r[3].Digest = "e" }), false, ""},
		"a hint":                   {same(func(r []Replica) { r[3].Hint = true }), false, HintLeft},
		"a tombstone, too early":   {same(func(r []Replica) { r[0].Dead = true }), false, ""},
		"a tombstone after a reap": {same(func(r []Replica) { r[0].Dead = true }), true, TombstoneLeft},
	} {
		t.Run(name, func(t *testing.T) {
			check(t, &History{Options: Options{N: 3, Reaped: tc.reaped}, Final: Final{Keys: map[string]FinalKey{"b/k": tc.key}}}, tc.want)
		})
	}
}

func TestSettled(t *testing.T) {
	node := func(name string, hints int, digest string) Node {
		return Node{Name: name, Hints: hints, Digests: map[string]string{"7": digest}}
	}
	for want, nodes := range map[string][]Node{
		"":                     {node("a", 0, "x"), node("b", 0, "x")},
		"a: 1 hints wait":      {node("a", 1, "x"), node("b", 0, "x")},
		"1 of 1":               {node("a", 0, "x"), node("b", 0, "y")},
		"partition 7: map[x:[": {node("a", 0, "x")},
		"0 of 0":               {{Name: "a"}},
	} {
		err := Settled(Final{Nodes: nodes}, 2)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
		h := &History{Options: Options{N: 2}, Final: Final{Nodes: nodes}}
		if broken := len(h.Judge()) > 0; broken != (want != "") {
			t.Errorf("%q judged %v", want, h.Judge())
		}
	}
}

// In virtual time a write may begin in the moment in which the read that shows it ends.
func TestAWriteThatBeginsAsTheReadEnds(t *testing.T) {
	h := &History{Options: Options{N: 3}, Operations: []*Operation{put("a", 1, 2, strict), get(3, 4, "b"), put("b", 4, 5, over("a"))}}
	h.Final.Keys = map[string]FinalKey{"b/k": {Values: []string{"b"}}}
	check(t, h, "")
	h.Operations[2].Start++
	check(t, h, Unread)
}

// A key that could not be read in the end is not taken for a lost one.
func TestUnknownEnd(t *testing.T) {
	for _, lww := range [][]string{nil, {"b"}} {
		h := &History{Options: Options{N: 3, LWW: lww}, Operations: []*Operation{put("a", 1, 2, strict)}}
		h.Final.Keys = map[string]FinalKey{"b/k": {Unknown: true}}
		check(t, h, "")
	}
}

// A breach that a client saw is a violation of its own.
func TestBreach(t *testing.T) {
	h := &History{}
	h.Breach("b/k", "a repeated write was refused")
	check(t, h, Breach)
}

func TestReadRefusesWhatIsNoWholeHistory(t *testing.T) {
	for _, text := range []string{
		"", "{}", "x", `{"history":2,"options":{"n":3}}` + "\n" + `{"final":{"keys":{}}}`,
		`{"history":1,"options":{"n":3}}` + "\n", `{"final":{"keys":{}}}`,
	} {
		if _, err := Read(strings.NewReader(text)); err == nil {
			t.Errorf("%q was read", text)
		}
	}
}

// A value names itself and can be told from a damaged one.
func TestValues(t *testing.T) {
	for _, extra := range []int{0, 10, 2000} {
		v := Value("c1-20", extra)
		if Name(v) != "c1-20" || len(v) > extra+8 {
			t.Errorf("%q names %q", v, Name(v))
		}
		for _, damaged := range []string{v[1:], v[:len(v)-1], v + "x", "", "c1-20", ".", " .", v[:3] + "x" + v[4:]} {
			if Name(damaged) == "c1-20" {
				t.Errorf("%q passes for a value", damaged)
			}
		}
	}
}
