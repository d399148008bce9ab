package coordinator

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Key is one key, with the partition that it lies in.
type Key struct {
	Partition   int
	Bucket, Key string
}

// Copy is what a replica holds of a key: a zero object when it holds nothing.
type Copy struct {
	Object vclock.Object
	Digest vclock.Digest // of a zero object: the zero digest
	// Incomplete: the replica lost its copy, or may have, and holds only what has come since. Such a copy is merged
	// into an answer but counts in no quorum.
	Incomplete bool
	// Behind: writes that were meant for this replica were dropped while it was away. Its copy does not answer alone.
	Behind bool
	// Round is the reap round of the partition in which the copy was read; it travels with the object.
	Round uint64
}

// Applied is the outcome of a local mint.
type Applied struct {
	Object   vclock.Object // the key after the write
	Existing bool          // the request had been applied before; Object is what was there
	Fsynced  bool
	Round    uint64 // the reap round in which it was applied
}

// Merging says how an object that came from elsewhere is merged into a replica.
type Merging struct {
	// Heal: the object is the merge of every other primary's copy, so that a damaged copy becomes whole with it.
	Heal bool
	// Round is the reap round in which the object's source was read. A replica in a later round refuses it with
	// ErrStaleRound: what the source held then may have been reaped since.
	Round uint64
}

// ListQuery asks one replica for its keys of a bucket in the given partitions, in byte order.
type ListQuery struct {
	Partitions            []int
	Bucket, Prefix, After string
	Limit                 int
}

// ListEntry is one key that a replica holds.
type ListEntry struct {
	Key     string
	Digest  vclock.Digest
	All     Life // of all siblings together
	Winner  Life // of the sibling that last-write-wins shows
	Damaged bool // the copy cannot be judged alone
}

// Life says until when there is a value to see.
type Life struct {
	Deleted bool  // there are only tombstones
	Expiry  int64 // Unix milliseconds at which the last value expires; 0: never
}

func (l Life) live(now int64) bool { return !l.Deleted && (l.Expiry == 0 || l.Expiry > now) }

// Local is this node's replica. Its methods are safe for concurrent use. Errors are, or wrap, ErrFull,
// ErrOverloaded, ErrCorrupt, ErrUncertain, an error of vclock.Minter.Mint, or the context's; any of them but
// ErrUncertain means that nothing was stored.
type Local interface {
	Get(Key) (Copy, error)
	// Recent is Get if the copy is in memory, and does not block.
	Recent(Key) (c Copy, found bool)
	// MintAsync applies a client's write atomically. It calls applied as soon as the write is applied in memory, and done
	// once when it is committed, or refused, perhaps before MintAsync returns; neither must block. abandon takes the write
	// back if it has not been applied, and reports whether it could: done is then not called. It may be called at any time.
	MintAsync(ctx context.Context, k Key, w vclock.Write, applied func(Applied), done func(Applied, error)) (abandon func() bool)
	// Merge merges a peer's object and returns when the result is committed.
	Merge(ctx context.Context, k Key, o vclock.Object, how Merging) (fsynced bool, err error)
	// MergeAsync is Merge for who does not wait. done is called once, perhaps before MergeAsync returns, and must not
	// block. After left, it may be refused with context.DeadlineExceeded.
	MergeAsync(k Key, o vclock.Object, how Merging, left time.Duration, done func(fsynced bool, err error))
	List(context.Context, ListQuery) (entries []ListEntry, more bool, err error)
}

// Hints keeps, durably, what this node took for other nodes while they were down. Errors are as with Local.
type Hints interface {
	// Put merges an object into the hint for the target.
	Put(ctx context.Context, target ring.NodeID, k Key, o vclock.Object, round uint64) (fsynced bool, err error)
	// Mint applies a client's write to the hint for the target, always with a new actor, and returns when it is committed.
	// It calls applied as soon as the write is applied in memory; applied must not block.
	Mint(ctx context.Context, target ring.NodeID, k Key, w vclock.Write, applied func(Applied)) (Applied, error)
	// Get merges the hints that this node holds of a key, for whatever target.
	Get(k Key) (c Copy, found bool, err error)
}

