package storage

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"github.com/cespare/xxhash/v2"
	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/internal/wire"
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// batch is what one transaction of a shard does. The transaction also reads: nothing else writes its keys.
type batch struct {
	sh      *shard
	txn     *badger.Txn
	ops     []*op
	entries *entries
	buckets []string  // that this batch makes known
	dropped []dropped // hints that it replaces without knowing what they held
	weight  int       // at least the size of the transaction
	written int       // bytes of records
	dirty   bool
}

// entry is a key's state in the course of a batch.
type entry struct {
	key        []byte // badger's
	same       *entry // another of the batch, whose key has the same hash
	k          Key
	rec        vclock.Record
	digest     vclock.Digest
	incomplete bool
	err        error // the record cannot be read
	corrupt    bool  // it could not when the batch began
	old        *chunkRef
	dirty      bool
	weight     int // of what it adds to the transaction
	was        tally
	size       int    // of the encoded object, once it is in the transaction
	record     []byte // then, if it may be kept in memory: badger's value
	cold       bool   // nobody has asked for it lately

	hint     bool
	target   ring.NodeID
	since    int64 // Unix milliseconds when the hint was first stored
	bytes    int64 // that the hint counts for, by the latest change
	reserved int64 // of these, what was not counted when the batch began
}

type dropped struct {
	target    ring.NodeID
	partition int
}

// entries are those of one batch, by key. The next batch of the shard uses the memory again: nobody may keep one.
type entries struct {
	byHash map[uint64]*entry
	list   []*entry // all of byHash
	spare  []*entry // zero
}

// mostSpare bounds what is kept of a large batch.
const mostSpare = 128

func (t *entries) of(key []byte, hash uint64) *entry {
	e := t.byHash[hash]
	for e != nil && !bytes.Equal(e.key, key) {
		e = e.same
	}
	return e
}

func (t *entries) add(e entry, hash uint64) *entry {
	var at *entry
	if n := len(t.spare); n > 0 {
		at, t.spare = t.spare[n-1], t.spare[:n-1]
	} else {
		at = new(entry)
	}
	if t.byHash == nil {
		t.byHash = make(map[uint64]*entry)
	}
	e.same = t.byHash[hash]
	*at = e
	t.byHash[hash] = at
	t.list = append(t.list, at)
	return at
}

// reset forgets all entries.
func (t *entries) reset() {
	if len(t.list) > mostSpare {
		t.byHash, t.list, t.spare = nil, nil, nil
		return
	}
	clear(t.byHash)
	for _, e := range t.list {
		*e = entry{}
	}
	t.spare = append(t.spare, t.list...)
	t.list = t.list[:0]
}

func newBatch(sh *shard) *batch {
	return &batch{sh: sh, txn: sh.s.transaction(true), ops: sh.ops, entries: &sh.entries}
}

// end gives the memory back. Nothing of the batch may be used afterwards.
func (b *batch) end() {
	b.entries.reset()
	if clear(b.ops); cap(b.ops) <= mostSpare {
		b.sh.ops = b.ops[:0]
	} else {
		b.sh.ops = nil
	}
	b.ops, b.entries = nil, nil
}

func (b *batch) full() bool { return len(b.ops) >= batchOps || b.weight >= batchBytes }

// take applies an op, unless its caller has gone.
func (b *batch) take(o *op) {
	b.sh.queued.Add(-o.size)
	if !o.state.CompareAndSwap(opQueued, opTaken) {
		b.sh.s.guard.release(o.held)
		return
	}
	b.ops = append(b.ops, o)
	// Both were asked before queueing, and the queue may be long.
	if o.err = cmp.Or(o.over(), b.sh.s.guard.check(o.level)); o.err != nil {
		return
	}
	if p := b.sh.s.partition(o.k); !o.hint && b.sh.s.drops.has(p) { // does not begin within a batch
		o.err = dropping(p)
		return
	}
	round := b.sh.s.rounds.get(o.k.Partition) // does not change within a batch
	if o.write == nil && !o.remove && o.opt.Round < round {
		b.sh.s.metrics.stale.Inc()
		o.err = stale(o.k.Partition, o.opt.Round, round)
		return
	}
	e := b.entry(o)
	e.cold = e.cold && o.opt.Cold
	switch {
	case o.remove:
		b.remove(o, e)
	case o.write != nil:
		b.mint(o, e)
	default:
		b.merge(o, e)
	}
	o.ack.Round = round
	if e.dirty {
		b.dirty = true
		b.weigh(e)
	}
	if o.err == nil && o.applied != nil {
		o.applied(o.minted, round)
	}
}

