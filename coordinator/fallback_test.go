package coordinator

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/vclock"
)

func TestSilentPeerIsJudgedDownAndHinted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own, _ := w.primaries("k")
		w.setFault(func(_, to int, _ string) *fault {
			if to == own[1].index || to == own[2].index {
				return &fault{lost: true}
			}
			return nil
		})
		start := time.Now()
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("v"), Sloppy: true}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < slowCall || took > 1900*time.Millisecond {
			t.Fatalf("took %v", took)
		}
		start = time.Now()
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("w"), Sloppy: true}); err != nil || time.Since(start) != 0 {
			t.Fatalf("%v after %v: a suspected peer must cost nothing", err, time.Since(start))
		}
		synctest.Wait()
		if w.hinted(own[1], "k") == 0 || w.hinted(own[2], "k") == 0 {
			t.Fatal("each of the two must have a hint")
		}
		_, err := w.put(own[0], PutRequest{Key: "k", Write: value("x")})
		if q := quorumError(t, err); q.Kind != Unavailable || q.Outcome != None {
			t.Fatalf("strict: %+v", q)
		}
		w.setFault(nil)
		time.Sleep(5 * time.Second)
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("x"), W: 3}); err != nil {
			t.Fatalf("after the heal: %v", err)
		}
	})
}

func TestSlowPrimaryGetsNoStandIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own, _ := w.primaries("k")
		w.setFault(func(_, to int, endpoint string) *fault {
			if endpoint == EndpointMerge && (to == own[1].index || to == own[2].index) {
				return &fault{lost: true}
			}
			return nil
		})
		_, err := w.put(own[0], PutRequest{Key: "k", Write: value("v"), Sloppy: true})
		if q := quorumError(t, err); q.Kind != Timeout || q.Acked != 1 {
			t.Fatalf("%+v", q)
		}
		if w.hinted(own[1], "k")+w.hinted(own[2], "k") != 0 {
			t.Fatal("hints for peers that are alive")
		}
	})
}

func TestPrimaryAndStandInCountOnce(t *testing.T) {
	w := newWorld(t, 5)
	walk := w.ring.Walk(0)
	c := newPutCore(putGoal{w: 2}, walk[:3])
	c.addFailure(place{node: walk[0]}, failure{word: wordDown})
	c.setStandIn(0, 0, walk[3])
	c.addAck(place{walk[3], walk[0]}, true)
	c.addAck(place{node: walk[0]}, true) // late, but alive
	if acks, _ := c.acks(); acks != 1 || c.enough() {
		t.Fatal("one slot counted twice")
	}
	c.addAck(place{node: walk[1]}, true)
	if !c.enough() {
		t.Fatal("two slots are acked")
	}
}

func TestWriteWithNoPrimaryAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own, other := w.primaries("k")
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("old"), W: 3}); err != nil {
			t.Fatal(err)
		}
		for _, n := range own {
			w.setDown(n, true)
		}
		var dots []vclock.Dot
		for _, v := range []string{"a", "b"} {
			res, err := w.put(other, PutRequest{Key: "k", Write: value(v), Sloppy: true})
			if err != nil || res.Acks != 2 {
				t.Fatalf("%+v, %v", res, err)
			}
			for _, s := range res.Object.Siblings {
				dots = append(dots, s.Dot)
			}
		}
		if dots[0].Actor == dots[len(dots)-1].Actor && dots[1].Actor == dots[2].Actor {
			t.Fatal("an actor was continued in a hint")
		}
		got, err := other.c.Get(t.Context(), GetRequest{Bucket: "b", Key: "k", R: 2, Sloppy: true})
		if err != nil || len(values(got.Object)) != 2 || got.Acks != 2 {
			t.Fatalf("%v %+v, %v", values(got.Object), got, err)
		}
		_, err = other.c.Get(t.Context(), GetRequest{Bucket: "b", Key: "never", R: 2, Sloppy: true})
		keyOwn, _ := w.primaries("never")
		alive := 0
		for _, n := range keyOwn {
			if !w.down[n.id] {
				alive++
			}
		}
		if alive < 2 && err == nil {
			t.Fatal("too few replicas said that there is nothing")
		}
		if _, err := w.put(other, PutRequest{Key: "k", Write: value("c"), Sloppy: true, PW: 1}); err == nil {
			t.Fatal("pw=1 with no primary alive")
		}
	})
}

func TestStaleRoundIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		p := own[0].key("k").Partition
		w.setFault(func(_, to int, endpoint string) *fault {
			if endpoint == EndpointMerge {
				// Both enter the round after the mint and before the replica write.
				for _, n := range own {
					n.mu.Lock()
					n.rounds[p] = 7
					n.mu.Unlock()
				}
			}
			return nil
		})
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("v"), W: 3}); err != nil {
			t.Fatal(err)
		}
		merges := 0
		for _, c := range w.takeCalls() {
			if strings.HasSuffix(c, EndpointMerge) {
				merges++
			}
		}
		if merges < 3 {
			t.Fatalf("%d merges: nothing was refused", merges)
		}
	})
}

func TestNodeThatMissedARoundCatchesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		p := own[0].key("k").Partition
		for _, n := range own[1:] {
			n.rounds[p] = 4
		}
		caught := 0
		own[0].c.deps.CatchUp = func(_ context.Context, partition int, round uint64) error {
			own[0].mu.Lock()
			defer own[0].mu.Unlock()
			caught++
			own[0].rounds[partition] = round
			return nil
		}
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("v"), W: 3}); err != nil || caught == 0 {
			t.Fatalf("caught up %d times: %v", caught, err)
		}
	})
}
