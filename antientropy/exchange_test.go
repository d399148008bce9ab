package antientropy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dunlindb/dunlin/vclock"
)

// step is one thing that happens to a cluster before it is left alone.
type step struct {
	key, replica  int
	over, deleted bool
	copyTo        int // replicas that get the result, from the writer on
}

func drawSteps(t *rapid.T) []step {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
		return step{
			key: rapid.IntRange(0, 40).Draw(t, "key"), replica: rapid.IntRange(0, 2).Draw(t, "replica"),
			over: rapid.Bool().Draw(t, "over"), deleted: rapid.IntRange(0, 4).Draw(t, "deleted") == 0,
			copyTo: rapid.IntRange(0, 2).Draw(t, "copies"),
		}
	}), 1, 120).Draw(t, "steps")
}

// Whatever replicas have missed, they end byte-identical, through lost, doubled and late messages, and hold what a
// merge of all of them holds.
func TestRandomDivergenceConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		nodes := rapid.IntRange(3, 5).Draw(rt, "nodes")
		steps := drawSteps(rt)
		faults := rapid.SliceOfN(rapid.IntRange(0, 9), 0, 30).Draw(rt, "faults")
		problem := ""
		synctest.Test(t, func(t *testing.T) { problem = converge(t, nodes, steps, faults) })
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

func converge(t *testing.T, nodes int, steps []step, faults []int) string {
	w := newWorld(t, worldOptions{nodes: nodes, partitions: 8, idle: true})
	want := make(map[Key]vclock.Object)
	for i, st := range steps {
		k := w.key(st.key)
		hs := w.holders(k.Partition)
		hs[st.replica].store.write(k, fmt.Sprint(i), st.over, st.deleted)
		c, _ := hs[st.replica].store.Get(k)
		for j := range st.copyTo {
			_ = hs[(st.replica+1+j)%len(hs)].store.Merge(t.Context(), k, c.Object, MergeOptions{})
		}
		want[k] = vclock.Merge(want[k], c.Object)
	}
	n := 0
	w.fault = func(int, int, string) (f fault) {
		if n < len(faults) {
			switch faults[n] {
			case 0, 1:
				f.lost = true
			case 2, 3:
				f.lostReply = true
			case 4:
				f.twice = true
			case 5:
				f.delay = 11 * time.Second
			case 6:
				f.late = 7 * time.Second
			}
		}
		n++
		return f
	}
	w.start()
	end := time.Now().Add(30 * time.Minute)
	for w.difference() != "" {
		if time.Now().After(end) {
			return w.difference()
		}
		time.Sleep(5 * time.Second)
	}
	for k, o := range want {
		c, _ := w.holders(k.Partition)[0].store.Get(k)
		if !c.Object.Equal(o) {
			return fmt.Sprintf("%s: %v, want %v", k.Key, c.Object, o)
		}
	}
	return ""
}

// The promise: a minute after a cut heals, with default settings, all replicas are the same, though nobody told the
// nodes and the cut made messages vanish.
func TestReplicasAreEqualAMinuteAfterAHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 4, partitions: 64})
		for i := range 500 {
			w.writeAll(w.key(i), "old")
		}
		cut := func(from, to int, _ string) fault { return fault{lost: from/2 != to/2} }
		w.setFault(cut)
		for i := range 300 {
			w.write(w.key(i), i%3, fmt.Sprint("new", i))
			w.write(w.key(i), (i+1)%3, fmt.Sprint("other", i))
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * time.Minute)
		if w.difference() == "" {
			t.Fatal("the cut cut nothing")
		}
		w.setFault(nil)
		w.settle(time.Minute)
	})
}

