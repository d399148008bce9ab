package ring

import (
	"fmt"
	"slices"
	"testing"
)

// A bucket with an n of its own has partitions of its own, behind those of all others; their owners are the first n of
// the walk of the same slice.
func TestBucketsWithTheirOwnN(t *testing.T) {
	for _, f := range families[:8] {
		first := f.layout(7, 3)
		plain := mustNew(t, first, first.N)
		l := mustNext(t, first, Change{BucketN: map[string]int{"wide": 5, "narrow": 2, "all": 16}})
		r := mustNew(t, l, l.N)
		if r.Q() != l.Partitions || r.Partitions() != 4*l.Partitions {
			t.Fatalf("%s: %d slices, %d partitions", f.name, r.Q(), r.Partitions())
		}
		for i := range 200 {
			key := fmt.Sprintf("key%d", i)
			if p := r.Partition("other", key); p != plain.Partition("other", key) || r.NOf(p) != 3 {
				t.Fatalf("%s: a bucket without an n of its own moved to %d", f.name, p)
			}
			for g, b := range l.Buckets {
				p := r.Partition(b.Bucket, key)
				from, end := r.PartitionsOf(b.Bucket)
				if p != (g+1)*r.Q()+plain.Partition(b.Bucket, key) || p < from || p >= end {
					t.Fatalf("%s: %s/%s is in %d", f.name, b.Bucket, key, p)
				}
				n := min(b.N, 7)
				if got := r.Primaries(p); r.NOf(p) != n || !slices.Equal(got, plain.Walk(p % r.Q())[:n]) {
					t.Fatalf("%s: %s has owners %v", f.name, b.Bucket, got)
				}
			}
		}
		owned := 0
		for _, m := range l.Members {
			if n := r.Owns(m.ID); n != len(r.Owned(m.ID)) {
				t.Errorf("%s: owns %d and %d", f.name, n, len(r.Owned(m.ID)))
			} else {
				owned += n
			}
		}
		if owned != l.Partitions*(3+5+2+7) {
			t.Errorf("%s: %d slots", f.name, owned)
		}
	}
}

// In all live epochs a key has one number, and an older one gives the owners that it had there.
func TestEpochsNumberAlike(t *testing.T) {
	first := families[3].layout(6, 4)
	second := mustNext(t, first, Change{BucketN: map[string]int{"b": 5}})
	third := mustNext(t, second, Change{BucketN: map[string]int{"b": 2, "c": 4}})
	rings := []*Ring{mustNew(t, first, 3), mustNew(t, second, 3), mustNew(t, third, 3)}
	e, err := NewEpochs(rings, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if rings[0].Partitions() != first.Partitions {
		t.Error("a ring of the caller's was changed")
	}
	for i := range 50 {
		key := fmt.Sprint(i)
		for bucket, ns := range map[string][3]int{"a": {3, 3, 3}, "b": {3, 5, 2}, "c": {3, 3, 4}} {
			p := e.Partition(bucket, key)
			for j, r := range e.Rings() {
				if r.Partition(bucket, key) != p || len(r.Primaries(p)) != ns[j] || r.Partitions() != 3*first.Partitions {
					t.Fatalf("epoch %d: %s/%s in %d with %d owners", r.Epoch(), bucket, key, r.Partition(bucket, key), len(r.Primaries(p)))
				}
			}
			if want := max(ns[0], ns[1], ns[2]); len(e.Holders(p)) != want {
				t.Errorf("%s has holders %v", bucket, e.Holders(p))
			}
		}
	}
	// From 3 to 5 replicas every slice gains two owners, of b alone.
	two, err := NewEpochs(rings[:2], 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	gained := 0
	from, end := rings[1].PartitionsOf("b")
	for _, m := range first.Members {
		for _, p := range two.Filling(m.ID) {
			if gained++; p < from || p >= end {
				t.Errorf("%s gains %d", m.Name, p)
			}
		}
	}
	if gained != 2*first.Partitions || Moved(rings[0], rings[1]) != gained || len(Diff(rings[1], rings[0])) != first.Partitions {
		t.Errorf("%d slots gained, %d moved", gained, Moved(rings[0], rings[1]))
	}
}

// How evenly the partitions of a bucket with another n than the table's are spread: recorded in DESIGN.md.
func TestBucketNIsBalanced(t *testing.T) {
	for _, members := range []int{5, 8, 16} {
		for _, n := range []int{1, 2, 5} {
			l := mustNext(t, families[0].layout(members, 5), Change{BucketN: map[string]int{"b": n}})
			r := mustNew(t, l, l.N)
			from, end := r.PartitionsOf("b")
			share := float64((end-from)*n) / float64(members)
			least, most := 2.0, 0.0
			for _, m := range l.Members {
				owned := 0
				for p := from; p < end; p++ {
					if r.IsPrimary(p, m.ID) {
						owned++
					}
				}
				least, most = min(least, float64(owned)/share), max(most, float64(owned)/share)
			}
			t.Logf("%d members, n=%d: %.2f to %.2f of the fair share", members, n, least, most)
			if least < 0.6 || most > 1.4 {
				t.Errorf("%d members, n=%d: %.2f to %.2f of the fair share", members, n, least, most)
			}
		}
	}
}

// A partition is narrowed for those who keep it, and only where there are fewer than in an older epoch.
func TestEpochsTellWhatIsNarrowed(t *testing.T) {
	first := mustNext(t, families[0].layout(5, 8), Change{BucketN: map[string]int{"b": 5, "c": 2}})
	second := mustNext(t, first, Change{BucketN: map[string]int{"b": 2, "c": 3}})
	third := mustNext(t, second, Change{Leave: ids(first.Members[:3])}) // two stay, fewer than N
	ring := func(l Layout) *Ring { return mustNew(t, l, l.N) }
	epochs := func(rings ...*Ring) *Epochs {
		e, err := NewEpochs(rings, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	two, three, alone := epochs(ring(first), ring(second)), epochs(ring(first), ring(second), ring(third)), epochs(ring(second))
	stays := first.Members[4].ID
	for i := range 100 {
		key := fmt.Sprint(i)
		for bucket, want := range map[string]bool{"b": true, "c": false, "d": false} {
			p := two.Partition(bucket, key)
			for _, m := range first.Members {
				if got := two.Narrowed(p, m.ID); got != (want && two.Newest().IsPrimary(p, m.ID)) {
					t.Errorf("%s/%s at %s: %v", bucket, key, m.Name, got)
				}
				if alone.Narrowed(p, m.ID) {
					t.Errorf("%s/%s is narrowed with no change under way", bucket, key)
				}
			}
		}
		if p := three.Partition("d", key); three.Narrowed(p, stays) != three.Base().IsPrimary(p, stays) {
			t.Errorf("d/%s: kept by one of two that stay of three, narrowed: %v", key, three.Narrowed(p, stays))
		}
	}
}
