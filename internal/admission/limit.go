package admission

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// window is how often the limit is thought over.
	window = 50 * time.Millisecond
	// idle is after how long without a look nothing can be left of an overload.
	idle = 10 * window
	// target is the longest wait that is put up with. At it, the processors are never idle; more would only
	// make everybody wait, those who are refused as well.
	target = 10 * time.Millisecond
	// leastEach is what is worked on for each processor whatever the waits are: other programs on the machine, or the
	// collector of garbage, make everything wait as well. It is done in some ten milliseconds. With half of it less was done of
	// an overload (docs/benchmarks.md, Overload); why is not known.
	leastEach = 64
	// calmest is how many thirty-seconds the limit goes up by at most.
	calmest = 16
)

// Limit is how many operations may be under way. While what comes waits longer than target, it goes down each window, from
// what was under way at most: in proportion, by a quarter at least, to a quarter at most. While it waits less than half of
// that, the limit goes up: by a thirty-second first, since what was let in too much is in the way for long, and each window
// by more, up to a half. So it stays where the processors are just busy. Safe for concurrent use.
type Limit struct {
	most, least int64
	waits       Waits
	began       time.Time

	n     atomic.Int64 // under way
	limit atomic.Int64
	peak  atomic.Int64 // most that were under way in this window, about
	due   atomic.Int64 // when this window ends, since began

	mu   sync.Mutex    // guards what is below, and that waits is asked by one at a time
	last time.Duration // when waits was asked
	calm int64         // windows of short waits since the last long one, up to calmest
}

// Waits tells how long what comes waits until it is looked at. ok is false when that is not known.
type Waits func() (wait time.Duration, ok bool)

// New returns a limit that is never above most. Without waits it is always that.
func New(most int, waits Waits) *Limit {
	l := &Limit{most: int64(most), least: int64(leastEach * runtime.GOMAXPROCS(0)), waits: waits, began: time.Now()}
	l.limit.Store(l.most)
	return l
}

// Full reports whether there is too much to do for Enter to succeed now.
func (l *Limit) Full() bool {
	if l.waits != nil {
		l.look()
	}
	return l.n.Load() >= l.limit.Load()
}

// Enter begins an operation, or reports that there is too much to do.
func (l *Limit) Enter() bool {
	if l.waits != nil {
		l.look()
	}
	n := l.n.Add(1)
	if n > l.limit.Load() {
		l.n.Add(-1)
		return false
	}
	if n > l.peak.Load() {
		l.peak.Store(n)
	}
	return true
}

// Leave ends an operation that entered.
func (l *Limit) Leave() { l.n.Add(-1) }

// InFlight is how many operations are under way.
func (l *Limit) InFlight() int { return int(l.n.Load()) }

// Now is how many may be.
func (l *Limit) Now() int { return int(l.limit.Load()) }

// look thinks the limit over when a window has ended.
func (l *Limit) look() {
	now, due := time.Since(l.began), l.due.Load()
	if int64(now) < due || !l.due.CompareAndSwap(due, int64(now+window)) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	wait, ok := l.waits()
	since := now - l.last
	l.last = now
	limit, peak := l.limit.Load(), l.peak.Swap(l.n.Load())
	switch {
	case since > idle:
		limit = l.most // the waits are of long ago
	case ok && wait > target:
		limit, l.calm = min(limit, peak), 0
		limit = max(limit/4, min(limit-limit/4, limit*int64(target)/int64(wait)))
	case !ok || wait < target/2:
		l.calm = min(l.calm+1, calmest)
		limit += limit*l.calm/32 + 1
	}
	l.limit.Store(min(max(limit, l.least), l.most))
}
