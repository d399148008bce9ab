package coordinator

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/vclock"
)

func quorumError(t *testing.T, err error) *QuorumError {
	t.Helper()
	q, ok := errors.AsType[*QuorumError](err)
	if !ok {
		t.Fatalf("want a *QuorumError, got %v", err)
	}
	return q
}

func TestWriteAndReadThroughAnyNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		for i, n := range w.nodes {
			key := string(rune('a' + i))
			res, err := w.put(n, PutRequest{Key: key, Write: value(key)})
			if err != nil || res.Acks < 2 || res.N != 3 {
				t.Fatalf("%+v, %v", res, err)
			}
			if !w.ring.IsPrimary(w.ring.Partition("b", key), res.Coordinator) {
				t.Fatal("a node that is no primary minted")
			}
			for _, m := range w.nodes {
				got, err := w.get(m, key, 2)
				if err != nil || !slices.Equal(values(got.Object), []string{key}) {
					t.Fatalf("%v, %v", values(got.Object), err)
				}
			}
		}
		synctest.Wait()
		for _, c := range w.takeCalls() {
			if strings.Count(c, EndpointPut) > 1 {
				t.Fatal("a write was forwarded twice")
			}
		}
	})
}

// A forward is tried elsewhere only if its first byte was not written, or the coordinator itself said that it
// stored nothing; otherwise the outcome is indeterminate, and nothing is sent again.
// A frozen coordinator that says it stored nothing (its disk is full) lets another primary mint.
func TestTooFewAliveFailsAtOnceWithNothingStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		w.setDown(own[1], true)
		w.setDown(own[2], true)
		start := time.Now()
		_, err := w.put(own[0], PutRequest{Key: "k", Write: value("v")})
		q := quorumError(t, err)
		if q.Kind != Unavailable || q.Outcome != None || q.Required != 2 || q.Parameter != "w" || len(q.Replicas) != 3 {
			t.Fatalf("%+v", q)
		}
		if time.Since(start) != 0 || own[0].values("k") != nil {
			t.Fatal("it must fail before anything is stored, and not wait")
		}
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("v"), W: 1}); err != nil {
			t.Fatalf("w=1: %v", err)
		}
		_, err = w.put(own[0], PutRequest{Key: "k", Write: value("v"), W: 1, PW: 2})
		if q := quorumError(t, err); q.Parameter != "pw" || q.Outcome != None {
			t.Fatalf("%+v", q)
		}
	})
}

// After the mint, a failure can never say that nothing was stored.
func TestFailureAfterTheMintIsIndeterminate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		for name, tc := range map[string]struct {
			fault fault
			kind  Kind
			took  time.Duration
		}{
			"refused": {fault{notSent: true}, Unavailable, 0},
			"lost":    {fault{lost: true}, Timeout, 2 * time.Second},
		} {
			w.setFault(nil)
			time.Sleep(5 * time.Second) // the suspicion of the last round is over
			w.setFault(func(_, _ int, endpoint string) *fault {
				if endpoint == EndpointPing { // slow, but alive
					return nil
				}
				return &tc.fault
			})
			start := time.Now()
			_, err := w.put(own[0], PutRequest{Key: "k", Write: value("v")})
			if q := quorumError(t, err); q.Kind != tc.kind || q.Outcome != Indeterminate || q.Acked != 1 {
				t.Fatalf("%s: %+v", name, q)
			}
			if time.Since(start) != tc.took {
				t.Fatalf("%s: took %v, want %v: early when impossible, else at the deadline", name, time.Since(start), tc.took)
			}
		}
	})
}

