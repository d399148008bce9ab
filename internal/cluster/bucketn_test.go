package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// A bucket's n is an epoch like any other: all go by it in the end, it can be taken back, and who joins later has it.
func TestABucketsNIsChanged(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.four()
		l := apply(t, nodes[1], Request{Action: ActionBucket, Bucket: "b", N: 4})
		if l.Epoch != 3 || l.NFor("b") != 4 || l.NFor("other") != 3 || len(l.Members) != 4 {
			t.Fatalf("%+v", l)
		}
		w.awaitEpoch(time.Minute, 3, nodes...)
		for _, n := range nodes {
			r := n.Ring()
			if p := r.Partition("b", "k"); p < r.Q() || len(r.Primaries(p)) != 4 || len(r.Primaries(r.Partition("other", "k"))) != 3 {
				t.Errorf("%s: %d owners", n.cfg.Name, len(r.Primaries(p)))
			}
		}
		apply(t, nodes[2], Request{Action: ActionBucket, Bucket: "b", N: 0})
		w.awaitEpoch(time.Minute, 4, nodes...)
		if l := nodes[0].Ring().Layout(); l.NFor("b") != 3 || len(l.Buckets) != 1 {
			t.Errorf("back at the cluster's: %+v", l.Buckets)
		}
		e := w.start(w.config("e", abc), addrOf(5))
		nodes = append(nodes, e)
		w.awaitEpoch(time.Minute, 5, nodes...)
		if !slices.Equal(e.Ring().Layout().Buckets, []ring.BucketN{{Bucket: "b", N: 3}}) {
			t.Errorf("who joined has %+v", e.Ring().Layout().Buckets)
		}
	})
}

func TestABucketsNIsRefused(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		_, nodes := w.abc()
		for req, text := range map[Request]string{
			{Action: ActionBucket, Bucket: "b", N: 4}:                      "n=4 needs as many members, there are 3: a, b, c",
			{Action: ActionBucket, Bucket: "b", N: 17}:                     "members",
			{Action: ActionBucket, Bucket: strings.Repeat("b", 256), N: 2}: "256 bytes",
		} {
			_, err := nodes[0].Apply(t.Context(), req)
			if !errors.Is(err, ErrRequest) && !errors.Is(err, ring.ErrInvalid) || !strings.Contains(err.Error(), text) {
				t.Errorf("n=%d of %.5s: %v", req.N, req.Bucket, err)
			}
		}
		for i := range ring.MaxBucketN {
			apply(t, nodes[i%3], Request{Action: ActionBucket, Bucket: fmt.Sprint("bucket", i), N: 2})
			w.awaitEpoch(time.Minute, uint64(i+2), nodes...)
		}
		if _, err := nodes[0].Apply(t.Context(), Request{Action: ActionBucket, Bucket: "more", N: 2}); !errors.Is(err, ErrRequest) || !strings.Contains(err.Error(), "32 buckets") {
			t.Errorf("one too many: %v", err)
		}
		apply(t, nodes[0], Request{Action: ActionBucket, Bucket: "bucket7", N: 1}) // one that has its own
	})
}

// Nodes prepare for a bucket's n before they go by it; while one cannot be filled the change can be taken back.
func TestABucketsNIsCancelled(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var prepared atomic.Int64
		var nodes []*Cluster
		for i, name := range []string{"a", "b", "c"} {
			cfg := w.config(name, abc)
			cfg.Prepare = func(_ context.Context, e *ring.Epochs) error {
				if len(e.Newest().Layout().Buckets) > 0 {
					prepared.Add(1)
				}
				return nil
			}
			cfg.Incomplete = func(e *ring.Epochs) error {
				if e.Newest().Layout().NFor("b") == 3 && len(e.Filling(cfg.Self)) > 0 {
					return errors.New("never filled")
				}
				return nil
			}
			nodes = append(nodes, w.start(cfg, addrOf(i+1)))
		}
		w.awaitReady(time.Minute, nodes...)
		apply(t, nodes[0], Request{Action: ActionBucket, Bucket: "b", N: 2})
		w.awaitEpoch(time.Minute, 2, nodes...)
		apply(t, nodes[0], Request{Action: ActionBucket, Bucket: "b", N: 3})
		time.Sleep(time.Minute)
		for _, n := range nodes {
			e := n.Epochs()
			p := e.Partition("b", "k")
			if !e.Changing() || len(e.Reading().Primaries(p)) != 2 || len(e.Holders(p)) != 3 {
				t.Fatalf("%s goes on without being filled", n.cfg.Name)
			}
		}
		apply(t, nodes[1], Request{Action: ActionCancel})
		w.awaitEpoch(time.Minute, 4, nodes...)
		if n := nodes[2].Ring().Layout().NFor("b"); n != 2 {
			t.Errorf("n=%d after the change was taken back", n)
		}
		if prepared.Load() < 9 {
			t.Errorf("prepared %d times", prepared.Load())
		}
	})
}
