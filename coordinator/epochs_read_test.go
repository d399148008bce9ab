package coordinator

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

func TestReaderThatIsBehindReadsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		if _, err := c.write(c.stay[0], PutRequest{W: 3}); err != nil {
			t.Fatal(err)
		}
		ended := c.live(2, c.next)
		for _, reader := range []*testNode{c.stay[0], c.gone, c.nodes[7]} {
			c.know(ended)
			c.know(c.live(1, c.old), reader)
			got, err := c.get(reader, c.key, 2)
			if err != nil || !slices.Equal(values(got.Object), []string{"v"}) || reader.learns.Load() == 0 {
				t.Errorf("node %d: %v, %v", reader.index, values(got.Object), err)
			}
			c.know(c.live(1, c.old), reader)
			page, err := reader.c.List(t.Context(), ListRequest{Bucket: "b", Limit: 10, R: 3})
			if err != nil || !slices.Equal(page.Keys, []string{c.key}) {
				t.Errorf("node %d lists %v, %v", reader.index, page.Keys, err)
			}
		}
		// Who cannot learn says so, and does not hang.
		c.know(c.live(1, c.old), c.gone)
		c.gone.unlearn.Store(true)
		start := time.Now()
		_, err := c.get(c.gone, c.key, 3)
		if q := quorumError(t, err); q.Kind != Unavailable || time.Since(start) > learnTimeout {
			t.Errorf("%+v after %v", q, time.Since(start))
		}
	})
}

// The epoch ends, and what a node held in it is dropped, between the node's check and its look at the copy.
func TestReadThatOutlivesItsEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, local := range []bool{true, false} {
			c := newChange(t)
			if _, err := c.write(c.stay[0], PutRequest{W: 3}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			c.gone.reading = func() {
				c.know(c.live(2, c.next))
				c.gone.mu.Lock()
				clear(c.gone.records)
				c.gone.mu.Unlock()
			}
			reader := c.gone
			if !local {
				reader = c.nodes[7]
				c.setDown(c.stay[0], true)
				c.setDown(c.stay[1], true)
				c.setFault(func(int, int, string) *fault {
					c.down = map[ring.NodeID]bool{} // once the only replica is asked
					return nil
				})
			}
			got, err := c.get(reader, c.key, 1)
			if err != nil || !slices.Equal(values(got.Object), []string{"v"}) {
				t.Errorf("local %v: %v, %v", local, values(got.Object), err)
			}
			c.close()
		}
	})
}

func TestReplicaThatIsBehindLearnsFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		behind := c.live(1, c.old)
		c.know(behind, c.gained, c.stay[1])
		if _, err := c.write(c.stay[0], PutRequest{W: 3}); err != nil || c.gained.learns.Load() != 1 {
			t.Fatalf("a write: %v", err)
		}
		ended := c.live(2, c.next)
		c.know(ended)
		c.know(behind, c.gained)
		if got, err := c.get(c.stay[0], c.key, 3); err != nil || len(values(got.Object)) != 1 {
			t.Errorf("a read: %v, %v", values(got.Object), err)
		}
		c.know(behind, c.gained)
		c.gained.unlearn.Store(true)
		if got, err := c.get(c.stay[0], c.key, 2); err != nil || len(values(got.Object)) != 1 {
			t.Errorf("a read of others: %v, %v", values(got.Object), err)
		}
		c.loseWrites(c.stay[1]) // so that the one that cannot learn is waited for
		_, err := c.write(c.stay[0], PutRequest{})
		if q := quorumError(t, err); q.Outcome != Indeterminate || q.Acked != 1 {
			t.Errorf("%+v", q)
		}
		if len(c.gained.values(c.key)) != 1 {
			t.Error("it took a write of an epoch that it does not know")
		}
	})
}

// Every primary that a forwarder knows of has left the key to others.
func TestForwarderThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		old, next := c.ringOf(1, 0, 1, 2, 7), c.ringOf(2, 3, 4, 5, 7)
		for p := range old.Partitions() {
			c.key = string(rune('a' + p))
			k := old.Partition("b", c.key)
			if old.IsPrimary(k, c.nodes[7].id) || next.IsPrimary(k, c.nodes[7].id) {
				c.key = ""
				continue
			}
			break
		}
		if c.key == "" {
			t.Fatal("no key")
		}
		c.know(c.live(2, next))
		c.know(c.live(1, old), c.nodes[7])
		if res, err := c.write(c.nodes[7], PutRequest{}); err != nil || c.nodes[7].learns.Load() == 0 || res.Acks < 2 {
			t.Errorf("%+v, %v", res, err)
		}
		c.know(c.live(1, old), c.nodes[7])
		c.nodes[7].unlearn.Store(true)
		_, err := c.write(c.nodes[7], PutRequest{})
		if q := quorumError(t, err); q.Outcome != None {
			t.Errorf("%+v", q)
		}
	})
}

// A copy that is being filled is like a damaged one: it is merged, and does not count.
func TestFillingCopyCountsInNoQuorum(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newChange(t)
		defer c.close()
		if _, err := c.write(c.stay[0], PutRequest{}); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c.know(c.live(2, c.next))
		for _, reader := range []*testNode{c.gained, c.stay[0]} {
			for r := 2; r <= 3; r++ {
				synctest.Wait() // the read before has mended it
				c.gained.mu.Lock()
				c.gained.incomplete[c.gained.key(c.key)] = true
				c.gained.mu.Unlock()
				got, err := c.get(reader, c.key, r)
				if (err == nil) != (r == 2) || err == nil && got.Acks != 2 {
					t.Errorf("node %d, r=%d: %+v, %v", reader.index, r, got, err)
				}
			}
		}
	})
}

// One node has heard that all members read by the new epoch, and writes to it alone. Another, which has agreed to it,
// has not heard that of all others: for it the old epoch lives, and yet it must not read by it.
func TestReadersGoOverBeforeTheOldEpochEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, over := range []bool{true, false} {
			c := newChange(t)
			a, b := c.stay[0], c.stay[1]
			e := c.live(2, c.old, c.next)
			if over {
				var err error
				if e, err = e.ReadBy(2); err != nil {
					t.Fatal(err)
				}
			}
			c.know(e)
			c.know(c.live(2, c.next), b)
			c.loseWrites(a)
			if _, err := c.write(b, PutRequest{}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			c.setFault(func(_, to int, endpoint string) *fault {
				if to == b.index && endpoint == EndpointRead {
					return &fault{lost: true}
				}
				return nil
			})
			got, err := c.get(c.gone, c.key, 2)
			if err != nil || over != slices.Equal(values(got.Object), []string{"v"}) {
				t.Errorf("reads by the new epoch: %v: %v, %v", over, values(got.Object), err)
			}
			c.close()
		}
	})
}
