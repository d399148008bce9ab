package coordinator

import (
	"context"
	"errors"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Handler answers a request of another node.
type Handler func(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error)

// Handlers are what this node serves to other nodes' coordinators, by endpoint.
func (c *Coordinator) Handlers() map[string]Handler {
	return map[string]Handler{
		EndpointPut: c.counted(c.servePut), EndpointMerge: c.counted(c.serveMerge), EndpointRead: c.counted(c.serveRead),
		EndpointList: c.counted(c.serveList), EndpointHint: c.counted(c.serveHint), EndpointPing: servePing, EndpointExplain: c.serveExplain,
	}
}

func badRequest(err error) error { return &codedError{CodeBadRequest, err.Error()} }

func (c *Coordinator) serveMerge(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeMerge(body)
	if err != nil {
		return nil, badRequest(err)
	}
	k, err := c.writable(ctx, from, &m, c.deps.Self)
	if err != nil {
		return nil, err
	}
	fsynced, err := c.deps.Local.Merge(ctx, k, m.object, Merging{Heal: m.heal, Round: m.round})
	if err != nil {
		return nil, coded(err)
	}
	if err := c.stillWritable(m.heal, m.epoch); err != nil {
		return nil, err
	}
	return encodeFsynced(fsynced), nil
}

func servePing(context.Context, ring.NodeID, []byte) ([]byte, error) { return nil, nil }

// serveHint keeps an object for a primary that the coordinator judged down.
func (c *Coordinator) serveHint(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeMerge(body)
	if err != nil {
		return nil, badRequest(err)
	}
	if c.deps.Hints == nil || m.target == c.deps.Self || m.heal {
		return nil, &codedError{CodeBadRequest, "this node keeps no hint for that target"}
	}
	k, err := c.writable(ctx, from, &m, m.target)
	if err != nil {
		return nil, err
	}
	fsynced, err := c.deps.Hints.Put(ctx, m.target, k, m.object, m.round)
	if err != nil {
		return nil, coded(err)
	}
	if err := c.stillWritable(m.heal, m.epoch); err != nil {
		return nil, err
	}
	return encodeFsynced(fsynced), nil
}

// serveHints answers a read with what this node holds for others. A node without a hint says so: its silence about a
// key proves nothing.
func (c *Coordinator) serveHints(ctx context.Context, from ring.NodeID, m readMessage) ([]byte, error) {
	r, err := c.readable(ctx, from, m.epoch)
	if err != nil {
		return nil, err
	}
	if c.deps.Hints == nil {
		return nil, &codedError{CodeNoHint, "this node keeps no hints"}
	}
	got, found, err := c.deps.Hints.Get(Key{r.Partition(m.bucket, m.key), m.bucket, m.key})
	if err != nil {
		return nil, coded(err)
	}
	if !found {
		return nil, &codedError{CodeNoHint, "this node holds no hint for the key"}
	}
	a := got.answer()
	return a.encode(), nil
}

func (c *Coordinator) serveRead(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	m, err := decodeRead(body)
	if err != nil {
		return nil, badRequest(err)
	}
	if m.hint {
		return c.serveHints(ctx, from, m)
	}
	r, err := c.readable(ctx, from, m.epoch)
	if err != nil {
		return nil, err
	}
	k := Key{r.Partition(m.bucket, m.key), m.bucket, m.key}
	if !r.IsPrimary(k.Partition, c.deps.Self) {
		return nil, errNoPrimary
	}
	got, err := c.localCopy(r, k)
	if err != nil {
		return nil, coded(err)
	}
	return m.answered(got), nil
}

// answered is this node's answer to a read.
func (m *readMessage) answered(got Copy) []byte {
	a := got.answer()
	if m.mode == readDigest || m.mode == readUnless && got.Digest == m.digest {
		a.object, a.hasObject = vclock.Object{}, false
	}
	return a.encode()
}

func (c *Coordinator) servePut(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
	e := c.deps.View.Epochs()
	if e == nil {
		return nil, refusal("this node does not know the cluster's layout yet")
	}
	m, err := decodePut(body, func(bucket, key string) vclock.Scope { return c.scope(e, bucket, key) })
	if err != nil {
		return nil, badRequest(err)
	}
	if e, err = c.known(ctx, from, m.epoch); err != nil {
		return nil, err
	}
	k := Key{e.Partition(m.req.Bucket, m.req.Key), m.req.Bucket, m.req.Key}
	if !e.Base().IsPrimary(k.Partition, c.deps.Self) {
		return nil, errNoPrimary
	}
	if m.budget > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Duration(m.budget)*time.Millisecond)
		defer cancel()
	}
	res, err := c.coordinateForwarded(ctx, e, k, m.req)
	c.metrics.done(opPut, err)
	reply := putReply{result: res, trace: m.req.Trace.Events()}
	if err != nil {
		reply.failed = describe(err)
	}
	return reply.encode(), nil
}

// coordinateForwarded is coordinate, unless this node has too much to do: then nothing was stored, and the other node
// does not try the next primary, which would only spread the overload.
func (c *Coordinator) coordinateForwarded(ctx context.Context, e *ring.Epochs, k Key, req PutRequest) (PutResult, error) {
	if a := c.deps.Admission; a != nil {
		if !a.Enter() {
			c.metrics.refused.Inc()
			core := newCore(e, k.Partition, req)
			core.addFailure(place{node: c.deps.Self}, failure{word: wordOverloaded, certain: true})
			return PutResult{}, c.putError(e, core, Overloaded, None, "the primary that was to coordinate works on as many requests as it can")
		}
		defer a.Leave()
	}
	return c.coordinate(ctx, k, req, true)
}

// describe packs an error of coordinate for the node that forwarded.
func describe(err error) *putFailure {
	f := &putFailure{text: err.Error()}
	for i, m := range mintErrors {
		if errors.Is(err, m) {
			f.mint = uint64(i + 1)
			return f
		}
	}
	if a := (*attemptError)(nil); errors.As(err, &a) {
		f.retry = true
		f.quorum.Reason = a.failure.word
		f.text = a.failure.detail
		return f
	}
	if q := (*QuorumError)(nil); errors.As(err, &q) {
		f.quorum = *q
		return f
	}
	f.quorum = QuorumError{Kind: Unavailable, Parameter: "w", Outcome: Indeterminate, Reason: err.Error()}
	return f
}

// err unpacks what describe packed.
func (f *putFailure) err() error {
	switch {
	case f.mint > 0:
		return &remoteMintError{mintErrors[f.mint-1], f.text}
	case f.retry:
		return &attemptError{failure{word: f.quorum.Reason, detail: f.text, certain: true}}
	}
	q := f.quorum
	return &q
}

// remoteMintError is a refusal of vclock on another node, told as it was told there.
type remoteMintError struct {
	kind error
	text string
}

func (e *remoteMintError) Error() string { return e.text }
func (e *remoteMintError) Unwrap() error { return e.kind }
