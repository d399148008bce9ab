package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// stale writes v1 everywhere and v2 on all primaries but one, which is returned last.
func stale(w *world, key string) []*testNode {
	own, _ := w.primaries(key)
	if _, err := w.put(own[0], PutRequest{Key: key, Write: value("v1"), W: 3}); err != nil {
		w.t.Fatal(err)
	}
	got, err := w.get(own[0], key, 3)
	if err != nil {
		w.t.Fatal(err)
	}
	behind := own[2].index
	w.setFault(func(_, to int, endpoint string) *fault {
		if to == behind && endpoint == EndpointMerge {
			return &fault{notSent: true}
		}
		return nil
	})
	v2 := PutRequest{Key: key, Write: value("v2"), HasContext: true}
	v2.Write.Context = got.Object.Answer(0, false).Context
	if _, err := w.put(own[0], v2); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait() // the write to the one behind was refused
	w.setFault(nil)
	synctest.Wait() // and it answers pings again
	w.takeCalls()
	return own
}

func TestReadQuorumSeesTheWriteAndRepairsTheStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own := stale(w, "k")
		if got, err := w.get(own[2], "k", 1); err != nil || !slices.Equal(values(got.Object), []string{"v1"}) {
			t.Fatalf("r=1 at the stale replica shows %v, %v", values(got.Object), err)
		}
		got, err := w.get(own[2], "k", 2)
		if err != nil || !slices.Equal(values(got.Object), []string{"v2"}) {
			t.Fatalf("r=2 shows %v, %v", values(got.Object), err)
		}
		synctest.Wait()
		if v := own[2].values("k"); !slices.Equal(v, []string{"v2"}) {
			t.Fatalf("not repaired: %v", v)
		}
		w.takeCalls()
		if _, err := w.get(own[2], "k", 3); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if c := w.takeCalls(); len(c) != 2 {
			t.Fatalf("replicas that agree are asked once each and repaired never: %v", c)
		}
	})
}

// A node that is no replica asks one for the object and the others for digests; where they differ, it fetches.
func TestReadByDigestsFetchesOnlyWhatDiffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		stale(w, "k")
		_, other := w.primaries("k")
		got, err := w.get(other, "k", 3)
		if err != nil || !slices.Equal(values(got.Object), []string{"v2"}) {
			t.Fatalf("%v, %v", values(got.Object), err)
		}
		synctest.Wait()
		reads := 0
		for _, c := range w.takeCalls() {
			if strings.HasSuffix(c, EndpointRead) {
				reads++
			}
		}
		if reads < 4 || reads > 5 { // three, and one or two objects fetched
			t.Fatalf("%d replica reads", reads)
		}
	})
}

func TestSlowReplicaIsHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own := stale(w, "k")
		_, other := w.primaries("k")
		for _, reader := range []*testNode{own[0], other} {
			slow := -1
			w.setFault(func(from, to int, endpoint string) *fault {
				if slow < 0 && endpoint == EndpointRead {
					slow = to
				}
				if to == slow {
					return &fault{lost: true}
				}
				return nil
			})
			start := time.Now()
			if _, err := w.get(reader, "k", 2); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 100*time.Millisecond {
				t.Fatalf("took %v", took)
			}
		}
	})
}

func TestReadFailsEarlyAndSaysWho(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own := stale(w, "k")
		w.setDown(own[1], true)
		w.setFault(func(_, to int, _ string) *fault {
			if to == own[2].index {
				return &fault{notSent: true}
			}
			return nil
		})
		_, err := w.get(own[0], "k", 2)
		q := quorumError(t, err)
		if q.Kind != Unavailable || q.Parameter != "r" || q.Acked != 1 || q.Required != 2 || len(q.Replicas) != 3 {
			t.Fatalf("%+v", q)
		}
		_, err = w.get(own[0], "k", 3)
		if q := quorumError(t, err); q.Kind != Unavailable {
			t.Fatalf("%+v", q)
		}
		w.setDown(own[1], false)
		w.setFault(nil)
		time.Sleep(5 * time.Second)
		w.setFault(func(_, _ int, endpoint string) *fault {
			if endpoint == EndpointPing {
				return nil
			}
			return &fault{lost: true}
		})
		_, err = w.get(own[0], "k", 2)
		if q := quorumError(t, err); q.Kind != Timeout {
			t.Fatalf("%+v", q)
		}
	})
}

