package node

import (
	"slices"
	"testing"

	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/ring"
)

// Who tells that hints of a partition were dropped may mean a bucket's keys as well that has its own partitions here by now.
func TestBehindIsAlsoWhatLeftThePartition(t *testing.T) {
	self, other := ring.NodeID{1}, ring.NodeID{2}
	store, err := storage.Open(storage.MemoryDir(self, "test"), storage.Options{InMemory: true, Partitions: 8})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	l := ring.Layout{Epoch: 1, Cluster: "c", ClusterID: [16]byte{1}, Partitions: 8, N: 2, Members: []ring.Member{{ID: self, Name: "a", Weight: 1}, {ID: other, Name: "b", Weight: 1}}}
	next, err := l.Next(ring.Change{BucketN: map[string]int{"x": 1}})
	if err != nil {
		t.Fatal(err)
	}
	epochsOf := func(ls ...ring.Layout) *ring.Epochs {
		var rings []*ring.Ring
		for _, l := range ls {
			r, err := ring.New(l, l.N)
			if err != nil {
				t.Fatal(err)
			}
			rings = append(rings, r)
		}
		e, err := ring.NewEpochs(rings, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	if err := store.Number(t.Context(), []string{"x"}); err != nil {
		t.Fatal(err)
	}
	for what, e := range map[string]*ring.Epochs{"preparing": epochsOf(l), "changing": epochsOf(l, next), "through": epochsOf(next)} {
		r := receiver{store, func() *ring.Epochs { return e }, self}
		for p := range 8 {
			want := []int{p}
			if e.Holds(8+p, self) {
				want = append(want, 8+p)
			}
			if got := r.alsoOwn([]int{p}); !slices.Equal(got, want) {
				t.Errorf("%s: %d means %v, want %v", what, p, got, want)
			}
			if got := r.alsoOwn([]int{8 + p}); !slices.Equal(got, []int{8 + p}) {
				t.Errorf("%s: %d means %v", what, 8+p, got)
			}
		}
		if err := r.MarkBehind(t.Context(), []int{3}); err != nil {
			t.Fatal(err)
		}
	}
	if m, _ := store.Marks(8 + 3); m&storage.MarkBehind == 0 {
		t.Error("not marked")
	}
}
