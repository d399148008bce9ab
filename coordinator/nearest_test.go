package coordinator

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/dunlindb/dunlin/ring"
)

// zoned is a world of two nodes in each of three zones, so that each zone has one primary of every key.
func zoned(t *testing.T) *world {
	w := newWorld(t, 6)
	l := w.ring.Layout()
	l.Members = slices.Clone(l.Members)
	for i := range l.Members {
		l.Members[i].Zone = string("abc"[i%3])
	}
	var err error
	if w.ring, err = ring.New(l, l.N); err != nil {
		t.Fatal(err)
	}
	if w.first, err = ring.NewEpochs([]*ring.Ring{w.ring}, 1, nil); err != nil {
		t.Fatal(err)
	}
	return w
}

// reader finds a node that is no primary of the key, and the primary in its zone.
func (w *world) reader(key string) (reader, near *testNode, far []*testNode) {
	own, reader := w.primaries(key)
	for _, n := range own {
		if n.index%3 == reader.index%3 {
			near = n
		} else {
			far = append(far, n)
		}
	}
	return reader, near, far
}

// asked reads with R some times and counts who was asked for the object, and for a digest or comparison.
func (w *world) asked(n *testNode, key string, r, times int) (object, digest map[int]int) {
	w.t.Helper()
	object, digest = map[int]int{}, map[int]int{}
	for range times {
		trace := NewTrace()
		if _, err := n.c.Get(w.t.Context(), GetRequest{Bucket: "b", Key: key, R: r, Trace: trace}); err != nil {
			w.t.Fatal(err)
		}
		for _, e := range trace.Events() {
			switch {
			case e.Kind == "ask" && strings.HasPrefix(e.Detail, "for the object"):
				object[int(e.Node[0])-1]++
			case e.Kind == "ask":
				digest[int(e.Node[0])-1]++
			}
		}
	}
	return object, digest
}

// counted is how many copies were asked for there.
func (n *testNode) counted(at locality) float64 {
	var m dto.Metric
	if err := n.c.metrics.reads[at].Write(&m); err != nil {
		n.w.t.Fatal(err)
	}
	return m.GetCounter().GetValue()
}

func TestReadsPreferTheOwnZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := zoned(t)
		defer w.close()
		reader, near, far := w.reader("k")
		if _, err := w.put(near, PutRequest{Key: "k", Write: value("v"), W: 3}); err != nil {
			t.Fatal(err)
		}
		slow := map[int]time.Duration{near.index: 8 * time.Millisecond, far[0].index: time.Millisecond, far[1].index: 2 * time.Millisecond}
		w.setFault(func(_, to int, endpoint string) *fault {
			if endpoint == EndpointRead {
				return &fault{delay: slow[to]}
			}
			return nil
		})
		object, digest := w.asked(reader, "k", 1, 20)
		if object[near.index] != 20 || len(object)+len(digest) != 1 {
			t.Errorf("r=1 asked %v for the object and %v for digests, want the node of its zone alone, %d", object, digest, near.index)
		}
		// The digest comes from who of the rest is fastest, once both were measured.
		w.asked(reader, "k", 3, 5)
		object, digest = w.asked(reader, "k", 2, 20)
		if object[near.index] != 20 || len(object) != 1 || digest[far[0].index] != 20 || len(digest) != 1 {
			t.Errorf("r=2 asked %v for the object and %v for digests, want %d and %d", object, digest, near.index, far[0].index)
		}
		if own, other := reader.counted(atOwn), reader.counted(atOther); own != 45 || other != 30 {
			t.Errorf("counted %v reads in the zone and %v elsewhere, want 45 and 30", own, other)
		}

		trace := NewTrace()
		if _, err := reader.c.Get(t.Context(), GetRequest{Bucket: "b", Key: "k", R: 2, Trace: trace}); err != nil {
			t.Fatal(err)
		}
		text := fmt.Sprint(trace.Events())
		for _, want := range []string{"for the object, own zone, 8ms lately", "for its digest, other zone, 1ms lately"} {
			if !strings.Contains(text, want) {
				t.Errorf("the trace lacks %q: %s", want, text)
			}
		}
	})
}

