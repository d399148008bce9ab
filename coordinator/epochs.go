package coordinator

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	// epochTries bounds how often a request is tried with a newer snapshot of the epochs.
	epochTries = 3
	// learnTimeout bounds the wait for one. A node that refuses what this node asks by its epoch knows more than this
	// node, so that it comes soon or there is something wrong.
	learnTimeout = time.Second
	learnPoll    = 20 * time.Millisecond
)

func notReady() error {
	return &QuorumError{Kind: NotReady, Outcome: None, Reason: "this node does not know the cluster's layout yet"}
}

func (c *Coordinator) epochs() (*ring.Epochs, error) {
	if e := c.deps.View.Epochs(); e != nil {
		return e, nil
	}
	return nil, notReady()
}

// operation is a write under way, with the snapshot that it goes by. What still stores or sends a part of it holds it;
// a change of members waits until nothing does.
type operation struct {
	epochs *ring.Epochs
	holds  atomic.Int32
	done   func()

	// Of who carries the write:
	life   context.Context // of what stores and sends parts of it; nil: nothing has yet
	lively time.Time       // when that began
	end    []context.CancelFunc
}

// background is a context for a part of a write: it outlives the request, but not the coordinator. Parts that begin at
// about the same time share one.
func (c *Coordinator) background(o *operation) context.Context {
	if now := time.Now(); o.life == nil || now.Sub(o.lively) > c.opt.ReplicaTimeout/4 {
		ctx, cancel := context.WithTimeout(c.closing, c.opt.ReplicaTimeout)
		o.life, o.lively, o.end = ctx, now, append(o.end, cancel)
	}
	return o.life
}

// begin returns an operation that the caller holds.
func (c *Coordinator) begin() (*operation, error) {
	e, done := c.deps.View.Begin()
	if e == nil {
		done()
		return nil, notReady()
	}
	o := &operation{epochs: e, done: done}
	o.holds.Store(1)
	return o, nil
}

// hold is for who holds it already, in the name of a goroutine that it starts.
func (o *operation) hold() { o.holds.Add(1) }

func (o *operation) release() {
	if o.holds.Add(-1) == 0 {
		for _, cancel := range o.end {
			cancel()
		}
		o.done()
	}
}

// groupRings are the live rings in which a partition has different primaries: what is a quorum in one of two rings with
// the same is one in the other.
func groupRings(e *ring.Epochs, p int) []*ring.Ring {
	if !e.Changing() {
		return e.Rings()
	}
	var out []*ring.Ring
next:
	for _, r := range e.Rings() {
		for _, have := range out {
			if sameNodes(have.Primaries(p), r.Primaries(p)) {
				continue next
			}
		}
		out = append(out, r)
	}
	return out
}

// fallbacks are the nodes that may stand in for primaries of partition p in a ring: the rest of its walk, and then the
// members who come with newer epochs.
func fallbacks(e *ring.Epochs, r *ring.Ring, p int) []ring.NodeID {
	walk := r.Walk(p)[r.NOf(p):]
	if r == e.Newest() {
		return walk
	}
	out := slices.Clone(walk)
	for _, m := range e.Newest().Members() {
		if _, member := r.Layout().Member(m.ID); !member {
			out = append(out, m.ID)
		}
	}
	return out
}

// standIns are the fallbacks that may take a write. A member that leaves is asked for the hints that it has, but takes no
// more: once it has handed over it may be stopped at any time, and those that it took after that would be gone with it.
func standIns(e *ring.Epochs, r *ring.Ring, p int) []ring.NodeID {
	if !e.Changing() {
		return fallbacks(e, r, p)
	}
	return slices.DeleteFunc(slices.Clone(fallbacks(e, r, p)), func(id ring.NodeID) bool { return !stays(e, id) })
}

// stays reports whether a node is a member of the newest layout.
func stays(e *ring.Epochs, id ring.NodeID) bool {
	_, is := e.Newest().Layout().Member(id)
	return is
}

func sameNodes(a, b []ring.NodeID) bool {
	return len(a) == len(b) && !slices.ContainsFunc(a, func(id ring.NodeID) bool { return !slices.Contains(b, id) })
}

// newCore is the core of a write to partition p.
func newCore(e *ring.Epochs, p int, req PutRequest) *putCore {
	var buf [4][]ring.NodeID
	groups := buf[:0]
	for _, r := range groupRings(e, p) {
		groups = append(groups, r.Primaries(p))
	}
	return newPutCore(putGoal{req.W, req.DW, req.PW}, groups...)
}

