package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dunlindb/dunlin/api"
	"github.com/dunlindb/dunlin/coordinator"
	"github.com/dunlindb/dunlin/internal/cluster"
	"github.com/dunlindb/dunlin/internal/storage"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// local is the store as the coordinator sees it.
type local struct{ store *storage.Store }

func storeKey(k coordinator.Key) storage.Key {
	return storage.Key{Partition: k.Partition, Bucket: k.Bucket, Key: k.Key}
}

// storeErrors pairs what the store reports with what the coordinator understands.
var storeErrors = []struct{ store, coordinator error }{
	{storage.ErrCommit, coordinator.ErrUncertain},
	{storage.ErrFull, coordinator.ErrFull},
	{storage.ErrOverloaded, coordinator.ErrOverloaded},
	{storage.ErrCorrupt, coordinator.ErrCorrupt},
	{storage.ErrIncomplete, coordinator.ErrCorrupt},
	{storage.ErrStaleRound, coordinator.ErrStaleRound},
}

func storeError(err error) error {
	for _, e := range storeErrors {
		if errors.Is(err, e.store) {
			return fmt.Errorf("%w: %w", e.coordinator, err)
		}
	}
	return err
}

// Get implements coordinator.Local.
func (l local) Get(k coordinator.Key) (coordinator.Copy, error) {
	// A mark may be cleared while the copy is read: what was read of a marked copy is not whole.
	mark, _ := l.store.MarksOf(storeKey(k))
	s, err := l.store.Get(storeKey(k))
	after, _ := l.store.MarksOf(storeKey(k))
	return copyOf(s, mark|after), storeError(err)
}

// Recent implements coordinator.Local.
func (l local) Recent(k coordinator.Key) (coordinator.Copy, bool) {
	mark, _ := l.store.MarksOf(storeKey(k))
	s, found := l.store.Recent(storeKey(k))
	after, _ := l.store.MarksOf(storeKey(k))
	return copyOf(s, mark|after), found
}

func copyOf(s storage.Stored, mark storage.Mark) coordinator.Copy {
	return coordinator.Copy{
		Object: s.Record.Object, Digest: s.Digest, Round: s.Round,
		Incomplete: s.Incomplete || mark&(storage.MarkDamaged|storage.MarkFilling) != 0, Behind: mark&storage.MarkBehind != 0,
	}
}

// MintAsync implements coordinator.Local.
func (l local) MintAsync(
	ctx context.Context, k coordinator.Key, w vclock.Write, applied func(coordinator.Applied), done func(coordinator.Applied, error),
) (abandon func() bool) {
	return l.store.MintAsync(ctx, storeKey(k), w, func(m vclock.Minted, _ uint64) {
		// The writer loop calls this, and rounds are entered with the loops at rest: it is the round of the mint.
		applied(coordinator.Applied{Object: m.Record.Object, Existing: m.Existing, Round: l.store.Round(k.Partition)})
	}, func(m vclock.Minted, ack storage.Ack, err error) {
		done(coordinator.Applied{Object: m.Record.Object, Existing: m.Existing, Fsynced: ack.Fsynced, Round: ack.Round}, storeError(err))
	})
}

// Merge implements coordinator.Local.
func (l local) Merge(ctx context.Context, k coordinator.Key, o vclock.Object, how coordinator.Merging) (bool, error) {
	ack, err := l.store.Merge(ctx, storeKey(k), o, storage.MergeOptions{Heal: how.Heal, Round: how.Round})
	return ack.Fsynced, storeError(err)
}

// MergeAsync implements coordinator.Local.
func (l local) MergeAsync(k coordinator.Key, o vclock.Object, how coordinator.Merging, left time.Duration, done func(bool, error)) {
	l.store.MergeAsync(storeKey(k), o, storage.MergeOptions{Heal: how.Heal, Round: how.Round}, left, func(ack storage.Ack, err error) {
		done(ack.Fsynced, storeError(err))
	})
}

// List implements coordinator.Local.
func (l local) List(ctx context.Context, q coordinator.ListQuery) ([]coordinator.ListEntry, bool, error) {
	page, err := l.store.List(ctx, storage.ListRequest{
		Partitions: q.Partitions, Bucket: q.Bucket, Prefix: q.Prefix, After: q.After, Limit: q.Limit,
	})
	if err != nil {
		return nil, false, storeError(err)
	}
	out := make([]coordinator.ListEntry, len(page.Entries))
	for i, e := range page.Entries {
		out[i] = coordinator.ListEntry{
			Key: e.Key, Digest: e.Digest, Damaged: e.Corrupt || e.Incomplete,
			All: coordinator.Life(e.Life), Winner: coordinator.Life(e.Winner),
		}
	}
	return out, page.More, nil
}

// meta is the store as the bucket registry sees it.
type meta struct{ *storage.Store }

// PutMeta implements buckets.Store. That the disk is full is said in the coordinator's words.
func (m meta) PutMeta(name string, value []byte) error {
	return storeError(m.Store.PutMeta(name, value))
}

// ListMeta implements buckets.Store.
func (m meta) ListMeta(prefix string) (map[string][]byte, error) {
	all, err := m.Store.ListMeta(prefix)
	if err != nil {
		return nil, err
	}
	out := make(map[string][]byte, len(all))
	for _, x := range all {
		out[x.Name] = x.Value
	}
	return out, nil
}

// view is the cluster, with this node's own readiness, as the HTTP interface sees it.
type view struct {
	*cluster.Cluster
	store    *storage.Store
	data     string // the data directory
	verified *verification
}

// Ready implements api.Cluster: nil when this node can serve clients.
func (v view) Ready() error {
	if err := v.Cluster.Ready(); err != nil {
		return err
	}
	if err := v.verified.err(); err != nil {
		return err
	}
	return v.store.Healthy()
}

// Degraded implements api.Cluster.
func (v view) Degraded() (lines []string) {
	if apart := v.Apart(); apart != "" {
		lines = append(lines, apart)
	}
	st := v.store.Status()
	var refused string
	switch {
	case st.FullDelete:
		refused = "every write is refused, reads go on"
	case st.FullReplica:
		refused = "values, other nodes' writes and hints are refused, reads and deletes go on"
	case st.Full:
		refused = "clients' values are refused, reads, deletes and other nodes' writes go on"
	default:
		return lines
	}
	return append(lines, fmt.Sprintf("disk full: %s; %d of %d MiB free at %s beside the writes under way, with less than %d MiB (--min-free, and what the storage needs) values are refused",
		refused, st.Free>>20, st.Total>>20, v.data, st.MinFree>>20))
}

// Members implements api.Cluster.
func (v view) Members() []api.Member {
	all := v.Cluster.Members()
	out := make([]api.Member, len(all))
	for i, m := range all {
		out[i] = api.Member{
			ID: m.ID, Name: m.Name, HTTP: m.HTTPAddr, RPC: m.RPCAddr, Gossip: m.GossipAddr,
			Zone: m.Zone, Weight: m.Weight, State: m.State, Alive: m.Alive, Epoch: m.Epoch,
		}
	}
	return out
}

// Name implements api.Cluster: a node's name, or its id where the name is not known.
func (v view) Name(id ring.NodeID) string {
	if e := v.Epochs(); e != nil {
		if m, ok := e.Member(id); ok {
			return m.Name
		}
	}
	return id.String()
}
