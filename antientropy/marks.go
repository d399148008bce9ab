package antientropy

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"github.com/dunlindb/dunlin/ring"
)

// tracker knows, for each marked partition, which peers this node has taken everything over from since the marking. It
// is kept in memory only: after a restart the exchanges are made again.
//
// A peer that is itself damaged counts too. What two replicas lost at once no exchange can bring back, and were damaged
// peers not to count, a cluster that lost power as a whole would wait for ever.
type tracker struct {
	mu   sync.Mutex
	done map[int]map[ring.NodeID]uint64 // by partition and peer: the latest marking that an exchange began after
}

func newTracker() *tracker { return &tracker{done: make(map[int]map[ring.NodeID]uint64)} }

// finished notes an exchange of p with the peer that began when since was the latest marking.
func (t *tracker) finished(p int, peer ring.NodeID, since uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done[p] == nil {
		t.done[p] = make(map[ring.NodeID]uint64)
	}
	t.done[p][peer] = max(t.done[p][peer], since)
}

// complete reports whether exchanges with all others were begun after the marking and finished.
func (t *tracker) complete(p int, others []ring.NodeID, since uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !slices.ContainsFunc(others, func(id ring.NodeID) bool {
		at, ok := t.done[p][id]
		return !ok || at != since
	})
}

func (t *tracker) forget(p int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.done, p)
}

// others lists the primaries of p in the base, without this node and those that are stopped for good.
func (s *Syncer) others(e *ring.Epochs, p int) []ring.NodeID {
	return slices.DeleteFunc(slices.Clone(e.Base().Primaries(p)), func(id ring.NodeID) bool {
		return id == s.deps.Self || e.Removed(id)
	})
}

// tryClear takes the marks off p if that is proven. They go together: each change of them makes a new beginning for
// those that stay.
func (s *Syncer) tryClear(ctx context.Context, e *ring.Epochs, p int) {
	mark, since := s.deps.Local.Marks(p)
	if !e.Holds(p, s.deps.Self) || !s.marks.complete(p, s.others(e, p), since) && mark != 0 {
		return
	}
	switch {
	case !s.wants(e, p, mark):
	case e.FullySettled() && s.fills.complete(e, p, s.sources(e, p), since):
		s.fills.setWhole(e, p)
	case !e.Base().IsPrimary(p, s.deps.Self):
		return
	default: // one of a shrinking set: its damage is mended first, since damaged copies fill nobody
	}
	if mark == 0 {
		return
	}
	if err := s.deps.Local.ClearMark(ctx, p, mark, since); err != nil {
		s.log.Error("a mark could not be cleared", "op", "marks", "partition", p, "err", err)
		return
	}
	s.marks.forget(p)
	s.metrics.cleared.Inc()
	level := slog.LevelInfo
	if mark == MarkFilling {
		level = slog.LevelDebug // a change of members fills hundreds
	}
	s.log.Log(ctx, level, "the partition is whole again", "op", "marks", "partition", p)
}

// watchMarks counts what is marked or not ready, clears what needs no exchange any more, and has the peers of newly
// marked partitions asked soon.
func (s *Syncer) watchMarks(ctx context.Context, e *ring.Epochs) {
	marked, notReady := 0, 0
	left := s.unfilled(e)
	s.fills.look(len(left))
	s.metrics.unfilled.Set(float64(len(left)))
	for _, p := range left {
		s.tryClear(ctx, e, p)
	}
	for _, p := range e.Held(s.deps.Self) {
		if _, ready := s.deps.Local.Root(p); !ready {
			notReady++
		}
		if mark, _ := s.deps.Local.Marks(p); mark != 0 {
			s.tryClear(ctx, e, p)
		}
		mark, since := s.deps.Local.Marks(p)
		if mark == 0 {
			delete(s.seenMarks, p)
			continue
		}
		marked++
		if seen, ok := s.seenMarks[p]; !ok || seen != since {
			s.seenMarks[p] = since
			peers := s.others(e, p)
			if mark&MarkFilling != 0 {
				peers = s.sources(e, p)
			}
			for _, id := range peers {
				s.Kick(id)
			}
		}
	}
	s.metrics.marked.Set(float64(marked))
	s.metrics.notReady.Set(float64(notReady))
	s.mu.Lock()
	s.marked, s.notReady = marked, notReady
	s.mu.Unlock()
}
