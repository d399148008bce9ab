package storage

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Ack says what the local copy holds after a write.
type Ack struct {
	Fsynced bool // the write survives a power cut of this node
	Changed bool // the write changed what the node holds
	Object  vclock.Object
	Digest  vclock.Digest // of Object; zero when it is zero
	Round   uint64        // the partition's reap round in which the write was applied
}

// op is one write on its way through a shard.
type op struct {
	ctx  context.Context // nil: nobody waits
	due  time.Time       // after which it is refused, in place of the context's; zero: never
	then func(*op)       // told the answer, in place of done
	k    Key
	key  []byte // badger's
	size int64  // in the queue

	barrier *barrier // and nothing else

	hint   bool // it is about the hint for target, not about the record
	target ring.NodeID
	remove bool // a deletion of what has the digest
	digest vclock.Digest

	write   *vclock.Write // a mint
	applied func(vclock.Minted, uint64)
	object  vclock.Object // a merge
	opt     MergeOptions
	level   int32 // of the guard, from which on it is refused
	held    int64 // bytes that the guard counts for it

	state  atomic.Int32  // who has it
	done   chan struct{} // gets one when it is answered
	minted vclock.Minted
	ack    Ack
	err    error
}

// States of an op. Only one of the writer loop and the caller whose context ended can move it on from queued.
const (
	opQueued = iota
	opTaken
	opAbandoned
)

// newOp returns an op that is all zero but for done. It is to be freed. Each store has its own: a channel that was made in
// a test's bubble of virtual time is of no use outside.
func (s *Store) newOp() *op {
	if o, ok := s.ops.Get().(*op); ok {
		return o
	}
	return &op{done: make(chan struct{}, 1)}
}

// free gives o back when what it came to has been read, unless the writer loop is still to find that its caller went.
func (s *Store) free(o *op) {
	if o.state.Load() == opAbandoned {
		return
	}
	*o = op{done: o.done}
	s.ops.Put(o)
}

// Mint writes a client's value: it mints a dot for w against the local copy and stores the outcome. applied (may be
// nil) is called from the writer loop once the write is applied in memory, before it is committed, so that it can
// be sent to peers meanwhile, with the reap round that it is given; it must not block. It is not called when Mint
// fails before that.
//
// With a nil error the write is as durable as Ack says. ErrCommit, wrapped, is the only error after which it may be
// stored. All others mean that it is certainly not: those of vclock's Minter.Mint, ErrKey, ErrFull, ErrOverloaded,
// ErrCorrupt, ErrIncomplete, ErrRead, ErrTooLarge, ErrUnhealthy, ErrClosed, and the context's error. Once applied,
// a write no longer heeds the context: it waits for the commit.
func (s *Store) Mint(ctx context.Context, k Key, w vclock.Write, applied func(m vclock.Minted, round uint64)) (vclock.Minted, Ack, error) {
	o := s.newOp()
	defer s.free(o)
	o.asMint(ctx, k, &w, applied)
	if err := s.submit(o); err != nil {
		return vclock.Minted{}, Ack{}, err
	}
	return o.minted, o.ack, nil
}

// MintAsync is Mint for who does not wait. done is told the answer once, by the writer loop, or before MintAsync returns; it
// must not block. The context's end is heeded when the writer loop comes to the write; abandon takes the write back before
// that, and reports whether it could: done is then not called.
func (s *Store) MintAsync(
	ctx context.Context, k Key, w vclock.Write, applied func(m vclock.Minted, round uint64), done func(vclock.Minted, Ack, error),
) (abandon func() bool) {
	o := &op{} // not of the pool: it may be abandoned late
	o.asMint(ctx, k, &w, applied)
	o.then = func(o *op) {
		if o.err != nil {
			done(vclock.Minted{}, Ack{}, o.err)
		} else {
			done(o.minted, o.ack, nil)
		}
	}
	if err := s.queue(o); err != nil {
		done(vclock.Minted{}, Ack{}, err)
		return func() bool { return false }
	}
	return func() bool { return o.state.CompareAndSwap(opQueued, opAbandoned) }
}

func (o *op) asMint(ctx context.Context, k Key, w *vclock.Write, applied func(vclock.Minted, uint64)) {
	o.ctx, o.k, o.write, o.applied = ctx, k, w, applied
	o.size, o.level = int64(len(w.Value))+opOverhead, levelNoClient
	if w.Deleted {
		o.level = levelNothing
	}
}

