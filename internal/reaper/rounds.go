package reaper

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// Rounds are of slices of the hash space, and so of all partitions of a slice.
//
// A node that gains partitions has to be in the round of those that it will copy from before it takes its first
// object. It asks one of them for its rounds, under the new epoch, and enters them, stating nothing.
//
// One is enough. Whoever has learnt the new epoch enters no round with a statement any more, for its ring is nil while
// two epochs live; and the rounds are told under the locks that entering takes, so what was begun before is counted in.
// So a round that is later than what was told can no longer get the statements of all members of the old epoch: nothing
// is removed in it.

// maxAskedRounds bounds one question.
const maxAskedRounds = 4096

// roundsRequest asks for the rounds of partitions.
type roundsRequest struct {
	epoch      uint64 // the newest that the asker knows
	partitions []int
}

func (m *roundsRequest) encode() []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(3)
	e.Uint(messageVersion)
	e.Uint(m.epoch)
	e.Array(len(m.partitions))
	for _, p := range m.partitions {
		e.Uint(uint64(p))
	}
	return e.Copy()
}

func decodeRoundsRequest(b []byte) (m roundsRequest, err error) {
	d := open(b, 3)
	m.epoch = d.Uint()
	for range d.Array(maxAskedRounds) {
		m.partitions = append(m.partitions, d.Count(ring.MaxNumbered-1))
	}
	return m, d.Done()
}

func encodeRounds(rounds []uint64) []byte {
	e := wire.NewEncoder()
	defer e.Free()
	e.Array(2)
	e.Uint(messageVersion)
	e.Array(len(rounds))
	for _, r := range rounds {
		e.Uint(r)
	}
	return e.Copy()
}

func decodeRounds(b []byte, n int) ([]uint64, error) {
	d := open(b, 2)
	var rounds []uint64
	for range d.Array(maxAskedRounds) {
		rounds = append(rounds, decodeRound(d))
	}
	if d.Err() == nil && len(rounds) != n {
		d.Fail("not one round for each partition")
	}
	return rounds, d.Done()
}

// handleRounds answers only at the asker's epoch: see above.
func (r *Reaper) handleRounds(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeRoundsRequest(body)
	if err != nil {
		return nil, err
	}
	if m.epoch > r.deps.View.Newest() {
		if err := r.deps.View.Learn(ctx, from, m.epoch); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrEpoch, err)
		}
	}
	unlock, err := r.lockAll(ctx, nil) // also of other partitions in the same slices
	if err != nil {
		return nil, err
	}
	defer unlock()
	if now := r.deps.View.Newest(); now != m.epoch {
		return nil, fmt.Errorf("%w: epoch %d here, %d there", ErrEpoch, now, m.epoch)
	}
	rounds := make([]uint64, len(m.partitions))
	for i, p := range m.partitions {
		rounds[i] = r.deps.Store.Round(p)
	}
	return encodeRounds(rounds), nil
}

// Rounds asks another node for its rounds of partitions, as of an epoch: the one that this node is about to adopt, or
// the newest. The other node learns that epoch before it answers, from this one if it has to, and from then on takes no
// part in a round under an earlier one. It must hold the partitions in an earlier live epoch. Hand the answer to
// CatchUpAll.
func (r *Reaper) Rounds(ctx context.Context, from ring.NodeID, epoch uint64, partitions []int) (map[int]uint64, error) {
	out := make(map[int]uint64, len(partitions))
	for some := range slices.Chunk(partitions, maxAskedRounds) {
		m := roundsRequest{epoch: epoch, partitions: some}
		b, err := r.callRounds(ctx, from, m.encode())
		if err != nil {
			return nil, err
		}
		rounds, err := decodeRounds(b, len(some))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", EndpointRounds, err)
		}
		for i, p := range some {
			out[p] = rounds[i]
		}
	}
	return out, nil
}

func (r *Reaper) callRounds(ctx context.Context, to ring.NodeID, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.opt.CallTimeout)
	defer cancel()
	b, err := r.deps.Peers.Call(ctx, to, EndpointRounds, body)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", EndpointRounds, err)
	}
	return b, nil
}

// CatchUp takes this node's partition p into the given round, stating nothing, unless it is there already or further.
// A node calls it when a peer refused its object because of the peer's later round: the driver may be gone, and
// until then everything this node sends is refused. It is always safe, also while members change, since a key is removed
// in a round only if every member confirmed it while entering. A node that was rolled back to an older copy of its disk
// must never be let do this.
func (r *Reaper) CatchUp(ctx context.Context, p int, round uint64) error {
	return r.CatchUpAll(ctx, map[int]uint64{p: round})
}

// CatchUpAll is CatchUp for many partitions, with few fsyncs.
func (r *Reaper) CatchUpAll(ctx context.Context, rounds map[int]uint64) error {
	partitions := ring.MaxNumbered // while members change, or there is no layout yet
	if rg := r.deps.View.Ring(); rg != nil {
		partitions = rg.Partitions()
	}
	for p, round := range rounds {
		if p < 0 || p >= partitions || round > maxRound {
			return fmt.Errorf("%w: partition %d, round %d", ErrEpoch, p, round)
		}
	}
	if len(rounds) == 0 {
		return nil
	}
	unlock, err := r.lockAll(ctx, slices.Collect(maps.Keys(rounds)))
	if err != nil {
		return err
	}
	defer unlock()
	if err := r.deps.Store.EnterRounds(ctx, rounds); err != nil && !errors.Is(err, ErrStaleRound) {
		return err
	}
	return nil
}

// lockAll takes the locks of some partitions, nil: of all, in an order that all keep.
func (r *Reaper) lockAll(ctx context.Context, ps []int) (unlock func(), err error) {
	places := make([]int, 0, len(r.locks))
	for i := range r.locks {
		if ps == nil || slices.ContainsFunc(ps, func(p int) bool { return p%len(r.locks) == i }) {
			places = append(places, i)
		}
	}
	var held []func()
	unlock = func() {
		for _, f := range held {
			f()
		}
	}
	for _, p := range places {
		one, err := r.lock(ctx, p)
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, one)
	}
	return unlock, nil
}
