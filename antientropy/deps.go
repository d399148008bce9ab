package antientropy

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Leaves is the number of leaves of a partition's Merkle tree.
const Leaves = 256

// Sum is the sum modulo 2^128 of the digests of the records under a leaf, or under a root.
type Sum [16]byte

// Key names a record, with the partition that it lies in.
type Key struct {
	Partition   int
	Bucket, Key string
}

// Cursor is a place in the order of a partition's keys: by bucket, then by key, bytewise. The zero value is before
// all keys.
type Cursor struct{ Bucket, Key string }

// KeyQuery asks for a page of a partition's keys.
type KeyQuery struct {
	Partition int
	Leaf      int    // 0 to Leaves-1, or AllLeaves
	After     Cursor // exclusive
	Limit     int    // of entries, at least 1
}

// AllLeaves asks for the keys of a whole partition.
const AllLeaves = -1

// KeyEntry is what a replica holds of a key, without the object.
type KeyEntry struct {
	Bucket, Key string
	Digest      vclock.Digest
	Incomplete  bool // the copy was lost and holds only what has come since
	Corrupt     bool // the copy cannot be read; Digest means nothing
	Removing    bool // the key is being reaped
}

// Copy is what a replica holds of a key: a zero object when it holds nothing.
type Copy struct {
	Object     vclock.Object
	Digest     vclock.Digest // of a zero object: the zero digest
	Round      uint64        // the partition's reap round, read in the same step
	Incomplete bool
	Corrupt    bool // the record cannot be read; Object is zero
}

// MergeOptions say where a merged object comes from.
type MergeOptions struct {
	Heal  bool   // it is the merge of all other primaries: a damaged copy becomes whole with it
	Round uint64 // the reap round in which its source was read
}

// Mark says what is wrong with this node's copy of a partition.
type Mark uint8

// Marks of a partition.
const (
	MarkBehind  Mark = 1 << iota // it missed writes whose hints were dropped
	MarkDamaged                  // it may have lost what it acknowledged
	MarkFilling                  // it began empty, and what others held before has not all been brought over
)

// ErrStaleRound is wrapped by Replica.Merge when the partition is in a later reap round than the object.
var ErrStaleRound = errors.New("the object was read in an earlier reap round")

// Replica is this node's copy of its partitions. Its methods are safe for concurrent use.
type Replica interface {
	// Numbered is how many buckets have partitions of their own here. It only grows, and all that this node has said of a
	// partition before means another set of keys then.
	Numbered() int
	// Root is the sum of a partition; not ready while its tree is being built.
	Root(p int) (sum Sum, ready bool)
	// LeafSums are the sums of a partition's leaves. The result is the caller's.
	LeafSums(p int) (sums *[Leaves]Sum, ready bool)
	// Keys lists a page of keys in the order of Cursor; more: there are keys after the last one.
	Keys(ctx context.Context, q KeyQuery) (entries []KeyEntry, more bool, err error)
	// Get reads a key.
	Get(k Key) (Copy, error)
	// Merge merges a peer's object and returns once the result is committed. o may share memory with a message and
	// is not to be kept. It refuses with ErrStaleRound; other errors mean that nothing may be taken as stored.
	Merge(ctx context.Context, k Key, o vclock.Object, opt MergeOptions) error
	// Round is the reap round of a partition.
	Round(p int) uint64
	// Marks are the marks of a partition; since is a number that grows with each new marking of it.
	Marks(p int) (m Mark, since uint64)
	// ClearMark takes marks off a partition, unless it was marked again after since.
	ClearMark(ctx context.Context, p int, m Mark, since uint64) error
	// Recount counts a partition's sums anew from its records, corrects them and says how many leaves were wrong.
	Recount(ctx context.Context, p int) (differences int, err error)
}

// Caller sends a request to another node and returns its answer. An error may have a method Code() uint16, the Code
// of the error that the other node's handler returned.
type Caller interface {
	Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error)
}