// An exchange that finds nothing costs one message each way, of 16 bytes a partition and little more.
func TestNoDifferenceCostsOneMessagePair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 3, partitions: 256, idle: true})
		for i := range 2000 {
			w.writeAll(w.key(i), "same")
		}
		x, err := w.once(0, 1)
		if err != nil || resultOf(x, err) != resultSame {
			t.Fatal(resultOf(x, err), err)
		}
		calls := w.takeCalls()
		if len(calls) != 1 || calls[0].endpoint != EndpointRoots {
			t.Fatalf("%v", calls)
		}
		if limit := 256*16 + 256/8 + 32; calls[0].out > limit || calls[0].in > 256+16 {
			t.Errorf("%d bytes out, %d in, for 256 partitions", calls[0].out, calls[0].in)
		}
	})
}

// Ten different keys of 1 KB among 200 000 cost at most a hundred times their own bytes.
func TestFewDifferencesCostFewBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 64, n: 2, idle: true})
		value := strings.Repeat("x", 1000)
		a, b := w.nodes[0].store, w.nodes[1].store
		for i := range 200_000 {
			k := w.key(i)
			a.write(k, value, false, false)
			r := *a.parts[k.Partition].records[Cursor{k.Bucket, k.Key}]
			b.parts[k.Partition].records[Cursor{k.Bucket, k.Key}] = &r
		}
		for p := range b.parts {
			b.parts[p].sums = a.parts[p].sums
		}
		for i := range 10 {
			w.nodes[i%2].store.write(w.key(i*20_000), strings.Repeat("y", 1000), true, false)
		}
		x, err := w.once(0, 1)
		if err != nil || x.moved.Left != 0 {
			t.Fatal(x.moved, err)
		}
		if d := w.difference(); d != "" {
			t.Fatal(d)
		}
		bytes := x.moved.BytesIn + x.moved.BytesOut
		t.Logf("%d bytes in %d messages, %d keys compared", bytes, len(w.takeCalls()), x.moved.Compared)
		if bytes > 100*10*1000 {
			t.Errorf("%d bytes for 10 keys of 1 KB", bytes)
		}
	})
}

// The exchange itself finds exactly the keys that differ, in whatever leaves they lie.
func TestExchangeMovesExactlyTheDifference(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		total := rapid.IntRange(1, 400).Draw(rt, "keys")
		changed := rapid.SliceOfNDistinct(rapid.IntRange(0, total-1), 0, min(total, 60), rapid.ID[int]).Draw(rt, "changed")
		problem := ""
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, worldOptions{nodes: 2, partitions: 2, n: 2, idle: true})
			for i := range total {
				w.writeAll(w.key(i), "same")
			}
			sent, received := int64(0), int64(0)
			for i, key := range changed {
				k := w.key(key)
				switch i % 3 {
				case 0: // newer there: fetched, and nothing to give back
					w.nodes[1].store.write(k, "b", true, false)
					received++
				case 1: // missing here
					w.nodes[0].store.with(k.Partition, func(p *memPart) { p.drop(Cursor{k.Bucket, k.Key}) })
					received++
				case 2: // missing there
					w.nodes[1].store.with(k.Partition, func(p *memPart) { p.drop(Cursor{k.Bucket, k.Key}) })
					sent++
				}
			}
			x, err := w.once(0, 1)
			if err != nil || x.moved.Sent != sent || x.moved.Received != received || w.difference() != "" {
				problem = fmt.Sprintf("%+v, %v, want %d sent, %d received; %s", x.moved, err, sent, received, w.difference())
			}
		})
		if problem != "" {
			rt.Fatal(problem)
		}
	})
}

// A key that one side is removing is no difference, whoever still holds it.
func TestKeysUnderRemovalAreLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, idle: true})
		for i := range 4 {
			k := w.key(i)
			w.nodes[i%2].store.write(k, "dead", false, true)
			w.nodes[i%2].store.with(0, func(p *memPart) { p.records[Cursor{k.Bucket, k.Key}].removing = true })
		}
		w.nodes[0].store.write(w.key(5), "live", false, false)
		for _, d := range [][2]int{{0, 1}, {1, 0}} {
			x, err := w.once(d[0], d[1])
			if err != nil || x.moved.Left != 4 {
				t.Fatal(x.moved, err)
			}
		}
		for i := range 4 {
			if c, _ := w.nodes[1-i%2].store.Get(w.key(i)); !c.Object.IsZero() {
				t.Errorf("key %d was sent while it was being removed", i)
			}
		}
		if c, _ := w.nodes[1].store.Get(w.key(5)); c.Object.IsZero() {
			t.Error("another key was left alone too")
		}
	})
}

