package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dgraph-io/badger/v4"
)

// What is kept in memory is what the disk has, whatever was done at once: writes, failing commits, removals, and reads
// that keep what they have read.
func TestTheCacheShowsWhatTheDiskShows(t *testing.T) {
	var failing atomic.Bool
	var n atomic.Int32
	o := Options{Durability: OS, Shards: 2, Partitions: 4, CacheBytes: 96 << 10, Commit: func(commit func() error) error {
		if !failing.Load() {
			return commit()
		}
		switch n.Add(1) % 8 {
		case 1:
			return errDisk
		case 5:
			return errors.Join(commit(), errDisk)
		}
		return commit()
	}}
	s, _ := openTest(t, t.TempDir(), o)
	for round := range 20 {
		failing.Store(true)
		var readers, writers sync.WaitGroup
		stop := make(chan struct{})
		for r := range uint64(3) {
			readers.Go(func() {
				for r := rand.New(rand.NewPCG(r, 1)); ; {
					select {
					case <-stop:
						return
					default:
						_, _ = s.Get(Key{r.IntN(5), "b", fmt.Sprint("key", r.IntN(60))}) // damage is none of its business
						// With one processor the writers would wait for each reader's whole turn.
						runtime.Gosched()
					}
				}
			})
		}
		writers.Go(func() { writeAtOnce(t, s, false, 30) })
		writers.Wait()
		close(stop)
		readers.Wait()
		failing.Store(false)
		if round%5 == 4 {
			if err := s.Drop(t.Context(), []int{round % 4}); err != nil {
				t.Fatal(err)
			}
		}
		for p := range 5 {
			for i := range 60 {
				k := Key{p, "b", fmt.Sprint("key", i)}
				sawSame(t, s, k)
			}
		}
	}
	if s.recent.size() == 0 {
		t.Error("nothing was kept")
	}
}

// fillAnew begins what Open does: the snapshot is older than any write from now on.
func fillAnew(s *Store) *badger.Txn {
	s.recent.clear()
	for i := range s.recent.stripes {
		st := &s.recent.stripes[i]
		st.mu.Lock()
		st.touched = make(map[uint64]struct{})
		st.mu.Unlock()
	}
	return s.transaction(false)
}

// fillFrom fills the cache by a snapshot, as the count of all records does, and returns how many it took.
func fillFrom(s *Store, before *badger.Txn) (kept int, err error) {
	defer before.Discard()
	c := s.newCensus(before, s.groups(), []byte{spaceObject})
	defer c.it.Close()
	c.fills = true
	_, err = c.count(context.Background(), []byte{spaceObject}, -1)
	return c.kept, err
}

// What the count of all records keeps in memory is what the disk has, whatever is written, fails, is removed and dropped before
// and while it comes to it.
func TestTheCacheIsFilledWithWhatTheDiskShows(t *testing.T) {
	var failing atomic.Bool
	var n atomic.Int32
	o := Options{Durability: OS, Shards: 2, Partitions: 4, Commit: func(commit func() error) error {
		switch {
		case failing.Load() && n.Add(1)%8 == 1:
			return errDisk
		case failing.Load() && n.Load()%8 == 5:
			return errors.Join(commit(), errDisk)
		}
		return commit()
	}}
	s, _ := openTest(t, t.TempDir(), o)
	<-s.forest.built
	kept := 0
	for round := range 40 {
		before := fillAnew(s)
		failing.Store(true)
		writes := round % 20
		if round%3 == 0 { // all of them are before
			writeAtOnce(t, s, false, writes)
			writes = 0
		}
		if round%5 == 4 { // all that the snapshot shows of a partition is gone
			writeAtOnce(t, s, false, writes)
			failing.Store(false)
			if err := s.Drop(t.Context(), []int{round % 4}); err != nil {
				t.Fatal(err)
			}
			writes = 0
		}
		var filling sync.WaitGroup
		filling.Go(func() {
			k, err := fillFrom(s, before)
			if kept += k; err != nil {
				t.Error(err)
			}
		})
		writeAtOnce(t, s, false, writes)
		failing.Store(false)
		filling.Wait()
		s.recent.filled()
		for p := range 5 {
			for i := range 60 {
				sawSame(t, s, Key{p, "b", fmt.Sprint("key", i)})
			}
		}
	}
	if kept == 0 {
		t.Error("nothing was kept")
	}
}

