package ring

import (
	"fmt"
	"math"
	"testing"
)

var sizes = []int{3, 4, 5, 6, 7, 8, 9, 10, 12, 13, 16, 19, 24, 31, 40, 49, 63}

// Peak over fair share is at most 1.10 at Q=1024, N=3, from 3 to 64 members. One slot is not divisible, so a share
// below 10 slots is rounded up instead. Nobody is promised a minimum, but nobody is starved either.
func TestBalance(t *testing.T) {
	for _, f := range some() {
		for _, m := range append(sizes, 64) {
			l := f.layout(m, 1)
			r := mustNew(t, l, 3)
			share := fair(l.Members, 1024, 3)
			for _, member := range l.Members {
				owns := float64(r.Owns(member.ID))
				if limit := max(1.10*share[member.ID], math.Ceil(share[member.ID]-1e-3)); owns > limit+1e-3 {
					t.Errorf("%s, %d members: %s owns %.0f of a fair %.1f", f.name, m, member.Name, owns, share[member.ID])
				}
				if low := 0.7*share[member.ID] - 1.5*math.Sqrt(share[member.ID]); owns < low {
					t.Errorf("%s, %d members: %s owns only %.0f of a fair %.1f", f.name, m, member.Name, owns, share[member.ID])
				}
			}
		}
	}
}

// The load of a dead member is spread: its partitions' first fallbacks are many members, not one neighbour.
func TestFallbacksSpread(t *testing.T) {
	l := families[0].layout(16, 3)
	r := mustNew(t, l, 3)
	first := map[NodeID]int{}
	for _, p := range r.Owned(l.Members[0].ID) {
		first[r.Walk(p)[3]]++
	}
	for id, n := range first {
		if n > r.Owns(l.Members[0].ID)/4 {
			t.Errorf("%s is the first fallback of %d of %d partitions", id, n, r.Owns(l.Members[0].ID))
		}
	}
	if len(first) < 12 {
		t.Errorf("only %d members are first fallbacks", len(first))
	}
}

// First places are spread like slots: clients send most requests to the first primary that lives.
func TestFirstPrimariesSpread(t *testing.T) {
	l := families[0].layout(16, 4)
	r := mustNew(t, l, 3)
	first := map[NodeID]int{}
	for p := range r.Partitions() {
		first[r.Primaries(p)[0]]++
	}
	for _, m := range l.Members {
		if n := first[m.ID]; n < 32 || n > 96 {
			t.Errorf("%s is first in %d of 1024 partitions, fair is 64", m.Name, n)
		}
	}
}

func BenchmarkNew(b *testing.B) {
	for _, q := range []int{1024, 65536} {
		b.Run(fmt.Sprintf("Q=%d/members=64", q), func(b *testing.B) {
			l := families[5].layout(64, 1)
			l.Partitions = q
			b.ReportAllocs()
			for b.Loop() {
				mustNew(b, l, 3)
			}
		})
	}
}
