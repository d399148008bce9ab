package antientropy

import (
	"context"
	"math"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeLoad is what clients ask of a node.
type fakeLoad struct {
	under atomic.Int64
	begun atomic.Uint64
}

func (l *fakeLoad) now() Load { return Load{Under: int(l.under.Load()), Begun: l.begun.Load()} }

// piece does a piece of work that takes that long, and returns how long it had to wait for its turn.
func piece(t *testing.T, c *courtesy, takes time.Duration) time.Duration {
	t.Helper()
	asked := time.Now()
	done, err := c.turn(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waited := time.Since(asked)
	time.Sleep(takes)
	done()
	return waited
}

// Without clients pieces follow each other at once.
func TestNobodyWaitsForAbsentClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l fakeLoad
		c := newCourtesy(l.now)
		l.begun.Store(7) // before anything was done here
		for i := range 3 {
			if waited := piece(t, c, 10*time.Millisecond); waited != 0 {
				t.Errorf("piece %d waited %v", i, waited)
			}
		}
	})
}

// A request that came during a piece, or since, is given more time than that took; the one after it waits for nobody.
func TestAPieceRestsAfterARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l fakeLoad
		c := newCourtesy(l.now)
		piece(t, c, 10*time.Millisecond)
		l.begun.Add(1)
		if waited := piece(t, c, 20*time.Millisecond); waited != restFor*10*time.Millisecond {
			t.Errorf("waited %v after a piece of 10 ms", waited)
		}
		if waited := piece(t, c, time.Minute); waited != 0 {
			t.Errorf("waited %v although nobody had come since", waited)
		}
		l.begun.Add(1)
		if waited := piece(t, c, time.Millisecond); waited != restFor*longestPiece {
			t.Errorf("waited %v after a piece that was held up", waited)
		}
	})
}

// While requests are under way a piece waits for a moment without any, but not for ever.
func TestAPieceWaitsForAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l fakeLoad
		c := newCourtesy(l.now)
		piece(t, c, 10*time.Millisecond)
		l.begun.Add(1)
		l.under.Store(1)
		go func() {
			time.Sleep(63 * time.Millisecond)
			l.under.Store(0)
		}()
		if waited := piece(t, c, 10*time.Millisecond); waited < 63*time.Millisecond || waited > 64*time.Millisecond {
			t.Errorf("waited %v for a gap after 63 ms", waited)
		}
		l.begun.Add(1)
		l.under.Store(1)
		if waited := piece(t, c, 10*time.Millisecond); waited != patience*10*time.Millisecond {
			t.Errorf("waited %v beside clients that never rest", waited)
		}
	})
}

// Who gives up waiting leaves the turn to others.
func TestATurnIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l fakeLoad
		c := newCourtesy(l.now)
		piece(t, c, 500*time.Millisecond)
		l.begun.Add(1)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if _, err := c.turn(ctx); err == nil {
			t.Fatal("a turn after its context had ended")
		}
		if waited := piece(t, c, time.Millisecond); waited != restFor*500*time.Millisecond-100*time.Millisecond {
			t.Errorf("the next one waited %v", waited)
		}
	})
}

// While clients ask a node for something its filling takes longer, by as much as is said, and no more: it ends also beside
// clients that never rest.
func TestFillingGivesWayToClients(t *testing.T) {
	bubble(t, func(t *testing.T) {
		const commit = 10 * time.Millisecond
		pieces, longer := 0.0, 0.0
		for name, l := range map[string]struct {
			under int64
			often time.Duration // a request
			times float64       // as long as without clients
		}{
			"no clients":                {times: 1},
			"requests, and gaps":        {often: time.Millisecond, times: 1 + restFor},
			"a request that never ends": {under: 1, often: time.Millisecond, times: 1 + patience},
		} {
			c := newChange(t, 3000, Options{})
			c.adopt(c.joiner, c.moved)
			c.know(2, c.both(), 0, 1, 2, 3, 4)
			c.joiner.store.commit = commit
			c.joiner.load.under.Store(l.under)
			stop := make(chan struct{})
			if l.often > 0 {
				go func() {
					for {
						select {
						case <-stop:
							return
						case <-time.After(l.often):
							c.joiner.load.begun.Add(1)
						}
					}
				}()
			}
			c.start()
			began := time.Now()
			c.until(5*time.Minute, "whole", func() bool { return len(c.filling(c.joiner)) == 0 })
			took := time.Since(began)
			close(stop)
			c.close()
			pieces = math.Ceil(float64(c.joiner.s.Transfers().Objects) / fetchKeys)
			// Some pieces are smaller than they could be, and exchanges wait for their turns.
			longer = took.Seconds() / (pieces * commit.Seconds())
			if longer < l.times || longer > 1.6*l.times+1 {
				t.Errorf("%s: %v for %.0f pieces of %v, %.1f times as long; want %.0f", name, took, pieces, commit, longer, l.times)
			}
		}
	})
}
