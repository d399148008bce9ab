package loadgen

import (
	"context"
	"sync"
	"time"
)

// longestSleep is how long the end of a run may go unnoticed.
const longestSleep = 100 * time.Millisecond

// gate holds connections until their next operation is due. It sleeps once for all of them: thousands that sleep for
// themselves are more work than their operations.
type gate struct {
	schedule *schedule
	sleep    func(time.Duration)

	mu      sync.Mutex
	waiting []*place      // in the order in which they are due
	filled  chan struct{} // holds one when somebody waits
}

// place is a connection's at the gate.
type place struct {
	due      time.Time
	measured bool
	held     bool
	open     chan struct{}
}

func newGate(s *schedule, sleep func(time.Duration)) *gate {
	return &gate{schedule: s, sleep: sleep, filled: make(chan struct{}, 1)}
}

func newPlace() *place { return &place{open: make(chan struct{}, 1)} }

// claim takes the next operation of the schedule. It returns false when the load is over.
func (g *gate) claim(p *place) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	var ok bool
	p.due, p.measured, ok = g.schedule.next(now)
	if p.held = ok && p.due.After(now); p.held {
		g.waiting = append(g.waiting, p)
		select {
		case g.filled <- struct{}{}:
		default:
		}
	}
	return ok
}

// wait returns true when the claimed operation is due, and false when ctx ends before.
func (p *place) wait(ctx context.Context) bool {
	if !p.held {
		return true
	}
	select {
	case <-p.open:
		return true
	case <-ctx.Done():
		return false
	}
}

// run opens the gate for each in its time, until ctx ends.
func (g *gate) run(ctx context.Context) {
	for ctx.Err() == nil {
		next := g.release()
		if next > 0 {
			g.sleep(min(next, longestSleep))
			continue
		}
		select {
		case <-g.filled:
		case <-ctx.Done():
		}
	}
}

// release lets those go on that are due, and tells how long the next one is not; 0: nobody waits.
func (g *gate) release() time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	for i, p := range g.waiting {
		if left := p.due.Sub(now); left > 0 {
			g.waiting = g.waiting[i:]
			return left
		}
		p.open <- struct{}{}
	}
	g.waiting = g.waiting[:0]
	return 0
}
