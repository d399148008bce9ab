package antientropy

import (
	"cmp"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
)

// span is a key list, or the rest of one: the keys of a leaf, or of a whole partition, after a cursor.
type span struct {
	partition, leaf int
	after           Cursor
}

// keysRequest asks for the lists of some spans. The peer answers as many, from the first on, as fit into its answer.
type keysRequest struct {
	epoch uint64
	spans []span
}

func (r *keysRequest) encode() []byte {
	e := begin(3)
	defer e.Free()
	e.Uint(r.epoch)
	e.Array(4 * len(r.spans))
	for _, s := range r.spans {
		e.Uint(uint64(s.partition))
		e.Uint(uint64(s.leaf + 1))
		e.String(s.after.Bucket)
		e.String(s.after.Key)
	}
	return e.Copy()
}

func decodeKeysRequest(b []byte) (r keysRequest, err error) {
	d := open(b, 3)
	r.epoch = d.Uint()
	for range groups(d, 4, maxSpans) {
		r.spans = append(r.spans, span{
			partition: d.Count(ring.MaxNumbered - 1), leaf: d.Count(Leaves) - 1,
			after: Cursor{d.String(maxBucket), d.String(maxKey)},
		})
	}
	return r, d.Done()
}

// groups opens an array that holds at most limit groups of size values, and returns their number.
func groups(d *wire.Decoder, size, limit int) int {
	n := d.Array(size * limit)
	if n%size != 0 {
		d.Fail("broken groups")
		return 0
	}
	return n / size
}

// list is one span's answer. more: it ends early, and is the last of its message.
type list struct {
	entries []KeyEntry
	more    bool
}

type keysReply struct{ lists []list }

const (
	entryIncomplete = 1 << iota
	entryCorrupt
	entryRemoving
	entryFlags = entryIncomplete | entryCorrupt | entryRemoving
)

func flagsOf(k *KeyEntry) (f uint64) {
	if k.Incomplete {
		f |= entryIncomplete
	}
	if k.Corrupt {
		f |= entryCorrupt
	}
	if k.Removing {
		f |= entryRemoving
	}
	return f
}

func (r *keysReply) encode() []byte {
	e := begin(2)
	defer e.Free()
	e.Array(2 * len(r.lists))
	for i := range r.lists {
		l := &r.lists[i]
		e.Bool(l.more)
		e.Array(4 * len(l.entries))
		bucket := ""
		for j := range l.entries {
			k := &l.entries[j]
			// An empty name stands for the bucket of the entry before: no bucket has it.
			if k.Bucket == bucket {
				e.String("")
			} else {
				e.String(k.Bucket)
				bucket = k.Bucket
			}
			e.String(k.Key)
			e.Raw(k.Digest[:])
			e.Uint(flagsOf(k))
		}
	}
	return e.Copy()
}

func decodeKeysReply(b []byte) (r keysReply, err error) {
	d := open(b, 2)
	left := maxEntries
	for range groups(d, 2, maxSpans) {
		l := list{more: d.Bool()}
		n := groups(d, 4, left)
		left -= n
		last := Cursor{}
		for range n {
			k := decodeEntry(d, last.Bucket)
			at := Cursor{k.Bucket, k.Key}
			if d.Err() == nil && at.compare(last) <= 0 {
				d.Fail("keys out of order")
			}
			if d.Err() != nil {
				return keysReply{}, d.Err()
			}
			l.entries, last = append(l.entries, k), at
		}
		if l.more && n == 0 {
			d.Fail("a list that says more and holds nothing")
		}
		r.lists = append(r.lists, l)
	}
	return r, d.Done()
}

func decodeEntry(d *wire.Decoder, bucket string) KeyEntry {
	k := KeyEntry{Bucket: d.String(maxBucket), Key: d.String(maxKey)}
	if k.Bucket == "" {
		k.Bucket = bucket
	}
	if k.Bucket == "" && d.Err() == nil {
		d.Fail("no bucket")
	}
	d.Fixed(k.Digest[:])
	f := d.Uint()
	if f&^entryFlags != 0 {
		d.Fail("unknown flags")
	}
	k.Incomplete, k.Corrupt, k.Removing = f&entryIncomplete != 0, f&entryCorrupt != 0, f&entryRemoving != 0
	return k
}

func (c Cursor) compare(o Cursor) int {
	return cmp.Or(cmp.Compare(c.Bucket, o.Bucket), cmp.Compare(c.Key, o.Key))
}
