package loadgen

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// Thousands of connections go on each at its own time, whichever came first.
func TestGateOpensWhenOperationsAreDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const connections, operations = 1000, 5000
		spec := &Spec{Rate: 100_000, Arrivals: Poisson, Ops: operations, Seed: 3}
		g := newGate(newSchedule(spec, time.Now()), time.Sleep)
		ctx, stop := context.WithCancel(t.Context())
		var gate, all sync.WaitGroup
		gate.Go(func() { g.run(ctx) })
		var mu sync.Mutex
		done, held := 0, 0
		for range connections {
			all.Go(func() {
				for p := newPlace(); g.claim(p); {
					if !p.wait(ctx) {
						t.Error("it was given up")
					}
					if now := time.Now(); p.held && !now.Equal(p.due) || now.Before(p.due) {
						t.Errorf("due %v, begun %v", p.due, now)
					}
					mu.Lock()
					done++
					if p.held {
						held++
					}
					mu.Unlock()
				}
			})
		}
		all.Wait()
		stop()
		gate.Wait()
		if done != operations || held < operations-1 {
			t.Errorf("%d operations, %d of them waited for", done, held)
		}
	})
}

func TestGateGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(newSchedule(&Spec{Rate: 0.001}, time.Now()), time.Sleep)
		ctx, stop := context.WithCancel(t.Context())
		var gate sync.WaitGroup
		gate.Go(func() { g.run(ctx) })
		p := newPlace()
		if !g.claim(p) || !p.wait(ctx) {
			t.Fatal("the first is due at once")
		}
		if !g.claim(p) {
			t.Fatal("there is no second")
		}
		time.AfterFunc(time.Second, stop)
		begun := time.Now()
		if p.wait(ctx) || time.Since(begun) != time.Second {
			t.Error("it was not given up when the run was")
		}
		gate.Wait()
		if late := time.Since(begun) - time.Second; late > longestSleep {
			t.Errorf("the gate ended %v later", late)
		}
	})
}

func TestAlarmIsNotEarly(t *testing.T) {
	a, err := newAlarm()
	if err != nil {
		t.Fatal(err)
	}
	defer a.close()
	for _, d := range []time.Duration{-1, 0, 1, 50 * time.Microsecond, 3 * time.Millisecond} {
		begun := time.Now()
		a.sleep(d)
		if took := time.Since(begun); took < d {
			t.Errorf("it slept %v instead of %v", took, d)
		}
	}
}
