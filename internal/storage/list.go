package storage

import (
	"bytes"
	"container/heap"
	"context"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

// MaxList is the largest number of entries on a page.
const MaxList = 10_000

// ListRequest asks for a page of a bucket's keys.
type ListRequest struct {
	Partitions []int // only these, ascending
	Bucket     string
	Prefix     string // only keys that begin with it
	After      string // only keys behind it; empty: from the first on
	Limit      int    // entries; 0: 1000; at most MaxList
	MaxBytes   int    // of keys and digests; 0: 1 MiB. One entry is given in any case
}

// ListEntry is a key that the node holds something of, deleted ones included.
type ListEntry struct {
	Key        string
	Digest     vclock.Digest
	Life            // of all siblings
	Winner     Life // of the sibling that last-write-wins shows
	Size       int  // of the encoded object, in bytes
	Incomplete bool
	Corrupt    bool // the record cannot be read; the fields above but Key are zero
}

// ListPage is a page of a listing.
type ListPage struct {
	Entries []ListEntry // by key, in byte order
	More    bool        // there are entries behind the last one
}

// List returns the keys of a bucket over several partitions, as one snapshot shows them. The digest of a large
// object is that of its record; whether its pieces can be read only Get and Digest tell. Errors: ErrKey, ErrRead,
// ErrCorrupt (badger failed on a damaged table), ErrClosed and the context's.
func (s *Store) List(ctx context.Context, r ListRequest) (ListPage, error) {
	if r.Limit <= 0 {
		r.Limit = 1000
	}
	if r.MaxBytes <= 0 {
		r.MaxBytes = 1 << 20
	}
	r.Limit = min(r.Limit, MaxList)
	slices := make([]int, 0, len(r.Partitions))
	for i, p := range r.Partitions {
		if err := s.groups().checkRange(p, r.Bucket); err != nil {
			return ListPage{}, err
		}
		k := s.at(Key{Partition: p, Bucket: r.Bucket})
		if own := s.partition(k); s.drops.has(own) {
			return ListPage{}, dropping(own)
		}
		if slices = append(slices, k.Partition); i > 0 && slices[i-1] >= k.Partition {
			return ListPage{}, fmt.Errorf("%w: partitions are not ascending", ErrKey)
		}
	}
	r.Partitions = slices
	if len(r.Partitions) == 0 {
		return ListPage{}, nil
	}
	var page ListPage
	err := s.view(func(txn *badger.Txn) error {
		l := newLister(ctx, s, txn, r)
		defer l.it.Close()
		var err error
		page, err = l.page()
		return err
	})
	if err != nil {
		return ListPage{}, err
	}
	return page, nil
}

// lister merges the partitions of a listing with a single iterator: it reads a run of keys from each partition in
// turn, and another one from those that run out.
type lister struct {
	ctx   context.Context
	s     *Store
	r     ListRequest
	it    *badger.Iterator
	share int // of a partition in the page, with some to spare
	runs  runHeap
	reads int
	seek  []byte
	// onward says that the iterator has not passed what is sought: where it stands behind it already, there is no
	// need to seek, which makes empty partitions nearly free.
	onward bool
}

// run is what was read from one partition and not given out yet.
type run struct {
	partition int
	entries   []ListEntry
	ended     bool // the partition has no more
	last      string
}

func newLister(ctx context.Context, s *Store, txn *badger.Txn, r ListRequest) *lister {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = []byte{spaceObject}
	return &lister{ctx: ctx, s: s, r: r, it: txn.NewIterator(opt), share: 2*r.Limit/len(r.Partitions) + 1}
}

func (l *lister) page() (ListPage, error) {
	if err := l.begin(); err != nil {
		return ListPage{}, err
	}
	var page ListPage
	room := l.r.MaxBytes
	for len(l.runs) > 0 {
		if len(page.Entries) == l.r.Limit || len(page.Entries) > 0 && room <= 0 {
			page.More = true
			break
		}
		first := l.runs[0]
		e := first.entries[0]
		first.entries = first.entries[1:]
		page.Entries = append(page.Entries, e)
		room -= len(e.Key) + len(e.Digest) + 32
		if len(first.entries) == 0 && !first.ended {
			if err := l.read(first, first.last+"\x00", l.share+refill); err != nil {
				return ListPage{}, err
			}
		}
		if len(first.entries) == 0 {
			heap.Pop(&l.runs)
		} else {
			heap.Fix(&l.runs, 0)
		}
	}
	return page, nil
}

// begin reads the first run of every partition.
func (l *lister) begin() error {
	from := l.r.Prefix
	if l.r.After != "" && l.r.After+"\x00" > from {
		from = l.r.After + "\x00"
	}
	for i, p := range l.r.Partitions {
		first := &run{partition: p}
		l.onward = i > 0
		if err := l.read(first, from, l.share); err != nil {
			return err
		}
		if len(first.entries) > 0 {
			l.runs = append(l.runs, first)
		}
	}
	l.onward = false
	heap.Init(&l.runs)
	return nil
}

// refill is how many keys more than its share a partition is asked for when it ran out: it has more than others.
const refill = 8

// read fills the run with the partition's next n keys, from the given one on.
func (l *lister) read(into *run, from string, n int) error {
	if err := l.ctx.Err(); err != nil {
		return err
	}
	l.seek = appendRange(l.seek[:0], into.partition, l.r.Bucket)
	base := len(l.seek)
	l.seek = append(l.seek, from...)
	if !l.onward || l.it.Valid() && bytes.Compare(l.it.Item().Key(), l.seek) < 0 {
		l.it.Seek(l.seek)
	}
	into.entries = into.entries[:0]
	for ; l.it.Valid(); l.it.Next() {
		if l.reads++; l.reads%256 == 0 && l.ctx.Err() != nil {
			return l.ctx.Err()
		}
		item := l.it.Item()
		key := item.Key()
		if len(key) < base || !bytes.Equal(key[:base], l.seek[:base]) || !bytes.HasPrefix(key[base:], []byte(l.r.Prefix)) {
			into.ended = true
			return nil
		}
		if len(into.entries) == n {
			return nil
		}
		e, err := l.entry(item, base)
		if err != nil {
			return err
		}
		into.last = e.Key
		into.entries = append(into.entries, e)
	}
	into.ended = true
	return nil
}

func (l *lister) entry(item *badger.Item, base int) (ListEntry, error) {
	key := item.Key()
	e := ListEntry{Key: string(key[base:])}
	err := item.Value(func(v []byte) error {
		h, _, err := decodeHeader(key, v)
		if err != nil {
			l.s.metrics.corrupt.Add(1)
			e.Corrupt = true
			return nil
		}
		e.Digest, e.Life, e.Winner, e.Size, e.Incomplete = h.digest, h.life, h.winner, h.size, h.incomplete
		return nil
	})
	if err != nil {
		return ListEntry{}, readError(err)
	}
	return e, nil
}

// runHeap orders runs by their first key.
type runHeap []*run

func (h runHeap) Len() int           { return len(h) }
func (h runHeap) Less(i, j int) bool { return h[i].entries[0].Key < h[j].entries[0].Key }
func (h runHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *runHeap) Push(x any)        { *h = append(*h, x.(*run)) }
func (h *runHeap) Pop() any {
	old := *h
	last := old[len(old)-1]
	*h = old[:len(old)-1]
	return last
}
