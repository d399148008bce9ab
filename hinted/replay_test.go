package hinted

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

func bubble(t *testing.T, do func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, do)
}

func TestDrainsAfterHeal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.up(b, false)
		ks := w.hint(b, 700, 100)
		x := w.worker()
		defer x.Close()
		time.Sleep(time.Minute)
		if n := len(w.seen("")); n > 0 {
			t.Fatalf("%d calls to a target that is down", n)
		}
		s := of(x.Status(), b)
		if s.State != StateDown || s.Pending != 700 || s.Bytes != 70_000 || s.Age < 59*time.Second {
			t.Fatalf("status while down: %+v", s)
		}
		w.up(b, true) // nobody kicks: the timer has to see it
		w.drained(10*time.Second, b)
		w.holds(b, ks, 100)
		for _, c := range w.seen("") {
			if c.at < time.Minute+x.opt.Settle {
				t.Fatalf("sent after %v, before the target had settled", c.at)
			}
		}
		w.until(2*time.Second, "idle", func() bool { return of(x.Status(), b).State == StateIdle })
		if s := of(x.Status(), b); s.Replayed != 700 || s.Pending != 0 {
			t.Fatalf("status when drained: %+v", s)
		}
	})
}

func TestKickReplaysAfterSettling(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.opt = Options{Interval: time.Hour}
		w.up(b, false)
		w.hint(b, 5, 10)
		x := w.worker()
		defer x.Close()
		time.Sleep(time.Minute)
		w.up(b, true)
		x.Kick(b)
		w.drained(3*time.Second, b) // long before the timer
	})
}

func TestFlappingTargetGetsNothingUntilItStays(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		ks := w.hint(b, 50, 10)
		w.up(b, false)
		x := w.worker()
		defer x.Close()
		for range 40 {
			time.Sleep(1500 * time.Millisecond)
			w.up(b, true)
			x.Kick(b)
			time.Sleep(1500 * time.Millisecond)
			w.up(b, false)
		}
		if n := len(w.seen("")); n > 0 {
			t.Fatalf("%d calls to a flapping target", n)
		}
		w.up(b, true)
		w.drained(5*time.Second, b)
		w.holds(b, ks, 10)
	})
}

func TestStopsWhenTheTargetGoesDown(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.opt = Options{BatchItems: 10}
		ks := w.hint(b, 500, 10)
		w.after = func(ring.NodeID, string, []byte) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.calls) == 7 {
				w.alive[b] = false
			}
			return nil
		}
		x := w.worker()
		defer x.Close()
		time.Sleep(time.Minute)
		if n := len(w.seen("")); n != 7 {
			t.Fatalf("%d calls, the target went down in the 7th", n)
		}
		if n := w.store.count(b); n != 430 {
			t.Fatalf("%d hints left, want 430", n)
		}
		w.up(b, true)
		w.drained(time.Minute, b)
		w.holds(b, ks, 10)
	})
}

// A hint that grew between the read and the answer is another version: the answer says nothing about it.
func TestNewerHintIsNotDeleted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		ks := w.hint(b, 3, 10)
		newer := object(77, 10)
		var once sync.Once
		w.after = func(ring.NodeID, string, []byte) error {
			once.Do(func() {
				w.store.put(b, ks[1], newer)
				w.up(b, false)
			})
			return nil
		}
		x := w.worker()
		defer x.Close()
		time.Sleep(20 * time.Second)
		if n := w.store.count(b); n != 1 {
			t.Fatalf("%d hints left, want the one that grew", n)
		}
		w.up(b, true)
		w.drained(time.Minute, b)
		if !w.replicas[b].get(ks[1]).Covers(newer) {
			t.Fatal("the newer version is lost")
		}
		w.holds(b, ks, 10)
	})
}

// The holder dies before its n-th step, for every n there is; the next worker over the same store goes on.
func TestHolderCrashesAtEveryStep(t *testing.T) {
	errCrashed := errors.New("crashed")
	steps := 0
	for n := 1; n == 1 || n <= steps; n++ {
		bubble(t, func(t *testing.T) {
			w := newWorld(t, 4)
			b := node(1)
			w.opt = Options{BatchItems: 4}
			ks := w.hint(b, 10, 10)
			w.store.drop(b, 1, 2)
			var mu sync.Mutex
			step, dead := 0, false
			w.store.lost = func(string) error {
				mu.Lock()
				defer mu.Unlock()
				if step++; step == n {
					dead = true
				}
				if dead {
					return errCrashed
				}
				return nil
			}
			lost := func() error { return w.store.lost("") }
			w.fault = func(context.Context, ring.NodeID, string, []byte) error { return lost() }
			w.after = func(ring.NodeID, string, []byte) error { return lost() }
			x := w.worker()
			time.Sleep(5 * time.Second)
			x.Close()
			for i, k := range ks {
				w.store.mu.Lock()
				_, hinted := w.store.hints[b][k]
				w.store.mu.Unlock()
				if !hinted && !w.replicas[b].get(k).Covers(object(uint64(i+1), 10)) {
					t.Fatalf("step %d: %v is neither hinted nor stored", n, k)
				}
			}
			if len(w.store.Dropped(b)) < 2 && len(w.replicas[b].behind) < 2 {
				t.Fatalf("step %d: a dropped mark is lost", n)
			}
			mu.Lock()
			dead, steps = false, max(steps, step)
			mu.Unlock()
			y := w.worker()
			defer y.Close()
			w.drained(time.Minute, b)
			w.holds(b, ks, 10)
			if len(w.replicas[b].behind) != 2 || len(w.store.Dropped(b)) != 0 {
				t.Fatalf("step %d: marks %v, still dropped %v", n, w.replicas[b].behind, w.store.Dropped(b))
			}
		})
	}
	if steps < 20 {
		t.Fatalf("only %d steps were crashed in", steps)
	}
}