// A damaged copy answers with an error, counts in no quorum and is made whole only by the merge of all others.
func TestDamagedReplicaDoesNotCountAndIsHealed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own := stale(w, "k")
		k := own[1].key("k")
		own[1].corrupt[k] = true
		got, err := w.get(own[1], "k", 2)
		if err != nil || !slices.Equal(values(got.Object), []string{"v2"}) {
			t.Fatalf("%v, %v", values(got.Object), err)
		}
		synctest.Wait()
		own[1].mu.Lock()
		defer own[1].mu.Unlock()
		if own[1].corrupt[k] || own[1].incomplete[k] || !slices.Equal(values(own[1].records[k].Object), []string{"v2"}) {
			t.Fatalf("not healed: corrupt %v, incomplete %v, %v", own[1].corrupt[k], own[1].incomplete[k], values(own[1].records[k].Object))
		}
	})
}

// Two replicas hold a write; one loses it. A read of the damaged and the one that never had it must not say that
// there is nothing.
func TestDamagedReplicaNeverSaysNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own, _ := w.primaries("k")
		w.setFault(func(_, to int, endpoint string) *fault {
			if to == own[2].index && endpoint == EndpointMerge {
				return &fault{notSent: true}
			}
			return nil
		})
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("v")}); err != nil {
			t.Fatal(err)
		}
		w.setFault(nil)
		w.setDown(own[0], true)
		own[1].corrupt[own[1].key("k")] = true
		if _, err := w.get(own[2], "k", 2); err == nil {
			t.Fatal("an acknowledged write was said not to exist")
		}
		// A write that came since makes the copy readable but incomplete: still no vote.
		if _, err := w.put(own[2], PutRequest{Key: "k", Write: value("w")}); err != nil {
			t.Fatal(err)
		}
		_, err := w.get(own[2], "k", 2)
		if q := quorumError(t, err); q.Acked != 1 {
			t.Fatalf("%+v", q)
		}
	})
}

// Every combination of three replicas' answers: the core never counts an incomplete or failed one, and its merge
// holds everything heard.
func TestGetCoreExhaustively(t *testing.T) {
	w := newWorld(t, 3)
	ids := w.ring.Primaries(0)
	objects := []vclock.Object{{}}
	for i := range byte(2) {
		d := vclock.Dot{Actor: vclock.Actor{Node: [16]byte{i + 1}}, Counter: 1}
		objects = append(objects, vclock.Object{Context: vclock.VersionVector{d}, Siblings: []vclock.Sibling{{Dot: d}}})
	}
	for outcome := range 5 * 5 * 5 {
		for r := 1; r <= 3; r++ {
			c := newGetCore(r, ids)
			var want vclock.Object
			good, x := 0, outcome
			for i := range ids {
				c.replicas[i].asked = true
				switch v := x % 5; v {
				case 3:
					c.addFailure(i, failure{})
				case 4:
					c.addAnswer(i, answer{digest: objects[1].Digest("b", "k"), object: objects[1], hasObject: true, incomplete: true})
					want = vclock.Merge(want, objects[1])
				default:
					a := answer{object: objects[v], hasObject: true}
					if v > 0 {
						a.digest = objects[v].Digest("b", "k")
					}
					c.addAnswer(i, a)
					good++
					want = vclock.Merge(want, objects[v])
				}
				x /= 5
			}
			if c.enough() != (good >= r) || c.impossible() != (good < r) || !mergedOf(c).Equal(want) {
				t.Fatalf("outcome %d, r=%d: enough %v, impossible %v", outcome, r, c.enough(), c.impossible())
			}
		}
	}
}

