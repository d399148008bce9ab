package hinted

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Each target has a rate of its own below the budget, and it rises with time, not with the number of batches.
func TestTargetStartsSlowly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		const rate = 1 << 20
		w.opt = Options{BytesPerSecond: rate, BatchItems: 2}
		w.hint(b, 3000, 1000)
		x := w.worker()
		defer x.Close()
		time.Sleep(x.opt.Settle + 3*time.Second)
		sum := 0
		for _, c := range w.seen("") {
			sum += c.bytes
		}
		if low, high := 3*rate/startShare, 3*(rate/startShare+3*rate/stepShare)+3000; sum < low || sum > high {
			t.Fatalf("%d bytes in the first 3 s, want %d to %d", sum, low, high)
		}
		if got := of(x.Status(), b).Rate; got > rate/startShare+4*rate/stepShare {
			t.Fatalf("rate %d after 3 s", got)
		}
	})
}

// A target whose own budget is spent for long gives its place to the next one.
func TestSlowTargetYields(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b, c := node(1), node(2)
		w.opt = Options{BytesPerSecond: 100_000, MinBytesPerSecond: 100, Targets: 1, Turn: 2 * time.Second}
		ks := w.keys(3, b)
		w.store.put(b, ks[0], object(1, 1_000_000)) // 40 s at a quarter of the budget, 10 s of the whole
		w.store.put(b, ks[1], object(2, 1_000_000))
		x := w.worker()
		defer x.Close()
		time.Sleep(x.opt.Settle + 100*time.Millisecond)
		if n := len(w.seen("")); n != 1 {
			t.Fatalf("%d calls, want the first large hint", n)
		}
		w.hint(c, 1, 10)
		w.drained(15*time.Second, c)
		w.drained(2*time.Minute, b)
	})
}

// Hints of an alive target are dropped while its hints go out: the mark is the next thing it hears.
func TestMarkSetDuringReplayGoesNext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.opt = Options{BatchItems: 5}
		ks := w.hint(b, 50, 10)
		w.after = func(_ ring.NodeID, endpoint string, _ []byte) error {
			if len(w.seen("")) == 3 {
				w.store.drop(b, 4)
			}
			return nil
		}
		x := w.worker()
		defer x.Close()
		w.drained(time.Minute, b)
		w.holds(b, ks, 10)
		if calls := w.seen(""); calls[3].endpoint != EndpointDropped || len(w.seen(EndpointDropped)) != 1 {
			t.Fatalf("calls %v", calls)
		}
	})
}

// A target that rests after failures is told of dropped partitions all the same.
func TestNewMarkDoesNotWaitForBackoff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.opt = Options{MaxBackoff: time.Hour}
		w.hint(b, 10, 10)
		w.fault = func(_ context.Context, _ ring.NodeID, endpoint string, _ []byte) error {
			if endpoint == EndpointBatch {
				return busy{}
			}
			return nil
		}
		x := w.worker()
		defer x.Close()
		time.Sleep(3 * time.Hour)
		if s := of(x.Status(), b); s.State != StateWaiting || time.Until(s.Next) > 2*time.Hour || time.Until(s.Next) < 10*time.Minute {
			t.Fatalf("%+v", s)
		}
		w.store.drop(b, 2)
		w.until(3*time.Second, "marked", func() bool { return len(w.store.Dropped(b)) == 0 })
	})
}

// A peer that answers for fewer hints or partitions than it was sent is not believed.
func TestShortAnswersAreNotBelieved(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.hint(b, 3, 10)
		honest := w.handlers[b]
		w.handlers[b] = map[string]Handler{
			EndpointBatch: func(context.Context, ring.NodeID, []byte) ([]byte, error) {
				return (&answerMessage{}).encode(), nil
			},
			EndpointDropped: honest[EndpointDropped],
		}
		x := w.worker()
		defer x.Close()
		time.Sleep(5 * time.Second)
		w.up(b, false)
		time.Sleep(time.Minute)
		if n := w.store.count(b); len(w.seen("")) == 0 || n != 3 {
			t.Fatalf("%d hints left after %d calls", n, len(w.seen("")))
		}
		w.with(func(w *world) {
			w.handlers[b] = map[string]Handler{
				EndpointDropped: func(context.Context, ring.NodeID, []byte) ([]byte, error) { return encodeMarked(1), nil },
			}
		})
		w.store.drop(b, 1, 2)
		w.up(b, true)
		time.Sleep(time.Minute)
		if n := len(w.store.Dropped(b)); n != 2 || len(w.seen(EndpointDropped)) == 0 {
			t.Fatalf("%d marks left", n)
		}
		w.with(func(w *world) { w.handlers[b] = honest })
		w.until(3*time.Minute, "marked", func() bool { return len(w.store.Dropped(b)) == 0 })
	})
}