// Caller sends a request to another node and returns its answer. Its errors may tell more by the methods
// NotSent() bool (certainly no byte of the request left), Overloaded() bool, and Code() uint16 (the Code of an
// error that the other node's handler returned).
type Caller interface {
	Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error)
	// CallAsync is Call for who does not wait. done is called once, perhaps before CallAsync returns, and must not block.
	// The call ends after the limit at the latest, or a little later, or when it is cancelled, which may be done at any time.
	CallAsync(to ring.NodeID, endpoint string, body []byte, limit time.Duration, done func([]byte, error)) (cancel func())
}

// View is who owns what and who answers now.
type View interface {
	// Epochs is one snapshot of the live epochs, nil while there is no layout.
	Epochs() *ring.Epochs
	// Begin is Epochs for an operation that mints or sends a write. Done is called once, when nothing of the operation
	// can be stored or sent any more: a change of members waits for it.
	Begin() (e *ring.Epochs, done func())
	// Learn returns nil once this node knows the epoch or a later one, which it asks of another node.
	Learn(ctx context.Context, from ring.NodeID, epoch uint64) error
	// Alive reports whether a node answers.
	Alive(ring.NodeID) bool
}

// Errors of a Local.
var (
	// ErrFull: the disk is too full to store the write.
	ErrFull = errors.New("the disk is full")
	// ErrOverloaded: too much is waiting already.
	ErrOverloaded = errors.New("too many requests are waiting")
	// ErrUncertain: storing failed in a way that may still have stored.
	ErrUncertain = errors.New("it is not known whether the write was stored")
	// ErrStaleRound: the object was read before the partition's latest reap round; read it again.
	ErrStaleRound = errors.New("the object is from before the latest reap round")
)

// Deps is the world that a coordinator works in.
type Deps struct {
	Self     ring.NodeID
	Local    Local
	Hints    Hints // nil: no fallback stands in for a primary that is down
	Peers    Caller
	View     View
	Log      *slog.Logger
	Registry prometheus.Registerer // nil: metrics are kept but not published
	Now      func() time.Time      // the wall clock; nil: time.Now
	// CatchUp takes this node's partition into a later reap round of which a peer knows; nil: it is left behind.
	CatchUp func(ctx context.Context, p int, round uint64) error
	// Admission lets in the writes that other nodes hand to this one; nil: all. Replica requests need no admission: they
	// are part of what was let in elsewhere, and refused they would have been begun in vain.
	Admission Admission
}

// Admission bounds what is worked on at once. Who enters leaves.
type Admission interface {
	Enter() bool
	Leave()
}

// Options tune a coordinator. Zero values take the defaults.
type Options struct {
	// ReplicaTimeout bounds a replica request that goes on after its client was answered. Default 10 s.
	ReplicaTimeout time.Duration
	// HedgeAfter is the least time after which a read asks one more replica. Default 15 ms.
	HedgeAfter time.Duration
	// RepairQueue is how many keys may wait for read repair; more are dropped and counted. Default 1024.
	RepairQueue int
	// RepairWorkers is how many repairs run at once. Default 2.
	RepairWorkers int
}

func (o Options) withDefaults() Options {
	if o.ReplicaTimeout <= 0 {
		o.ReplicaTimeout = 10 * time.Second
	}
	if o.HedgeAfter <= 0 {
		o.HedgeAfter = 15 * time.Millisecond
	}
	if o.RepairQueue <= 0 {
		o.RepairQueue = 1024
	}
	if o.RepairWorkers <= 0 {
		o.RepairWorkers = 2
	}
	return o
}

func (d Deps) validate() error {
	switch {
	case d.Self == ring.NodeID{}:
		return errors.New("coordinator: no node id")
	case d.Local == nil || d.Peers == nil || d.View == nil:
		return errors.New("coordinator: Local, Peers and View are needed")
	}
	return nil
}
