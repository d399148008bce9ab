package buckets

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Store keeps small named values on this node's disk.
type Store interface {
	// PutMeta stores value under name durably.
	PutMeta(name string, value []byte) error
	// ListMeta returns every stored value whose name begins with prefix.
	ListMeta(prefix string) (map[string][]byte, error)
}

// Caller asks other nodes. Call returns when ctx ends.
type Caller interface {
	Call(ctx context.Context, to ring.NodeID, endpoint string, body []byte) ([]byte, error)
}

// Deps are what a Registry needs of its node.
type Deps struct {
	Self  ring.NodeID
	Store Store
	Peers Caller
	Alive func() []ring.NodeID // the live members, without Self
	// Stamp is a fresh reading of the node's hybrid logical clock.
	Stamp func() vclock.Stamp
	Log   *slog.Logger // nil: slog.Default
}

const (
	metaPrefix = "bucket/"
	// maxKnown bounds what peers can make a node hold. It is above MaxBuckets, which bounds only what clients add:
	// the two sides of a cut may each have added that many, and nodes must converge nevertheless.
	maxKnown = 2 * MaxBuckets
)

// Registry holds the properties of all buckets. Safe for concurrent use.
type Registry struct {
	deps Deps
	// changing orders changes: each is put on disk and then shown. Readers do not take it. It is held while the disk
	// works, so it is a channel: in virtual time, who waits for a mutex holds up the clock that the disk waits for.
	changing chan struct{}
	state    atomic.Pointer[snapshot]

	stop context.CancelFunc
	done sync.WaitGroup
}

// snapshot is immutable.
type snapshot struct {
	props  map[string]Properties
	digest [16]byte
}

// New loads what the store holds. It starts nothing.
func New(d Deps) (*Registry, error) {
	if d.Self.IsZero() || d.Store == nil || d.Peers == nil || d.Alive == nil || d.Stamp == nil {
		return nil, errors.New("buckets: a dependency is missing")
	}
	if d.Log == nil {
		d.Log = slog.Default()
	}
	stored, err := d.Store.ListMeta(metaPrefix)
	if err != nil {
		return nil, fmt.Errorf("buckets: reading the properties: %w", err)
	}
	props := make(map[string]Properties, len(stored))
	for name, value := range stored {
		r, err := parseRecord(value)
		if err != nil {
			// Peers hold it too; to refuse to start for it would help nobody.
			d.Log.Error("bucket properties on disk are damaged, waiting for a peer's", "name", name, "err", err)
			continue
		}
		props[r.bucket] = r.Properties
	}
	reg := &Registry{deps: d, changing: make(chan struct{}, 1)}
	reg.state.Store(newSnapshot(props))
	return reg, nil
}

func newSnapshot(props map[string]Properties) *snapshot {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(props)) {
		v := props[name].Version
		var b [9]byte
		b[0] = byte(len(name))
		binary.BigEndian.PutUint64(b[1:], uint64(v.Stamp))
		h.Write(b[:])
		h.Write(v.Node[:])
		h.Write([]byte(name))
	}
	return &snapshot{props: props, digest: [16]byte(h.Sum(nil))}
}

// Get returns the properties of a bucket, zero when none were set. It takes no lock.
func (g *Registry) Get(bucket string) Properties { return g.state.Load().props[bucket] }

// Names returns the buckets that have properties, sorted.
func (g *Registry) Names() []string { return slices.Sorted(maps.Keys(g.state.Load().props)) }

// pushTimeout bounds how long Set waits for peers.
const pushTimeout = 5 * time.Second

// Set changes a bucket's properties: on this node's disk, then at every live member. It waits for them until ctx
// ends, 5 s at most, and returns those that have not confirmed; they will pull the change later. Errors are ErrInvalid
// (an *InvalidError), ErrTooMany, or the store's, and then nothing was changed.
func (g *Registry) Set(ctx context.Context, bucket string, patch Patch) (missing []ring.NodeID, err error) {
	if err := CheckName(bucket); err != nil {
		return nil, err
	}
	r, err := g.change(bucket, patch)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	return g.push(ctx, r), nil
}

func (g *Registry) change(bucket string, patch Patch) (record, error) {
	g.changing <- struct{}{}
	defer func() { <-g.changing }()
	old := g.state.Load()
	before, known := old.props[bucket]
	if !known && len(old.props) >= MaxBuckets {
		return record{}, fmt.Errorf("%w: %d, at most %d", ErrTooMany, len(old.props), MaxBuckets)
	}
	p, err := patch.apply(before)
	if err != nil {
		return record{}, err
	}
	// A change made here is newer than what is seen here, also when this clock is behind.
	p.Version = Version{Stamp: max(g.deps.Stamp(), before.Version.Stamp+1), Node: g.deps.Self}
	r := record{bucket, p}
	if err := g.persist(r); err != nil {
		return record{}, err
	}
	props := maps.Clone(old.props)
	props[bucket] = p
	g.state.Store(newSnapshot(props))
	return r, nil
}

func (g *Registry) persist(r record) error {
	if err := g.deps.Store.PutMeta(metaPrefix+r.bucket, r.bytes()); err != nil {
		return fmt.Errorf("storing the properties of bucket %s: %w", r.bucket, err)
	}
	return nil
}

// merge takes in what a peer holds and is newer. On error some of it may have been taken in.
func (g *Registry) merge(records []record) error {
	g.changing <- struct{}{}
	defer func() { <-g.changing }()
	old := g.state.Load()
	props, changed := old.props, false
	var failed error
	for _, r := range records {
		have, known := props[r.bucket]
		if known && have.Version.Compare(r.Version) >= 0 {
			continue
		}
		if !known && len(props) >= maxKnown {
			failed = fmt.Errorf("%w: %d, no room for what a peer holds", ErrTooMany, len(props))
			continue
		}
		if failed = g.persist(r); failed != nil {
			break
		}
		if !changed {
			props, changed = maps.Clone(old.props), true
		}
		props[r.bucket] = r.Properties
	}
	if changed {
		g.state.Store(newSnapshot(props))
	}
	return failed
}