// entry reads a key the first time that the batch needs it.
func (b *batch) entry(o *op) *entry {
	hash := xxhash.Sum64(o.key)
	if e := b.entries.of(o.key, hash); e != nil {
		return e
	}
	l, err := b.load(o)
	e := b.entries.add(entry{
		key: o.key, k: o.k, err: err, old: l.chunks, cold: true,
		rec: l.record, digest: l.header.digest, incomplete: l.header.incomplete, corrupt: errors.Is(err, ErrCorrupt),
	}, hash)
	if l.found {
		e.was = l.header.tally()
	}
	if e.corrupt {
		e.was = tally{found: true, corrupt: true}
	}
	if o.hint {
		e.openHint(o.target, l)
	}
	// Also that nothing is there may not be durable.
	e.dirty = err == nil && b.sh.suspect(o.key)
	return e
}

// load reads the record of an op. Hints are not kept in memory: they are read once.
func (b *batch) load(o *op) (loaded, error) {
	s := b.sh.s
	if o.hint {
		return s.load(b.txn, o.k, o.key)
	}
	if l, _, found := s.recent.get(o.key, true); found {
		return l, nil
	}
	return s.load(b.txn, o.k, o.key)
}

func (b *batch) mint(o *op, e *entry) {
	m := b.sh.s.metrics
	e.giveUpCorruptHint()
	switch {
	case e.err != nil:
		o.err = e.err
		return
	case e.incomplete:
		o.err = ErrIncomplete
		return
	}
	o.minted, o.err = b.sh.minter().Mint(e.rec, *o.write)
	if o.err == nil && weigh(o.minted.Record.Object) > maxObject {
		o.err = ErrTooLarge
	}
	if o.err != nil {
		return
	}
	if !o.minted.Existing {
		if o.err = b.replace(o, e, o.minted.Record); o.err != nil {
			return
		}
	}
	m.mints.Inc()
	o.ack = Ack{Changed: !o.minted.Existing, Object: e.rec.Object, Digest: e.digest}
}

func (b *batch) merge(o *op, e *entry) {
	s := b.sh.s
	e.giveUpCorruptHint()
	// On a corrupt record there is nothing to merge with. Not even its own actor may be continued.
	replace := errors.Is(e.err, ErrCorrupt)
	if e.err != nil && !replace {
		o.err = e.err
		return
	}
	var cur vclock.Record
	if !replace {
		cur = e.rec
	}
	next := cur.Absorb(o.object)
	next.Object = next.Purge(s.opt.Now().UnixMilli()-s.opt.Limits.Window.Milliseconds(), s.opt.Limits.Retired)
	if weigh(next.Object) > maxObject {
		o.err = ErrTooLarge
		return
	}
	changed := replace || !sameState(cur.Object, next.Object)
	incomplete := (e.incomplete || replace) && !o.opt.Heal
	if changed || incomplete != e.incomplete {
		if o.err = b.replace(o, e, next); o.err != nil {
			return
		}
		e.err, e.incomplete = nil, incomplete
	} else if !e.dirty {
		s.metrics.unchanged.Inc()
	}
	s.metrics.merges.Inc()
	o.ack = Ack{Changed: changed, Object: e.rec.Object, Digest: e.digest}
}

// remove deletes what has exactly the digest.
func (b *batch) remove(o *op, e *entry) {
	if e.err != nil && !(e.corrupt && o.digest == vclock.Digest{}) {
		if !e.corrupt {
			o.err = e.err
		}
		return
	}
	if e.err == nil && (e.rec.IsZero() || e.digest != o.digest) {
		return
	}
	e.giveUpCorruptHint()
	if o.err = b.change(e, vclock.Record{}); o.err == nil {
		o.ack = Ack{Changed: true}
	}
}