func TestDuplicatedAndLateBatchesAreHarmless(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.opt = Options{BatchItems: 8, CallTimeout: time.Second}
		ks := w.hint(b, 60, 10)
		var copies [][]byte
		w.fault = func(ctx context.Context, to ring.NodeID, endpoint string, body []byte) error {
			w.mu.Lock()
			copies = append(copies, append([]byte(nil), body...))
			late := len(copies)%3 == 0
			w.mu.Unlock()
			if late { // the sender gives up before the batch arrives
				<-ctx.Done()
				time.Sleep(5 * time.Second)
			}
			_, err := w.handlers[to][endpoint](context.WithoutCancel(ctx), holder, body)
			return err
		}
		x := w.worker()
		defer x.Close()
		w.drained(5*time.Minute, b)
		w.holds(b, ks, 10)
		before := map[Key]vclock.Digest{}
		for _, k := range ks {
			before[k] = w.replicas[b].get(k).Digest(k.Bucket, k.Key)
		}
		for _, body := range copies { // long after everything was deleted
			if _, err := w.handlers[b][EndpointBatch](t.Context(), holder, body); err != nil {
				t.Fatal(err)
			}
		}
		for _, k := range ks {
			if w.replicas[b].get(k).Digest(k.Bucket, k.Key) != before[k] {
				t.Fatalf("%v changed by a repeated batch", k)
			}
		}
	})
}

// A hint that was read before a reap is refused; it is read again and goes out under the round of then.
func TestStaleRoundIsReadAndSentAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		ks := w.hint(b, 3, 10)
		w.store.round = 4
		w.replicas[b].round = 5
		x := w.worker()
		defer x.Close()
		w.until(5*time.Second, "refused as stale", func() bool { return of(x.Status(), b).Stale == 3 })
		time.Sleep(time.Minute)
		if n := w.store.count(b); n != 3 || w.replicas[b].merges != 0 {
			t.Fatalf("%d hints left, %d merged", n, w.replicas[b].merges)
		}
		w.store.mu.Lock()
		w.store.round = 5
		w.store.mu.Unlock()
		w.drained(10*time.Minute, b)
		w.holds(b, ks, 10)
		r := w.replicas[b]
		if last := r.rounds[len(r.rounds)-1]; last != 5 || r.rounds[0] != 4 {
			t.Fatalf("rounds sent: %v", r.rounds)
		}
	})
}

// The replica cannot store some hints for a while: they stay, the others go.
func TestHintsThatAreNotStoredStay(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		ks := w.hint(b, 20, 10)
		w.replicas[b].err = errors.New("disk full")
		x := w.worker()
		defer x.Close()
		time.Sleep(time.Minute)
		s := of(x.Status(), b)
		if w.store.count(b) != 20 || s.Failed == 0 || s.LastError == "" || s.State != StateWaiting {
			t.Fatalf("%d left, status %+v", w.store.count(b), s)
		}
		if n := len(w.seen("")); n > 10 {
			t.Fatalf("%d calls in a minute to a target whose disk is full", n)
		}
		w.replicas[b].set(func(r *replica) { r.err = nil })
		w.drained(2*time.Minute, b)
		w.holds(b, ks, 10)
	})
}

// A hint that makes every batch fail is isolated and passed over; those behind it arrive.
func TestOneBadHintHoldsUpNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		ks := w.hint(b, 300, 10)
		bad := ks[17]
		w.fault = func(_ context.Context, _ ring.NodeID, _ string, body []byte) error {
			m, err := decodeBatch(body)
			if err != nil {
				return err
			}
			for _, it := range m.items {
				if it.key == bad.Key {
					return errors.New("connection lost")
				}
			}
			return nil
		}
		x := w.worker()
		defer x.Close()
		w.until(10*time.Minute, "all others delivered", func() bool { return w.store.count(b) == 1 })
		w.with(func(w *world) { w.fault = nil })
		w.drained(10*time.Minute, b)
		w.holds(b, ks, 10)
	})
}

func TestNothingIsSentWithoutALayout(t *testing.T) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, 4)
		b := node(1)
		w.hint(b, 5, 10)
		r := w.layout
		w.with(func(w *world) { w.layout = nil })
		x := w.worker()
		defer x.Close()
		time.Sleep(30 * time.Second)
		if s := of(x.Status(), b); len(w.seen("")) != 0 || s.State != StateNoLayout || x.Status().Orphaned != 0 {
			t.Fatalf("%d calls, %+v", len(w.seen("")), s)
		}
		w.with(func(w *world) { w.layout = r })
		w.drained(10*time.Second, b)
	})
}
