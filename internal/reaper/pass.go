package reaper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// verdict is what a visit to a partition came to.
type verdict int

const (
	idle    verdict = iota // there is nothing to reap
	worked                 // a round ended, or keys were put off: there may be more
	waiting                // something holds the work up
)

// Errors that say why a member holds reaping up.
var (
	errDown = errors.New("the member is down")
	errFull = errors.New("too many rounds are open")
)

// visit takes the work on partition p as far as it goes without waiting. Only one visit runs at a time.
func (r *Reaper) visit(ctx context.Context, p int) verdict {
	rg := r.deps.View.Ring()
	if rg == nil || p >= rg.Partitions() {
		return idle
	}
	if o := r.open[p]; o != nil {
		return r.advance(ctx, rg, o)
	}
	if !r.leads(rg, p) {
		r.watch.free(p)
		return idle
	}
	return r.propose(ctx, rg, p)
}

// propose looks for keys that every member confirms, and opens a round for them.
func (r *Reaper) propose(ctx context.Context, rg *ring.Ring, p int) verdict {
	keys, err := r.candidates(ctx, rg, p)
	if err != nil {
		return r.hold(p, 0, r.deps.Self, err)
	}
	if len(keys) == 0 {
		r.watch.free(p)
		return idle
	}
	slot, ok := r.freeSlot()
	if !ok {
		return r.hold(p, 0, r.deps.Self, errFull)
	}
	for _, m := range rg.Members() {
		if !r.answers(m.ID) {
			return r.hold(p, 0, m.ID, errDown)
		}
	}
	r.watch.add(&r.watch.candidates, len(keys))
	req := request{epoch: rg.Epoch(), partition: p, keys: keys}
	got, failed := r.ask(ctx, EndpointConfirm, members(rg), func(ring.NodeID) *request { return &req })
	if failed != nil {
		return r.hold(p, 0, failed.peer, failed.err)
	}
	r.watch.free(p)
	round, bits := r.deps.Store.Round(p), make(map[ring.NodeID][]bool, len(got))
	for id, a := range got {
		round = max(round, a.round)
		bits[id] = a.confirmed
	}
	kept, left := split(keys, bits)
	r.putOff(p, left)
	r.watch.add(&r.watch.confirmed, len(kept))
	if len(kept) == 0 {
		return worked
	}
	if round >= maxRound {
		return r.hold(p, 0, r.deps.Self, errors.New("the partition's round is impossible"))
	}
	o := &openRound{slot: slot}
	t := intent{epoch: rg.Epoch(), partition: p, round: round + 1, phase: entering, keys: kept}
	// Persisted before it is sent: after a crash the round is carried on or taken back, never left to the members.
	if err := r.persist(o, t); err != nil {
		return r.hold(p, 0, r.deps.Self, err)
	}
	r.adopt(o)
	r.watch.add(&r.watch.rounds, 1)
	return r.advance(ctx, rg, o)
}

// candidates returns a batch of keys that were not put off.
func (r *Reaper) candidates(ctx context.Context, rg *ring.Ring, p int) ([]Statement, error) {
	now := r.deps.Now()
	off := r.off[p]
	for k, until := range off {
		if !now.Before(until) {
			delete(off, k)
		}
	}
	if len(off) == 0 {
		delete(r.off, p)
	}
	list, err := r.deps.Store.Candidates(ctx, p, r.opt.Batch+len(off), now, r.opt.MinAge)
	if err != nil {
		return nil, err
	}
	keys, room := list[:0:0], maxBatchBytes
	for _, s := range list {
		if _, ok := off[s.Key]; ok || rg.Partition(s.Key.Bucket, s.Key.Key) != p {
			continue
		}
		room -= len(s.Key.Bucket) + len(s.Key.Key)
		if len(keys) == r.opt.Batch || room < 0 {
			break
		}
		keys = append(keys, s)
	}
	return keys, nil
}

// putOff leaves keys alone for a while, so that keys which some member cannot confirm do not keep the others waiting.
func (r *Reaper) putOff(p int, ks []Statement) {
	if len(ks) == 0 {
		return
	}
	if r.off[p] == nil || len(r.off[p])+len(ks) > maxPutOff {
		r.off[p] = make(map[Key]time.Time, len(ks))
	}
	until := r.deps.Now().Add(r.opt.PutOff)
	for i := range ks {
		r.off[p][ks[i].Key] = until
	}
}

// advance takes an open round further. Under another layout than it was opened in, it is abandoned: its members are
// not all that count now.
func (r *Reaper) advance(ctx context.Context, rg *ring.Ring, o *openRound) verdict {
	if o.epoch != rg.Epoch() && o.phase != striking {
		r.abandon(o, "the layout changed")
	}
	if o.phase == entering {
		if v, done := r.enter(ctx, rg, o); !done {
			return v
		}
	}
	return r.finish(ctx, rg, o)
}

// enter has every member enter the round. done: the round was decided or abandoned.
func (r *Reaper) enter(ctx context.Context, rg *ring.Ring, o *openRound) (v verdict, done bool) {
	var missing []ring.NodeID
	for _, id := range members(rg) {
		if o.answers[id] == nil {
			missing = append(missing, id)
		}
	}
	req := request{epoch: o.epoch, partition: o.partition, round: o.round, keys: o.keys}
	got, failed := r.ask(ctx, EndpointEnter, missing, func(ring.NodeID) *request { return &req })
	for id, a := range got {
		if !a.entered {
			r.abandon(o, "a member is in a later round")
			return waiting, true
		}
		o.answers[id] = a.confirmed
	}
	if failed != nil {
		if o.tries++; o.tries >= r.opt.EnterTries {
			r.abandon(o, "a member did not answer")
			return waiting, true
		}
		return r.hold(o.partition, o.phase, failed.peer, failed.err), false
	}
	kept, struck := split(o.keys, o.answers)
	if len(kept) == 0 {
		r.abandon(o, "no key was confirmed by all")
		return waiting, true
	}
	t := o.intent
	t.phase, t.keys, t.struck = removing, kept, struck
	if err := r.persist(o, t); err != nil {
		return r.hold(o.partition, o.phase, r.deps.Self, err), false
	}
	r.watch.add(&r.watch.struck, len(struck))
	r.putOff(o.partition, struck)
	return waiting, true
}

