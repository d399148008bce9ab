package ring

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// family is a way in which clusters differ; the tests of balance and movement go through all of them.
type family struct {
	name   string
	weight func(i int) int
	zone   func(i int) string
}

func cycle[T any](values ...T) func(int) T {
	return func(i int) T { return values[i%len(values)] }
}

var families = []family{
	{"equal", cycle(1), cycle("")},
	{"mixed", cycle(1, 2, 4), cycle("")},
	{"wide", cycle(100, 10, 30, 1000, 70), cycle("")},
	{"1 zone", cycle(1), cycle("a")},
	{"2 zones", cycle(1), cycle("a", "b")},
	{"2 zones mixed", cycle(1, 2, 4), cycle("a", "b")},
	{"3 zones", cycle(1), cycle("a", "b", "c")},
	{"3 zones mixed", cycle(1, 2, 4, 3), cycle("a", "b", "c")},
	{"3 zones wide", cycle(100, 10, 30, 1000, 70), cycle("a", "b", "c")},
	{"3 uneven zones", cycle(1), cycle("a", "a", "b", "a", "c")},
	{"4 zones", cycle(1), cycle("a", "b", "c", "d")},
	{"4 zones mixed", cycle(1, 2, 4), cycle("a", "b", "c", "d")},
	{"4 uneven zones", cycle(1), cycle("a", "b", "a", "b", "c", "a", "a", "d")},
	{"some zoneless", cycle(2), cycle("a", "", "b", "c", "d")},
}

// some returns all families, or with -short, which the race detector runs with, a few of each kind.
func some() []family {
	if !testing.Short() {
		return families
	}
	return []family{families[1], families[5], families[9], families[11], families[13]}
}

// layout draws a layout of m members with random ids from a seed.
func (f family) layout(m int, seed uint64) Layout {
	rnd := rand.New(rand.NewPCG(seed, uint64(m)))
	l := Layout{Epoch: 1, Cluster: "flock", ClusterID: [16]byte{1}, Partitions: 1024, N: 3}
	for i := range m {
		l.Members = append(l.Members, Member{
			ID: randomID(rnd), Name: fmt.Sprintf("n%d", i), Zone: f.zone(i), Weight: f.weight(i),
		})
	}
	return l
}

func randomID(rnd *rand.Rand) (id NodeID) {
	for i := range id {
		id[i] = byte(rnd.Uint32())
	}
	return id
}

func mustNew(t testing.TB, l Layout, n int) *Ring {
	t.Helper()
	r, err := New(l, n)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fair returns the best achievable share of each member, in slots, worked out with floating point and apart from
// the code under test: raise the share per unit of weight until all slots are given out, each member holding at
// most q, each zone at most q if there are n zones and at least q if there are fewer.
func fair(members []Member, q, n int) map[NodeID]float64 {
	n = min(n, len(members))
	byZone := map[string][]Member{}
	named := false
	for _, m := range members {
		named = named || m.Zone != ""
	}
	for i, m := range members {
		z := m.Zone
		if !named {
			z = fmt.Sprint(i)
		}
		byZone[z] = append(byZone[z], m)
	}
	at := func(unit float64) (map[NodeID]float64, float64) {
		out, sum := map[NodeID]float64{}, 0.0
		for _, zone := range byZone {
			weight, taken := 0.0, 0.0
			for _, m := range zone {
				weight += float64(m.Weight)
				taken += min(unit*float64(m.Weight), float64(q))
			}
			bound := taken
			if len(byZone) >= n {
				bound = min(taken, float64(q))
			} else {
				bound = max(taken, float64(q))
			}
			for _, m := range zone {
				out[m.ID] = min(unit*float64(m.Weight), float64(q))
				if bound != taken {
					out[m.ID] = bound * float64(m.Weight) / weight
				}
				sum += out[m.ID]
			}
		}
		return out, sum
	}
	lo, hi := 0.0, float64(q)
	for range 100 {
		mid := (lo + hi) / 2
		if _, sum := at(mid); sum <= float64(q*n) {
			lo = mid
		} else {
			hi = mid
		}
	}
	out, _ := at(lo)
	return out
}
