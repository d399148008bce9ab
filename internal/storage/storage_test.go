package storage

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/dgraph-io/badger/v4"
	"go.uber.org/goleak"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

func TestMain(m *testing.M) {
	// A badger that fails to open leaves these two goroutines behind. A node that cannot open its store exits.
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/dgraph-io/badger/v4.(*DB).monitorCache"),
		goleak.IgnoreTopFunction("github.com/dgraph-io/ristretto/v2/z.(*AllocatorPool).freeupAllocators"))
}

// openTest opens a store in path and closes both at the end of the test, unless the test did.
func openTest(tb testing.TB, path string, o Options) (*Store, *Dir) {
	tb.Helper()
	d, err := OpenDir(path, "test")
	if err != nil {
		tb.Fatal(err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.NewTextHandler(tb.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	s, err := Open(d, o)
	if err != nil {
		tb.Fatal(err, d.Close())
	}
	tb.Cleanup(func() { closeTest(tb, s, d) })
	return s, d
}

func closeTest(tb testing.TB, s *Store, d *Dir) {
	tb.Helper()
	if err := s.Close(); err != nil && !errors.Is(err, ErrClosed) {
		tb.Error(err)
	}
	if err := d.Close(); err != nil {
		tb.Error(err)
	}
}

// openMemory opens a store that touches no disk.
func openMemory(tb testing.TB, o Options) *Store {
	tb.Helper()
	d := MemoryDir(ring.NodeID{15: 1}, "test")
	s, err := Open(d, o)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { closeTest(tb, s, d) })
	return s
}

func put(tb testing.TB, s *Store, k Key, value string) (vclock.Minted, Ack) {
	tb.Helper()
	m, ack, err := s.Mint(context.Background(), k, vclock.Write{Value: []byte(value), LastWriteWins: true}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return m, ack
}

func get(tb testing.TB, s *Store, k Key) Stored {
	tb.Helper()
	st, err := s.Get(k)
	if err != nil {
		tb.Fatal(err)
	}
	return st
}

// peerObject is what another node would send: value minted by node as its n-th write.
func peerObject(node byte, n uint64, value string) vclock.Object {
	actor := vclock.Actor{Node: [16]byte{node}, Birth: vclock.Birth{Millis: 1, Rand: uint64(node)}}
	return vclock.Object{
		Context:  vclock.VersionVector{{Actor: actor, Counter: n}},
		Siblings: []vclock.Sibling{{Dot: vclock.Dot{Actor: actor, Counter: n}, Value: []byte(value), Stamp: 1}},
	}
}

// edit changes raw bytes in badger behind the store's back. A nil result of change deletes.
func edit(tb testing.TB, s *Store, key []byte, change func([]byte) []byte) {
	tb.Helper()
	err := s.db.Update(func(txn *badger.Txn) error {
		item, err := txn.Get(key)
		if err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
		v, err := item.ValueCopy(nil)
		if err != nil {
			return err
		}
		if v = change(v); v == nil {
			return txn.Delete(key)
		}
		return txn.Set(key, v)
	})
	s.snapshots.refresh()
	s.recent.clear()
	if err != nil {
		tb.Fatal(err)
	}
}

// rawKeys lists badger's keys of one keyspace.
func rawKeys(tb testing.TB, s *Store, space byte) []string {
	tb.Helper()
	var keys []string
	err := s.db.View(func(txn *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.Prefix = []byte{space}
		it := txn.NewIterator(opt)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			keys = append(keys, string(it.Item().Key()))
		}
		return nil
	})
	if err != nil {
		tb.Fatal(err)
	}
	return keys
}

// What is shown as the size of the data is what was written, tables not yet written included: plans of changes go by it.
func TestDataBytes(t *testing.T) {
	s, _ := openTest(t, t.TempDir(), Options{MinFree: 1})
	lsm0, vlog0 := s.DataBytes()
	const small, large = 2000, 200 << 10
	for i := range 1000 {
		put(t, s, Key{Bucket: "b", Key: fmt.Sprint(i)}, strings.Repeat("x", small))
	}
	lsm, _ := s.DataBytes()
	if grown := lsm - lsm0; grown < 1000*small || grown > 3*1000*small {
		t.Errorf("the tree grew by %d bytes, %d were written", grown, 1000*small)
	}
	for i := range 20 {
		put(t, s, Key{Bucket: "b", Key: fmt.Sprint("large", i)}, strings.Repeat("x", large))
	}
	lsm2, vlog2 := s.DataBytes()
	if grown := lsm2 - lsm + vlog2 - vlog0; grown < 20*large || grown > 3*20*large {
		t.Errorf("tree and value log grew by %d bytes, %d were written", grown, 20*large)
	}
}
