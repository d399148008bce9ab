package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

// waitFor waits for what a goroutine of the store does.
func waitFor(tb testing.TB, what string, done func() bool) {
	tb.Helper()
	for deadline := time.Now().Add(20 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(deadline) {
			tb.Fatal("waited too long for: " + what)
		}
	}
}

// checkSums waits until all sums are ready, and compares them with the records' digests.
func checkSums(tb testing.TB, s *Store) {
	tb.Helper()
	s.snapshots.refresh() // damage was done behind the store's back
	txn := s.db.NewTransaction(false)
	defer txn.Discard()
	for p := range s.opt.Partitions {
		waitFor(tb, "sums", func() bool { _, ready := s.Root(p); return ready })
		got, _ := s.LeafSums(p)
		var want [Leaves]sum
		var root sum
		err := func() error {
			opt := badger.DefaultIteratorOptions
			opt.Prefix = partitionKey(spaceObject, p)
			it := txn.NewIterator(opt)
			defer it.Close()
			for it.Rewind(); it.Valid(); it.Next() {
				key := it.Item().KeyCopy(nil)
				k, err := decodeKey(key)
				if err != nil {
					return err
				}
				st, err := s.Get(k)
				if errors.Is(err, ErrCorrupt) || st.Incomplete {
					continue
				}
				d := sumOf(st.Record.Digest(k.Bucket, k.Key))
				want[leafOf(key)] = want[leafOf(key)].add(d)
				root = root.add(d)
			}
			return nil
		}()
		if err != nil {
			tb.Fatal(err)
		}
		if r, _ := s.Root(p); r != root.bytes() {
			tb.Errorf("partition %d: root %x, want %x", p, r, root.bytes())
		}
		for i := range want {
			if got[i] != want[i].bytes() {
				tb.Errorf("partition %d leaf %d: %x, want %x", p, i, got[i], want[i].bytes())
			}
		}
	}
}

func TestSumArithmetic(t *testing.T) {
	max := sum{^uint64(0), ^uint64(0)}
	for _, c := range []struct{ a, b, sum sum }{
		{sum{0, 1}, sum{0, 2}, sum{0, 3}},
		{sum{0, ^uint64(0)}, sum{0, 1}, sum{1, 0}},
		{max, sum{0, 1}, sum{}},
		{max, max, sum{^uint64(0), ^uint64(0) - 1}},
	} {
		if got := c.a.add(c.b); got != c.sum || c.sum.sub(c.b) != c.a {
			t.Errorf("%x + %x = %x, want %x", c.a, c.b, got, c.sum)
		}
	}
}

// The sums are what a recount from the disk gives, whatever happened: writes of every kind at once, commits that
// failed and show or not, recounts in between, a rebuild that races with writes. With damage done behind the store's
// back, after a recount.
func TestSumsEqualARecount(t *testing.T) {
	for name, damage := range map[string]bool{"sound": false, "damaged": true} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			var failing atomic.Bool
			var n atomic.Int32
			hook := func(commit func() error) error {
				if !failing.Load() {
					return commit()
				}
				switch n.Add(1) % 8 { // never several in a row for long
				case 1:
					return errDisk
				case 5:
					return errors.Join(commit(), errDisk)
				}
				return commit()
			}
			o := Options{Durability: OS, Shards: 2, Partitions: 4, Commit: hook}
			s, d := openTest(t, path, o)
			failing.Store(true)
			writeAtOnce(t, s, damage, 100)
			failing.Store(false)
			for range 3 {
				for p := 0; p < 4 && damage; p++ {
					if _, err := s.Recount(t.Context(), p); err != nil {
						t.Fatal(err)
					}
				}
				checkSums(t, s)
				checkHintCounts(t, s)
				closeTest(t, s, d)
				s, d = openTest(t, path, o)
				writeAtOnce(t, s, damage, 30)
			}
		})
	}
}