// Who drove a round may be gone for good, and have taken only some into it: the others catch up, whoever begins.
func TestCatchesUpWhereTheDriverIsGone(t *testing.T) {
	for _, from := range []int{0, 1} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, idle: true})
			w.nodes[0].store.write(w.key(1), "mine", false, false)
			w.nodes[1].store.write(w.key(2), "theirs", false, false)
			w.nodes[0].store.with(0, func(p *memPart) { p.round = 4 })
			for range 2 { // a push is refused once more, and goes out with the next exchange
				if _, err := w.once(from, 1-from); err != nil {
					t.Fatal(err)
				}
			}
			if d := w.difference(); d != "" {
				t.Errorf("node %d began: %s", from, d)
			}
		})
	}
}

// Objects carry the round in which their source was read; a source in an earlier round is read again, and its keys are
// left to a later exchange while it cannot catch up.
func TestStaleRoundsAreRefusedThenReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, idle: true})
		w.nodes[0].store.write(w.key(1), "mine", false, false)
		w.nodes[1].store.write(w.key(2), "theirs", false, false)
		w.nodes[0].store.with(0, func(p *memPart) { p.round = 4 })
		w.nodes[1].store.behind = true
		x, err := w.once(0, 1)
		if err != nil || x.moved.Received != 0 || x.moved.Sent != 1 || x.moved.Left != 1 {
			t.Fatalf("%+v %v", x.moved, err)
		}
		// The peer enters the round between the first fetch and the second.
		fetches := 0
		w.setFault(func(_, _ int, endpoint string) fault {
			if endpoint == EndpointObjects {
				if fetches++; fetches == 2 {
					w.nodes[1].store.with(0, func(p *memPart) { p.round = 4 })
				}
			}
			return fault{}
		})
		x, err = w.once(0, 1)
		if err != nil || x.moved.Received != 1 || x.moved.Left != 0 {
			t.Fatalf("%+v %v", x.moved, err)
		}
		if d := w.difference(); d != "" {
			t.Fatal(d)
		}
	})
}

// This node is in an earlier round than the peer: what it pushes is refused, and it reads its store again.
func TestPushOfAStaleRoundIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, idle: true})
		w.nodes[0].store.write(w.key(1), "mine", false, false)
		w.nodes[1].store.with(0, func(p *memPart) { p.round = 4 })
		x, err := w.once(0, 1)
		if err != nil || x.moved.Sent != 0 || x.moved.Left != 1 {
			t.Fatalf("%+v %v", x.moved, err)
		}
		// This node enters the round while its first push is on its way.
		w.setFault(func(_, _ int, endpoint string) fault {
			if endpoint == EndpointObjects {
				w.nodes[0].store.with(0, func(p *memPart) { p.round = 4 })
			}
			return fault{}
		})
		if x, err = w.once(0, 1); err != nil || x.moved.Sent != 1 || x.moved.Left != 0 {
			t.Fatalf("%+v %v", x.moved, err)
		}
	})
}

// Sums that differ where the keys agree are counted anew; a write that comes between is not taken for that.
func TestDirtySumsAreRecounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 3, partitions: 4})
		for i := range 200 {
			w.writeAll(w.key(i), "same")
		}
		spoilt := w.nodes[1].store
		spoilt.with(2, func(p *memPart) { p.sums[7] = p.sums[7].plus(vclock.Digest{9}) })
		spoilt.with(3, func(p *memPart) {
			for i := range p.sums {
				p.sums[i] = p.sums[i].plus(vclock.Digest{byte(i), 1})
			}
		})
		w.settle(time.Minute)
		if a, b := spoilt.parts[2].recounts, spoilt.parts[3].recounts; a == 0 || b == 0 {
			t.Errorf("%d and %d recounts", a, b)
		}
		for _, n := range w.nodes {
			if n.store.merges > 2*200 { // writeAll's own
				t.Error("objects were moved")
			}
		}
	})
}

