package hinted

import (
	"context"
	"fmt"
	"slices"

	"github.com/dunlindb/dunlin/ring"
)

// A hint is moved when its target is no primary of the key in the newest epoch: it left, was removed or replaced, or the
// partition went elsewhere. It is an acknowledged write all the same, so it goes to all present primaries instead, and
// is deleted when all of them have stored exactly it. While the target still holds the key in an older epoch that lives,
// and answers, it gets the hint too: reads go by that epoch yet.

// hasMoved reports whether hints are held for a target that are moved.
func (w *Worker) hasMoved(e *ring.Epochs, id ring.NodeID) bool {
	for _, t := range w.deps.Store.HintTargets() {
		if t.ID == id {
			return moved(e, &t)
		}
	}
	return false
}

func moved(e *ring.Epochs, t *Target) bool {
	return slices.ContainsFunc(t.Partitions, func(p int) bool {
		return p >= 0 && p < e.Partitions() && !e.Newest().IsPrimary(p, t.ID)
	})
}

// move delivers moved hints and deletes those that all who need them have. Nodes that are down hold their hints up; the
// others get them, which costs bytes only when it is done again.
func (w *Worker) move(ctx context.Context, b batch, hints []Hint) outcome {
	by := make(map[ring.NodeID][]int) // places in hints, by receiver
	var receivers []ring.NodeID
	for i, h := range hints {
		to := b.e.Newest().Primaries(h.Key.Partition)
		if b.direct && b.e.Holds(h.Key.Partition, b.t.id) {
			to = append(slices.Clone(to), b.t.id)
		}
		for _, id := range to {
			if by[id] == nil {
				receivers = append(receivers, id)
			}
			by[id] = append(by[id], i)
		}
	}
	statuses := make([]status, len(hints)) // the worst answer of all receivers
	waits := make([]bool, len(hints))
	text := ""
	var failure error
	for _, id := range receivers {
		places := by[id]
		some := make([]Hint, len(places))
		for j, i := range places {
			some[j] = hints[i]
		}
		a, down, err := w.give(ctx, b, id, some)
		if ctx.Err() != nil {
			return outcome{}
		}
		for j, i := range places {
			switch {
			case err != nil || down:
				waits[i] = true
			case a.statuses[j] > statuses[i]:
				statuses[i], text = a.statuses[j], a.text
			}
		}
		if err != nil && failure == nil {
			failure = fmt.Errorf("to %s: %w", id, err)
		}
	}
	return w.settleMoved(ctx, b, movedBatch{hints, statuses, waits, text, failure})
}

type movedBatch struct {
	hints    []Hint
	statuses []status
	waits    []bool // for a receiver that gave no answer
	text     string
	err      error
}

func (w *Worker) settleMoved(ctx context.Context, b batch, m movedBatch) outcome {
	var answered []Hint
	a := answerMessage{text: m.text}
	for i := range m.hints {
		if !m.waits[i] {
			answered = append(answered, m.hints[i])
			a.statuses = append(a.statuses, m.statuses[i])
		}
	}
	out := w.settle(ctx, b.t, answered, a)
	if out.err == nil {
		out.err = m.err
	}
	if why := judge(m.err); m.err != nil && (why == tooSlow || why == odd) {
		w.mu.Lock()
		b.t.items = max(1, min(b.t.items, len(m.hints))/4)
		w.mu.Unlock()
	}
	return out
}

// give brings moved hints to one receiver, which may be this node.
func (w *Worker) give(ctx context.Context, b batch, to ring.NodeID, hints []Hint) (a answerMessage, down bool, err error) {
	switch {
	case to == w.deps.Self:
		a.statuses = make([]status, len(hints))
		texts := make([]string, len(hints))
		parallel(len(hints), func(i int) {
			h := &hints[i]
			a.statuses[i], texts[i] = w.receive(ctx, b.e, &item{h.Key.Bucket, h.Key.Key, h.Round, h.Object})
		})
		for _, text := range texts {
			if a.text == "" {
				a.text = text
			}
		}
		return a, false, nil
	case !w.deps.View.Alive(to):
		return a, true, nil
	}
	if a, err = w.send(ctx, b, to, hints); err == nil {
		w.catchUp(ctx, b, hints, a)
	}
	return a, false, err
}

// catchUp takes this node into the later reap rounds of a receiver that refused hints by round. They go out again in the
// next pass. While members change it is done at once: reaping rests, and a node that leaves has to get rid of its hints
// first. Else when a pass has delivered nothing: who drove the round may be gone for good.
func (w *Worker) catchUp(ctx context.Context, b batch, hints []Hint, a answerMessage) {
	w.mu.Lock()
	stuck := b.t.idle > 0
	w.mu.Unlock()
	if w.deps.CatchUp == nil || !b.e.Changing() && !stuck || len(a.rounds) != len(hints) {
		return
	}
	done := make(map[int]bool)
	for i, s := range a.statuses {
		p := hints[i].Key.Partition
		if s != stale || done[p] {
			continue
		}
		done[p] = true
		if err := w.deps.CatchUp(ctx, p, a.rounds[i]); err != nil {
			w.deps.Log.Info("cannot catch up with a peer's reap round", "partition", p, "round", a.rounds[i], "err", err)
		}
	}
}

// Pending is how many hints this node holds, for all targets, as of now. A node that leaves is done with handoff when
// there are none.
func (w *Worker) Pending() int {
	n := 0
	for _, t := range w.deps.Store.HintTargets() {
		n += t.Hints
	}
	return n
}