// View is who owns what and who answers now. Its methods are safe for concurrent use.
type View interface {
	// Epochs are the live epochs, nil while there is no layout. It does not block.
	Epochs() *ring.Epochs
	// Learn returns nil once this node knows the epoch or a later one, of which from has told.
	Learn(ctx context.Context, from ring.NodeID, epoch uint64) error
	// Settle returns nil once it is durable here that the epoch has settled, as from says: operations that ignore it
	// are refused from then on.
	Settle(ctx context.Context, from ring.NodeID, epoch uint64) error
	Alive(ring.NodeID) bool
}

// Load is what clients ask of a node.
type Load struct {
	Under int    // requests under way
	Begun uint64 // requests since the start, those included
}

// Deps is the world that a Syncer works in.
type Deps struct {
	Self     ring.NodeID
	Local    Replica
	Peers    Caller
	View     View
	Log      *slog.Logger          // silent if nil
	Registry prometheus.Registerer // nil: metrics are kept but not published
	// CatchUp takes a partition into a later reap round, in which a peer is; nil: never. It is called when nobody else
	// seems to bring those that hold the partition into one round.
	CatchUp func(ctx context.Context, p int, round uint64) error
	// Load is what clients ask of this node now; nil: nothing. It is asked often, and does not block.
	Load func() Load
	// Progress is called when an exchange while members change has ended: Unfilled may have become shorter. It must not
	// block; nil: nobody wants to know.
	Progress func()
	Rand     *rand.Rand // jitter and order; nil: randomly seeded. The Syncer's alone from then on
}

func (d *Deps) fill() error {
	switch {
	case d.Self.IsZero():
		return errors.New("antientropy: no node id")
	case d.Local == nil || d.Peers == nil || d.View == nil:
		return errors.New("antientropy: Local, Peers and View are needed")
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Load == nil {
		d.Load = func() Load { return Load{} }
	}
	if d.Rand == nil {
		d.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return nil
}

// Options tune a Syncer. Zero values take the defaults.
type Options struct {
	// Interval is the time between two exchanges with a peer, give or take a quarter. Default 20 s: with peers found
	// alive again within half a minute, replicas are equal a minute after a heal.
	Interval time.Duration
	// RetryAfter is the time after which a failed exchange is tried again. Default 5 s.
	RetryAfter time.Duration
	// BytesPerSecond bounds what this node's exchanges move, those of its peers with it included. Default 16 MiB.
	BytesPerSecond int
	// AtOnce is how many exchanges this node runs at once, repair included; never two with one peer. Default 2.
	AtOnce int
	// CallTimeout bounds each call. Default 10 s.
	CallTimeout time.Duration
	// Turn is the time after which an exchange makes room for others; the rest is done in its next turn. Default 2 min.
	Turn time.Duration
	// ScrubEvery is the time in which all of this node's partitions are recounted once. Default 1 h; negative: never.
	ScrubEvery time.Duration
	// MaxObject is the largest object that is moved, in bytes; what is larger is reported. Default 24 MiB; it has to fit
	// into one message of the Caller.
	MaxObject int
}

func orDefault[T int | time.Duration](v *T, def T) {
	if *v == 0 {
		*v = def
	}
}

func (o *Options) fill() error {
	orDefault(&o.Interval, 20*time.Second)
	orDefault(&o.RetryAfter, 5*time.Second)
	orDefault(&o.BytesPerSecond, 16<<20)
	orDefault(&o.AtOnce, 2)
	orDefault(&o.CallTimeout, 10*time.Second)
	orDefault(&o.Turn, 2*time.Minute)
	orDefault(&o.ScrubEvery, time.Hour)
	orDefault(&o.MaxObject, 24<<20)
	if min(o.BytesPerSecond, o.AtOnce, o.MaxObject) < 0 || min(o.Interval, o.RetryAfter, o.CallTimeout, o.Turn) < 0 {
		return errors.New("antientropy: options must be positive")
	}
	return nil
}

// batchBytes bounds the objects of one message, so that a message takes a small part of a second of the budget.
func (o *Options) batchBytes() int { return min(max(o.BytesPerSecond/16, 16<<10), 1<<20, o.MaxObject) }
