package storage

import (
	"context"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

// maxScan bounds the records that one call of Keys or Candidates looks at.
const maxScan = 1 << 16

// ScanCursor is a place in a partition: behind the record of this bucket and key. Zero: before the first.
type ScanCursor struct{ Bucket, Key string }

// KeyEntry is a record as a scan of a partition sees it.
type KeyEntry struct {
	Bucket, Key string
	Digest      vclock.Digest // zero for a corrupt one
	Incomplete  bool
	Corrupt     bool // the record is there and cannot be read
	Removing    bool // it is under removal: exchanges pass it over
}

// scan walks a partition, in the order of buckets and keys.
type scan struct {
	ctx  context.Context
	s    *Store
	g    *groups
	p    int
	room int // of what is given out, in bytes
	max  int // entries
	read int
	next ScanCursor
	more bool
	out  []KeyEntry
}

// look judges a record: whether it goes out, and with what size beside its bucket and key. v is as with badger.
type look func(e *KeyEntry, object, v []byte) (take bool, err error)

func (s *Store) newScan(ctx context.Context, p int, after ScanCursor, limit int) *scan {
	if limit <= 0 {
		limit = 1000
	}
	return &scan{ctx: ctx, s: s, g: s.groups(), p: p, room: 1 << 20, max: min(limit, MaxList), next: after}
}

// run fills the page with what the look takes.
func (c *scan) run(txn *badger.Txn, look look) error {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = c.g.prefix(spaceObject, c.p)
	it := txn.NewIterator(opt)
	defer it.Close()
	if c.next == (ScanCursor{}) {
		it.Rewind()
	} else {
		it.Seek(append(Key{c.g.slice(c.p), c.next.Bucket, c.next.Key}.encode(), 0))
	}
	for ; it.Valid(); it.Next() {
		for it.Valid() {
			next := c.g.pass(c.p, it.Item().Key())
			if next == nil {
				break
			}
			it.Seek(next)
		}
		if !it.Valid() {
			break
		}
		if c.read >= maxScan || len(c.out) == c.max || len(c.out) > 0 && c.room <= 0 {
			c.more = true
			return nil
		}
		if c.read++; c.read%64 == 0 && c.ctx.Err() != nil {
			return c.ctx.Err()
		}
		if err := c.visit(it.Item(), look); err != nil {
			return err
		}
	}
	return nil
}

func (c *scan) visit(item *badger.Item, look look) error {
	object := item.Key()
	k, err := decodeKey(object)
	if err != nil {
		return readError(corrupt("%v", err))
	}
	e := KeyEntry{Bucket: k.Bucket, Key: k.Key, Removing: c.s.removing.has(k.Partition, object)}
	take := false
	err = item.Value(func(v []byte) (err error) {
		take, err = look(&e, object, v)
		return err
	})
	if err != nil {
		return readError(err)
	}
	c.next = ScanCursor{k.Bucket, k.Key}
	if take {
		c.out = append(c.out, e)
		c.room -= len(e.Bucket) + len(e.Key) + 32
	}
	return nil
}

// Keys returns a page of a partition's records, ordered by bucket and key, by their headers: of one leaf, or with
// leaf -1 of all; at most limit (0: 1000, at most MaxList), and 1 MiB of keys. next is where the following page
// begins, more whether there may be something: a page can be empty although more follows. Every page is a snapshot
// of its own. Errors: ErrKey, ErrRead, ErrCorrupt (badger failed on a damaged table), ErrClosed and the context's.
func (s *Store) Keys(ctx context.Context, p, leaf int, after ScanCursor, limit int) (keys []KeyEntry, next ScanCursor, more bool, err error) {
	if err := s.groups().check(p); err != nil {
		return nil, after, false, err
	}
	if s.drops.has(p) {
		return nil, after, false, dropping(p)
	}
	c := s.newScan(ctx, p, after, limit)
	err = s.view(func(txn *badger.Txn) error {
		return c.run(txn, func(e *KeyEntry, object, v []byte) (bool, error) {
			if leaf >= 0 && leafOf(object) != leaf {
				return false, nil
			}
			h, _, err := decodeHeader(object, v)
			e.Digest, e.Incomplete, e.Corrupt = h.digest, h.incomplete, err != nil
			return true, nil
		})
	})
	if err != nil {
		return nil, after, false, err
	}
	return c.out, c.next, c.more, nil
}