// A restarted store has its records in memory once it has counted them, as far as there is room.
func TestTheCacheIsFilledAtTheStart(t *testing.T) {
	const keys = 500
	path := t.TempDir()
	o := Options{Durability: OS, Partitions: 4, CacheBytes: 4 << 20}
	s, d := openTest(t, path, o)
	key := func(i int) Key { return Key{i % 4, "b", fmt.Sprint(i)} }
	for i := range keys {
		put(t, s, key(i), strings.Repeat("v", 1000))
	}
	large := Key{1, "b", "large"}
	put(t, s, large, strings.Repeat("v", inlineMax+1))
	closeTest(t, s, d)
	s, d = openTest(t, path, o)
	<-s.forest.built
	for i := range keys {
		if _, found := s.Recent(key(i)); !found {
			t.Fatalf("key %d is not in memory", i)
		}
		sawSame(t, s, key(i))
	}
	if _, found := s.Recent(large); found {
		t.Error("a record in pieces is in memory")
	}
	closeTest(t, s, d)
	o.CacheBytes = 256 << 10
	s, _ = openTest(t, path, o)
	<-s.forest.built
	if n := s.recent.size(); n > o.CacheBytes || n < o.CacheBytes/2 {
		t.Errorf("%d bytes are kept, of %d", n, o.CacheBytes)
	}
}

func sawSame(t *testing.T, s *Store, k Key) {
	t.Helper()
	memory, err1 := s.Get(k)
	disk, err2 := s.Peek(k)
	if (err1 == nil) != (err2 == nil) || memory.Digest != disk.Digest || memory.Found != disk.Found ||
		memory.Record.Own != disk.Record.Own || !memory.Record.Object.Equal(disk.Record.Object) || memory.Incomplete != disk.Incomplete {
		t.Fatalf("%v: %+v %v in memory, %+v %v on the disk", k, memory, err1, disk, err2)
	}
}

func TestTheCacheIsBounded(t *testing.T) {
	const limit = 256 << 10
	s := openMemory(t, Options{Durability: OS, CacheBytes: limit})
	value := strings.Repeat("v", 1000)
	key := func(i int) Key { return Key{0, "b", fmt.Sprint(i)} }
	for i := range 1000 {
		put(t, s, key(i), value)
		if n := s.recent.size(); n > limit {
			t.Fatalf("%d bytes after %d writes", n, i)
		}
	}
	if n := s.recent.size(); n < limit/2 {
		t.Errorf("only %d bytes of %d are used", n, limit)
	}
	if _, _, found := s.recent.get(key(999).encode(), true); !found {
		t.Error("what was written last is not kept")
	}
	if _, _, found := s.recent.get(key(0).encode(), true); found {
		t.Error("what was written first is kept")
	}
	// What nobody has asked for takes nobody's place, but is not missed in a record that is kept.
	for i := range 1000 {
		if _, err := s.Merge(t.Context(), key(i), peerObject(1, 1, value), MergeOptions{Cold: true}); err != nil {
			t.Fatal(err)
		}
	}
	st := get(t, s, key(999))
	if len(st.Record.Siblings) != 2 {
		t.Errorf("%d siblings of a record that was kept and merged into", len(st.Record.Siblings))
	}
	if _, _, found := s.recent.get(key(0).encode(), true); found {
		t.Error("a cold record was kept")
	}
	off := openMemory(t, Options{Durability: OS, CacheBytes: -1})
	put(t, off, key(1), value)
	get(t, off, key(1))
	if n := off.recent.size(); n != 0 {
		t.Errorf("%d bytes in a cache that is off", n)
	}
}

// onDisk returns what badger has of a key.
func onDisk(t *testing.T, s *Store, k Key) (value []byte) {
	t.Helper()
	edit(t, s, k.encode(), func(v []byte) []byte { value = bytes.Clone(v); return v })
	return value
}

