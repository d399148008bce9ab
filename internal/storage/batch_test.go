package storage

import (
	"context"
	"errors"
	"math"
	"testing"

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
				b.entries.add(*c.entry)
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