func TestAWriteBetweenIsNoDirtySum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, idle: true})
		w.writeAll(w.key(1), "same")
		w.nodes[0].store.write(w.key(1), "new", true, false)
		w.setFault(func(_, _ int, endpoint string) fault {
			if endpoint == EndpointKeys { // the write reaches the peer between its sums and its keys
				c, _ := w.nodes[0].store.Get(w.key(1))
				_ = w.nodes[1].store.Merge(t.Context(), w.key(1), c.Object, MergeOptions{})
			}
			return fault{}
		})
		if _, err := w.once(0, 1); err != nil {
			t.Fatal(err)
		}
		if n := w.nodes[0].store.parts[0].recounts; n != 0 {
			t.Errorf("%d recounts", n)
		}
	})
}

// Partitions whose tree is being built on either side are left out, and taken up once it is ready.
func TestUnreadyPartitionsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 2, n: 2, idle: true})
		for i := range 20 {
			w.write(w.key(i), i%2, "v")
		}
		w.nodes[0].store.with(0, func(p *memPart) { p.unready = true })
		w.nodes[1].store.with(1, func(p *memPart) { p.unready = true })
		x, err := w.once(0, 1)
		if err != nil || x.notReady != 2 || x.moved != (Moved{BytesIn: x.moved.BytesIn, BytesOut: x.moved.BytesOut}) {
			t.Fatalf("%+v %v", x, err)
		}
		for _, n := range w.nodes {
			for p := range 2 {
				n.store.with(p, func(p *memPart) { p.unready = false })
			}
		}
		if _, err := w.once(0, 1); err != nil || w.difference() != "" {
			t.Fatal(err, w.difference())
		}
	})
}

// Large lists and large objects come in pieces that stay within their bounds.
func TestPagesAndBatchesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, idle: true, opt: Options{MaxObject: 3 << 20}})
		for i := range 10_000 {
			w.write(w.key(i), i%2, "v")
		}
		for i := range 8 {
			w.write(w.key(20_000+i), i%2, strings.Repeat("x", 700_000))
		}
		w.write(w.key(30_000), 0, strings.Repeat("x", 2<<20))
		w.write(w.key(30_001), 1, strings.Repeat("x", 2<<20))
		x, err := w.once(0, 1)
		if err != nil || x.moved.Left != 0 || w.difference() != "" {
			t.Fatalf("%+v %v %s", x.moved, err, w.difference())
		}
		large := 0
		for _, c := range w.takeCalls() {
			if c.in > 2<<20+1000 || c.out > 2<<20+1000 {
				t.Errorf("%+v", c)
			}
			if max(c.in, c.out) > 1<<20+2000 {
				large++
			}
		}
		if large != 2 {
			t.Errorf("%d messages beyond the batch size, want the 2 with one large object each", large)
		}
		// What is too large for any message is left, and stops nothing.
		w.write(w.key(30_002), 0, strings.Repeat("x", 4<<20))
		w.write(w.key(30_003), 1, strings.Repeat("x", 4<<20))
		w.write(w.key(30_004), 1, "v")
		if x, err = w.once(0, 1); err != nil || x.moved.Left != 2 || x.moved.Received+x.moved.Sent != 1 {
			t.Fatalf("%+v %v", x.moved, err)
		}
	})
}

// A store that can take nothing ends the exchange; one key that cannot be stored does not.
func TestStoreErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, idle: true})
		w.nodes[1].store.write(w.key(1), "a", false, false)
		w.nodes[0].store.write(w.key(2), "b", false, false)
		full := errors.New("the disk is full")
		for i, want := range []string{"no object could be stored: the disk is full", "the peer could store nothing"} {
			w.nodes[i].store.full = full
			if _, err := w.once(0, 1); err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
			w.nodes[i].store.full = nil
		}
		if _, err := w.once(0, 1); err != nil || w.difference() != "" {
			t.Fatal(err, w.difference())
		}
	})
}