// A damaged record is found and healed although what it held is still in memory.
func TestDamageUnderTheCacheIsHealed(t *testing.T) {
	s := openMemory(t, Options{Durability: OS, Partitions: 4})
	k := Key{1, "b", "k"}
	put(t, s, k, "x")
	object := get(t, s, k).Record.Object.Clone()
	before, _ := s.Root(1)
	value := onDisk(t, s, k)
	edit(t, s, k.encode(), func([]byte) []byte { return []byte("damaged") })
	s.recent.tell(k.encode(), value, false) // as if the damage had been done by the disk
	if _, err := s.Recount(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if root, _ := s.Root(1); root == before {
		t.Fatal("the damage is not in the sums")
	}
	if _, err := s.Get(k); !errors.Is(err, ErrCorrupt) {
		t.Fatalf("the damage was found, and a read still shows the record: %v", err)
	}
	if _, err := s.Merge(t.Context(), k, object, MergeOptions{Heal: true}); err != nil {
		t.Fatal(err)
	}
	sawSame(t, s, k)
	if st := get(t, s, k); st.Incomplete || len(st.Record.Siblings) != 1 {
		t.Errorf("not healed: %+v", st)
	}
}

// A reader that read badger before a write and comes after it must not put back what the write replaced.
func TestAReadThatWasOvertakenKeepsNothing(t *testing.T) {
	s := openMemory(t, Options{Durability: OS})
	k := Key{1, "b", "k"}
	key := k.encode()
	put(t, s, k, "old")
	old := onDisk(t, s, k)
	s.recent.forget(key)
	_, moment, _ := s.recent.get(key, true)
	put(t, s, k, "new")
	s.recent.forget(key)
	s.recent.keep(key, old, moment)
	sawSame(t, s, k)
	_, moment, _ = s.recent.get(key, true)
	get(t, s, k)
	s.recent.keep(key, old, moment-1)
	sawSame(t, s, k)
	if _, _, found := s.recent.get(key, true); !found {
		t.Error("a read that nothing overtook keeps nothing")
	}
}

// Of keys with one hash, one is kept, and none is taken for another.
func TestKeysOfOneHash(t *testing.T) {
	st := recentStripe{limit: 1 << 20}
	st.clear()
	const hash = 7
	a, b := []byte("a"), []byte("b")
	st.set(a, []byte("of a"), hash)
	if st.at(a, hash) == 0 || st.at(b, hash) != 0 {
		t.Fatal("b is taken for a")
	}
	st.set(b, []byte("of b"), hash)
	if i := st.at(b, hash); st.at(a, hash) != 0 || i == 0 || string(st.slots[i].data) != "bof b" {
		t.Fatalf("after b: %+v", st.slots)
	}
	st.remove(st.at(b, hash))
	if st.bytes != 0 || st.at(b, hash) != 0 || st.slots[0].next != 0 || st.slots[0].prev != 0 {
		t.Errorf("with nothing left: %d bytes, %+v", st.bytes, st.slots)
	}
}

// The slots of a stripe behave like a list of the keys by their last use, whatever is done.
func TestRecentStripeAgainstAModel(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	st := recentStripe{limit: 40 << 10}
	st.clear()
	var model []string // used last first
	values, sizes := map[string]string{}, map[string]int64{}
	use := func(k string, keep bool) {
		model = slices.DeleteFunc(model, func(x string) bool { return x == k })
		if keep {
			model = slices.Insert(model, 0, k)
		} else {
			delete(values, k)
			delete(sizes, k)
		}
	}
	for range 20_000 {
		k := fmt.Sprint(r.IntN(100))
		hash := uint64(len(k))<<32 + uint64(k[0])<<8 + uint64(k[len(k)-1])
		switch i := st.at([]byte(k), hash); {
		case r.IntN(3) > 0:
			v := strings.Repeat("v", r.IntN(6000))
			st.set([]byte(k), []byte(v), hash)
			i = st.at([]byte(k), hash)
			use(k, i != 0)
			if i == 0 {
				if len(v) < 4<<10 {
					t.Fatalf("%d bytes are not kept", len(v))
				}
				break
			}
			values[k], sizes[k] = v, int64(cap(st.slots[i].data))+recentOverhead
			for total := int64(0); ; {
				total = 0
				for _, n := range sizes {
					total += n
				}
				if total <= st.limit {
					break
				}
				use(model[len(model)-1], false)
			}
		case i == 0:
		case r.IntN(2) == 0:
			st.remove(i)
			use(k, false)
		default:
			st.unlink(i)
			st.link(i)
			use(k, true)
		}
		n := 0
		for i := st.slots[0].next; i != 0; i = st.slots[i].next {
			s := st.slots[i]
			k := model[n]
			if string(s.data[:s.key]) != k || string(s.data[s.key:]) != values[k] || st.slots[s.next].prev != i {
				t.Fatalf("%d: %+v, want %s", n, s, k)
			}
			n++
		}
		if n != len(model) || n != len(st.index) {
			t.Fatalf("%d, %d in the index, want %d", n, len(st.index), len(model))
		}
	}
}