// A peer that answers nothing any more, pings neither, is judged down before the client's time is over: the write
// then fails, or with fallbacks goes on, and later requests do not wait for it at all.
// A hint past a slow, live primary must not count: a read of the primaries alone would miss the write.
// A slot whose primary and stand-in both hold the write counts once, so that W slots and R slots always meet.
// All primaries of a key are down: any node takes the write into hints, each for another primary, with a new actor
// each time; reads find it, and a node without a hint never counts.
// The object was read before the partition's reap round: the receiver refuses it, and the sender reads again.
func TestDurableWritesCountFsyncsOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		own[1].os, own[2].os = true, true
		// The coordinator's own fsync is heard first, so that what the failure counts is certain.
		w.setFault(func(_, _ int, endpoint string) *fault {
			if endpoint == EndpointMerge {
				return &fault{delay: 10 * time.Millisecond}
			}
			return nil
		})
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("v"), W: 3, DW: 1}); err != nil {
			t.Fatal(err)
		}
		_, err := w.put(own[0], PutRequest{Key: "k", Write: value("v"), W: 3, DW: 2})
		if q := quorumError(t, err); q.Parameter != "dw" || q.Required != 2 || q.Acked != 1 {
			t.Fatalf("%+v", q)
		}
	})
}

// A node that answers twice, or whose late failure follows its ack, counts once.
func TestQuorumCountsDistinctNodes(t *testing.T) {
	w := newWorld(t, 3)
	ids := w.ring.Primaries(0)
	c := newPutCore(putGoal{w: 2}, ids)
	c.addAck(place{node: ids[0]}, true)
	c.addAck(place{node: ids[0]}, true)
	if acks, _ := c.acks(); c.enough() || acks != 1 {
		t.Fatal("one node counted twice")
	}
	c.addFailure(place{node: ids[0]}, failure{})
	c.addAck(place{node: ids[1]}, false)
	if !c.enough() {
		t.Fatal("a late failure took an ack back")
	}
}

// Every order of the three replicas' answers, each ack or failure: enough and impossible agree with counting by
// hand, and never both hold.
func TestPutCoreExhaustively(t *testing.T) {
	w := newWorld(t, 3)
	ids := w.ring.Primaries(0)
	orders := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	for _, order := range orders {
		for outcome := range 27 {
			for goal := range 64 {
				g := putGoal{w: goal%4 + 0, dw: goal / 4 % 4, pw: goal / 16}
				c := newPutCore(g, ids)
				acks, syncs, fails, x := 0, 0, 0, outcome
				for _, i := range order {
					switch x % 3 {
					case 0:
						c.addFailure(place{node: ids[i]}, failure{})
						fails++
					default:
						c.addAck(place{node: ids[i]}, x%3 == 2)
						acks++
						syncs += x%3 - 1
					}
					x /= 3
					left := 3 - acks - fails
					enough := acks >= g.w && syncs >= g.dw && acks >= g.pw
					impossible := acks+left < g.w || syncs+left < g.dw || acks+left < g.pw
					if c.enough() != enough || c.impossible() != impossible || enough && impossible {
						t.Fatalf("goal %+v, order %v, outcome %d: enough %v impossible %v", g, order, outcome, c.enough(), c.impossible())
					}
				}
			}
		}
	}
}

// The object is sent on as soon as it is applied in memory: a write takes the slower of commit and round trip, not
// their sum.
func TestReplicasAreSentToBeforeTheLocalCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		own[0].commit = 30 * time.Millisecond
		w.setFault(func(int, int, string) *fault { return &fault{delay: 30 * time.Millisecond} })
		start := time.Now()
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("v"), W: 3}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 30*time.Millisecond {
			t.Fatalf("took %v", took)
		}
	})
}

func clientID(n byte) vclock.WriteID {
	return vclock.WriteID{Key: [16]byte{n}, Body: [16]byte{n}, Client: true}
}

// The same request again, through another node: no second write, also after its value was overwritten or deleted.
func TestRepeatedRequestHasNoSecondEffect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		req := PutRequest{Key: "k", Write: value("v")}
		req.Write.ID = clientID(1)
		for i, n := range w.nodes {
			res, err := w.put(n, req)
			if err != nil || res.Repeated != (i > 0) {
				t.Fatalf("%+v, %v", res, err)
			}
		}
		got, _ := w.get(w.nodes[0], "k", 3)
		if len(got.Object.Siblings) != 1 {
			t.Fatalf("%v", values(got.Object))
		}
		if _, err := w.put(w.nodes[1], PutRequest{Key: "k", Write: vclock.Write{Deleted: true}}); err != nil {
			t.Fatal(err)
		}
		if res, err := w.put(w.nodes[2], req); err != nil || !res.Repeated {
			t.Fatalf("%+v, %v", res, err)
		}
		if got, _ := w.get(w.nodes[0], "k", 3); len(values(got.Object)) != 0 {
			t.Fatal("a retry brought a deleted value back")
		}
		other := req
		other.Write.ID.Body = [16]byte{99}
		if _, err := w.put(w.nodes[3], other); !errors.Is(err, vclock.ErrIDReused) {
			t.Fatalf("want ErrIDReused, got %v", err)
		}
	})
}

