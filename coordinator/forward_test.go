package coordinator

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestForwardIsRepeatedOnlyWhenCertainlyNotDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own, other := w.primaries("k")
		first := true
		w.setFault(func(from, to int, endpoint string) *fault {
			if endpoint == EndpointPut && first {
				first = false
				return &fault{notSent: true}
			}
			return nil
		})
		if _, err := w.put(other, PutRequest{Key: "k", Write: value("v1")}); err != nil {
			t.Fatalf("the next primary should have taken it: %v", err)
		}
		w.setFault(func(from, to int, endpoint string) *fault {
			if endpoint == EndpointPut {
				return &fault{lostReply: true}
			}
			return nil
		})
		w.takeCalls()
		q := quorumError(t, func() error { _, err := w.put(other, PutRequest{Key: "k", Write: value("v2")}); return err }())
		if q.Outcome != Indeterminate {
			t.Fatalf("outcome %q", q.Outcome)
		}
		forwards := 0
		for _, c := range w.takeCalls() {
			if strings.HasSuffix(c, EndpointPut) {
				forwards++
			}
		}
		if forwards != 1 {
			t.Fatalf("%d forwards", forwards)
		}
		synctest.Wait()
		if v := own[0].values("k"); len(v) != 2 {
			t.Fatalf("the write whose answer was lost must be there, once: %v", v)
		}
	})
}

func TestFullPrimaryLetsAnotherCoordinate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own, other := w.primaries("k")
		own[0].full = ErrFull
		for _, n := range []*testNode{own[0], other} {
			if res, err := w.put(n, PutRequest{Key: "k", Write: value("v")}); err != nil || res.Coordinator == own[0].id {
				t.Fatalf("%+v, %v", res, err)
			}
		}
		own[1].full, own[2].full = ErrFull, ErrFull
		_, err := w.put(other, PutRequest{Key: "k", Write: value("v")})
		if q := quorumError(t, err); q.Kind != Full || q.Outcome != None {
			t.Fatalf("%+v", q)
		}
	})
}

// busy lets nothing in.
type busy struct{ asked int }

func (b *busy) Enter() bool { b.asked++; return false }
func (b *busy) Leave()      { panic("nobody entered") }

func TestAPrimaryThatHasTooMuchToDoRefusesAForwardedWriteBeforeItIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		own, other := w.primaries("k")
		admission := &busy{}
		for _, n := range own {
			n.c.deps.Admission = admission
		}
		_, err := w.put(other, PutRequest{Key: "k", Write: value("v"), W: 2, Sloppy: true})
		q := quorumError(t, err)
		if q.Kind != Overloaded || q.Outcome != None || q.Required != 2 || q.Acked != 0 {
			t.Fatalf("%+v", q)
		}
		if calls := w.takeCalls(); len(calls) != 1 || admission.asked != 1 {
			t.Fatalf("the load was spread: %v, %d asked", calls, admission.asked)
		}
		for _, n := range w.nodes {
			if v := n.values("k"); len(v) > 0 {
				t.Fatalf("refused, and yet %v is there", v)
			}
		}
		// What was let in elsewhere is done, however much there is to do.
		admitted := own[0]
		admitted.c.deps.Admission = nil
		if _, err := w.put(admitted, PutRequest{Key: "k", Write: value("v"), W: 3}); err != nil {
			t.Fatal(err)
		}
		if res, err := w.get(admitted, "k", 3); err != nil || res.Acks != 3 {
			t.Fatalf("%+v, %v", res, err)
		}
	})
}

func TestForwardToAFrozenPrimary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, withID := range []bool{false, true} {
			w := newWorld(t, 5)
			_, other := w.primaries("k")
			frozen := other.c.nearest(w.first, w.ring.Primaries(other.key("k").Partition))[0]
			w.setFault(func(_, to int, _ string) *fault {
				if w.nodes[to].id == frozen {
					return &fault{lost: true}
				}
				return nil
			})
			req := PutRequest{Key: "k", Write: value("v"), Sloppy: true}
			if withID {
				req.Write.ID = clientID(1)
			}
			start := time.Now()
			_, err := w.put(other, req)
			if took := time.Since(start); took > 1900*time.Millisecond {
				t.Errorf("client id %v: took %v", withID, took)
			}
			switch {
			case withID && err != nil:
				t.Errorf("with a client's id: %v", err)
			case !withID:
				if q := quorumError(t, err); q.Outcome != Indeterminate {
					t.Errorf("%+v", q)
				}
			}
			w.close()
		}
	})
}

func TestLaterTryDoesNotSpeakForAnEarlierOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 5)
		defer w.close()
		_, other := w.primaries("k")
		first := other.c.nearest(w.first, w.ring.Primaries(other.key("k").Partition))[0]
		w.setFault(func(_, to int, endpoint string) *fault {
			if w.nodes[to].id == first && endpoint == EndpointPut {
				w.down[first] = true // from now on, for everybody
				return &fault{lostReply: true}
			}
			return nil
		})
		req := PutRequest{Key: "k", Write: value("v"), W: 3}
		req.Write.ID = clientID(1)
		_, err := w.put(other, req)
		if q := quorumError(t, err); q.Outcome != Indeterminate {
			t.Fatalf("%+v", q)
		}
		synctest.Wait()
		if v := w.nodes[first[0]-1].values("k"); len(v) != 1 {
			t.Fatalf("the first primary should hold it: %v", v)
		}
	})
}
