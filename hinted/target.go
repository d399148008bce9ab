package hinted

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// turnKind is what a target is being served with.
type turnKind int

const (
	turnNone  turnKind = iota
	turnMarks          // partitions of which hints were dropped: tiny, before any hint
	turnHints
	turns
)

const (
	firstBackoff = time.Second
	// A target's rate begins at a quarter of the budget, and gains a 32nd of it for each second of batches that were
	// taken.
	startShare = 4
	stepShare  = 32
	// patience bounds for how many times Settle new hints may put off a target that is alive: if this node's own
	// judgements contradict each other, its hints must go out all the same.
	patience = 10
	// maxIdle is how often Retry doubles.
	maxIdle = 5
)

// target is what a Worker knows of one node that hints are held for. Worker.mu guards it. Losing it is harmless.
type target struct {
	id      ring.NodeID
	last    sighting // as seen at the last look
	running turnKind
	direct  bool // in this turn the target itself is served: it had settled when it began

	aliveSince time.Time // zero: down
	grewAt     time.Time // when new hints were last seen while it was alive
	base       int       // hints at the last quiet look
	based      bool
	deleted    int // hints deleted since then

	notBefore time.Time // back-off
	failures  int       // calls in a row that failed
	idle      int       // passes in a row in which no hint could be deleted
	lastTurn  time.Time

	cursor Cursor
	pass   passCount // of the pass under way
	items  int       // bound of the next batch
	rate   float64   // bytes a second
	raised time.Time
	paid   time.Time // its own budget is spent until then

	count     counts
	lastErr   string
	lastErrAt time.Time
	misplaced int // hints of the last whole pass of which the target is no replica
}

// passCount counts over one pass, from the first to the last hint of a target.
type passCount struct {
	deleted, misplaced int
}

// counts are totals since the start.
type counts struct {
	replayed, stale, refused, failed uint64
}

func newTarget(id ring.NodeID, o Options) *target {
	rate := max(float64(o.BytesPerSecond)/startShare, float64(o.MinBytesPerSecond))
	return &target{id: id, items: o.BatchItems, rate: rate}
}

func (t *target) cameAlive(now time.Time) {
	t.aliveSince, t.grewAt = now, time.Time{}
	t.notBefore, t.failures, t.idle = time.Time{}, 0, 0
}

// see takes in a look at the store and the view.
func (t *target) see(s *sighting, now time.Time, settle time.Duration) {
	switch {
	case !s.alive:
		t.aliveSince = time.Time{}
	case t.aliveSince.IsZero():
		t.cameAlive(now)
	}
	if s.dropped > t.last.dropped {
		t.notBefore = time.Time{}
	}
	if s.quiet && t.running == turnNone {
		// More hints than were left: this node takes in new ones, so it, or a part of it, judges the target down.
		grew := t.based && s.held.Hints > t.base-t.deleted
		if grew && !t.aliveSince.IsZero() && now.Sub(t.aliveSince) < patience*settle {
			t.grewAt = now
		}
		if grew && t.idle > 0 {
			t.idle, t.notBefore = 0, time.Time{}
		}
		t.base, t.based, t.deleted = s.held.Hints, true, 0
	}
	t.last = *s
}

// due returns the turn that the target should get now, or turnNone and the time until it may get one (0: not known).
func (t *target) due(now time.Time, settle time.Duration) (turnKind, time.Duration) {
	down := t.aliveSince.IsZero()
	forget := t.last.gone && t.last.dropped > 0
	if t.running != turnNone || down && !t.last.moved && !forget || t.last.dropped == 0 && t.last.held.Hints == 0 {
		return turnNone, 0
	}
	if in := t.notBefore.Sub(now); in > 0 {
		return turnNone, in
	}
	if t.last.dropped > 0 && (!down || forget) {
		return turnMarks, 0
	}
	t.direct = !down && t.last.dropped == 0 && !t.settled(settle).After(now)
	if t.direct || down && t.last.moved {
		return turnHints, 0
	}
	return turnNone, max(0, t.settled(settle).Sub(now))
}

// settled is when the target has been alive, and has got no new hints, for long enough.
func (t *target) settled(settle time.Duration) time.Time {
	since := t.aliveSince
	if t.grewAt.After(since) {
		since = t.grewAt
	}
	return since.Add(settle)
}

// byWaiting returns the targets, the one whose last turn is longest ago first.
func (w *Worker) byWaiting() []*target {
	return slices.SortedFunc(maps.Values(w.targets), func(a, b *target) int {
		return cmp.Or(a.lastTurn.Compare(b.lastTurn), a.id.Compare(b.id))
	})
}

// charge books n bytes to the target and to the budget of all.
func (w *Worker) charge(t *target, n int) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	t.paid = later(t.paid, now).Add(seconds(float64(n) / t.rate))
	w.paid = later(w.paid, now).Add(seconds(float64(n) / float64(w.opt.BytesPerSecond)))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

// raise lets a target that keeps up have a little more: at most one step a second, however small its batches.
func (w *Worker) raise(t *target) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	t.failures = 0
	t.items = min(t.items*2, w.opt.BatchItems)
	if now.Sub(t.raised) < time.Second {
		return
	}
	t.raised = now
	t.rate = min(t.rate+float64(w.opt.BytesPerSecond)/stepShare, float64(w.opt.BytesPerSecond))
}

// lower notes a failure: the target rests, longer each time; slow says that it had too much to do.
func (w *Worker) lower(t *target, err error, slow bool) {
	now := time.Now()
	w.mu.Lock()
	pause := min(firstBackoff<<min(t.failures, 16), w.opt.MaxBackoff)
	// Spread, so that several holders of one target's hints do not all come back to it together.
	pause += time.Duration(w.deps.Rand.Int64N(int64(pause)/4 + 1))
	t.failures++
	first := t.failures == 1
	t.notBefore = now.Add(pause)
	t.lastErr, t.lastErrAt = err.Error(), now
	if slow {
		t.rate = max(t.rate/2, float64(w.opt.MinBytesPerSecond))
		t.raised = now
	}
	w.mu.Unlock()
	if first {
		w.deps.Log.Warn("hints not delivered", "peer", t.id, "err", err)
	} else {
		w.deps.Log.Debug("hints not delivered", "peer", t.id, "err", err)
	}
}
