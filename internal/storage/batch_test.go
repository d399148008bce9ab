package storage

import (
	"bytes"
	"context"
	"errors"
	"math"
	"testing"

	"github.com/cespare/xxhash/v2"

	"github.com/dunlindb/dunlin/vclock"
)

// A write that waited in the queue is refused if its time is over or the disk is full by now, and what cannot be read
// is not written over: that would answer as if nothing had been there.
func TestBatchRefuses(t *testing.T) {
	s := openMemory(t, Options{Shards: 1})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	unread := &entry{err: readError(errDisk)}
	for name, c := range map[string]struct {
		ctx   context.Context
		full  bool
		entry *entry
		want  error
	}{
		"context ended":  {ctx: ended, want: context.Canceled},
		"disk full":      {full: true, want: ErrFull},
		"read failed":    {entry: unread, want: ErrRead},
		"nothing at all": {},
	} {
		for _, write := range []*vclock.Write{nil, {Value: []byte("x")}} {
			k := Key{1, "b", name}
			o := &op{ctx: t.Context(), k: k, key: k.encode(), write: write, level: levelNoClient, done: make(chan struct{})}
			if c.ctx != nil {
				o.ctx = c.ctx
			}
			if c.full {
				s.guard.path = "full"
				s.guard.next.Store(math.MaxInt64)
				s.guard.level.Store(levelNothing)
			} else {
				s.guard.path = ""
			}
			if write == nil {
				o.object = peerObject(7, 1, "x")
			}
			o.applied = func(vclock.Minted, uint64) {
				if c.want != nil {
					t.Errorf("%s: applied", name)
				}
			}
			b := newBatch(s.shards[0])
			if c.entry != nil {
				c.entry.key = o.key
				b.entries.add(*c.entry, xxhash.Sum64(o.key))
			}
			b.take(o)
			if !errors.Is(o.err, c.want) || b.dirty != (c.want == nil) {
				t.Errorf("%s: mint %v: %v, dirty %v; want %v", name, write != nil, o.err, b.dirty, c.want)
			}
			b.txn.Discard()
			b.end()
		}
	}
}

// Keys of one hash have an entry each, and a batch after a large one none.
func TestEntriesOfOneHash(t *testing.T) {
	var all entries
	const hash = 7
	for _, n := range []int{3, mostSpare + 1, 3} {
		for i := range n {
			key := []byte{byte(i), byte(i >> 8)}
			if all.of(key, hash) != nil {
				t.Fatalf("of %d: entry %d is there before it is added", n, i)
			}
			all.add(entry{key: key}, hash)
		}
		for i, e := range all.list {
			if key := []byte{byte(i), byte(i >> 8)}; all.of(key, hash) != e || !bytes.Equal(e.key, key) {
				t.Fatalf("of %d: entry %d is another's", n, i)
			}
		}
		if all.of([]byte("x"), hash) != nil || all.of(all.list[0].key, hash+1) != nil {
			t.Fatalf("of %d: a key that was not added has an entry", n)
		}
		all.reset()
		if all.of([]byte{0, 0}, hash) != nil || len(all.list) != 0 {
			t.Fatalf("of %d: something is left", n)
		}
	}
}
