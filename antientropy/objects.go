package antientropy

import (
	"context"
	"errors"
	"fmt"

	"github.com/dunlindb/dunlin/vclock"
)

// fetchKeys is how many objects one message moves at most: little at a time, so that no client waits long behind them.
const fetchKeys = 32

// want is a key of which the peer holds something else than this node.
type want struct {
	key    Key
	digest vclock.Digest // of the peer's copy, as listed
	part   *part
	give   bool // this node has a copy of its own: the merge may be news to the peer
}

// flush moves the objects of the keys gathered so far: first to this node, then the merges and what only this node has
// to the peer.
func (x *exchange) flush(ctx context.Context) error {
	wants, gives := x.wants, x.gives
	x.wants, x.gives = nil, nil
	stale, err := x.fetch(ctx, wants, false)
	if err != nil {
		return err
	}
	// The peer may have entered the round meanwhile, and reads its store again.
	if stale, err = x.fetch(ctx, stale, true); err != nil {
		return err
	}
	for i := range stale {
		x.left(stale[i].part)
	}
	for i := range wants {
		if wants[i].give {
			gives = append(gives, wants[i].key)
		}
	}
	listed := make(map[Key]vclock.Digest, len(wants))
	for i := range wants {
		listed[wants[i].key] = wants[i].digest
	}
	behind, err := x.push(ctx, gives, listed, false)
	if err != nil {
		return err
	}
	// This node was in an earlier round than the peer; if it has caught up, reading again helps.
	if behind, err = x.push(ctx, behind, listed, true); err != nil {
		return err
	}
	x.moved.Left += int64(len(behind))
	return nil
}

// fetch merges the peer's copies into the local store. It returns the keys whose copies were read in a stale round. The
// second time, the peer is told this node's rounds, and catches up.
func (x *exchange) fetch(ctx context.Context, wants []want, again bool) (stale []want, err error) {
	for len(wants) > 0 {
		asked := wants[:min(len(wants), fetchKeys)]
		m := objectsRequest{epoch: x.epoch(), kind: objectsFetch, limit: x.s.opt.batchBytes()}
		for i := range asked {
			m.fetch = append(m.fetch, Cursor{asked[i].key.Bucket, asked[i].key.Key})
			if again || x.e.Changing() {
				m.rounds = append(m.rounds, x.s.deps.Local.Round(asked[i].key.Partition))
			}
		}
		b, err := x.call(ctx, EndpointObjects, m.encode())
		if err != nil {
			return nil, err
		}
		reply, err := decodeFetchReply(b)
		if err != nil {
			return nil, err
		}
		n := len(reply.found)
		if n == 0 || n > len(asked) {
			return nil, fmt.Errorf("%d objects asked, %d answered", len(asked), n)
		}
		refused, err := x.take(ctx, asked[:n], reply.found)
		if err != nil {
			return nil, err
		}
		stale = append(stale, refused...)
		wants = wants[n:]
	}
	return stale, nil
}

// take merges what was fetched.
func (x *exchange) take(ctx context.Context, asked []want, got []found) (stale []want, err error) {
	var objects []named
	var of []*want
	for i := range got {
		switch w := &asked[i]; got[i].state {
		case foundObject:
			objects = append(objects, named{w.key.Bucket, w.key.Key, got[i].round, got[i].object})
			of = append(of, w)
		case foundCorrupt, foundTooLarge:
			x.left(w.part)
		}
	}
	failed, first := 0, error(nil)
	errs, err := x.s.mergeAll(ctx, x.e, objects)
	if err != nil {
		return nil, err
	}
	for i, err := range errs {
		switch {
		case err == nil:
			x.moved.Received++
			if of[i].part.want {
				x.s.metrics.filled.Inc()
				x.s.fills.moved(weigh(&objects[i].object))
			}
		case errors.Is(err, ErrStaleRound):
			stale = append(stale, *of[i])
		default:
			x.left(of[i].part)
			failed++
			first = err
		}
	}
	if failed > 0 && failed == len(objects) {
		return nil, fmt.Errorf("no object could be stored: %w", first)
	}
	return stale, ctx.Err()
}

// catchUp takes a partition into a peer's later round. The one that drove the round does it, but it waits while members
// change, and may be gone for good.
func (s *Syncer) catchUp(ctx context.Context, p int, own, theirs uint64) {
	if own >= theirs || s.deps.CatchUp == nil {
		return
	}
	if err := s.deps.CatchUp(ctx, p, theirs); err != nil {
		s.log.Info("cannot catch up with a peer's reap round", "op", "exchange", "partition", p, "round", theirs, "err", err)
	}
}

// push sends this node's copies of keys, unless the peer had listed exactly that. It returns the keys of which the peer
// is in a later round. The second time, or while members change, this node catches up.
func (x *exchange) push(ctx context.Context, keys []Key, listed map[Key]vclock.Digest, again bool) (stale []Key, err error) {
	var batch []named
	var of []Key
	size := 0
	send := func() error {
		refused, err := x.give(ctx, of, batch, again || x.e.Changing())
		stale = append(stale, refused...)
		batch, of, size = nil, nil, 0
		return err
	}
	for _, k := range keys {
		got, err := x.s.deps.Local.Get(k)
		if err != nil {
			return nil, fmt.Errorf("reading %q: %w", k.Key, err)
		}
		digest, known := listed[k]
		if got.Corrupt || got.Object.IsZero() || known && digest == got.Digest {
			continue
		}
		weight := weigh(&got.Object)
		if weight > x.s.opt.MaxObject {
			x.s.tooLarge(k, weight)
			x.moved.Left++
			continue
		}
		if len(batch) == fetchKeys || len(batch) > 0 && size+weight > x.s.opt.batchBytes() {
			if err := send(); err != nil {
				return nil, err
			}
		}
		batch = append(batch, named{k.Bucket, k.Key, got.Round, got.Object})
		of, size = append(of, k), size+weight
	}
	if len(batch) > 0 {
		err = send()
	}
	return stale, err
}

// give sends one message of objects.
func (x *exchange) give(ctx context.Context, keys []Key, batch []named, follow bool) (stale []Key, err error) {
	m := objectsRequest{epoch: x.epoch(), kind: objectsPush, push: batch}
	b, err := x.call(ctx, EndpointObjects, m.encode())
	if err != nil {
		return nil, err
	}
	reply, err := decodePushReply(b)
	if err != nil {
		return nil, err
	}
	if len(reply.states) != len(batch) {
		return nil, fmt.Errorf("%d objects pushed, %d answered", len(batch), len(reply.states))
	}
	refused := 0
	for i, state := range reply.states {
		switch state {
		case pushMerged:
			x.moved.Sent++
		case pushStale:
			if follow && len(reply.rounds) == len(reply.states) {
				x.s.catchUp(ctx, keys[i].Partition, batch[i].round, reply.rounds[i])
			}
			stale = append(stale, keys[i])
		default:
			x.moved.Left++
			refused++
		}
	}
	if refused == len(batch) {
		return nil, errors.New("the peer could store nothing")
	}
	return stale, nil
}
