package hinted

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// windows checks that in no stretch of time more was sent than the budget and one batch a target allow.
func windows(t *testing.T, calls []sight, perSecond, targets int) {
	t.Helper()
	largest := 0
	for _, c := range calls {
		largest = max(largest, c.bytes)
	}
	for i := range calls {
		sum := 0
		for j := i; j < len(calls); j++ {
			sum += calls[j].bytes
			span := (calls[j].at - calls[i].at).Seconds()
			if allowed := span*float64(perSecond) + float64(targets*largest); float64(sum) > allowed+1 {
				t.Fatalf("calls %d to %d: %d bytes in %.3f s, at most %.0f", i, j, sum, span, allowed)
			}
		}
	}
}

func TestThrottleIsObeyed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		const rate = 100_000
		w.opt = Options{BytesPerSecond: rate, MinBytesPerSecond: rate / 10, BatchBytes: 20_000}
		ks := w.hint(b, 1000, 1000)
		x := w.worker()
		defer x.Close()
		began := time.Now()
		w.drained(5*time.Minute, b)
		took := time.Since(began)
		w.holds(b, ks, 1000)
		windows(t, w.seen(""), rate, 1)
		// A megabyte at 100 kB/s takes 10 s; the slow start and settling come on top, not more.
		if took < 10*time.Second || took > 40*time.Second {
			t.Fatalf("took %v", took)
		}
		if got := of(x.Status(), b).Rate; got <= rate/startShare || got > rate {
			t.Fatalf("rate %d after a clean drain from %d", got, rate/startShare)
		}
	})
}

func TestBudgetIsSharedAndTargetsAreBounded(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 8)
		const rate = 200_000
		w.opt = Options{
			BytesPerSecond: rate, MinBytesPerSecond: rate, BatchItems: 15, BatchBytes: 10_000, Targets: 3, Turn: 2 * time.Second,
		}
		w.latency = 200 * time.Millisecond // the budget allows a batch each 50 ms, so that as many as may overlap
		kept := map[ring.NodeID][]Key{}
		for i := 1; i < 8; i++ {
			kept[node(i)] = w.hint(node(i), 200, 1000)
		}
		x := w.worker()
		defer x.Close()
		time.Sleep(5 * time.Second) // all have had a turn though none is done
		served := map[ring.NodeID]bool{}
		for _, c := range w.seen("") {
			served[c.to] = true
		}
		if len(served) < 5 {
			t.Fatalf("%d of 7 targets were served in 5 s", len(served))
		}
		for id, ks := range kept {
			w.drained(5*time.Minute, id)
			w.holds(id, ks, 1000)
		}
		windows(t, w.seen(""), rate, 3)
		if w.twice || w.most != 3 {
			t.Fatalf("two batches in flight to one target: %v; %d targets at once, want 3", w.twice, w.most)
		}
		if w.store.largest > 15 {
			t.Fatalf("%d hints in memory for one target", w.store.largest)
		}
		for _, c := range w.seen("") {
			if c.bytes > 12_000 {
				t.Fatalf("a batch of %d bytes, asked for 10000 and what they are wrapped in", c.bytes)
			}
		}
	})
}

// busy is a transport's refusal.
type busy struct{}

func (busy) Error() string    { return "too much to do" }
func (busy) Overloaded() bool { return true }

func testSlowing(t *testing.T, cause func(context.Context) error) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		const rate = 1 << 20
		w.opt = Options{BytesPerSecond: rate, MinBytesPerSecond: rate / 64, CallTimeout: time.Second, BatchItems: 10}
		ks := w.hint(b, 400, 1000)
		failing := 3
		var rates []int
		var x *Worker
		w.fault = func(ctx context.Context, _ ring.NodeID, _ string, _ []byte) error {
			rates = append(rates, of(x.Status(), b).Rate)
			if failing--; failing >= 0 {
				return cause(ctx)
			}
			return nil
		}
		x = w.worker()
		defer x.Close()
		w.drained(time.Hour, b)
		w.holds(b, ks, 1000)
		start := rate / startShare
		for i, want := range []int{start, start / 2, start / 4, start / 8} {
			if rates[i] != want {
				t.Fatalf("call %d at rate %d, want %d (all: %v)", i, rates[i], want, rates)
			}
		}
		top := start / 8
		for _, r := range rates[4:] {
			if r > top+rate/stepShare {
				t.Fatalf("rate rose from %d to %d in one step", top, r)
			}
			top = max(top, r)
		}
		if top <= start/8 {
			t.Fatal("the rate never rose again")
		}
	})
}

func TestOverloadHalvesTheRate(t *testing.T) {
	testSlowing(t, func(context.Context) error { return busy{} })
}

func TestRefusalByThePeerHalvesTheRate(t *testing.T) {
	testSlowing(t, func(context.Context) error { return &codedError{CodeOverloaded, "busy"} })
}

func TestTimeoutHalvesTheRate(t *testing.T) {
	testSlowing(t, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
}

// However long a target refuses, its rate has a floor, and it is not asked more often than the back-off allows.
func TestLastingOverload(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		ks := w.hint(b, 10, 10)
		w.fault = func(context.Context, ring.NodeID, string, []byte) error { return busy{} }
		x := w.worker()
		defer x.Close()
		time.Sleep(time.Hour)
		if got := of(x.Status(), b).Rate; got != x.opt.MinBytesPerSecond {
			t.Fatalf("rate %d, the floor is %d", got, x.opt.MinBytesPerSecond)
		}
		if n := len(w.seen("")); n < 40 || n > 75 {
			t.Fatalf("%d calls in an hour of overload", n)
		}
		w.with(func(w *world) { w.fault = nil })
		w.drained(2*time.Minute, b)
		w.holds(b, ks, 10)
	})
}

