package coordinator

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// ringOf is the ring of an epoch whose members are the given nodes of the world.
func (w *world) ringOf(epoch uint64, members ...int) *ring.Ring {
	l := w.ring.Layout()
	l.Epoch, l.Members = epoch, nil
	for _, i := range members {
		l.Members = append(l.Members, ring.Member{ID: w.nodes[i].id, Name: w.ring.Members()[i].Name, Weight: 1})
	}
	r, err := ring.New(l, 3)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) live(settled uint64, rings ...*ring.Ring) *ring.Epochs {
	e, err := ring.NewEpochs(rings, settled, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return e
}

// know gives nodes, or all of them, a snapshot.
func (w *world) know(e *ring.Epochs, nodes ...*testNode) {
	if nodes == nil {
		nodes = w.nodes
	}
	for _, n := range nodes {
		n.epochs.Store(e)
	}
}

// moved finds a key of which one primary in a, gone, is replaced in b by another, gained; stay are primaries in both.
func (w *world) moved(a, b *ring.Ring) (key string, stay []*testNode, gone, gained *testNode) {
	for _, r := range "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789" {
		key, stay, gone, gained = string(r), nil, nil, nil
		p := a.Partition("b", key)
		for _, id := range a.Primaries(p) {
			if b.IsPrimary(p, id) {
				stay = append(stay, w.nodes[id[0]-1])
			} else {
				gone = w.nodes[id[0]-1]
			}
		}
		for _, id := range b.Primaries(p) {
			if !a.IsPrimary(p, id) {
				gained = w.nodes[id[0]-1]
			}
		}
		if len(stay) == 2 {
			return key, stay, gone, gained
		}
	}
	w.t.Fatal("no key moves")
	return
}

// change is a world of seven in which nodes 4 to 6 have come after nodes 0 to 3 had founded it. Node 7 is in both.
type change struct {
	*world
	old, next    *ring.Ring
	key          string
	stay         []*testNode
	gone, gained *testNode
}

func newChange(t *testing.T) *change {
	w := newWorld(t, 8)
	c := &change{world: w, old: w.ringOf(1, 0, 1, 2, 3, 7), next: w.ringOf(2, 0, 1, 2, 3, 4, 5, 6, 7)}
	c.key, c.stay, c.gone, c.gained = w.moved(c.old, c.next)
	w.know(w.live(1, c.old, c.next))
	return c
}

// loseWrites loses the writes to some nodes, which answer otherwise.
func (c *change) loseWrites(nodes ...*testNode) {
	c.setFault(func(_, to int, endpoint string) *fault {
		if (endpoint == EndpointMerge || endpoint == EndpointHint) && slices.Contains(nodes, c.nodes[to]) {
			return &fault{lost: true}
		}
		return nil
	})
}

func (c *change) write(n *testNode, req PutRequest) (PutResult, error) {
	req.Key = c.key
	if req.Write.Value == nil {
		req.Write = value("v")
	}
	return c.put(n, req)
}

func TestWriteNeedsItsQuorumInBothEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		a, b := c.stay[0], c.stay[1]
		for name, lost := range map[string][]*testNode{
			"the old epoch's quorum alone": {b, c.gained}, "the new epoch's alone": {b, c.gone}, "neither": {b, c.gone, c.gained},
		} {
			c.loseWrites(lost...)
			_, err := c.write(a, PutRequest{})
			q := quorumError(t, err)
			if q.Kind != Timeout || q.Acked != 1 || q.Required != 2 || q.N != 3 || q.Outcome != Indeterminate {
				t.Errorf("%s: %+v", name, q)
			}
		}
		for name, lost := range map[string][]*testNode{
			"a node of both counts once in each": {c.gone, c.gained}, "one of each": {b},
		} {
			c.loseWrites(lost...)
			if res, err := c.write(a, PutRequest{}); err != nil || res.Acks != 2 || res.N != 3 {
				t.Errorf("%s: %+v, %v", name, res, err)
			}
		}
	})
}

func TestEachHolderIsSentAWriteOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		res, err := c.write(c.stay[0], PutRequest{W: 3, DW: 3, PW: 3})
		if err != nil || res.Acks != 3 || res.N != 3 || len(res.Replicas) != 4 {
			t.Fatalf("%+v, %v", res, err)
		}
		synctest.Wait()
		sent := 0
		for _, call := range c.takeCalls() {
			if strings.HasSuffix(call, EndpointMerge) {
				sent++
			}
		}
		if sent != 3 {
			t.Errorf("%d writes sent, want one to each other holder", sent)
		}
		for _, n := range []*testNode{c.stay[0], c.stay[1], c.gone, c.gained} {
			if !slices.Equal(n.values(c.key), []string{"v"}) {
				t.Errorf("node %d holds %v", n.index, n.values(c.key))
			}
		}
	})
}

func TestGoalsInTwoEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		c.gained.full = ErrFull
		for _, outcome := range []Outcome{Indeterminate, None} { // the second is refused before it is minted
			_, err := c.write(c.stay[0], PutRequest{W: 3})
			if q := quorumError(t, err); q.Parameter != "w" || q.Kind != Full || q.Outcome != outcome {
				t.Errorf("w=3 with a full new owner: %+v", q)
			}
		}
		if res, err := c.write(c.stay[0], PutRequest{W: 2}); err != nil || res.Acks < 2 {
			t.Errorf("%+v, %v", res, err)
		}
		synctest.Wait()
		c.gained.full, c.gained.os = nil, true
		time.Sleep(2 * fullPause)
		_, err := c.write(c.stay[0], PutRequest{W: 3, DW: 3})
		if q := quorumError(t, err); q.Parameter != "dw" {
			t.Errorf("dw=3 with a new owner that does not fsync: %+v", q)
		}
		if _, err := c.write(c.stay[0], PutRequest{W: 3, DW: 2}); err != nil {
			t.Error(err)
		}
		c.setDown(c.gained, true)
		for _, req := range []PutRequest{{W: 3}, {W: 2, PW: 3, Sloppy: true}} {
			_, err := c.write(c.stay[0], req)
			if q := quorumError(t, err); q.Outcome != None || q.Kind != Unavailable || q.Acked != 0 {
				t.Errorf("%+v with the new owner down: %+v", req, q)
			}
		}
		if _, err := c.write(c.stay[0], PutRequest{W: 2, PW: 2, Sloppy: true}); err != nil {
			t.Error(err)
		}
	})
}

func TestNewOwnerThatIsDownGetsAHint(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		c.setDown(c.gained, true)
		res, err := c.write(c.stay[0], PutRequest{W: 3, Sloppy: true})
		if err != nil || res.Acks != 3 || len(res.Replicas) != 5 {
			t.Fatalf("%+v, %v", res, err)
		}
		p := c.next.Partition("b", c.key)
		first := c.nodes[c.next.Walk(p)[c.next.N()][0]-1]
		first.mu.Lock()
		defer first.mu.Unlock()
		if _, ok := first.hints[c.gained.id][first.key(c.key)]; !ok {
			t.Error("the first fallback of the new ring holds no hint")
		}
	})
}

// A member that was removed is down for good, however alive it seems.
func TestRemovedOwnerIsNotAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		e, err := ring.NewEpochs([]*ring.Ring{c.old, c.next}, 1, []ring.NodeID{c.gone.id})
		if err != nil {
			t.Fatal(err)
		}
		c.know(e)
		_, err = c.write(c.stay[0], PutRequest{W: 3})
		if q := quorumError(t, err); q.Outcome != None {
			t.Errorf("%+v", q)
		}
		if res, err := c.write(c.stay[0], PutRequest{W: 3, Sloppy: true}); err != nil || c.hinted(c.gone, c.key) != 1 {
			t.Errorf("%+v, %v: %d hints", res, err, c.hinted(c.gone, c.key))
		}
		if got, err := c.get(c.gained, c.key, 2); err != nil || len(values(got.Object)) != 1 {
			t.Errorf("%v, %v", values(got.Object), err)
		}
		for _, call := range c.takeCalls() {
			if strings.Contains(call, ">"+string(rune('0'+c.gone.index))) {
				t.Errorf("call to a removed member: %s", call)
			}
		}
	})
}

// No primary of the base answers: a node mints into a hint, and is a primary of the new ring at the same time.
func TestFallbackThatIsANewOwner(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		for _, n := range []*testNode{c.stay[0], c.stay[1], c.gone} {
			c.setDown(n, true)
		}
		res, err := c.write(c.gained, PutRequest{W: 2, Sloppy: true})
		if err != nil || res.Coordinator != c.gained.id {
			t.Fatalf("%+v, %v", res, err)
		}
		synctest.Wait()
		if !slices.Equal(c.gained.values(c.key), []string{"v"}) {
			t.Errorf("its own copy holds %v", c.gained.values(c.key))
		}
		for _, n := range []*testNode{c.stay[0], c.stay[1], c.gone} {
			if c.hinted(n, c.key) == 0 {
				t.Errorf("no hint for node %d", n.index)
			}
		}
	})
}