// Requests of another epoch, for partitions that are not shared, or that cannot be read, are refused with their code.
func TestRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 4, partitions: 16, idle: true})
		apart := filter(16, func(p int) bool { return !w.nodes[0].s.shares(w.nodes[0].Epochs(), p, w.nodes[1].id) })[0]
		var k Key
		for i := 0; k.Key == "" || k.Partition != apart; i++ {
			k = w.key(i)
		}
		at := Cursor{k.Bucket, k.Key}
		roots := rootsRequest{epoch: 2}
		short := rootsRequest{epoch: 1, asked: bitmap{1}}
		leaves := leavesRequest{epoch: 1, partitions: []int{apart}}
		keys := keysRequest{epoch: 1, spans: []span{{partition: apart, leaf: AllLeaves}}}
		fetch := objectsRequest{epoch: 1, fetch: []Cursor{at}}
		push := objectsRequest{epoch: 1, kind: objectsPush, push: []named{{k.Bucket, k.Key, 0, testObject()}}}
		for i, c := range []struct {
			endpoint string
			body     []byte
			code     Code
		}{
			{EndpointRoots, roots.encode(), CodeEpoch}, {EndpointRoots, short.encode(), CodeBadRequest},
			{EndpointLeaves, leaves.encode(), CodeNotOurs}, {EndpointKeys, keys.encode(), CodeNotOurs},
			{EndpointObjects, fetch.encode(), CodeNotOurs}, {EndpointObjects, push.encode(), CodeNotOurs},
			{EndpointRoots, []byte{1}, CodeBadRequest}, {EndpointObjects, nil, CodeBadRequest},
		} {
			_, err := w.nodes[1].s.Handlers()[c.endpoint](t.Context(), w.nodes[0].id, c.body)
			if r := (*refusal)(nil); !errors.As(err, &r) || r.code != c.code {
				t.Errorf("%d: %v, want code %d", i, err, c.code)
			}
		}
		if _, err := w.nodes[1].s.Handlers()[EndpointRoots](t.Context(), [16]byte{77}, (&rootsRequest{epoch: 1}).encode()); err == nil {
			t.Error("a stranger was answered")
		}
		if got, _ := w.nodes[1].store.Get(k); !got.Object.IsZero() {
			t.Error("a refused push was stored")
		}
	})
}

// A call that the peer never answers ends in time, and the turn passes to others.
func TestSilentPeerEndsTheExchange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, worldOptions{nodes: 2, partitions: 1, n: 2, idle: true})
		w.nodes[0].store.write(w.key(1), "a", false, false)
		w.setFault(func(_, _ int, endpoint string) fault { return fault{lostReply: endpoint == EndpointObjects} })
		began := time.Now()
		_, err := w.once(0, 1)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 11*time.Second {
			t.Fatal(err, time.Since(began))
		}
		w.setFault(nil)
		// The push had arrived: nothing is left to do.
		if x, err := w.once(0, 1); err != nil || resultOf(x, err) != resultSame {
			t.Fatal(err, resultOf(x, err))
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	if _, err := New(Deps{}, Options{}); err == nil {
		t.Error("no dependencies")
	}
	n := &testNode{id: [16]byte{1}, store: newMemStore([16]byte{1}, 1)}
	deps := Deps{Self: n.id, Local: n.store, Peers: n, View: n}
	if _, err := New(deps, Options{BytesPerSecond: -1}); err == nil {
		t.Error("a negative budget")
	}
	s, err := New(deps, Options{})
	if err != nil {
		t.Fatal(err)
	}
	want := Options{
		Interval: 20 * time.Second, RetryAfter: 5 * time.Second, BytesPerSecond: 16 << 20, AtOnce: 2,
		CallTimeout: 10 * time.Second, Turn: 2 * time.Minute, ScrubEvery: time.Hour, MaxObject: 24 << 20,
	}
	if d := cmp.Diff(want, s.opt); d != "" {
		t.Error(d)
	}
	s.Close()
}
