package coordinator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// mintErrors are the errors by which a coordinator refuses a write with nothing stored. Their places travel
// between nodes: append only.
var mintErrors = []error{
	vclock.ErrSiblings, vclock.ErrBytes, vclock.ErrClock, vclock.ErrStampAhead, vclock.ErrIDReused,
}

// Put writes or deletes one key and returns when W replicas hold it. A primary of the key mints the write; another
// node forwards it to one, and to the next only if the first certainly did nothing. Only when no primary answers, and
// the request allows fallbacks, does this node mint it itself, into a hint. Errors are a *QuorumError, or wrap one of
// the errors of vclock.Minter.Mint (nothing was stored).
func (c *Coordinator) Put(ctx context.Context, req PutRequest) (PutResult, error) {
	c.load.begin()
	defer c.load.end()
	res, err := c.put(ctx, req)
	c.metrics.done(opPut, err)
	return res, err
}

func (c *Coordinator) put(ctx context.Context, req PutRequest) (PutResult, error) {
	outcome := None
	for try := 1; ; try++ {
		e, err := c.epochs()
		if err != nil {
			return PutResult{}, afterUncertain(err, outcome)
		}
		a := putAttempt{c: c, epochs: e, req: req, outcome: outcome}
		res, err := a.run(ctx)
		if outcome = a.outcome; a.refuser == (ring.NodeID{}) || try == epochTries || !c.newer(ctx, a.refuser, e) {
			return res, afterUncertain(err, outcome)
		}
	}
}

// putAttempt brings a write to a coordinator, by one snapshot of the epochs.
type putAttempt struct {
	c       *Coordinator
	epochs  *ring.Epochs
	req     PutRequest
	outcome Outcome // what tries that failed may have left behind
	// refuser refused the write because of the epoch, and nobody took it.
	refuser ring.NodeID
}

func (a *putAttempt) run(ctx context.Context) (PutResult, error) {
	c, base := a.c, a.epochs.Base()
	p := a.epochs.Partition(a.req.Bucket, a.req.Key)
	k := Key{p, a.req.Bucket, a.req.Key}
	var last *attemptError
	var refuser ring.NodeID
	down := 0
	for _, id := range c.nearest(a.epochs, base.Primaries(p)) {
		var res PutResult
		var err error
		switch {
		case !c.up(a.epochs, id):
			down++
			continue
		case id == c.deps.Self:
			res, err = c.coordinate(ctx, k, a.req, true)
		default:
			res, err = c.forward(ctx, a.epochs, id, a.req)
		}
		if !errors.As(err, &last) {
			return res, err
		}
		switch last.failure.word {
		case wordDown:
			down++
		case wordEpoch:
			refuser = id
		}
		if !last.failure.certain {
			a.outcome = Indeterminate
		}
		if ctx.Err() != nil {
			break
		}
	}
	if down == base.NOf(p) && a.req.Sloppy && c.deps.Hints != nil && ctx.Err() == nil {
		res, err := c.coordinate(ctx, k, a.req, false)
		if !errors.As(err, &last) {
			return res, err
		}
		if last.failure.word == wordEpoch {
			refuser = c.deps.Self
		}
	}
	a.refuser = refuser
	return PutResult{}, c.noCoordinator(a.epochs, p, a.req, last)
}

// afterUncertain keeps the error of a later try from saying that nothing was stored, where an earlier one may have.
func afterUncertain(err error, outcome Outcome) error {
	if err == nil || outcome == None {
		return err
	}
	q, ok := errors.AsType[*QuorumError](err)
	if !ok {
		q = &QuorumError{Kind: Unavailable, Parameter: "w", Reason: err.Error()}
	}
	q.Outcome = outcome
	return q
}

// attemptError is a try to coordinate that certainly stored nothing and that another primary may do better.
type attemptError struct{ failure failure }

func (e *attemptError) Error() string { return e.failure.word + ": " + e.failure.detail }

// noCoordinator reports that no primary took the write.
func (c *Coordinator) noCoordinator(e *ring.Epochs, p int, req PutRequest, last *attemptError) *QuorumError {
	primaries := e.Base().Primaries(p)
	core := newPutCore(putGoal{req.W, req.DW, req.PW}, primaries)
	for _, id := range primaries {
		f := failure{word: wordDown, certain: true}
		if c.up(e, id) && last != nil {
			f = last.failure
		}
		core.addFailure(place{node: id}, f)
	}
	return c.putError(e, core, kindOf(core.failures()), None, "no primary of the key could coordinate the write")
}

func (c *Coordinator) putError(e *ring.Epochs, core *putCore, kind Kind, outcome Outcome, reason string) *QuorumError {
	short := core.missing()
	return &QuorumError{
		Kind: kind, Parameter: short.parameter, Required: short.required, Acked: short.got, N: short.n,
		Replicas: core.outcomes(c.name(e)), Outcome: outcome, Reason: reason,
	}
}

