package ring

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// genLayout draws small layouts of every shape: few and many zones, equal and extreme weights, any Q.
var genLayout = rapid.Custom(func(t *rapid.T) Layout {
	m := rapid.IntRange(1, 20).Draw(t, "members")
	zones := rapid.SampledFrom([]int{0, 1, 2, 3, 5, 20}).Draw(t, "zones")
	heavy := rapid.SampledFrom([]int{1, 4, MaxWeight}).Draw(t, "heaviest")
	l := Layout{
		Epoch: rapid.Uint64Min(1).Draw(t, "epoch"), Cluster: "flock", ClusterID: [16]byte{1},
		Partitions: 1 << rapid.IntRange(0, 8).Draw(t, "log2 Q"), N: rapid.IntRange(1, MaxN).Draw(t, "N"),
	}
	rnd := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "ids"), 0))
	for i := range m {
		member := Member{ID: randomID(rnd), Name: fmt.Sprintf("n%d", i), Weight: rapid.IntRange(1, heavy).Draw(t, "weight")}
		if z := rapid.IntRange(0, zones).Draw(t, "zone"); z > 0 {
			member.Zone = fmt.Sprintf("z%d", z)
		}
		l.Members = append(l.Members, member)
	}
	return l
})

func zoneSet(r *Ring, ids []NodeID) (distinct int) {
	seen := map[string]bool{}
	for _, id := range ids {
		m, _ := r.Layout().Member(id)
		seen[m.Zone] = true
	}
	return len(seen)
}

func TestWalkProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genLayout.Draw(t, "layout")
		n := rapid.IntRange(1, MaxN).Draw(t, "n")
		r, err := New(l, n)
		if err != nil {
			t.Fatal(err)
		}
		if want := min(n, len(l.Members)); r.N() != want {
			t.Fatalf("N = %d, want %d", r.N(), want)
		}
		all := map[string]bool{}
		for _, m := range l.Members {
			all[m.Zone] = true
		}
		for p := range r.Partitions() {
			walk, primaries := r.Walk(p), r.Primaries(p)
			if len(walk) != len(l.Members) || len(primaries) != r.N() || !slices.Equal(walk[:r.N()], primaries) {
				t.Fatalf("partition %d: walk of %d, %d primaries", p, len(walk), len(primaries))
			}
			seen := map[NodeID]bool{}
			for i, id := range walk {
				if _, ok := l.Member(id); !ok || seen[id] {
					t.Fatalf("partition %d: %s is no member or is there twice", p, id)
				}
				if seen[id] = true; r.IsPrimary(p, id) != (i < r.N()) {
					t.Fatalf("partition %d: IsPrimary(%s) is wrong", p, id)
				}
			}
			if all[""] && len(all) == 1 {
				continue // each member is a zone of its own
			}
			for depth := range walk {
				// Primaries, and then the whole list, go through all zones before they repeat one.
				if depth < r.N() || depth < len(all) && r.N() <= len(all) {
					if got, want := zoneSet(r, walk[:depth+1]), min(depth+1, len(all)); got != want {
						t.Fatalf("partition %d: the first %d are in %d zones, want %d", p, depth+1, got, want)
					}
				}
			}
		}
	})
}

func TestOwnedCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r, err := New(genLayout.Draw(t, "layout"), 3)
		if err != nil {
			t.Fatal(err)
		}
		slots := 0
		for _, m := range r.Members() {
			owned := r.Owned(m.ID)
			if len(owned) != r.Owns(m.ID) || !slices.IsSorted(owned) {
				t.Fatalf("%s: Owned has %d, Owns says %d", m.ID, len(owned), r.Owns(m.ID))
			}
			for _, p := range owned {
				if !slices.Contains(r.Primaries(p), m.ID) {
					t.Fatalf("%s owns %d and is no primary of it", m.ID, p)
				}
			}
			slots += len(owned)
		}
		if slots != r.Partitions()*r.N() {
			t.Fatalf("%d slots owned, want %d", slots, r.Partitions()*r.N())
		}
		if stranger := (NodeID{}); r.Owns(stranger) != 0 || len(r.Owned(stranger)) != 0 {
			t.Fatal("a stranger owns partitions")
		}
	})
}

// The ring depends on ids, zones, weights, Q, N and n: not on order, names, the cluster or the epoch.
func TestSameRingFromSameLayout(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := genLayout.Draw(t, "layout")
		other := l
		other.Members = rapid.Permutation(l.Members).Draw(t, "order")
		if other.Hash() != l.Hash() {
			t.Fatal("the hash depends on the order of members")
		}
		for i := range other.Members {
			other.Members[i].Name = fmt.Sprintf("renamed%d", i)
		}
		other.Epoch, other.Cluster, other.ClusterID = 7, "other", [16]byte{9}
		a, errA := New(l, 3)
		b, errB := New(other, 3)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(a.lists, b.lists) || Moved(a, b) != 0 {
			t.Fatal("the rings differ")
		}
	})
}

