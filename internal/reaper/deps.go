package reaper

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

// Key is one key, with the partition that it lies in.
type Key struct {
	Partition   int
	Bucket, Key string
}

// Statement says that the copy of a key is exactly the object with this digest.
type Statement struct {
	Key    Key
	Digest vclock.Digest
}

// ErrStaleRound is wrapped by a Store's EnterRound when the partition is in a later round already.
var ErrStaleRound = errors.New("the partition is in a later reap round")

// Store is this node's copy, of records and of hints. Its methods are safe for concurrent use. What they answer is
// durable when they return: fsynced, also where writes are not.
type Store interface {
	// Candidates lists at most limit keys of partition p whose every sibling is a tombstone or expired at now by this
	// node's clock, whose newest stamp is older than minAge, that are not under removal, and that keep no retired
	// write id which may still be needed to recognise a repeated request; or whose context is worth pruning.
	Candidates(ctx context.Context, p, limit int, now time.Time, minAge time.Duration) ([]Statement, error)
	// Confirm judges each statement. Of a primary: the record is exactly that, complete, the partition is not
	// damaged, and every sibling is a tombstone or expired by this node's clock, or it can be pruned and its own actor
	// would stay. Of another member: it holds no record of the key. Of both: it holds no hint for the key.
	Confirm(ctx context.Context, p int, primary bool, ks []Statement) ([]bool, error)
	// EnterRound sets the partition's round and, in the same step of the writer, judges the statements again and
	// marks the confirmed keys as being removed in this round. Marks of earlier rounds go. An error that does not
	// wrap ErrStaleRound leaves open whether the round was entered.
	EnterRound(ctx context.Context, p int, round uint64, primary bool, ks []Statement) ([]bool, error)
	// Remove deletes, or prunes, each record that is still exactly what its statement says, and takes the marks of this round off
	// all of ks. An absent record counts as removed.
	Remove(ctx context.Context, p int, round uint64, ks []Statement) (removed int, err error)
	// Removing returns the keys of a partition that carry marks.
	Removing(p int) []Statement
	// Unmark takes the marks of this round off ks; those of another round stay.
	Unmark(ctx context.Context, p int, round uint64, ks []Statement) error
	// EnterRounds durably takes partitions into the given rounds, stating nothing, where they are in earlier ones: many
	// at the cost of a few fsyncs. After an error some may have been entered.
	EnterRounds(ctx context.Context, rounds map[int]uint64) error
	// Round returns the partition's round, 0 if none was ever entered.
	Round(p int) uint64
}

// State keeps small files of the driver. Save is durable when it returns without an error, and leaves the old or the
// new content otherwise. Load of what was never saved gives nil and no error.
type State interface {
	Load(name string) ([]byte, error)
	Save(name string, data []byte) error
}

// Caller sends a request to another node and returns its answer.
type Caller interface {
	Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error)
}

// View is who owns what and who answers now. Ring is nil while there is no layout, and while more than one is live:
// nothing is reaped then, since the members of one are not all that hold copies. Newest is the newest epoch that is
// known here, 0 while there is none; Learn returns nil once it is at least the given one, of which from told.
type View interface {
	Ring() *ring.Ring
	Newest() uint64
	Learn(ctx context.Context, from ring.NodeID, epoch uint64) error
	Alive(ring.NodeID) bool
}

// Deps is the world that a reaper works in.
type Deps struct {
	Self     ring.NodeID
	Store    Store
	State    State
	Peers    Caller
	View     View
	Log      *slog.Logger          // nil: slog.Default()
	Registry prometheus.Registerer // nil: metrics are kept but not published
	Rand     *rand.Rand            // spreads the scans; nil: seeded by chance
	Now      func() time.Time      // the wall clock that candidates are judged by; nil: time.Now
}

// Options tune a reaper. Zero values take the defaults.
type Options struct {
	// MinAge is how old a tombstone must be. Default 1 min. It is no part of the proof: it spares rounds on keys that
	// replicas still differ on.
	MinAge time.Duration
	// Batch is how many keys one round takes, at most and by default 256.
	Batch int
	// ScanEvery is the pause between two looks for candidates in a partition that had none. Default 5 min.
	ScanEvery time.Duration
	// PassEvery is the least pause between two rounds of a partition. Default 5 s.
	PassEvery time.Duration
	// RetryEvery is the first pause after a member did not answer; it doubles. Default 1 s.
	RetryEvery time.Duration
	// EnterTries is how often a member is asked to enter a round before its keys are abandoned. Default 10.
	EnterTries int
	// CallTimeout bounds one request to one member. Default 5 s.
	CallTimeout time.Duration
	// PutOff is how long a key that not all members confirmed is left alone. Default 1 min.
	PutOff time.Duration
}

func (o Options) withDefaults() Options {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&o.MinAge, time.Minute}, {&o.ScanEvery, 5 * time.Minute}, {&o.PassEvery, 5 * time.Second},
		{&o.RetryEvery, time.Second}, {&o.CallTimeout, 5 * time.Second}, {&o.PutOff, time.Minute},
	} {
		if *d.field <= 0 {
			*d.field = d.value
		}
	}
	if o.Batch <= 0 || o.Batch > maxBatch {
		o.Batch = maxBatch
	}
	if o.EnterTries <= 0 {
		o.EnterTries = 10
	}
	return o
}

func (d *Deps) validate() error {
	if d.Self.IsZero() {
		return errors.New("reaper: no node id")
	}
	if d.Store == nil || d.State == nil || d.Peers == nil || d.View == nil {
		return errors.New("reaper: Store, State, Peers and View are needed")
	}
	if d.Log == nil {
		d.Log = slog.Default()
	}
	if d.Rand == nil {
		d.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	return nil
}
