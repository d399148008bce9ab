package storage

import (
	"reflect"
	"time"
	"unsafe"

	"github.com/dgraph-io/badger/v4"
	"github.com/dgraph-io/ristretto/v2/z"
)

// badger builds tables in buffers that it keeps for the next ones, up to eight. A buffer for a table of a compaction has
// 4 MiB, one for that of a whole memtable grows to 28 MiB, and never shrinks: handed out in turn, after some memtables
// each of the eight is of that size. That was most of the memory of a node that writes, and counted twice, since the
// collector lets as much again be used before it runs. So the store looks them over now and then.
const (
	buildersEvery = 2 * time.Second
	builderKept   = 4 << 20 // as badger makes them at first
	buildersKept  = 4
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
	var kept []*z.Allocator
	for {
		const fresh = 1 // of bytes: then it was made for us, and there are no more
		a := pool.Get(fresh, "idle")
		if a.Allocated() < builderKept {
			a.Release()
			break
		}
		if len(kept) == buildersKept {
			a.Release()
			continue
		}
		// One for a table of a lower level begins with a larger buffer. Without that it would be empty, and an empty one
		// never returns from its next use.
		if a.TrimTo(builderKept + 1); a.Allocated() == 0 {
			a.Release()
			continue
		}
		kept = append(kept, a)
	}
	for _, a := range kept {
		pool.Return(a)
	}
}