// A member that leaves may be stopped as soon as it has handed over its hints, so it takes no more of them. Those that it
// has are read.
func TestMemberThatLeavesTakesNoHints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		old, next := w.ringOf(1, 0, 1, 2, 3, 4), w.ringOf(2, 0, 1, 2, 3)
		leaver := w.nodes[4]
		key, other := "", (*testNode)(nil)
		var own []*testNode
		for _, r := range "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" {
			p := old.Partition("b", string(r))
			if walk := old.Walk(p); walk[3] == leaver.id { // the first who would stand in
				key, other = string(r), w.nodes[walk[4][0]-1]
				for _, id := range old.Primaries(p) {
					own = append(own, w.nodes[id[0]-1])
				}
				break
			}
		}
		hints := func(n *testNode) (targets int) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, of := range n.hints {
				if _, ok := of[n.key(key)]; ok {
					targets++
				}
			}
			return targets
		}
		w.setDown(own[1], true)
		put := func(n *testNode, req PutRequest) (PutResult, error) {
			req.Key, req.Write, req.Sloppy = key, value("v"), true
			return w.put(n, req)
		}
		w.know(w.live(1, old))
		if _, err := put(own[0], PutRequest{W: 3}); err != nil || hints(leaver) != 1 {
			t.Fatalf("%v: %d hints", err, hints(leaver))
		}
		w.know(w.live(1, old, next))
		if _, err := put(own[0], PutRequest{W: 3}); err != nil || hints(leaver) != 1 || hints(other) != 1 {
			t.Errorf("%v: %d hints on who leaves, %d on who stays", err, hints(leaver), hints(other))
		}
		w.setDown(own[2], true)
		if _, err := put(own[0], PutRequest{W: 3}); err == nil {
			t.Error("one stayed up of three, and one stands in: acknowledged with W=3")
		}
		w.setDown(own[0], true)
		w.setDown(other, true)
		before := hints(leaver)
		_, err := put(leaver, PutRequest{W: 1})
		if q := quorumError(t, err); q.Kind != Unavailable || q.Outcome != None || hints(leaver) != before {
			t.Errorf("%+v: %d hints on who leaves", q, hints(leaver))
		}
		got, err := w.nodes[4].c.Get(t.Context(), GetRequest{Bucket: "b", Key: key, R: 1, Sloppy: true})
		if err != nil || got.Object.IsZero() {
			t.Errorf("its old hint is not read: %+v, %v", got, err)
		}
	})
}

// dots counts the different dots of a key in the whole world.
func (c *change) dots() int {
	seen := map[vclock.Dot]bool{}
	for _, n := range c.nodes {
		n.mu.Lock()
		for _, s := range n.records[n.key(c.key)].Siblings {
			seen[s.Dot] = true
		}
		n.mu.Unlock()
	}
	return len(seen)
}

// The coordinator knows the old epoch alone; the others have settled the new one.
func TestWriteOfAnUnsettledEpochIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, id := range []bool{false, true} {
			c := newChange(t)
			a := c.stay[0]
			c.know(c.live(2, c.old, c.next))
			c.know(c.live(1, c.old), a)
			req := PutRequest{W: 3, Write: value("v")}
			if id {
				req.Write.ID = clientID(1)
			}
			res, err := c.write(a, req)
			if err != nil || res.Acks != 3 || a.learns.Load() == 0 {
				t.Errorf("%+v, %v", res, err)
			}
			synctest.Wait()
			if !slices.Equal(c.gained.values(c.key), []string{"v"}) || c.dots() != 1 {
				t.Errorf("the new owner holds %v, %d dots", c.gained.values(c.key), c.dots())
			}
			c.close()
		}
	})
}

// A coordinator is stopped between its mint and its sends, and the cluster goes on by two epochs.
func TestFrozenCoordinator(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, learns := range []bool{true, false} {
			c := newChange(t)
			a := c.stay[0]
			third := c.ringOf(3, 0, 1, 2, 3, 4, 5, 7)
			c.know(c.live(1, c.old))
			frozen := true
			c.setFault(func(from, _ int, endpoint string) *fault {
				if from != a.index || endpoint != EndpointMerge {
					return nil
				}
				if frozen {
					frozen = false
					for _, n := range c.nodes {
						if n != a {
							c.know(c.live(3, third), n)
						}
					}
				}
				return &fault{delay: 300 * time.Millisecond}
			})
			a.unlearn.Store(!learns)
			start := time.Now()
			res, err := c.write(a, PutRequest{})
			switch q, failed := err.(*QuorumError); {
			case learns && (err != nil || res.Acks < 2):
				t.Errorf("%+v, %v", res, err)
			case !learns && (!failed || q.Outcome != Indeterminate || !strings.Contains(q.Reason, "members have changed")):
				t.Errorf("%v", err)
			}
			if time.Since(start) >= 2*time.Second {
				t.Error("it must not use up the client's time")
			}
			if c.dots() != 1 {
				t.Errorf("%d dots", c.dots())
			}
			for _, n := range c.nodes {
				if !learns && n != a && len(n.values(c.key)) > 0 {
					t.Errorf("node %d refused it, and holds it", n.index)
				}
			}
			if learns {
				holders := 0
				for _, id := range third.Primaries(third.Partition("b", c.key)) {
					holders += len(c.nodes[id[0]-1].values(c.key))
				}
				if holders < 2 {
					t.Errorf("%d of the present primaries hold it", holders)
				}
			}
			c.close()
		}
	})
}