func TestNewKeepsTheCallersLayout(t *testing.T) {
	l := families[4].layout(9, 5)
	before := slices.Clone(l.Members)
	r := mustNew(t, l, 3)
	if diff := cmp.Diff(before, l.Members); diff != "" {
		t.Errorf("New changed the caller's members: %s", diff)
	}
	l.Members[0].Weight = 999
	if m, _ := r.Layout().Member(l.Members[0].ID); m.Weight == 999 {
		t.Error("the ring shares the caller's members")
	}
	if !slices.IsSortedFunc(r.Members(), func(a, b Member) int { return a.ID.Compare(b.ID) }) {
		t.Error("Members is not sorted by id")
	}
}

func TestNewRefuses(t *testing.T) {
	l := families[0].layout(3, 1)
	for _, n := range []int{-1, 0, MaxN + 1} {
		if _, err := New(l, n); !errors.Is(err, ErrInvalid) {
			t.Errorf("n = %d: %v", n, err)
		}
	}
	l.Partitions = 1000
	if _, err := New(l, 3); !errors.Is(err, ErrInvalid) {
		t.Errorf("Q = 1000: %v", err)
	}
}

func TestMovedCountsSlots(t *testing.T) {
	l := families[0].layout(3, 1)
	one, three := mustNew(t, l, 1), mustNew(t, l, 3)
	if got := Moved(one, three); got != 2*1024 {
		t.Errorf("from 1 replica to 3 moves %d slots, want 2048", got)
	}
	if got := Moved(three, one); got != 0 {
		t.Errorf("from 3 replicas to 1 moves %d slots, want 0", got)
	}
	defer func() {
		if recover() == nil {
			t.Error("rings of different Q were compared")
		}
	}()
	l.Partitions = 512
	Moved(one, mustNew(t, l, 3))
}

// At the largest Q and many members a walk is cut, and never below the primaries.
func TestWalkIsBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a large ring")
	}
	l := families[0].layout(80, 1)
	l.Partitions = MaxPartitions
	r := mustNew(t, l, MaxN)
	if got := len(r.Walk(MaxPartitions - 1)); got != 64 {
		t.Errorf("a walk has %d members, want 64", got)
	}
	if len(r.lists)*16 > 64<<20 {
		t.Errorf("the lists take %d bytes", len(r.lists)*16)
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	l := families[5].layout(16, 1)
	r := mustNew(t, l, 3)
	id := l.Members[3].ID
	sum := 0
	if got := testing.AllocsPerRun(200, func() {
		p := r.Partition("bucket", "some/key/of/ordinary/length")
		sum += len(r.Primaries(p)) + len(r.Walk(p)) + len(r.Members()) + r.Owns(id)
		if r.IsPrimary(p, id) {
			sum++
		}
	}); got != 0 {
		t.Errorf("a lookup allocates %v times", got)
	}
}

// The digests pin the assignment: should one of them change, every existing cluster would look for its data at
// nodes that do not have it. An intended change is a new layout field that old layouts do not have.
func TestGoldenAssignment(t *testing.T) {
	want := map[string]string{}
	for _, f := range families {
		sum := sha256.New()
		for _, m := range []int{1, 2, 3, 5, 8, 21, 64} {
			for _, n := range []int{1, 3, 5} {
				for _, id := range mustNew(t, f.layout(m, 6), n).lists {
					sum.Write(id[:])
				}
			}
		}
		want[f.name] = hex.EncodeToString(sum.Sum(nil)[:16])
	}
	sum := sha256.New()
	for n := 1; n <= MaxN; n++ { // the order inside a table's lists, and what follows them
		for _, id := range mustNew(t, fullLayout(), n).lists {
			sum.Write(id[:])
		}
	}
	want["a table"] = hex.EncodeToString(sum.Sum(nil)[:16])
	if diff := cmp.Diff(goldenAssignment, want); diff != "" {
		t.Errorf("the assignment of partitions changed (-golden +now):\n%s", diff)
	}
}

func BenchmarkLookup(b *testing.B) {
	r := mustNew(b, families[5].layout(64, 1), 3)
	b.ReportAllocs()
	sum := 0
	for b.Loop() {
		sum += len(r.Primaries(r.Partition("bucket", "user/0123456789/profile")))
	}
	if sum == 0 {
		b.Fatal("no primaries")
	}
}