// MergeOptions say what is known of an object that a peer sent.
type MergeOptions struct {
	// Heal: it carries what all other primaries of the key hold, so it makes an incomplete record complete.
	Heal bool
	// Round is the reap round of the partition in which the store that it was read from was.
	Round uint64
	// Cold: it comes with many others that nobody has asked for, and is not worth keeping in memory.
	Cold bool
}

// MergeAsync is Merge for who does not wait. done is told the answer once, by the writer loop, or before MergeAsync
// returns; it must not block. When left is over before the writer loop has come to it, it is refused with
// context.DeadlineExceeded.
func (s *Store) MergeAsync(k Key, o vclock.Object, m MergeOptions, left time.Duration, done func(Ack, error)) {
	p := s.newMerge(k, o, m)
	p.due = time.Now().Add(left)
	p.then = func(p *op) {
		done(p.ack, p.err)
		s.free(p)
	}
	if err := s.queue(p); err != nil {
		s.free(p)
		done(Ack{}, err)
	}
}

// newMerge is the op of a merge. It is to be freed.
func (s *Store) newMerge(k Key, o vclock.Object, m MergeOptions) *op {
	p := s.newOp()
	p.k, p.object, p.opt = k, o, m
	p.size, p.level = int64(weigh(o))+opOverhead, levelNoReplica
	if lifeOf(o.Siblings).Deleted {
		p.level = levelNothing
	}
	return p
}

// Merge stores what a peer holds of a key, merged with the local copy. It is idempotent; when nothing changes,
// nothing is written. On a corrupt record, o is stored as an incomplete one. Errors are as with Mint; Merge
// returns none of vclock's, and neither ErrCorrupt nor ErrIncomplete, but ErrStaleRound when the partition is in a
// later round than m.Round, which is decided in the same step as storing.
func (s *Store) Merge(ctx context.Context, k Key, o vclock.Object, m MergeOptions) (Ack, error) {
	p := s.newMerge(k, o, m)
	defer s.free(p)
	p.ctx = ctx
	if err := s.submit(p); err != nil {
		return Ack{}, err
	}
	return p.ack, nil
}

const opOverhead = 512

// weigh is at least the length of the encoded object.
func weigh(o vclock.Object) int {
	return o.Bytes() + 32 + 96*len(o.Siblings) + 48*(len(o.Context)+len(o.Retired))
}

// submit queues the op and waits for its answer.
func (s *Store) submit(o *op) error {
	if err := s.queue(o); err != nil {
		return err
	}
	select {
	case <-o.done:
		return o.err
	case <-o.ctx.Done():
	}
	if o.state.CompareAndSwap(opQueued, opAbandoned) {
		return o.ctx.Err()
	}
	<-o.done
	return o.err
}

// queue hands the op to its writer loop, which answers it, or tells why it does not.
func (s *Store) queue(o *op) error {
	if err := s.groups().checkKey(o.k); err != nil {
		return err
	}
	o.k = s.at(o.k)
	if o.size > maxObject {
		return fmt.Errorf("%w: %d bytes", ErrTooLarge, o.size)
	}
	if err := o.over(); err != nil {
		return err
	}
	if err := s.Healthy(); err != nil {
		return err
	}
	if err := s.guard.admit(o.level, o.size); err != nil {
		return err
	}
	o.held = o.size
	object := o.k.encode()
	o.key = object
	if o.hint {
		o.key = hintKey(o.target, object)
	}
	if err := s.enqueue(o, s.shardOf(object)); err != nil {
		s.guard.release(o.held)
		return err
	}
	return nil
}

// over tells why nobody waits for the op any more; nil: somebody may.
func (o *op) over() error {
	switch {
	case o.ctx != nil:
		return o.ctx.Err()
	case !o.due.IsZero() && time.Now().After(o.due):
		return context.DeadlineExceeded
	}
	return nil
}

func (s *Store) enqueue(o *op, sh *shard) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return ErrClosed
	}
	if queued := sh.queued.Add(o.size); queued > s.opt.QueueBytes && queued != o.size {
		sh.queued.Add(-o.size)
		s.metrics.overloaded.Inc()
		return fmt.Errorf("%w: %d bytes", ErrOverloaded, queued-o.size)
	}
	select {
	case sh.queue <- o:
		return nil
	default:
		sh.queued.Add(-o.size)
		s.metrics.overloaded.Inc()
		return fmt.Errorf("%w: %d writes", ErrOverloaded, s.opt.QueueLen)
	}
}