// abandon gives all keys of the round up; the round stays entered. It works also when it cannot be persisted: a
// restart then carries on with what was persisted before, which is as safe as it was.
func (r *Reaper) abandon(o *openRound, why string) {
	t := o.intent
	t.phase, t.keys, t.struck = striking, nil, append(append([]Statement(nil), o.keys...), o.struck...)
	if err := r.persist(o, t); err != nil {
		r.deps.Log.Warn("reaper: a round is abandoned in memory only", "node", r.deps.Self, "partition", o.partition, "op", "abandon", "err", err)
		o.intent = t
		r.watch.opened(o)
	}
	o.reset()
	r.watch.add(&r.watch.abandoned, 1)
	r.watch.add(&r.watch.struck, len(o.struck))
	r.putOff(o.partition, o.struck)
	r.deps.Log.Debug("reaper: round abandoned", "node", r.deps.Self, "partition", o.partition, "op", "abandon", "round", o.round, "why", why)
}

// finish has the primaries remove what was decided and all members unmark the rest, until each has done so.
func (r *Reaper) finish(ctx context.Context, rg *ring.Ring, o *openRound) verdict {
	var missing []ring.NodeID
	for _, id := range members(rg) {
		if !o.acked[id] {
			missing = append(missing, id)
		}
	}
	primary := request{epoch: rg.Epoch(), partition: o.partition, round: o.round, keys: o.keys, struck: o.struck}
	other := primary
	other.keys, other.struck = nil, append(append([]Statement(nil), o.keys...), o.struck...)
	got, failed := r.ask(ctx, EndpointRemove, missing, func(id ring.NodeID) *request {
		if rg.IsPrimary(o.partition, id) {
			return &primary
		}
		return &other
	})
	for id := range got {
		o.acked[id] = true
	}
	if failed != nil {
		return r.hold(o.partition, o.phase, failed.peer, failed.err)
	}
	if err := r.forget(o); err != nil {
		return r.hold(o.partition, o.phase, r.deps.Self, err)
	}
	if o.phase == removing {
		r.watch.add(&r.watch.removed, len(o.keys))
	}
	r.watch.free(o.partition)
	return worked
}

// hold notes who holds a partition up.
func (r *Reaper) hold(p int, ph phase, peer ring.NodeID, err error) verdict {
	r.watch.hold(Wait{Partition: p, Phase: ph.String(), Peer: peer, Reason: err.Error()})
	r.deps.Log.Debug("reaper: held up", "node", r.deps.Self, "partition", p, "peer", peer, "op", ph.String(), "err", err)
	return waiting
}

type failure struct {
	peer ring.NodeID
	err  error
}

// ask sends each of ids its request and returns the answers, and the first of those, in the order of ids, that gave
// none.
func (r *Reaper) ask(ctx context.Context, endpoint string, ids []ring.NodeID, req func(ring.NodeID) *request) (map[ring.NodeID]answer, *failure) {
	var mu sync.Mutex
	got, errs := make(map[ring.NodeID]answer, len(ids)), map[ring.NodeID]error{}
	r.each(ids, func(id ring.NodeID) {
		a, err := r.call(ctx, id, endpoint, req(id))
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs[id] = err
			return
		}
		got[id] = a
	})
	for _, id := range ids {
		if err := errs[id]; err != nil {
			return got, &failure{id, err}
		}
	}
	return got, nil
}

func (r *Reaper) call(ctx context.Context, to ring.NodeID, endpoint string, m *request) (answer, error) {
	if !r.answers(to) {
		return answer{}, errDown
	}
	ctx, cancel := context.WithTimeout(ctx, r.opt.CallTimeout)
	defer cancel()
	var b []byte
	var err error
	if to == r.deps.Self {
		b, err = r.handlers[endpoint](ctx, to, m.encode())
	} else {
		b, err = r.deps.Peers.Call(ctx, to, endpoint, m.encode())
	}
	if err != nil {
		return answer{}, fmt.Errorf("%s: %w", endpoint, err)
	}
	return decodeAnswer(b, len(m.keys))
}

func (r *Reaper) answers(id ring.NodeID) bool { return id == r.deps.Self || r.deps.View.Alive(id) }

// inParallel is how a Reaper asks several members at once.
func inParallel(ids []ring.NodeID, f func(ring.NodeID)) {
	var wg sync.WaitGroup
	free := make(chan struct{}, maxAsked)
	for _, id := range ids {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			f(id)
		})
	}
	wg.Wait()
}

func members(rg *ring.Ring) []ring.NodeID {
	ms := rg.Members()
	ids := make([]ring.NodeID, len(ms))
	for i := range ms {
		ids[i] = ms[i].ID
	}
	return ids
}

// split parts the keys that everyone confirmed from the others.
func split(keys []Statement, said map[ring.NodeID][]bool) (all, others []Statement) {
next:
	for i := range keys {
		for _, bits := range said {
			if i >= len(bits) || !bits[i] {
				others = append(others, keys[i])
				continue next
			}
		}
		all = append(all, keys[i])
	}
	return all, others
}