func mergedOf(c *getCore) vclock.Object { m, _ := c.merged(); return m }

func TestRepairQueueIsBoundedAndCoalesces(t *testing.T) {
	q := newRepairQueue(2)
	for i := range 10 {
		q.add(repairJob{key: Key{Key: "hot"}, repair: repair{stale: w3()[i%2 : i%2+1]}})
	}
	if len(q.ready) != 1 || len(q.take(Key{Key: "hot"}).repair.stale) != 2 {
		t.Fatal("a hot key must wait once, for all its stale replicas")
	}
	ok := 0
	for i := range 10 {
		if q.add(repairJob{key: Key{Key: fmt.Sprint(i)}}) {
			ok++
		}
	}
	if ok != 1 {
		t.Fatalf("%d jobs taken by a queue with room for one more", ok)
	}
}

func w3() []ring.NodeID { return []ring.NodeID{{1}, {2}} }

// With too few primaries alive and no hints, a loose read shows what it found, and says with how many; it never says
// that there is nothing, and a strict one fails.
func TestDegradedReadShowsWhatItFoundAndNeverSaysNotFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own := stale(w, "k")
		w.setDown(own[1], true)
		w.setDown(own[2], true)
		for _, n := range []*testNode{own[0], w.nodes[0], w.nodes[1], w.nodes[2], w.nodes[3], w.nodes[4]} {
			if n == own[1] || n == own[2] {
				continue
			}
			got, err := n.c.Get(t.Context(), GetRequest{Bucket: "b", Key: "k", R: 2, Sloppy: true})
			if err != nil || !slices.Equal(values(got.Object), []string{"v2"}) || !got.Degraded || got.Acks != 1 {
				t.Fatalf("%v %+v %v", values(got.Object), got, err)
			}
			_, err = n.c.Get(t.Context(), GetRequest{Bucket: "b", Key: "k", R: 2})
			quorumError(t, err)
		}
		k := own[0].key("k")
		own[0].mu.Lock()
		delete(own[0].records, k)
		own[0].mu.Unlock()
		_, err := own[0].c.Get(t.Context(), GetRequest{Bucket: "b", Key: "k", R: 2, Sloppy: true})
		if q := quorumError(t, err); q.Kind != Unavailable {
			t.Fatalf("%+v", q)
		}
	})
}

// A replica whose hints were dropped does not answer alone, but counts beside another.
func TestReplicaThatIsBehindDoesNotAnswerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		own := stale(w, "k")
		own[2].behind = true
		got, err := w.get(own[2], "k", 1)
		if err != nil || !slices.Equal(values(got.Object), []string{"v2"}) {
			t.Fatalf("%v, %v", values(got.Object), err)
		}
		w.setDown(own[0], true)
		if got, err := w.get(own[2], "k", 2); err != nil || got.Acks != 2 {
			t.Fatalf("%+v, %v", got, err)
		}
	})
}

func TestListMergesReplicasAndJudgesDisagreement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		var want []string
		for i := range 60 {
			key := fmt.Sprintf("key-%02d", i)
			own := stale(w, key)
			switch i % 4 {
			case 0: // deleted, but one replica does not know
				w.setFault(func(_, to int, endpoint string) *fault {
					if to == own[1].index && endpoint == EndpointMerge {
						return &fault{notSent: true}
					}
					return nil
				})
				if _, err := w.put(own[0], PutRequest{Key: key, Write: vclock.Write{Deleted: true}, W: 1}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
				w.setFault(nil)
				synctest.Wait()
			default:
				want = append(want, key)
			}
		}
		for _, limit := range []int{1, 7, 100} {
			var got []string
			req := ListRequest{Bucket: "b", Prefix: "key-", Limit: limit, R: 2}
			for {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				page, err := w.nodes[3].c.List(ctx, req)
				cancel()
				if err != nil {
					t.Fatal(err)
				}
				if len(page.Keys) > limit {
					t.Fatalf("%d keys in a page of %d", len(page.Keys), limit)
				}
				got = append(got, page.Keys...)
				if page.Next == "" {
					break
				}
				req.After = page.Next
			}
			if !slices.Equal(got, want) {
				t.Fatalf("limit %d: %v, want %v", limit, got, want)
			}
		}
		w.setDown(w.nodes[0], true)
		if _, err := w.nodes[3].c.List(t.Context(), ListRequest{Bucket: "b", Limit: 100, R: 2}); err != nil {
			t.Fatalf("one node down, r=2: %v", err)
		}
		_, err := w.nodes[3].c.List(t.Context(), ListRequest{Bucket: "b", Limit: 100, R: 3})
		if q := quorumError(t, err); q.Acked != 2 || q.Required != 3 {
			t.Fatalf("%+v", q)
		}
	})
}

func TestExplainShowsWhereReplicasDiffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own := stale(w, "k")
		own[1].corrupt[own[1].key("k")] = true
		x, err := own[0].c.Explain(t.Context(), "b", "k")
		if err != nil || len(x) != 5 {
			t.Fatalf("%+v, %v", x, err)
		}
		roles := 0
		for i, e := range x {
			if e.Role == "primary" {
				roles++
			}
			if e.Err != "" || e.Epoch != 1 || e.Copy.Found != (i < 3) || e.Copy.Damaged != (e.Node == own[1].id) {
				t.Errorf("%+v", e)
			}
		}
		if roles != 3 || x[0].Copy.Digest == x[2].Copy.Digest || x[0].Copy.Sizes[0] != 2 || x[0].Copy.Object.Siblings[0].Value != nil {
			t.Errorf("%+v", x)
		}
		synctest.Wait()
		if v := own[2].values("k"); !slices.Equal(v, []string{"v1"}) {
			t.Errorf("explaining repaired something: %v", v)
		}
	})
}

// A fallback's hint counts toward r beside the primaries that pr asks for.
func TestPrimariesAskedForBesideAFallback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own, other := w.primaries("k")
		w.setDown(own[1], true)
		w.setDown(own[2], true)
		if _, err := w.put(own[0], PutRequest{Key: "k", Write: value("v"), Sloppy: true}); err != nil {
			t.Fatal(err)
		}
		for pr, ok := range map[int]bool{0: true, 1: true, 2: false} {
			_, err := other.c.Get(t.Context(), GetRequest{Bucket: "b", Key: "k", R: 2, PR: pr, Sloppy: true})
			if ok && err != nil {
				t.Errorf("pr=%d: %v", pr, err)
			}
			if !ok {
				if q := quorumError(t, err); q.Parameter != "pr" || q.Required != 2 || q.Acked != 1 {
					t.Errorf("pr=%d: %+v", pr, q)
				}
			}
		}
		// All replicas are asked for: then there is no answer from fewer.
		if _, err := other.c.Get(t.Context(), GetRequest{Bucket: "b", Key: "none", R: 3, Sloppy: true}); err == nil {
			keys, _ := w.primaries("none")
			if slices.Contains(keys, own[1]) || slices.Contains(keys, own[2]) {
				t.Error("r=3 with a primary down was answered")
			}
		}
	})
}

// However many tombstones lie before it, a key is listed in few rounds, also one at a time.
func TestListGetsPastTombstones(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.close()
		for i := range 3000 {
			key := fmt.Sprintf("k%05d", i)
			wr := vclock.Write{Deleted: i < 2999, Value: []byte("v")}
			if _, err := w.put(w.nodes[i%3], PutRequest{Key: key, Write: wr, HasContext: true, W: 3}); err != nil {
				t.Fatal(err)
			}
		}
		w.takeCalls()
		page, err := w.nodes[0].c.List(t.Context(), ListRequest{Bucket: "b", Limit: 1, R: 2})
		if err != nil || len(page.Keys) != 1 || page.Next != "" {
			t.Fatalf("%+v, %v", page, err)
		}
		if n := len(w.takeCalls()); n > 30 {
			t.Fatalf("%d calls", n)
		}
	})
}
