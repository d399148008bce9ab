package storage

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dgraph-io/ristretto/v2/z"
)

// What is kept for badger's next tables is bounded, and can be used.
func TestTrimPool(t *testing.T) {
	pool := z.NewAllocatorPool(8) // as badger has it
	defer pool.Release()
	idle := func() (count int, bytes uint64) {
		var all []*z.Allocator
		for {
			a := pool.Get(1, "test")
			if a.Allocated() < builderSmall {
				a.Release()
				break
			}
			bytes += a.Allocated()
			all = append(all, a)
		}
		for _, a := range all {
			pool.Return(a)
		}
		return len(all), bytes
	}
	for range 2 {
		// Buffers as memtables leave them.
		var all []*z.Allocator
		for range 8 {
			a := pool.Get(builderSmall, "test")
			for range 5 {
				a.Allocate(4 << 20)
			}
			all = append(all, a)
		}
		for _, a := range all {
			pool.Return(a)
		}
		if n, bytes := idle(); n != 8 || bytes < 8*20<<20 {
			t.Fatalf("%d buffers of %d MiB: badger's pool works otherwise", n, bytes>>20)
		}
		trimPool(pool)
		if n, bytes := idle(); n != 1+smallKept || bytes != builderLarge+smallKept*builderSmall {
			t.Errorf("%d buffers of %d MiB are kept", n, bytes>>20)
		}
		if a := pool.Get(builderSmall, "test"); a.Allocated() != builderLarge {
			t.Errorf("a memtable gets a buffer of %d MiB", a.Allocated()>>20)
		} else {
			pool.Return(a)
		}
	}
	// One for the tables of a low level begins with a buffer that is too large to be kept. What is left can be used.
	for range 1 + smallKept {
		pool.Get(builderSmall, "test").Release()
	}
	for _, size := range []int{16 << 20, builderSmall, 64 << 20, 2 * builderSmall} {
		pool.Return(z.NewAllocator(size, "test"))
	}
	trimPool(pool)
	for range smallKept + 4 {
		a := pool.Get(builderSmall, "test")
		used := make(chan struct{})
		go func() { a.Allocate(8 << 20); close(used) }()
		select {
		case <-used:
		case <-time.After(20 * time.Second):
			t.Fatal("a buffer that was kept cannot be used")
		}
		defer a.Release()
	}
}

// badger goes on to build tables. This fails when a later badger keeps its buffers elsewhere.
func TestBuildersAreTrimmed(t *testing.T) {
	s, _ := openTest(t, t.TempDir(), Options{})
	pool := builderPool(s.db)
	if pool == nil {
		t.Fatal("badger's pool of buffers is not where it was")
	}
	value := strings.Repeat("v", 60<<10)
	for i := range 900 { // several memtables
		put(t, s, Key{i % 7, "b", fmt.Sprint(i)}, value)
		trimPool(pool)
	}
	if err := s.db.Flatten(1); err != nil {
		t.Fatal(err)
	}
	for i := range 900 {
		if o := get(t, s, Key{i % 7, "b", fmt.Sprint(i)}); len(o.Record.Siblings) != 1 || string(o.Record.Siblings[0].Value) != value {
			t.Fatalf("key %d: %d siblings", i, len(o.Record.Siblings))
		}
	}
}