// A replica of the zone that is slow is passed by after few reads, and comes back when it is fast again.
func TestASlowReplicaOfTheZoneIsPassedBy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := zoned(t)
		defer w.close()
		reader, near, _ := w.reader("k")
		if _, err := w.put(near, PutRequest{Key: "k", Write: value("v"), W: 3}); err != nil {
			t.Fatal(err)
		}
		w.asked(reader, "k", 1, 5)
		w.setFault(func(_, to int, endpoint string) *fault {
			if to == near.index && endpoint == EndpointRead {
				return &fault{delay: 200 * time.Millisecond}
			}
			return nil
		})
		read := func() time.Duration {
			t.Helper()
			start := time.Now()
			if _, err := w.get(reader, "k", 1); err != nil { // whose context ends with the answer
				t.Fatal(err)
			}
			return time.Since(start)
		}
		if took := read(); took < 15*time.Millisecond || took > 30*time.Millisecond {
			t.Fatalf("the first read that meets it took %v, want one hedge", took)
		}
		synctest.Wait() // the call that was given up has been noted
		hedged := 0
		for range 100 {
			if read() > 0 {
				hedged++
			}
		}
		if hedged > 0 {
			t.Errorf("%d of 100 reads waited for it", hedged)
		}
		w.setFault(nil)
		time.Sleep(30 * time.Second)
		if object, _ := w.asked(reader, "k", 1, 20); object[near.index] != 20 {
			t.Errorf("fast again, but asked were %v", object)
		}
		w.setDown(near, true)
		if object, _ := w.asked(reader, "k", 1, 20); object[near.index] != 0 {
			t.Errorf("down, but asked were %v", object)
		}
	})
}

// While a replica of the zone stays slow, few reads try it, and each costs one hedge at most.
func TestASlowReplicaIsTriedSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := zoned(t)
		defer w.close()
		reader, near, _ := w.reader("k")
		if _, err := w.put(near, PutRequest{Key: "k", Write: value("v"), W: 3}); err != nil {
			t.Fatal(err)
		}
		w.setFault(func(_, to int, endpoint string) *fault {
			if to == near.index && endpoint == EndpointRead {
				return &fault{delay: 300 * time.Millisecond}
			}
			return nil
		})
		slow, reads := 0, 6000
		var worst time.Duration
		for range reads { // for a minute
			start := time.Now()
			if _, err := w.get(reader, "k", 1); err != nil {
				t.Fatal(err)
			}
			took := time.Since(start)
			if took > 0 {
				slow++
			}
			worst = max(worst, took)
			time.Sleep(10*time.Millisecond - took%(10*time.Millisecond))
		}
		t.Logf("%d of %d reads met the slow replica, the slowest took %v", slow, reads, worst)
		if slow > reads/200 || worst > 60*time.Millisecond {
			t.Errorf("%d of %d reads met the slow replica, the slowest took %v", slow, reads, worst)
		}
	})
}

// The replica that was to send the object fails: the next one is asked for it, and no round trip is lost.
func TestTheNextReplicaSendsTheObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := zoned(t)
		defer w.close()
		reader, near, _ := w.reader("k")
		if _, err := w.put(near, PutRequest{Key: "k", Write: value("v"), W: 3}); err != nil {
			t.Fatal(err)
		}
		w.setFault(func(_, to int, endpoint string) *fault {
			if to == near.index && endpoint == EndpointRead {
				return &fault{notSent: true}
			}
			return nil
		})
		object, digest := w.asked(reader, "k", 1, 1)
		if object[near.index] != 1 || len(object) != 2 || len(digest) != 0 {
			t.Errorf("asked %v for the object and %v for digests", object, digest)
		}
	})
}