// sameState reports whether writing next over cur would store anything new. When a retired id was noted does not
// count: replicas would hand it to and fro.
func sameState(cur, next vclock.Object) bool {
	return cur.Equal(next) && slices.EqualFunc(cur.Retired, next.Retired, func(r, t vclock.Retired) bool {
		return r.ID == t.ID
	})
}

// replace makes r what the entry holds for an op, if the disk has room for all of the object: the op may be small and
// the key large. It fails with ErrFull or ErrHintsFull, and then does nothing.
func (b *batch) replace(o *op, e *entry, r vclock.Record) error {
	if more := int64(weigh(r.Object)) + opOverhead - o.held; more > 0 {
		if err := b.sh.s.guard.admit(o.level, more); err != nil {
			return err
		}
		o.held += more
	}
	return b.change(e, r)
}

// change makes r what the entry holds. It fails only for hints, with ErrHintsFull, and then does nothing.
func (b *batch) change(e *entry, r vclock.Record) error {
	if e.hint {
		if err := b.changeHint(e, &r); err != nil {
			return err
		}
	}
	e.rec, e.digest, e.dirty = r, vclock.Digest{}, true
	if !r.IsZero() {
		e.digest = r.Digest(e.k.Bucket, e.k.Key)
	}
	if !e.hint && !b.sh.s.buckets.has(e.k.Bucket) && !slices.Contains(b.buckets, e.k.Bucket) {
		b.buckets = append(b.buckets, e.k.Bucket)
		b.weight += len(e.k.Bucket) + entryOverhead
	}
	return nil
}

const entryOverhead = 64 // badger's own, and more

func (b *batch) weigh(e *entry) {
	w := min(weigh(e.rec.Object), inlineMax) + len(e.key) + recordHeader + entryOverhead
	b.weight += w - e.weight
	e.weight = w
}

// fill encodes what changed into the transaction. The pieces of large objects are committed here, before it.
func (b *batch) fill() error {
	for _, bucket := range b.buckets {
		if err := b.txn.Set(bucketKey(bucket), bucketValue); err != nil {
			return err
		}
	}
	for _, d := range b.dropped {
		if err := b.txn.Set(droppedKey(b.sh.s.groups(), d.target, d.partition), droppedValue); err != nil {
			return err
		}
	}
	enc := wire.NewEncoder()
	defer func() { enc.Free() }()
	for _, e := range b.entries.list {
		if !e.dirty {
			continue
		}
		if e.rec.IsZero() && !e.incomplete { // a corrupt record that nobody else holds
			if err := b.txn.Delete(e.key); err != nil {
				return err
			}
			continue
		}
		enc.Free()
		enc = wire.NewEncoder()
		e.rec.Encode(enc)
		payload := enc.Bytes()
		rec := e.rec
		if e.hint {
			rec.Own = hintOwn(e.since)
		}
		h := newHeader(rec, e.digest, e.incomplete)
		h.size = len(payload)
		if e.size = h.size; h.size > inlineMax {
			ref, err := b.sh.s.writeChunks(e.key, payload)
			if err != nil {
				return err
			}
			h.chunked, payload = true, ref.encode()
		}
		start := len(b.sh.buf)
		b.sh.buf = h.appendTo(b.sh.buf, e.key, payload)
		record := b.sh.buf[start:]
		if !h.chunked && !h.incomplete {
			e.record = record
		}
		b.written += len(record)
		if err := b.txn.Set(e.key, record); err != nil {
			return err
		}
	}
	return nil
}

// garbage lists the pieces of large objects that the batch replaced. They are removed after it: in it, they could
// make the transaction too large, and a crash before leaves them to the next start's sweep.
func (b *batch) garbage(committed bool) [][]byte {
	var keys [][]byte
	for _, e := range b.entries.list {
		if committed && e.dirty && e.old != nil {
			keys = append(keys, e.old.keys(e.key)...)
		}
	}
	return keys
}