// writeAtOnce has some goroutines write, remove and recount at random.
func writeAtOnce(t *testing.T, s *Store, damage bool, writes int) {
	var wg sync.WaitGroup
	for w := range uint64(6) {
		r := rand.New(rand.NewPCG(w, uint64(writes)))
		wg.Go(func() {
			for i := range writes {
				err := writeSomething(s, r, i, damage)
				for _, expected := range []error{ErrCommit, ErrCorrupt, ErrIncomplete} {
					if errors.Is(err, expected) {
						err = nil
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func writeSomething(s *Store, r *rand.Rand, i int, damage bool) (err error) {
	ctx := context.Background()
	k := Key{r.IntN(5), "b", fmt.Sprint("key", r.IntN(60))} // one partition has no sums
	switch r.IntN(11) {
	case 0, 1, 2, 3:
		w := vclock.Write{Value: fmt.Append(nil, i), LastWriteWins: true, Deleted: r.IntN(4) == 0}
		_, _, err = s.Mint(ctx, k, w, nil)
	case 4, 5, 6:
		o := peerObject(byte(r.IntN(5)), uint64(r.IntN(9)+1), "x")
		_, err = s.Merge(ctx, k, o, MergeOptions{Heal: r.IntN(2) == 0})
	case 7:
		_, err = s.PutHint(ctx, nodeA, k, peerObject(1, uint64(i+1), "x"), 0)
	case 8:
		var st Stored
		if st, err = s.Get(k); err == nil {
			_, err = s.Remove(ctx, k.Partition, 0, []Statement{{k, st.Digest}})
		}
	case 9:
		if damage {
			key := k.encode()
			return s.db.Update(func(txn *badger.Txn) error {
				if _, err := txn.Get(key); err != nil {
					return nil // there is nothing to damage
				}
				return txn.Set(key, []byte("damaged"))
			})
		}
		fallthrough
	case 10:
		var n int
		if n, err = s.Recount(ctx, r.IntN(4)); n != 0 && !damage {
			err = fmt.Errorf("%d leaves were wrong", n)
		}
	}
	return err
}

// What is written while the trees are built counts once, whether the build has been there or not.
func TestBuildBesideWrites(t *testing.T) {
	path := t.TempDir()
	o := Options{Durability: OS, Partitions: 64}
	s, d := openTest(t, path, o)
	key := func(i int) Key { return Key{i % 64, "b", fmt.Sprint(i)} }
	for i := range 640 {
		if _, err := s.Merge(t.Context(), key(i), peerObject(1, 1, "x"), MergeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	closeTest(t, s, d)
	s, _ = openTest(t, path, o)
	s.forest.counting <- struct{}{} // the build stands, at wherever it has come to
	for i := range 1280 {
		if _, err := s.Merge(t.Context(), key(i), peerObject(1, 2, "y"), MergeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	done, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Recount(done, 3); !errors.Is(err, context.Canceled) {
		t.Error("two count at once:", err)
	}
	<-s.forest.counting
	if _, err := s.Recount(t.Context(), 63); err != nil { // a recount may come before the build
		t.Fatal(err)
	}
	checkSums(t, s)
	for p := range 64 {
		if n, err := s.Recount(t.Context(), p); n != 0 || err != nil {
			t.Errorf("recount of %d: %d leaves, %v", p, n, err)
		}
	}
}

// What is written between the snapshot of a recount and its end counts once.
func TestRecountBesideWrites(t *testing.T) {
	s := openMemory(t, Options{Partitions: 2})
	k, other := Key{1, "b", "k"}, Key{1, "b", "other"}
	put(t, s, k, "x")
	put(t, s, other, "x")
	checkSums(t, s)
	for i, lost := range []bool{false, true} {
		if lost {
			edit(t, s, other.encode(), func([]byte) []byte { return nil })
		}
		txn, m, err := s.still(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, k, "while it counts")
		put(t, s, Key{1, "b", fmt.Sprint(i)}, "new")
		if n, err := s.recount(t.Context(), 1, txn, m); n != i || err != nil {
			t.Errorf("%d leaves were wrong, %v, want %d", n, err, i)
		}
		checkSums(t, s)
	}
}

// A record that is silently lost, or altered, is found by a recount; a corrupt one that is written over by the shard.
func TestRecountFindsWhatDiffers(t *testing.T) {
	s := openMemory(t, Options{Partitions: 2})
	k, other := Key{1, "b", "k"}, Key{1, "b", "other"}
	put(t, s, k, "x")
	put(t, s, other, "x")
	checkSums(t, s)
	before, _ := s.Root(1)
	edit(t, s, k.encode(), func([]byte) []byte { return nil })
	for i, want := range []int{1, 0} {
		if n, err := s.Recount(t.Context(), 1); n != want || err != nil {
			t.Errorf("recount %d: %d, %v, want %d", i, n, err, want)
		}
	}
	if after, ready := s.Root(1); !ready || after == before {
		t.Error("the lost record still counts")
	}
	// The old record of a write cannot be read: nobody knows what it counted for.
	edit(t, s, other.encode(), func(b []byte) []byte { b[recordSum] ^= 1; return b })
	if _, err := s.Merge(t.Context(), other, peerObject(7, 1, "healed"), MergeOptions{Heal: true}); err != nil {
		t.Fatal(err)
	}
	checkSums(t, s)
	// Damaged, and replaced by what may not be all: the sum differs from the peers' until it is healed.
	edit(t, s, other.encode(), func(b []byte) []byte { b[recordSum] ^= 1; return b })
	if _, err := s.Merge(t.Context(), other, peerObject(7, 1, "healed"), MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	checkSums(t, s)
	if root, _ := s.Root(1); root != (Sum{}) {
		t.Errorf("an incomplete record counts: %x", root)
	}
	if _, err := s.Merge(t.Context(), other, peerObject(7, 1, "healed"), MergeOptions{Heal: true}); err != nil {
		t.Fatal(err)
	}
	checkSums(t, s)
	if root, _ := s.Root(1); root != Sum(get(t, s, other).Digest) {
		t.Errorf("root %x, want the digest of the only record", root)
	}
	for _, p := range []int{-1, 2} {
		if _, err := s.Recount(t.Context(), p); !errors.Is(err, ErrKey) {
			t.Error(err)
		}
		if _, ready := s.Root(p); ready {
			t.Error("sums of no partition are ready")
		}
		if _, ready := s.LeafSums(p); ready {
			t.Error("sums of no partition are ready")
		}
	}
}

func TestKeys(t *testing.T) {
	s := openMemory(t, Options{Partitions: 2})
	want := make(map[string]vclock.Digest)
	for i := range 300 {
		k := Key{1, fmt.Sprint("b", i%3), fmt.Sprint(i)}
		_, ack := put(t, s, k, "x")
		want[k.Bucket+"/"+k.Key] = ack.Digest
	}
	put(t, s, Key{0, "b0", "elsewhere"}, "x")
	put(t, s, Key{2, "b0", "elsewhere"}, "x")
	pages := func(leaf, limit int) (all []KeyEntry) {
		var at ScanCursor
		for more := true; more; {
			var page []KeyEntry
			var err error
			if page, at, more, err = s.Keys(t.Context(), 1, leaf, at, limit); err != nil {
				t.Fatal(err)
			}
			if len(page) > limit {
				t.Fatalf("%d entries, limit %d", len(page), limit)
			}
			all = append(all, page...)
		}
		return all
	}
	for _, limit := range []int{1, 7, 300, 10_000} {
		all := pages(-1, limit)
		if len(all) != len(want) {
			t.Errorf("limit %d: %d keys, want %d", limit, len(all), len(want))
		}
		if !slices.IsSortedFunc(all, func(a, b KeyEntry) int {
			return slices.Compare([]string{a.Bucket, a.Key}, []string{b.Bucket, b.Key})
		}) {
			t.Error("not sorted")
		}
		for _, e := range all {
			if e.Digest != want[e.Bucket+"/"+e.Key] || e.Incomplete || e.Corrupt || e.Removing {
				t.Errorf("entry %+v", e)
			}
		}
	}
	sums, _ := s.LeafSums(1)
	used := 0
	for leaf := range Leaves {
		var total sum
		for _, e := range pages(leaf, 2) {
			total = total.add(sumOf(e.Digest))
			used++
		}
		if total.bytes() != sums[leaf] {
			t.Errorf("leaf %d: its keys sum up to %x, not %x", leaf, total.bytes(), sums[leaf])
		}
	}
	if used != len(want) {
		t.Errorf("the leaves have %d keys, want %d", used, len(want))
	}
	bad, worse := Key{1, "b0", "0"}, Key{1, "b0", "3"}
	edit(t, s, bad.encode(), func(b []byte) []byte { return b[:9] })
	edit(t, s, worse.encode(), func(b []byte) []byte { return b[:9] })
	if _, err := s.Merge(t.Context(), worse, peerObject(7, 1, "x"), MergeOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, e := range pages(-1, 1000) {
		if e.Corrupt != (e.Bucket == bad.Bucket && e.Key == bad.Key) || e.Incomplete != (e.Bucket == worse.Bucket && e.Key == worse.Key) {
			t.Errorf("entry %+v", e)
		}
	}
	if _, _, _, err := s.Keys(t.Context(), 1<<16, -1, ScanCursor{}, 0); !errors.Is(err, ErrKey) {
		t.Error(err)
	}
}

// The leaf of a key is part of the protocol between nodes: it must never change.
func TestLeafGolden(t *testing.T) {
	var got []byte
	for i := range 32 {
		got = append(got, byte(leafOf(Key{i, "bücket", fmt.Sprint("key", i)}.encode())))
	}
	checkGolden(t, "leaves.hex", got)
	a, b := Key{1, "b", "k"}, Key{2, "b", "k"}
	if leafOf(a.encode()) != leafOf(b.encode()) {
		t.Error("the leaf depends on the partition")
	}
}
