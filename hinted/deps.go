package hinted

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// ErrStaleRound is what a Receiver's Merge returns, or wraps, when the object was read in an earlier reap round than
// the receiver's: nothing was stored, and the sender has to read its store again.
var ErrStaleRound = errors.New("the object was read in an earlier reap round")

// Key is one key, with the partition that it lies in.
type Key struct {
	Partition   int
	Bucket, Key string
}

// Hint is what is held for one key of a target.
type Hint struct {
	Key    Key
	Object vclock.Object
	Digest vclock.Digest // names this version for DeleteHint
	Round  uint64        // reap round of the partition, read in one step with the object
}

// Target is a node for which hints are held.
type Target struct {
	ID     ring.NodeID
	Hints  int
	Bytes  int64
	Oldest time.Time // when the oldest hint was taken in; zero: not known
	// Partitions are those that hints are held of, in any order.
	Partitions []int
}

// Dropped is a partition of which hints for a target were dropped. Since grows with each new marking, so that a mark
// that was set again after it was read is not cleared; a store that cannot tell gives 0.
type Dropped struct {
	Partition int
	Since     uint64
}

// Cursor is a position among a target's hints. It belongs to the store; nil is the beginning.
type Cursor any

// Store holds the hints durably. Its methods are safe for concurrent use.
type Store interface {
	// Hints returns hints of a target after a position, at most maxItems and, but for the first, at most maxBytes of
	// them together; the position after them; and whether there are more. Hints that cannot be read are left out.
	Hints(target ring.NodeID, after Cursor, maxItems, maxBytes int) (hints []Hint, next Cursor, more bool, err error)
	// DeleteHint deletes the hint if it still is the version of that digest, and reports whether it did.
	DeleteHint(ctx context.Context, target ring.NodeID, k Key, d vclock.Digest) (bool, error)
	// HintTargets returns the targets of which hints are held, from memory.
	HintTargets() []Target
	// DroppedTargets returns the targets of which hints were dropped, from memory.
	DroppedTargets() []ring.NodeID
	// Dropped returns the partitions of which hints for the target were dropped, from memory.
	Dropped(target ring.NodeID) []Dropped
	// ClearDropped forgets those marks durably, but for those that were set again.
	ClearDropped(ctx context.Context, target ring.NodeID, ds []Dropped) error
}

// Receiver is this node's own replica. Its methods are safe for concurrent use.
type Receiver interface {
	// Merge merges the object and returns when the result is as durable as the node is set to make it. round is the
	// reap round in which the sender read the object. An error, of which ErrStaleRound is one, means that the hint
	// must be sent again.
	Merge(ctx context.Context, partition int, bucket, key string, o vclock.Object, round uint64) error
	// Round is the reap round of a partition.
	Round(partition int) uint64
	// MarkBehind notes durably that this node missed writes of these partitions, which nobody will send: it is out
	// of reads that ask one replica until an exchange has filled the gap.
	MarkBehind(ctx context.Context, partitions []int) error
}

// Caller sends a request to another node and returns its answer. Its errors may tell more by the methods
// NotSent() bool (certainly no byte of the request left), Overloaded() bool, and Code() uint16 (the Code of an error
// that the other node's handler returned); one that wraps context.DeadlineExceeded is a timeout.
type Caller interface {
	Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error)
}

// View is who owns what and who answers now. Its methods are safe for concurrent use.
type View interface {
	// Epochs are the live epochs, nil while there is no layout. It does not block.
	Epochs() *ring.Epochs
	// Learn returns nil once this node knows the epoch or a later one, of which from has told.
	Learn(ctx context.Context, from ring.NodeID, epoch uint64) error
	Alive(ring.NodeID) bool
}

// Deps is the world that a Worker works in.
type Deps struct {
	Self     ring.NodeID
	Store    Store
	Receiver Receiver
	Peers    Caller
	View     View
	Log      *slog.Logger          // nil: silent
	Registry prometheus.Registerer // nil: metrics are kept but not published
	// CatchUp takes this node's partition into a later reap round, in which a receiver of its hints is; nil: never. It is
	// called while members change, when nobody else brings the nodes of a partition into one round.
	CatchUp func(ctx context.Context, partition int, round uint64) error
	Rand    *rand.Rand // spreads retries; used by the Worker alone; nil: seeded by chance
}

