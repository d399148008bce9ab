package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	// roundsTimeout is how long others may take in all to tell their reap rounds.
	roundsTimeout = 2 * time.Second
	// roundsLate is how long one may take until another one is asked, too. Writes by the new epoch wait meanwhile, and who is
	// asked may have been cut off a moment ago.
	roundsLate = 200 * time.Millisecond
)

// roundsOf asks one old owner of each partition for its reap round, or another member, since all enter each round. A
// partition of which nobody is left has none.
func (n *Node) roundsOf(ctx context.Context, e *ring.Epochs, ps []int) (map[int]uint64, error) {
	rounds := make(map[int]uint64, len(ps))
	sources := make(map[int][]ring.NodeID, len(ps))
	for _, p := range ps {
		for _, id := range e.Base().Walk(p) {
			if id != n.self() && !e.Removed(id) {
				sources[p] = append(sources[p], id)
			}
		}
		if len(sources[p]) == 0 {
			rounds[p] = 0
			delete(sources, p)
		}
	}
	told, err := gather(ctx, sources, func(ctx context.Context, id ring.NodeID, some []int) (map[int]uint64, error) {
		// By their slices of the hash space, of which rounds are: the other node may not number partitions like this one yet.
		of := map[int]bool{}
		for _, p := range some {
			of[p%e.Q()] = true
		}
		got, err := n.reaper.Rounds(ctx, id, e.Newest().Epoch(), slices.Sorted(maps.Keys(of)))
		out := make(map[int]uint64, len(some))
		for _, p := range some {
			out[p] = got[p%e.Q()]
		}
		return out, err
	})
	maps.Copy(rounds, told)
	return rounds, err
}

// told is what a node has answered.
type told struct {
	id     ring.NodeID
	rounds map[int]uint64
	err    error
}

// gather asks one source of each partition, the next one where that fails or is late, and takes the first answer of each.
func gather(ctx context.Context, sources map[int][]ring.NodeID, ask func(context.Context, ring.NodeID, []int) (map[int]uint64, error)) (map[int]uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, roundsTimeout)
	defer cancel()
	g := gathering{rounds: make(map[int]uint64, len(sources)), asked: map[int][]ring.NodeID{}, late: map[ring.NodeID]bool{}, failed: map[ring.NodeID]error{}}
	answers := make(chan told)
	under := 0 // answers that come
	defer func() {
		cancel()
		for ; under > 0; under-- {
			<-answers
		}
	}()
	late := time.NewTimer(roundsLate)
	defer late.Stop()
	for len(g.rounds) < len(sources) {
		to := map[ring.NodeID][]int{}
		for p, ids := range sources {
			if id, some := g.next(p, ids); some {
				g.asked[p] = append(g.asked[p], id)
				to[id] = append(to[id], p)
			}
		}
		for id, some := range to {
			under++
			go func() {
				got, err := ask(ctx, id, some)
				answers <- told{id, got, err}
			}()
		}
		if len(to) > 0 {
			late.Reset(roundsLate)
		}
		if under == 0 {
			return nil, fmt.Errorf("nobody tells the reap rounds of %d partitions: %w", len(sources)-len(g.rounds), errors.Join(slices.Collect(maps.Values(g.failed))...))
		}
		select {
		case a := <-answers:
			under--
			g.take(a)
		case <-late.C:
			g.lose()
		}
	}
	return g.rounds, nil
}

// gathering is what is known while rounds are gathered.
type gathering struct {
	rounds map[int]uint64
	asked  map[int][]ring.NodeID // for a partition, the latest last
	late   map[ring.NodeID]bool
	failed map[ring.NodeID]error
}

// next is who is to be asked for the round of a partition now: one that may answer soon, or else one that is late and was not
// asked for this one.
func (g *gathering) next(p int, ids []ring.NodeID) (ring.NodeID, bool) {
	_, known := g.rounds[p]
	if asked := g.asked[p]; known || len(asked) > 0 && g.prompt(asked[len(asked)-1]) {
		return ring.NodeID{}, false
	}
	if i := slices.IndexFunc(ids, g.prompt); i >= 0 {
		return ids[i], true
	}
	i := slices.IndexFunc(ids, func(id ring.NodeID) bool { return g.failed[id] == nil && !slices.Contains(g.asked[p], id) })
	if i < 0 {
		return ring.NodeID{}, false
	}
	return ids[i], true
}

func (g *gathering) prompt(id ring.NodeID) bool { return !g.late[id] && g.failed[id] == nil }

func (g *gathering) take(a told) {
	if a.err != nil {
		g.failed[a.id] = fmt.Errorf("%s: %w", a.id, a.err)
		return
	}
	for p, round := range a.rounds {
		if _, known := g.rounds[p]; !known {
			g.rounds[p] = round
		}
	}
}

// lose gives up waiting for those who have not answered, without forgetting that they were asked.
func (g *gathering) lose() {
	for p, ids := range g.asked {
		if _, known := g.rounds[p]; !known {
			g.late[ids[len(ids)-1]] = true
		}
	}
}