// Two nodes at different epochs do not exchange hints, and being at another epoch is no overload.
func TestOtherEpochWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		ks := w.hint(b, 10, 10)
		old, next := w.layout, layout(t, 2, 4)
		other, err := New(Deps{Self: b, Store: newStore(), Receiver: w.replicas[b], Peers: w, View: fixed{next}}, Options{})
		if err != nil {
			t.Fatal(err)
		}
		w.handlers[b] = other.Handlers()
		x := w.worker()
		defer x.Close()
		time.Sleep(30 * time.Second)
		s := of(x.Status(), b)
		if w.store.count(b) != 10 || s.Rate != x.opt.BytesPerSecond/startShare || s.LastError == "" || old.Epoch() != 1 {
			t.Fatalf("%d hints left, %+v", w.store.count(b), s)
		}
		w.with(func(w *world) { w.layout = next })
		w.drained(time.Minute, b)
		w.holds(b, ks, 10)
	})
}

type fixed struct{ r *ring.Ring }

func (f fixed) Alive(ring.NodeID) bool { return true }

func (f fixed) Epochs() *ring.Epochs {
	e, err := ring.NewEpochs([]*ring.Ring{f.r}, f.r.Epoch(), nil)
	if err != nil {
		panic(err)
	}
	return e
}

func (f fixed) Learn(context.Context, ring.NodeID, uint64) error { return errors.New("nobody tells") }

// While this node still takes in hints for a target, it sends it none; but not for ever.
func TestNewHintsPutReplayOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		ks := w.keys(100, b)
		x := w.worker()
		defer x.Close()
		w.up(b, false)
		w.store.put(b, ks[0], object(1, 10))
		time.Sleep(5 * time.Second)
		w.up(b, true)
		for i := 1; i < 10; i++ { // a hint a second
			w.store.put(b, ks[i], object(uint64(i+1), 10))
			time.Sleep(time.Second)
		}
		if n := len(w.seen("")); n > 0 {
			t.Fatalf("%d batches while hints were being made", n)
		}
		for i := 10; i < 40; i++ {
			w.store.put(b, ks[i], object(uint64(i+1), 10))
			time.Sleep(time.Second)
		}
		if n := len(w.seen("")); n == 0 {
			t.Fatal("hints that never cease kept all of them from going out")
		}
		w.drained(time.Minute, b)
		w.holds(b, ks[:40], 10)
	})
}

// Marks that the target's disk does not take stay here, and so do the hints behind them.
func TestMarksComeFirstAndStayUntilTheyAreDurable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.up(b, false)
		ks := w.hint(b, 20, 10)
		w.store.drop(b, 3, 5, 15)
		w.replicas[b].markTo = errors.New("disk full")
		x := w.worker()
		defer x.Close()
		time.Sleep(10 * time.Second)
		w.up(b, true)
		x.Kick(b)
		time.Sleep(30 * time.Second)
		if got := of(x.Status(), b).Dropped; len(got) != 3 || got[0] != 3 || got[2] != 15 {
			t.Fatalf("dropped %v", got)
		}
		if n := len(w.seen(EndpointBatch)); n > 0 {
			t.Fatalf("%d batches before the marks", n)
		}
		if c := w.seen(EndpointDropped)[0]; c.at > 10*time.Second+10*time.Millisecond {
			t.Fatalf("first told after %v, it came alive after 10 s", c.at)
		}
		w.replicas[b].set(func(r *replica) { r.markTo = nil })
		w.drained(2*time.Minute, b)
		w.holds(b, ks, 10)
		r := w.replicas[b]
		if len(w.store.Dropped(b)) != 0 || len(r.behind) != 3 || r.behind[3] != 1 {
			t.Fatalf("still dropped %v, marked %v", w.store.Dropped(b), r.behind)
		}
	})
}

// Hints are dropped again after the target marked itself, perhaps even caught up, and before its answer is here.
func TestPartitionDroppedAgainIsToldAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.store.drop(b, 3, 5)
		again := true
		w.after = func(ring.NodeID, string, []byte) error {
			if again {
				again = false
				w.store.drop(b, 3)
			}
			return nil
		}
		x := w.worker()
		defer x.Close()
		w.until(10*time.Second, "cleared", func() bool { return len(w.store.Dropped(b)) == 0 })
		if got := w.replicas[b].behind; got[3] != 2 || got[5] != 1 {
			t.Fatalf("marked %v, want 3 twice and 5 once", got)
		}
	})
}

func TestManyMarksGoInSeveralMessages(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		l := w.layout.Layout()
		l.Partitions = 8192
		r, err := ring.New(l, 3)
		if err != nil {
			t.Fatal(err)
		}
		w.layout = r
		for p := range 8192 {
			w.store.drop(b, p)
		}
		x := w.worker()
		defer x.Close()
		w.until(10*time.Second, "cleared", func() bool { return len(w.store.Dropped(b)) == 0 })
		if len(w.replicas[b].behind) != 8192 || len(w.seen("")) != 2 {
			t.Fatalf("%d marked in %d messages", len(w.replicas[b].behind), len(w.seen("")))
		}
	})
}
