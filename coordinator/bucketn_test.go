package coordinator

import (
	"slices"
	"testing"
	"testing/synctest"

	"github.com/dunlindb/dunlin/ring"
)

// bucketRing is the ring of an epoch in which keys of the world's bucket have n replicas.
func (w *world) bucketRing(epoch uint64, n int) *ring.Ring {
	l := w.ring.Layout()
	l.Epoch, l.Buckets = epoch, []ring.BucketN{{Bucket: "b", N: n}}
	r, err := ring.New(l, 3)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// While a bucket's n goes from one number to another, a quorum is one of either, and so is all. A request that this node
// forwards keeps its words.
func TestQuorumsWhileABucketsNChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ns := range [][2]int{{3, 5}, {5, 3}, {3, 2}, {5, 2}} {
			w := newWorld(t, 6)
			was, is := w.bucketRing(2, ns[0]), w.bucketRing(3, ns[1])
			if ns[0] == 3 {
				was = w.ringOf(2, 0, 1, 2, 3, 4, 5) // the bucket has no partitions of its own yet
			}
			e := w.live(2, was, is)
			w.know(e)
			p := e.Partition("b", "k")
			walk := is.Walk(p)
			node := func(i int) *testNode { return w.nodes[walk[i][0]-1] }
			many := max(ns[0], ns[1])
			for _, tc := range []struct {
				w, failed int // how many of the primaries fail, the last ones of the walk
				ok        bool
			}{
				{Quorum, 0, true}, {All, 0, true}, {All, 1, false},
				{Quorum, many - many/2 - 1, true}, {Quorum, many - many/2, false},
			} {
				lost := map[int]bool{}
				for i := many - tc.failed; i < many; i++ {
					lost[node(i).index] = true
				}
				w.setFault(func(_, to int, endpoint string) *fault {
					if lost[to] && endpoint == EndpointMerge {
						return &fault{lost: true}
					}
					return nil
				})
				for _, from := range []*testNode{node(0), node(5)} { // the coordinator, and one that forwards
					_, err := w.put(from, PutRequest{Key: "k", Write: value("v"), W: tc.w, DW: AsW, R: Quorum})
					if (err == nil) != tc.ok {
						t.Errorf("n %v, w=%d with %d of %d failing: %v", ns, tc.w, tc.failed, many, err)
					}
				}
			}
			w.setFault(nil)
			for i, r := range []*ring.Ring{was, is} {
				by, err := e.ReadBy(r.Epoch())
				if err != nil {
					t.Fatal(err)
				}
				w.know(by)
				for word, want := range map[int]int{Quorum: ns[i]/2 + 1, All: ns[i]} {
					res, err := node(0).c.Get(t.Context(), GetRequest{Bucket: "b", Key: "k", R: word})
					if err != nil || res.N != ns[i] || res.Acks < want {
						t.Errorf("n %v, read by the %d.: r=%d heard %d of %d, %v", ns, i+1, word, res.Acks, res.N, err)
					}
				}
				page, err := node(5).c.List(t.Context(), ListRequest{Bucket: "b", Limit: 10, R: All})
				if err != nil || !slices.Equal(page.Keys, []string{"k"}) {
					t.Errorf("n %v, listed by the %d.: %v, %v", ns, i+1, page, err)
				}
			}
			w.close()
		}
	})
}

// A write that was acknowledged while both lived is met by readers of either number: 200 keys, with the nodes that fail
// chosen anew for each.
func TestReadersMeetWritesWhileABucketsNChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, ns := range [][2]int{{3, 5}, {5, 2}} {
			w := newWorld(t, 6)
			e := w.live(2, w.bucketRing(2, ns[0]), w.bucketRing(3, ns[1]))
			acked := 0
			for i := range 100 {
				key := string(rune('a'+i%26)) + string(rune('a'+i/26))
				w.know(e)
				walk := e.Newest().Walk(e.Partition("b", key))
				w.setFault(func(_, to int, endpoint string) *fault {
					if endpoint == EndpointMerge && slices.Index(walk, w.nodes[to].id)%3 == i%3 {
						return &fault{lost: true}
					}
					return nil
				})
				if _, err := w.put(w.nodes[walk[0][0]-1], PutRequest{Key: key, Write: value(key), W: Quorum, DW: AsW, R: Quorum}); err != nil {
					continue
				}
				acked++
				for _, r := range e.Rings() {
					by, err := e.ReadBy(r.Epoch())
					if err != nil {
						t.Fatal(err)
					}
					w.know(by)
					for _, reader := range w.nodes {
						got, err := reader.c.Get(t.Context(), GetRequest{Bucket: "b", Key: key, R: Quorum})
						if err != nil || len(got.Object.Siblings) != 1 {
							t.Fatalf("n %v, read by epoch %d at %d: %+v, %v", ns, r.Epoch(), reader.index, got, err)
						}
					}
				}
			}
			if acked < 20 {
				t.Errorf("only %d writes were acknowledged", acked)
			}
			w.close()
		}
	})
}
