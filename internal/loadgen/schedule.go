package loadgen

import (
	"math"
	"math/rand/v2"
	"sync"
	"time"
)

// grace is how long after the window an open loop still sends what was due in
// it, so that the latencies of a short backlog are known and not just bounded.
const grace = time.Second

// schedule says when operations are due. Safe for concurrent use.
type schedule struct {
	spec  *Spec
	begin time.Time // of the measured window
	end   time.Time // of the window; zero: none

	mu     sync.Mutex // guards the rest
	rand   *rand.Rand
	start  time.Time // of the warm-up
	drawn  int64     // operations of the open loop so far
	offset float64   // seconds from start to the last Poisson arrival
	issued int64     // measured operations
	over   bool
}

func newSchedule(spec *Spec, now time.Time) *schedule {
	s := &schedule{spec: spec, start: now, begin: now.Add(spec.Warmup), rand: rand.New(rand.NewPCG(spec.Seed, math.MaxUint64))}
	if spec.Duration > 0 {
		s.end = s.begin.Add(spec.Duration)
	}
	return s
}

// next returns when the next operation is due: now in the closed loop, at any
// time in the open one, past times included. It returns false when the load is
// over. measured tells that the operation belongs to the window.
func (s *schedule) next(now time.Time) (due time.Time, measured, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := now
	if s.spec.Rate > 0 {
		last = now.Add(-grace)
	}
	if s.over || s.ended(last) {
		return due, false, false
	}
	return s.draw(now)
}

func (s *schedule) ended(t time.Time) bool { return !s.end.IsZero() && !t.Before(s.end) }

// draw is next without the check of the clock; mu is held.
func (s *schedule) draw(now time.Time) (due time.Time, measured, ok bool) {
	due = now
	if s.spec.Rate > 0 {
		due = s.start.Add(s.gap())
	}
	measured = !due.Before(s.begin)
	if s.ended(due) || measured && s.spec.Ops > 0 && s.issued >= s.spec.Ops {
		s.over = true
		return due, false, false
	}
	if measured {
		s.issued++
	}
	return due, measured, true
}

// gap is the time from the start to the next arrival of the open loop.
func (s *schedule) gap() time.Duration {
	if s.spec.Arrivals == Poisson {
		s.offset += s.rand.ExpFloat64() / s.spec.Rate
		return time.Duration(s.offset * float64(time.Second))
	}
	d := time.Duration(float64(s.drawn) / s.spec.Rate * float64(time.Second))
	s.drawn++
	return d
}

// unsent are the times at which measured operations of the open loop were due
// that nobody took.
func (s *schedule) unsent(now time.Time, each func(due time.Time)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.spec.Rate > 0 && !s.over {
		due, measured, ok := s.draw(now)
		if ok && due.After(now) { // cut short by the user
			return
		}
		if ok && measured {
			each(due)
		}
	}
}
