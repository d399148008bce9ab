package hinted

import (
	"cmp"
	"slices"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// What a Worker is doing for a target.
const (
	StateNoLayout  = "no layout" // this node does not know yet who is a member
	StateOrphaned  = "orphaned"  // the target is no member: its hints go to those who hold its keys now
	StateDown      = "down"
	StateSettling  = "settling" // alive, but not for long enough, or still getting new hints
	StateMarking   = "marking"  // being told of dropped partitions
	StateReplaying = "replaying"
	StateWaiting   = "waiting" // resting after a failure, or its turn has not come
	StateIdle      = "idle"    // nothing is held
)

// Status is what waits to be handed off, at the last look (at most Options.Interval ago).
type Status struct {
	BytesPerSecond int // the budget of all targets together
	Orphaned       int // hints for targets that are no members
	Targets        []TargetStatus
}

// TargetStatus is what is held for one target.
type TargetStatus struct {
	Target    ring.NodeID
	State     string
	Pending   int
	Bytes     int64
	Age       time.Duration // of the oldest hint; 0: none, or not known
	Rate      int           // bytes a second that the target gets at most
	Misplaced int           // hints of keys that others hold now, and that not all of these took in the last whole pass
	Dropped   []int         // partitions of which hints were dropped and the target does not know it yet, ascending
	// Counts since the start. Replayed: stored by the target. Stale: read before a reap, and sent again. Refused: the
	// target is no replica. Failed: not stored for another reason.
	Replayed, Stale, Refused, Failed uint64
	LastError                        string
	LastErrorAt                      time.Time
	Next                             time.Time // when a waiting target is tried again; zero: not known
}

// Status returns one entry for each target that something is held for, or was since the start, by id.
func (w *Worker) Status() Status {
	now := time.Now()
	out := Status{BytesPerSecond: w.opt.BytesPerSecond}
	w.mu.Lock()
	for _, t := range w.targets {
		s := t.status(now, w.opt.Settle)
		if w.noLayout {
			s.State = StateNoLayout
		}
		if s.State == StateOrphaned {
			out.Orphaned += s.Pending
		}
		out.Targets = append(out.Targets, s)
	}
	w.mu.Unlock()
	slices.SortFunc(out.Targets, func(a, b TargetStatus) int { return a.Target.Compare(b.Target) })
	for i := range out.Targets {
		t := &out.Targets[i]
		for _, d := range w.deps.Store.Dropped(t.Target) {
			t.Dropped = append(t.Dropped, d.Partition)
		}
		slices.SortFunc(t.Dropped, cmp.Compare[int])
	}
	return out
}

// status is called with Worker.mu held.
func (t *target) status(now time.Time, settle time.Duration) TargetStatus {
	s := TargetStatus{
		Target: t.id, State: t.state(now, settle), Pending: t.last.held.Hints, Bytes: t.last.held.Bytes,
		Age: age(t.last.held, now), Rate: int(t.rate), Misplaced: t.misplaced,
		Replayed: t.count.replayed, Stale: t.count.stale, Refused: t.count.refused, Failed: t.count.failed,
		LastError: t.lastErr, LastErrorAt: t.lastErrAt,
	}
	if s.State == StateWaiting && t.notBefore.After(now) {
		s.Next = t.notBefore
	}
	return s
}

func age(h Target, now time.Time) time.Duration {
	if h.Hints == 0 || h.Oldest.IsZero() {
		return 0
	}
	return max(0, now.Sub(h.Oldest))
}

func (t *target) state(now time.Time, settle time.Duration) string {
	switch {
	case t.running == turnMarks:
		return StateMarking
	case t.running == turnHints:
		return StateReplaying
	case t.last.held.Hints == 0 && t.last.dropped == 0:
		return StateIdle
	case !t.last.member:
		return StateOrphaned
	case t.aliveSince.IsZero():
		return StateDown
	case t.last.dropped == 0 && t.settled(settle).After(now):
		return StateSettling
	}
	return StateWaiting
}

// totals are the sums over all targets, for metrics.
type totals struct {
	pending, bytes, oldest, dropped, orphaned float64
}

func (w *Worker) totals() totals {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	var s totals
	for _, t := range w.targets {
		held := t.last.held
		s.pending += float64(held.Hints)
		s.bytes += float64(held.Bytes)
		s.oldest = max(s.oldest, age(held, now).Seconds())
		s.dropped += float64(t.last.dropped)
		if !t.last.member && !w.noLayout {
			s.orphaned += float64(held.Hints)
		}
	}
	return s
}
