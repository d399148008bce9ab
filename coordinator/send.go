package coordinator

import (
	"context"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// staleTries bounds how often an object is read again because the receiver is in a later reap round.
const staleTries = 3

// callMerge sends an object to another node's replica or, with a target, to its hints. A receiver in a later reap
// round refuses what was read before: this node's own copy, or its hints, are then read again and sent instead.
func (c *Coordinator) callMerge(ctx context.Context, to ring.NodeID, k Key, m mergeMessage, hinted bool) (fsynced bool, err error) {
	for try := 1; ; try++ {
		b, err := c.call(ctx, to, m.endpoint(), m.body(k))
		if err == nil {
			return decodeFsynced(b)
		}
		if classify(err).word != wordStale || try == staleTries {
			return false, err
		}
		own, readErr := c.ownCopy(k, hinted)
		if readErr == nil && own.Round <= m.round {
			own, readErr = c.catchUp(ctx, to, k, own, hinted)
		}
		if readErr != nil || !saw(own.Object, m.object) {
			return false, err // what is here may lack the write, and must not be acknowledged in its place
		}
		m.object, m.round, m.encoded = own.Object, own.Round, nil
	}
}

// endpoint is where the message goes.
func (m *mergeMessage) endpoint() string {
	if m.target != (ring.NodeID{}) {
		return EndpointHint
	}
	return EndpointMerge
}

// body is the message about a key, encoded.
func (m *mergeMessage) body(k Key) []byte {
	if m.encoded != nil {
		return m.encoded
	}
	m.bucket, m.key = k.Bucket, k.Key
	return m.encode()
}

// saw reports whether every sibling of sent is in own, or was replaced there.
func saw(own, sent vclock.Object) bool {
	for i := range sent.Siblings {
		if !own.Context.Covers(sent.Siblings[i].Dot) {
			return false
		}
	}
	return !own.IsZero()
}

// catchUp follows another node into its reap round, which this node has missed (the round's driver may be gone), so
// that what it sends is not refused for ever.
func (c *Coordinator) catchUp(ctx context.Context, to ring.NodeID, k Key, own Copy, hinted bool) (Copy, error) {
	if c.deps.CatchUp == nil {
		return own, nil
	}
	e := c.deps.View.Epochs()
	if e == nil {
		return own, nil
	}
	x, err := c.explainOne(ctx, to, readMessage{epoch: e.Newest().Epoch(), bucket: k.Bucket, key: k.Key})
	if err != nil || x.Round <= own.Round {
		return own, err
	}
	if err := c.deps.CatchUp(ctx, k.Partition, x.Round); err != nil {
		return own, err
	}
	return c.ownCopy(k, hinted)
}

// ownCopy is what this node holds of a key: its copy or, of a write that was minted into a hint, its hints.
func (c *Coordinator) ownCopy(k Key, hinted bool) (Copy, error) {
	if !hinted {
		return c.deps.Local.Get(k)
	}
	got, _, err := c.deps.Hints.Get(k)
	return got, err
}