// refuser finds the node that refused a request because it was made for another epoch.
func refuser(err error) (id ring.NodeID, refused bool) {
	q, ok := errors.AsType[*QuorumError](err)
	if !ok {
		return id, false
	}
	for i := range q.Replicas {
		if q.Replicas[i].Outcome == wordEpoch {
			return q.Replicas[i].Node, true
		}
	}
	return id, false
}

// newer waits until this node knows more of the epochs than e, as a node that refused a request made by e does.
func (c *Coordinator) newer(ctx context.Context, from ring.NodeID, e *ring.Epochs) bool {
	if c.movedOn(e) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, learnTimeout)
	defer cancel()
	if from != c.deps.Self {
		c.work.Go(func() {
			if err := c.deps.View.Learn(ctx, from, e.Newest().Epoch()+1); err != nil {
				c.log.Debug("a newer epoch is not learnt", "peer", c.name(e)(from), "err", err)
			}
		})
	}
	// That an older epoch has ended, or is not read by any more, comes by gossip.
	tick := time.NewTicker(learnPoll)
	defer tick.Stop()
	for !c.movedOn(e) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return c.movedOn(e)
		}
	}
	return true
}

// movedOn reports whether requests go by other epochs now than by e.
func (c *Coordinator) movedOn(e *ring.Epochs) bool {
	now := c.deps.View.Epochs()
	return now != nil && (now.Newest().Epoch() != e.Newest().Epoch() || now.Base().Epoch() != e.Base().Epoch() ||
		now.Reading().Epoch() != e.Reading().Epoch())
}

func refusal(text string) error { return &codedError{CodeEpoch, text} }

var (
	errOtherEpoch = refusal("the request was made for another epoch of the layout")
	errNoPrimary  = refusal("this node is no primary of the key")
)

// known returns the epochs once this node knows the one that another node's request was made for, or a later one.
func (c *Coordinator) known(ctx context.Context, from ring.NodeID, epoch uint64) (*ring.Epochs, error) {
	e := c.deps.View.Epochs()
	if e == nil || e.Newest().Epoch() < epoch {
		if err := c.deps.View.Learn(ctx, from, epoch); err != nil {
			return nil, refusal(err.Error())
		}
		if e = c.deps.View.Epochs(); e == nil || e.Newest().Epoch() < epoch {
			return nil, refusal("this node does not know the cluster's layout yet")
		}
	}
	return e, nil
}

// readable returns the ring that a read of another node goes by. Of an epoch that has ended here, or of which there are
// newer writes alone, nothing is read: what the node held in it may be dropped.
func (c *Coordinator) readable(ctx context.Context, from ring.NodeID, epoch uint64) (*ring.Ring, error) {
	e, err := c.known(ctx, from, epoch)
	if err != nil {
		return nil, err
	}
	if r := e.At(epoch); r != nil {
		return r, nil
	}
	return nil, errOtherEpoch
}

// stillLive returns nil if the epoch lives here still: what was read meanwhile was there to be read.
func (c *Coordinator) stillLive(epoch uint64) error {
	if e := c.deps.View.Epochs(); e == nil || e.At(epoch) == nil {
		return errOtherEpoch
	}
	return nil
}

// writable returns the epochs for a write that was sent by the given one, in which node must hold the partition. Once an
// epoch has settled here, what began by an older one is refused: copies for new owners are made without it.
func (c *Coordinator) writable(ctx context.Context, from ring.NodeID, m *mergeMessage, node ring.NodeID) (Key, error) {
	e, err := c.known(ctx, from, m.epoch)
	if err != nil {
		return Key{}, err
	}
	k := Key{e.Partition(m.bucket, m.key), m.bucket, m.key}
	switch {
	case m.heal && (e.At(m.epoch) == nil || !e.At(m.epoch).IsPrimary(k.Partition, node)):
		return Key{}, errOtherEpoch // it speaks of what the primaries of that epoch held
	case !m.heal && m.epoch < e.Settled():
		return Key{}, errOtherEpoch
	case !e.Holds(k.Partition, node):
		return Key{}, errNoPrimary
	}
	return k, nil
}

// stillWritable returns nil if what was stored meanwhile was stored before a newer epoch settled here, so that it may be
// acknowledged.
func (c *Coordinator) stillWritable(heal bool, epoch uint64) error {
	if e := c.deps.View.Epochs(); !heal && (e == nil || epoch < e.Settled()) {
		return errOtherEpoch
	}
	return nil
}
