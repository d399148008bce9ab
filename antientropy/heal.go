package antientropy

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// A corrupt record, and an incomplete one (it was lost, and holds only what has come since), becomes whole by the merge
// of what every other primary holds: a write that it lost may be on any single one of them. A primary that holds
// nothing, or itself a damaged record, says so and counts: what it lost as well cannot be had from anybody. One that
// does not answer holds the healing up.

const (
	maxHeals = 4096
	// healEvery is how often keys are tried again whose primaries did not all answer.
	healEvery = 10 * time.Second
)

// healQueue holds damaged keys until they are healed. A key beyond its bound is dropped: the next exchange, or the
// scrub, finds it again.
type healQueue struct {
	mu      sync.Mutex
	waiting map[Key]struct{}
	wake    chan struct{}
}

func newHealQueue() *healQueue {
	return &healQueue{waiting: make(map[Key]struct{}), wake: make(chan struct{}, 1)}
}

func (q *healQueue) add(k Key) {
	q.mu.Lock()
	_, known := q.waiting[k]
	if len(q.waiting) < maxHeals {
		q.waiting[k] = struct{}{}
	}
	q.mu.Unlock()
	if known {
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *healQueue) remove(k Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.waiting, k)
}

func (q *healQueue) keys() []Key {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Keys(q.waiting))
}

func (q *healQueue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// Heal asks that a damaged record of this node be made whole. It returns at once.
func (s *Syncer) Heal(k Key) { s.heals.add(k) }

// noteDamage queues a key of this node that is seen to be damaged.
func (s *Syncer) noteDamage(p int, k *KeyEntry) {
	if (k.Corrupt || k.Incomplete) && !k.Removing {
		s.heals.add(Key{p, k.Bucket, k.Key})
	}
}

func (s *Syncer) healLoop() {
	for {
		var again <-chan time.Time
		if s.heals.len() > 0 {
			again = time.After(healEvery)
		}
		select {
		case <-s.ctx.Done():
			return
		case <-s.heals.wake:
		case <-again:
		}
		e := s.deps.View.Epochs()
		if e == nil {
			continue
		}
		silent := make(map[ring.NodeID]bool)
		for _, k := range s.heals.keys() {
			s.healOne(s.ctx, e, k, silent)
		}
	}
}

// askError is the failure of a peer to answer.
type askError struct {
	id  ring.NodeID
	err error
}

func (e *askError) Error() string { return fmt.Sprintf("asking %s: %v", e.id, e.err) }
func (e *askError) Unwrap() error { return e.err }

// healOne tries to heal a key. It stays in the queue when that has to wait. silent are peers that did not answer for
// another key just now: each is waited for once.
func (s *Syncer) healOne(ctx context.Context, e *ring.Epochs, queued Key, silent map[ring.NodeID]bool) {
	k := queued
	k.Partition = e.Partition(k.Bucket, k.Key) // which may have another number by now
	if !e.Holds(k.Partition, s.deps.Self) {
		s.heals.remove(queued)
		return
	}
	others := s.others(e, k.Partition)
	for _, id := range others { // all or nothing: nobody is asked in vain
		if silent[id] || !s.deps.View.Alive(id) {
			return
		}
	}
	healed, err := s.heal(ctx, e, k, others)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		if ask, ok := errors.AsType[*askError](err); ok && !refused(err) {
			silent[ask.id] = true
		}
		s.metrics.heals.WithLabelValues("failed").Inc()
		s.log.Debug("a damaged record is not healed yet", "op", "heal", "partition", k.Partition, "key", k.Key, "err", err)
	default:
		s.heals.remove(queued)
		if healed {
			s.metrics.heals.WithLabelValues("ok").Inc()
			s.log.Info("a damaged record is whole again", "op", "heal", "partition", k.Partition, "key", k.Key)
		}
	}
}

// heal reports whether the record was damaged and is no more.
func (s *Syncer) heal(ctx context.Context, e *ring.Epochs, k Key, others []ring.NodeID) (bool, error) {
	own, err := s.deps.Local.Get(k)
	if err != nil || !own.Corrupt && !own.Incomplete {
		return false, err
	}
	merged, round := vclock.Object{}, own.Round
	for _, id := range others {
		f, err := s.fetchOne(ctx, e, id, k)
		if err != nil {
			return false, &askError{id, err}
		}
		if f.state == foundTooLarge {
			return false, fmt.Errorf("asking %s: the object is too large to be moved", id)
		}
		merged = vclock.Merge(merged, f.object)
		// The store has to refuse the merge if any of its sources is in an earlier round than itself.
		round = min(round, f.round)
	}
	if err := s.deps.Local.Merge(ctx, k, merged, MergeOptions{Heal: true, Round: round}); err != nil {
		return false, err
	}
	return true, nil
}

// fetchOne reads one key of a peer.
func (s *Syncer) fetchOne(ctx context.Context, e *ring.Epochs, id ring.NodeID, k Key) (found, error) {
	m := objectsRequest{epoch: e.Newest().Epoch(), kind: objectsFetch, fetch: []Cursor{{k.Bucket, k.Key}}}
	b, err := s.call(ctx, id, EndpointObjects, m.encode())
	if err != nil {
		return found{}, err
	}
	reply, err := decodeFetchReply(b)
	if err != nil {
		return found{}, err
	}
	if len(reply.found) != 1 {
		return found{}, errors.New("not one answer")
	}
	return reply.found[0], nil
}
