package vclock

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// PROTOCOL: what is pruned is what nothing in the object needs, the same for all who hold it.
func TestPrunedKeepsWhatIsNeeded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := pick(t, history(t), "o")
		p := o.Pruned()
		if !same(p.Pruned(), p) {
			t.Fatalf("pruning twice differs from once: %v", p)
		}
		if !cmp.Equal(p.Siblings, o.Siblings) || !cmp.Equal(p.Retired, o.Retired) || !o.Context.Descends(p.Context) {
			t.Fatalf("%v became %v", o, p)
		}
		if !same(Merge(o, p), o) || !same(Merge(p, o), o) {
			t.Fatalf("a copy that was not pruned yet does not win: %v", Merge(o, p))
		}
		for _, s := range p.Siblings {
			if !p.Context.Covers(s.Dot) {
				t.Fatalf("sibling %v is not covered", s.Dot)
			}
		}
		newest := map[[16]byte]Dot{}
		for _, d := range o.Context {
			newest[d.Actor.Node] = d
		}
		for _, d := range newest {
			if p.Context.Counter(d.Actor) != d.Counter {
				t.Fatalf("the latest birth of a node went: %v", d)
			}
		}
		for _, d := range p.Context {
			needed := newest[d.Actor.Node] == d
			for _, s := range p.Siblings {
				needed = needed || s.Dot.Actor == d.Actor
			}
			if !needed {
				t.Fatalf("%v stays and is of no use in %v", d, p)
			}
		}
	})
}

// A key that is written for years, through many starts of its nodes, stays within its limit if it is pruned.
func TestAKeyOutlivesManyStarts(t *testing.T) {
	var births uint64
	a, b := newReplica(0, &births), newReplica(1, &births)
	for range 500 {
		for _, r := range []*replica{a, b} {
			r.restart()
			r.put("x", r.read())
		}
		a.absorb(b.rec.Object)
		b.absorb(a.rec.Object)
		if !same(a.rec.Object, b.rec.Object) {
			t.Fatal("the replicas differ")
		}
		a.rec.Object, b.rec.Object = a.rec.Pruned(), b.rec.Pruned()
		if !same(a.rec.Object, b.rec.Object) {
			t.Fatal("they prune differently")
		}
		if n := len(a.rec.Context); n > 4 {
			t.Fatalf("%d entries", n)
		}
	}
	if got := a.values(); len(got) == 0 {
		t.Fatal("no value")
	}
}