// The settling comes between a replica's check and its commit: what may be missing from copies is not acknowledged.
func TestWriteThatSettlesMeanwhileIsNotAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		c.know(c.live(1, c.old))
		b := c.stay[1]
		b.merging = func() { c.know(c.live(2, c.old, c.next), b) }
		m := mergeMessage{epoch: 1, bucket: "b", key: c.key, object: vclock.Object{}}
		_, err := b.c.serveMerge(t.Context(), c.stay[0].id, m.encode())
		if f := classify(err); f.word != wordEpoch {
			t.Errorf("%v", err)
		}
	})
}

// An operation ends when nothing of it is under way, and not before, however its client was answered.
func TestOperationsEndOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, tc := range map[string]struct {
			prepare func(c *change)
			cancel  time.Duration // of the client; 0: never
			stop    bool          // the node stops, while sends are out
			last    time.Duration // how long the operation goes on at most
		}{
			"success":  {func(*change) {}, 0, false, 0},
			"slow":     {func(c *change) { c.setFault(slowTo(c.gone, time.Second)) }, 0, false, time.Second},
			"lost":     {func(c *change) { c.loseWrites(c.gone) }, 0, false, 10 * time.Second},
			"down":     {func(c *change) { c.setDown(c.stay[1], true); c.setDown(c.gone, true) }, 0, false, 0},
			"refused":  {func(c *change) { c.stay[0].full = ErrFull }, 0, false, 0},
			"siblings": {func(c *change) { c.stay[0].full = vclock.ErrSiblings }, 0, false, 0},
			"unsure":   {func(c *change) { c.stay[0].full = ErrUncertain }, 0, false, 0},
			"time out": {func(c *change) { c.loseWrites(c.stay[1], c.gone, c.gained) }, 0, false, 12 * time.Second},
			"cancel":   {func(c *change) { c.loseWrites(c.stay[1], c.gone) }, 100 * time.Millisecond, false, 11 * time.Second},
			"close":    {func(c *change) { c.loseWrites(c.gone) }, 0, true, 0},
			"behind": {func(c *change) {
				c.know(c.live(2, c.old, c.next))
				c.know(c.live(1, c.old), c.stay[0])
			}, 0, false, 0},
			"behind for good": {func(c *change) {
				c.know(c.live(2, c.old, c.next))
				c.know(c.live(1, c.old), c.stay[0])
				c.stay[0].unlearn.Store(true)
			}, 0, false, 0},
		} {
			c := newChange(t)
			tc.prepare(c)
			ctx, cancel := context.WithCancel(t.Context())
			if tc.cancel > 0 {
				time.AfterFunc(tc.cancel, cancel)
			}
			ctx, stop := context.WithTimeout(ctx, 2*time.Second)
			_, _ = c.stay[0].c.Put(ctx, PutRequest{Bucket: "b", Key: c.key, Write: value("v"), W: 2, R: 2})
			if tc.stop {
				c.hangUp() // as the transport is closed first
				c.stay[0].c.Close()
				c.stay[0].closed = true
			}
			stop()
			cancel()
			if tc.last > 0 {
				if synctest.Wait(); c.stay[0].begun.Load() == c.stay[0].ended.Load() {
					t.Errorf("%s: ended while a send is out", name)
				}
			}
			time.Sleep(tc.last)
			synctest.Wait()
			for _, n := range c.nodes {
				if b, e := n.begun.Load(), n.ended.Load(); b != e {
					t.Errorf("%s: node %d began %d and ended %d", name, n.index, b, e)
				}
			}
			if c.stay[0].begun.Load() == 0 {
				t.Errorf("%s: nothing began", name)
			}
			c.close()
		}
	})
}

func slowTo(n *testNode, d time.Duration) func(_, to int, _ string) *fault {
	return func(_, to int, _ string) *fault {
		if to == n.index {
			return &fault{delay: d}
		}
		return nil
	}
}

// A handler's panic is caught far above: it ends the operation all the same.
func TestOperationEndsWithAPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		a := c.stay[0]
		a.reading = func() { panic("a bug") }
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_, _ = c.write(a, PutRequest{Write: vclock.Write{Deleted: true, Value: []byte{}}})
		}()
		if a.begun.Load() != 1 || a.ended.Load() != 1 {
			t.Errorf("began %d, ended %d", a.begun.Load(), a.ended.Load())
		}
	})
}