// A retry may find its write on one replica only. Before it says so, W replicas hold it.
func TestRepeatedRequestIsBroughtToW(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		req := PutRequest{Key: "k", Write: value("v")}
		req.Write.ID = clientID(1)
		w.setFault(func(int, int, string) *fault { return &fault{notSent: true} })
		own[0].put1(t, req)
		w.setFault(nil)
		if res, err := w.put(own[0], req); err != nil || !res.Repeated || res.Acks < 2 {
			t.Fatalf("%+v, %v", res, err)
		}
		synctest.Wait()
		for _, n := range own {
			if v := n.values("k"); !slices.Equal(v, []string{"v"}) {
				t.Fatalf("%v", v)
			}
		}
	})
}

// put1 writes with nobody else reachable: only this node holds it, and the client is told nothing certain.
func (n *testNode) put1(t *testing.T, req PutRequest) {
	t.Helper()
	id := req.Write.ID
	req.Write.ID.Client = false // the look first would fail with nobody to ask
	k := n.key(req.Key)
	req.Write.ID = id
	if _, err := n.Mint(t.Context(), k, req.Write, func(Applied) {}); err != nil {
		t.Fatal(err)
	}
}

func TestDeleteWithoutContextDeletesWhatItSees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		del := PutRequest{Key: "k", Write: vclock.Write{Deleted: true}}
		if res, err := w.put(own[0], del); err != nil || !res.Object.IsZero() {
			t.Fatalf("nothing to delete: %+v, %v", res, err)
		}
		for _, v := range []string{"a", "b"} {
			if _, err := w.put(own[1], PutRequest{Key: "k", Write: value(v)}); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.put(own[2], del); err != nil {
			t.Fatal(err)
		}
		got, err := w.get(own[0], "k", 2)
		if err != nil || len(got.Object.Siblings) != 1 || !got.Object.Siblings[0].Deleted {
			t.Fatalf("%v, %v", got.Object.Siblings, err)
		}
		dot := got.Object.Siblings[0].Dot
		if res, err := w.put(own[1], del); err != nil || res.Object.Siblings[0].Dot != dot {
			t.Fatalf("deleting again should mint nothing: %+v, %v", res, err)
		}
	})
}

// A trace tells the whole story, also of a write that was forwarded and of one that was hinted.
func TestTraceTellsTheStory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own, other := w.primaries("k")
		w.setDown(own[2], true)
		trace := NewTrace()
		if _, err := w.put(other, PutRequest{Key: "k", Write: value("v"), W: 3, Sloppy: true, Trace: trace}); err != nil {
			t.Fatal(err)
		}
		kinds := map[string]int{}
		for _, e := range trace.Events() {
			kinds[e.Kind]++
		}
		for kind, n := range map[string]int{"forward": 1, "mint": 1, "send": 1, "hint": 1, "answer": 3, "result": 1} {
			if kinds[kind] != n {
				t.Errorf("%d × %s, want %d: %v", kinds[kind], kind, n, trace.Events())
			}
		}
		trace = NewTrace()
		if _, err := other.c.Get(t.Context(), GetRequest{Bucket: "b", Key: "k", R: 2, Trace: trace}); err != nil {
			t.Fatal(err)
		}
		if e := trace.Events(); len(e) < 5 || e[len(e)-1].Kind != "result" {
			t.Errorf("%v", e)
		}
	})
}

// A node that missed a reap round follows its peers into it: otherwise all that it sends would be refused for ever.
// A node forwards to a primary that is frozen. Once that is judged down, the client is told at once; a request with
// its client's id goes on to the next primary instead.
// The first primary took a forwarded request, with its client's id, and froze before it answered; the next one cannot
// do it and says that nothing was stored. That holds for its own try only: the client must hear that it is not known.