func (d *Deps) fill() error {
	if d.Self.IsZero() {
		return errors.New("hinted: no node id")
	}
	if d.Store == nil || d.Receiver == nil || d.Peers == nil || d.View == nil {
		return errors.New("hinted: Store, Receiver, Peers and View are needed")
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Rand == nil {
		d.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return nil
}

// Options tune a Worker. Zero values take the defaults.
type Options struct {
	// Interval is how often the store and the view are looked at. Default 1 s.
	Interval time.Duration
	// Settle is how long a target must have been alive, and have got no new hints, before hints are sent to it.
	// Default 2 s.
	Settle time.Duration
	// BytesPerSecond is the budget of all targets together. Default 16 MiB.
	BytesPerSecond int
	// MinBytesPerSecond is what halving a target's rate stops at. Default 64 KiB, or the budget if that is less.
	MinBytesPerSecond int
	// BatchItems and BatchBytes bound a batch; one hint above BatchBytes is sent alone. Default 256, at most 1024;
	// and 512 KiB, at most 8 MiB.
	BatchItems, BatchBytes int
	// Targets is how many targets are served at once. Default 4.
	Targets int
	// Turn is how long one target is served while others wait. Default 10 s.
	Turn time.Duration
	// CallTimeout bounds a call. Default 15 s.
	CallTimeout time.Duration
	// Retry is how long a target rests after a pass over its hints in which none could be deleted; it doubles, up to
	// 32 times as long, while that goes on. Default 10 s.
	Retry time.Duration
	// MaxBackoff bounds the pause after calls that failed, which begins at 1 s and doubles. Default 1 min.
	MaxBackoff time.Duration
	// Serving is how many batches are received at once; more are refused as overload. Default 4.
	Serving int
}

func (o *Options) fill() error {
	o.Interval = orDefault(o.Interval, time.Second)
	o.Settle = orDefault(o.Settle, 2*time.Second)
	o.BytesPerSecond = orDefault(o.BytesPerSecond, 16<<20)
	o.MinBytesPerSecond = orDefault(o.MinBytesPerSecond, min(64<<10, o.BytesPerSecond))
	o.BatchItems = orDefault(o.BatchItems, 256)
	o.BatchBytes = orDefault(o.BatchBytes, 512<<10)
	o.Targets = orDefault(o.Targets, 4)
	o.Turn = orDefault(o.Turn, 10*time.Second)
	o.CallTimeout = orDefault(o.CallTimeout, 15*time.Second)
	o.Retry = orDefault(o.Retry, 10*time.Second)
	o.MaxBackoff = orDefault(o.MaxBackoff, time.Minute)
	o.Serving = orDefault(o.Serving, 4)
	switch {
	case min(o.Interval, o.Settle, o.Turn, o.CallTimeout, o.Retry, o.MaxBackoff) < 0:
		return errors.New("hinted: a duration is negative")
	case o.BytesPerSecond < 1 || o.MinBytesPerSecond < 1 || o.MinBytesPerSecond > o.BytesPerSecond:
		return fmt.Errorf("hinted: BytesPerSecond %d, MinBytesPerSecond %d", o.BytesPerSecond, o.MinBytesPerSecond)
	case o.BatchItems < 1 || o.BatchItems > maxItems:
		return fmt.Errorf("hinted: BatchItems %d, want 1 to %d", o.BatchItems, maxItems)
	case o.BatchBytes < 1 || o.BatchBytes > maxBatchBytes:
		return fmt.Errorf("hinted: BatchBytes %d, want 1 to %d", o.BatchBytes, maxBatchBytes)
	case o.Targets < 1 || o.Serving < 1:
		return errors.New("hinted: Targets and Serving must be positive")
	}
	return nil
}

func orDefault[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}