// The holder's own store fails: nothing is lost, and it is not hammered.
func TestStoreFailures(t *testing.T) {
	for _, op := range []string{"hints", "delete", "clear"} {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, 4)
			b := node(1)
			ks := w.hint(b, 10, 10)
			w.store.drop(b, 1)
			tried := 0
			broken := true
			w.store.lost = func(o string) error {
				w.mu.Lock()
				defer w.mu.Unlock()
				if o != op || !broken {
					return nil
				}
				tried++
				return errors.New("too many requests are waiting")
			}
			x := w.worker()
			defer x.Close()
			time.Sleep(10 * time.Minute)
			w.mu.Lock()
			broken = false
			if tried == 0 || tried > 200 {
				t.Errorf("%s was tried %d times in 10 minutes", op, tried)
			}
			w.mu.Unlock()
			if n := w.store.count(b); n != 10 {
				t.Errorf("%d hints left though %s failed", n, op)
			}
			w.drained(3*time.Minute, b)
			w.holds(b, ks, 10)
			w.until(3*time.Minute, "marked", func() bool { return len(w.store.Dropped(b)) == 0 })
		})
	}
}

// Hints that the store counts but cannot read are not gone over without a pause.
func TestUnreadableHintsCauseNoBusyLoop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		reads := 0
		s := unreadable{w.store, b, &reads}
		x, err := New(Deps{Self: holder, Store: s, Receiver: w.replicas[holder], Peers: w, View: w}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		x.Start()
		time.Sleep(time.Hour)
		x.Close()
		if reads < 10 || reads > 30 {
			t.Fatalf("%d reads in an hour", reads)
		}
	})
}

type unreadable struct {
	*memStore
	target ring.NodeID
	reads  *int
}

func (u unreadable) HintTargets() []Target { return []Target{{ID: u.target, Hints: 3, Bytes: 30}} }
func (u unreadable) Hints(ring.NodeID, Cursor, int, int) ([]Hint, Cursor, bool, error) {
	*u.reads++
	return nil, nil, false, nil
}

// The view changes its mind between the schedule and the turn, every time: that must not become a tight loop.
func TestContradictoryViewCausesNoBusyLoop(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		w.store.drop(node(1), 3)
		v := &moody{world: w}
		x, err := New(Deps{Self: holder, Store: w.store, Receiver: w.replicas[holder], Peers: w, View: v}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		x.Start()
		time.Sleep(time.Minute)
		x.Close()
		if v.asked < 60 || v.asked > 300 || len(w.seen("")) != 0 {
			t.Fatalf("the view was asked %d times in a minute, %d calls", v.asked, len(w.seen("")))
		}
	})
}

// moody knows the layout every other time that it is asked.
type moody struct {
	*world
	asked int
}

func (m *moody) Epochs() *ring.Epochs {
	m.mu.Lock()
	m.asked++
	asked := m.asked
	m.mu.Unlock()
	if asked%2 == 0 || asked > 5000 {
		return nil
	}
	return m.world.Epochs()
}

func TestRemovedTargetsAreForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		gone := node(9)
		ks := w.keys(2, node(1))
		for _, k := range ks {
			w.store.put(gone, k, object(1, 10))
		}
		w.up(node(1), false) // who takes them in its place
		x := w.worker()
		defer x.Close()
		time.Sleep(3 * time.Second)
		if n := len(x.Status().Targets); n != 1 {
			t.Fatalf("%d targets", n)
		}
		w.store.mu.Lock()
		delete(w.store.hints, gone)
		w.store.mu.Unlock()
		w.until(3*time.Second, "forgotten", func() bool { return len(x.Status().Targets) == 0 })
	})
}

// A target that is alive and refused everything for long still gets what is new within seconds.
func TestNewHintsEndALongRest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		ks := w.keys(4, b)
		w.store.put(b, ks[0], object(1, 10))
		w.replicas[b].round = 1 // the hint is stale, and stays so
		x := w.worker()
		defer x.Close()
		time.Sleep(time.Hour)
		calls := len(w.seen(""))
		if calls > 30 {
			t.Fatalf("a stale hint was sent %d times in an hour", calls)
		}
		w.until(10*time.Minute, "sent once more", func() bool { return len(w.seen("")) > calls })
		w.store.put(b, ks[1], object(2, 10))
		calls = len(w.seen(""))
		w.until(5*time.Second, "sent", func() bool { return len(w.seen("")) > calls })
	})
}

// A store that never deletes must not make the worker send the same hints without a pause.
func TestHintsThatAreNeverDeletedAreNotSentAllTheTime(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.hint(b, 10, 10)
		x, err := New(Deps{Self: holder, Store: keeper{w.store}, Receiver: w.replicas[holder], Peers: w, View: w}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		x.Start()
		time.Sleep(time.Hour)
		x.Close()
		if n := len(w.seen("")); n < 5 || n > 30 {
			t.Fatalf("%d batches in an hour", n)
		}
	})
}

type keeper struct{ *memStore }

func (keeper) DeleteHint(context.Context, ring.NodeID, Key, vclock.Digest) (bool, error) {
	return false, nil
}

// A partition that is dropped again under every answer is told again, but not in a tight loop.
func TestMarksThatComeBackAreToldWithAPause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.store.drop(b, 3)
		w.after = func(ring.NodeID, string, []byte) error { w.store.drop(b, 3); return nil }
		x := w.worker()
		defer x.Close()
		time.Sleep(time.Minute)
		if n := len(w.seen(EndpointDropped)); n < 20 || n > 70 {
			t.Fatalf("told %d times in a minute", n)
		}
	})
}
