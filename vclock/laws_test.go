package vclock

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func pick(t *rapid.T, states []Object, name string) Object {
	return states[rapid.IntRange(0, len(states)-1).Draw(t, name)]
}

// same compares all that merging decides, retired ids with it.
func same(a, b Object) bool { return a.Equal(b) && cmp.Equal(a.Retired, b.Retired) }

func TestMergeLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		states := history(t)
		a, b, c := pick(t, states, "a"), pick(t, states, "b"), pick(t, states, "c")
		if !same(Merge(a, a), a) {
			t.Fatalf("not idempotent: %v", a)
		}
		if !same(Merge(a, b), Merge(b, a)) {
			t.Fatalf("not commutative:\n%v\n%v", Merge(a, b), Merge(b, a))
		}
		if l, r := Merge(Merge(a, b), c), Merge(a, Merge(b, c)); !same(l, r) {
			t.Fatalf("not associative:\n%v\n%v", l, r)
		}
		if !same(Merge(Merge(a, b), b), Merge(a, b)) {
			t.Fatal("absorbing twice differs from once")
		}
		m := Merge(a, b)
		if !m.Covers(a) || !m.Covers(b) {
			t.Fatalf("a merge does not cover its parts: %v", m)
		}
		changed := !m.Equal(a) || len(m.Retired) != len(a.Retired)
		if a.Covers(b) == changed {
			t.Fatalf("Covers says %v, but merging changes: %v", a.Covers(b), changed)
		}
		if (a.Digest("b", "k") == b.Digest("b", "k")) != a.Equal(b) {
			t.Fatal("digests and equality disagree")
		}
		for _, s := range m.Siblings {
			if !m.Context.Covers(s.Dot) {
				t.Fatal("a sibling's dot is not covered by the context")
			}
		}
	})
}

func TestVersionVector(t *testing.T) {
	a, b := Actor{Node: node(1)}, Actor{Node: node(2)}
	v := VersionVector{}.With(Dot{b, 2}).With(Dot{a, 1}).With(Dot{b, 1})
	if len(v) != 2 || v.Counter(a) != 1 || v.Counter(b) != 2 {
		t.Fatalf("%v", v)
	}
	w := VersionVector{{a, 3}}
	if v.Descends(w) || w.Descends(v) || !v.Merge(w).Descends(v) || !v.Merge(w).Descends(w) {
		t.Fatal("concurrent vectors")
	}
	if !v.Covers(Dot{b, 1}) || v.Covers(Dot{b, 3}) || v.Covers(Dot{Actor{Node: node(3)}, 1}) {
		t.Fatal("Covers")
	}
}
