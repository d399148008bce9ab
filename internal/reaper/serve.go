package reaper

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/dunlindb/dunlin/ring"
)

// ErrEpoch: the request is of another layout than the one this node knows, or of no member of it.
var ErrEpoch = errors.New("reaping under another layout")

// Handler answers another node's call.
type Handler = func(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error)

// Handlers returns what answers the endpoints of this package. They work whether or not the driver was started.
func (r *Reaper) Handlers() map[string]Handler {
	return map[string]Handler{
		EndpointConfirm: r.handleConfirm,
		EndpointEnter:   r.handleEnter,
		EndpointRemove:  r.handleRemove,
		EndpointRounds:  r.handleRounds,
	}
}

// statement is what a member said when it entered its present round of a partition. It is kept in memory only: after
// a restart the member says that it confirmed nothing, which costs a pass.
type statement struct {
	round     uint64
	asked     [sha256.Size]byte // of the request
	confirmed []bool
}

// accept reads a request and compares it with the ring.
func (r *Reaper) accept(from ring.NodeID, body []byte) (m request, primary bool, err error) {
	if m, err = decodeRequest(body); err != nil {
		return m, false, err
	}
	primary, err = r.admit(from, &m)
	return m, primary, err
}

func (r *Reaper) admit(from ring.NodeID, m *request) (primary bool, err error) {
	rg := r.deps.View.Ring()
	if rg == nil || rg.Epoch() != m.epoch {
		return false, fmt.Errorf("%w: epoch %d", ErrEpoch, m.epoch)
	}
	for _, id := range []ring.NodeID{from, r.deps.Self} {
		if _, ok := rg.Layout().Member(id); !ok {
			return false, fmt.Errorf("%w: %v is no member", ErrEpoch, id)
		}
	}
	if m.partition >= rg.Partitions() {
		return false, fmt.Errorf("%w: partition %d of %d", ErrEpoch, m.partition, rg.Partitions())
	}
	for _, ks := range [][]Statement{m.keys, m.struck} {
		for i := range ks {
			if rg.Partition(ks[i].Key.Bucket, ks[i].Key.Key) != m.partition {
				return false, fmt.Errorf("%w: a key of another partition than %d", ErrEpoch, m.partition)
			}
		}
	}
	return rg.IsPrimary(m.partition, r.deps.Self), nil
}

// acceptAlone is accept with the partition's lock taken before the ring is looked at: once this node has told its round
// under a new epoch, it enters none with a statement under an old one.
func (r *Reaper) acceptAlone(ctx context.Context, from ring.NodeID, body []byte) (m request, primary bool, unlock func(), err error) {
	if m, err = decodeRequest(body); err != nil {
		return m, false, nil, err
	}
	if m.round == 0 {
		return m, false, nil, fmt.Errorf("%w: round 0", ErrStaleRound)
	}
	if unlock, err = r.lock(ctx, m.partition); err != nil {
		return m, false, nil, err
	}
	if primary, err = r.admit(from, &m); err != nil {
		unlock()
		return m, false, nil, err
	}
	return m, primary, unlock, nil
}

func (r *Reaper) handleConfirm(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, primary, err := r.accept(from, body)
	if err != nil {
		return nil, err
	}
	confirmed, err := r.deps.Store.Confirm(ctx, m.partition, primary, m.keys)
	if err != nil {
		return nil, err
	}
	a := answer{round: r.deps.Store.Round(m.partition), confirmed: fit(confirmed, len(m.keys))}
	return a.encode(), nil
}

// handleEnter lets a statement count only if it is made in the step that takes the partition from an earlier round to
// this one. A statement made later in the same round would not do: an object that the member sent or held meanwhile
// carries this round already, and nobody would refuse it.
func (r *Reaper) handleEnter(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, primary, unlock, err := r.acceptAlone(ctx, from, body)
	if err != nil {
		return nil, err
	}
	defer unlock()
	asked := sha256.Sum256(body)
	a := answer{round: r.deps.Store.Round(m.partition), confirmed: make([]bool, len(m.keys))}
	switch {
	case a.round > m.round:
		return a.encode(), nil
	case a.round == m.round:
		a.entered = true
		if said, ok := r.said(m.partition); ok && said.round == m.round && said.asked == asked {
			a.confirmed = said.confirmed
		}
		return a.encode(), nil
	}
	confirmed, err := r.deps.Store.EnterRound(ctx, m.partition, m.round, primary, m.keys)
	if errors.Is(err, ErrStaleRound) {
		a.round = r.deps.Store.Round(m.partition)
		return a.encode(), nil
	}
	if err != nil {
		return nil, err
	}
	a = answer{round: m.round, entered: true, confirmed: fit(confirmed, len(m.keys))}
	r.say(m.partition, statement{m.round, asked, a.confirmed})
	return a.encode(), nil
}

// handleRemove also takes a member that has not entered the round into it, stating nothing: otherwise a late
// EndpointEnter would mark keys that nobody unmarks any more, and the member would go on being refused by those that
// did enter.
func (r *Reaper) handleRemove(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, primary, unlock, err := r.acceptAlone(ctx, from, body)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := r.enterSilently(ctx, m.partition, m.round, primary); err != nil {
		return nil, err
	}
	if len(m.keys) > 0 {
		n, err := r.deps.Store.Remove(ctx, m.partition, m.round, m.keys)
		if err != nil {
			return nil, err
		}
		r.watch.dropped(n)
	}
	if len(m.struck) > 0 {
		if err := r.deps.Store.Unmark(ctx, m.partition, m.round, m.struck); err != nil {
			return nil, err
		}
	}
	a := answer{round: r.deps.Store.Round(m.partition), entered: true, confirmed: make([]bool, len(m.keys))}
	return a.encode(), nil
}

// enterSilently needs the partition's lock.
func (r *Reaper) enterSilently(ctx context.Context, p int, round uint64, primary bool) error {
	if r.deps.Store.Round(p) >= round {
		return nil
	}
	_, err := r.deps.Store.EnterRound(ctx, p, round, primary, nil)
	if err != nil && !errors.Is(err, ErrStaleRound) {
		return err
	}
	return nil
}

// fit guards against a store that answers for fewer keys than it was asked about.
func fit(bits []bool, n int) []bool {
	if len(bits) != n {
		return make([]bool, n)
	}
	return bits
}

// lock serialises what may enter a round of p. It is a channel, not a mutex, so that a caller's deadline holds.
func (r *Reaper) lock(ctx context.Context, p int) (unlock func(), err error) {
	l := r.locks[p%len(r.locks)]
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (r *Reaper) said(p int) (statement, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.statements[p]
	return s, ok
}

func (r *Reaper) say(p int, s statement) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.statements[p] = s
}
