package storage

import (
	"reflect"
	"time"
	"unsafe"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/ristretto/v2/z"
)

// badger builds tables in buffers that it keeps for the next ones, up to eight. A buffer for a table of a compaction has
// 4 MiB, one for that of a whole memtable grows by doubling, and never shrinks: handed out in turn, after some memtables
// each of the eight would be of that size. That was most of the memory of a node that writes, and counted twice, since
// the collector lets as much again be used before it runs. So the store looks them over now and then, and leaves one
// that takes a memtable at once, and a few small ones.
const (
	buildersEvery = 2 * time.Second
	builderSmall  = 4 << 20 // as badger makes them at first
	builderLarge  = 16 << 20
	smallKept     = 2
)

// trimBuilders does so until the store stops.
func (s *Store) trimBuilders() {
	pool := builderPool(s.db)
	if pool == nil {
		s.log.Warn("this badger keeps its buffers elsewhere, which costs memory", "op", "open")
		return
	}
	tick := time.NewTicker(buildersEvery)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
			trimPool(pool)
		}
	}
}

// builderPool finds the buffers, which badger shows nobody. Nil: this badger has none there.
func builderPool(db *badger.DB) *z.AllocatorPool {
	f := reflect.ValueOf(db).Elem().FieldByName("allocPool")
	if !f.IsValid() || f.Type() != reflect.TypeFor[*z.AllocatorPool]() {
		return nil
	}
	return *(**z.AllocatorPool)(unsafe.Pointer(f.UnsafeAddr())) // set when badger was opened, and never again
}

// trimPool makes the buffers that nobody uses now few and small. badger's pool must not be closed.
func trimPool(pool *z.AllocatorPool) {
	var large *z.Allocator
	var small []*z.Allocator
	grown := false // a small one took a memtable
	for {
		const fresh = 1 // of bytes: then it was made for us, and there are no more
		a := pool.Get(fresh, "idle")
		if a.Allocated() < builderSmall {
			a.Release()
			break
		}
		// Of its buffers, those go with which it has as much or more. Where the first one goes, it has none, and must not
		// be used: that would never return.
		if a.TrimTo(builderLarge + 1); a.Allocated() == builderLarge && large == nil {
			large = a
			continue
		}
		grown = grown || a.Allocated() > builderSmall
		if a.TrimTo(builderSmall + 1); a.Allocated() == 0 || len(small) == smallKept {
			a.Release()
			continue
		}
		small = append(small, a)
	}
	if large == nil && grown {
		large = z.NewAllocator(builderLarge, "idle")
	}
	if large != nil {
		pool.Return(large) // first: who comes next is most likely a memtable
	}
	for _, a := range small {
		pool.Return(a)
	}
}