// forward hands the write to a primary.
func (c *Coordinator) forward(ctx context.Context, e *ring.Epochs, to ring.NodeID, req PutRequest) (PutResult, error) {
	m := putMessage{epoch: e.Newest().Epoch(), req: req}
	if deadline, ok := ctx.Deadline(); ok {
		left := time.Until(deadline)
		m.budget = uint64(max((left - left/20 - 2*time.Millisecond).Milliseconds(), 1))
	}
	c.metrics.forwards.Inc()
	at := req.Trace.now()
	req.Trace.add("forward", to, "")
	b, err := c.callWhileAlive(ctx, to, EndpointPut, m.encode(c.scope(e, req.Bucket, req.Key)))
	if err != nil {
		f := classify(err)
		req.Trace.add("answer", to, f.word+": "+f.detail)
		// A request that carries its client's id is the same wherever it is sent again.
		if f.certain || f.word == wordDown && req.Write.ID.Client {
			return PutResult{}, &attemptError{f}
		}
		core := newCore(e, e.Partition(req.Bucket, req.Key), req)
		kind := Unavailable
		if f.word == wordTimeout {
			kind = Timeout
		}
		return PutResult{}, c.putError(e, core, kind, Indeterminate,
			fmt.Sprintf("the write was forwarded to %s, whose answer was not heard: %v", c.name(e)(to), err))
	}
	reply, err := decodePutReply(b)
	if err != nil {
		return PutResult{}, fmt.Errorf("reply of %s to a forwarded write: %w", c.name(e)(to), err)
	}
	req.Trace.join(at, reply.trace)
	if reply.failed != nil {
		return PutResult{}, reply.failed.err()
	}
	return reply.result, nil
}

// suspectedError ends a call to a node that is judged down meanwhile.
type suspectedError struct{ notSent bool }

func (*suspectedError) Error() string   { return "the node no longer answers" }
func (e *suspectedError) NotSent() bool { return e.notSent }

// callWhileAlive is call, but does not wait any longer for a node that is judged down.
func (c *Coordinator) callWhileAlive(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error) {
	cctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.work.Go(func() {
		for {
			changed := c.health.change()
			if c.health.suspected(to) {
				cancel()
				return
			}
			select {
			case <-changed:
			case <-cctx.Done():
				return
			}
		}
	})
	b, err := c.call(cctx, to, endpoint, body)
	if errors.Is(err, context.Canceled) && ctx.Err() == nil {
		return nil, &suspectedError{isNotSent(err)}
	}
	return b, err
}

// coordinate performs the write as a primary of its key or, when none answers, as a fallback. What can be known
// before minting is decided before it, so that the failure can say that nothing was stored.
func (c *Coordinator) coordinate(ctx context.Context, k Key, req PutRequest, primary bool) (PutResult, error) {
	op, err := c.begin()
	if err != nil {
		return PutResult{}, err
	}
	s := &putShell{c: c, key: k, req: req, op: op}
	defer func() { s.op.release() }() // its last round's
	s.beginRound()
	switch {
	case op.epochs.Base().IsPrimary(k.Partition, c.deps.Self) != primary:
		return PutResult{}, &attemptError{failure{word: wordEpoch, detail: "the primaries of the key have changed", certain: true}}
	case s.core.impossible():
		return PutResult{}, c.putError(op.epochs, s.core, Unavailable, None, "too few replicas of the key are alive")
	case !primary && !stays(op.epochs, c.deps.Self):
		return PutResult{}, &attemptError{failure{word: wordFailed, detail: "this node leaves the cluster, and takes no hints any more", certain: true}}
	case !primary && s.hintTarget() == (ring.NodeID{}):
		return PutResult{}, &attemptError{failure{word: wordFailed, detail: "a primary of the key has just come back", certain: true}}
	}
	if req.Write.ID.Client || req.Write.Deleted && !req.HasContext {
		res, done, err := s.lookFirst(ctx)
		if done || err != nil {
			return res, err
		}
	}
	if err := s.noRoom(); err != nil {
		return PutResult{}, err
	}
	return s.mint(ctx)
}

// bare leaves out the values where nobody asked for them.
func bare(o vclock.Object, values bool) vclock.Object {
	if values {
		return o
	}
	siblings := make([]vclock.Sibling, len(o.Siblings))
	copy(siblings, o.Siblings)
	for i := range siblings {
		siblings[i].Value = nil
	}
	o.Siblings = siblings
	return o
}

func allDeleted(o vclock.Object) bool {
	for _, s := range o.Siblings {
		if !s.Deleted {
			return false
		}
	}
	return true
}

func ctxKind(ctx context.Context) Kind {
	if errors.Is(ctx.Err(), context.Canceled) {
		return Cancelled
	}
	return Timeout
}
