package antientropy

import (
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// memStore is a Replica in memory: maps of records with Merkle sums that follow every change, as a real store has.
type memStore struct {
	id     ring.NodeID
	commit time.Duration // of a merge

	mu          sync.Mutex
	parts       []*memPart
	incarnation uint64
	births      uint64
	full        error // error of every merge
	merges      int
	numbered    int
	behind      bool // it cannot catch up with a round
}

type memPart struct {
	records  map[Cursor]*memRecord
	order    []Cursor // sorted, nil when it has to be sorted again
	sums     [Leaves]Sum
	unready  bool
	mark     Mark
	since    uint64
	round    uint64
	recounts int
}

type memRecord struct {
	vclock.Record
	digest                        vclock.Digest
	leaf                          int
	incomplete, corrupt, removing bool
}

func newMemStore(id ring.NodeID, partitions int) *memStore {
	s := &memStore{id: id, incarnation: 1, births: uint64(id[0]) << 32}
	for range partitions {
		s.parts = append(s.parts, &memPart{records: make(map[Cursor]*memRecord)})
	}
	return s
}

func leafOf(c Cursor) int { return int(xxhash.Sum64String("leaf\x00"+c.Bucket+"\x00"+c.Key) >> 56) }

func (a Sum) plus(d vclock.Digest) Sum { return a.add(d, bits.Add64) }
func (a Sum) minus(d vclock.Digest) Sum {
	return a.add(d, bits.Sub64)
}

func (a Sum) add(d vclock.Digest, op func(x, y, carry uint64) (uint64, uint64)) (out Sum) {
	lo, c := op(binary.BigEndian.Uint64(a[8:]), binary.BigEndian.Uint64(d[8:]), 0)
	hi, _ := op(binary.BigEndian.Uint64(a[:8]), binary.BigEndian.Uint64(d[:8]), c)
	binary.BigEndian.PutUint64(out[8:], lo)
	binary.BigEndian.PutUint64(out[:8], hi)
	return out
}

func (s *memStore) Root(p int) (sum Sum, ready bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.parts[p].sums {
		sum = sum.plus(vclock.Digest(l))
	}
	return sum, !s.parts[p].unready
}

func (s *memStore) LeafSums(p int) (*[Leaves]Sum, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sums := s.parts[p].sums
	return &sums, !s.parts[p].unready
}

func (s *memStore) Keys(_ context.Context, q KeyQuery) (out []KeyEntry, more bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	part := s.parts[q.Partition]
	if part.order == nil {
		for c := range part.records {
			part.order = append(part.order, c)
		}
		slices.SortFunc(part.order, Cursor.compare)
	}
	i, _ := slices.BinarySearchFunc(part.order, q.After, Cursor.compare)
	for _, c := range part.order[i:] {
		r := part.records[c]
		if c == q.After || q.Leaf != AllLeaves && r.leaf != q.Leaf {
			continue
		}
		if len(out) == q.Limit {
			return out, true, nil
		}
		e := KeyEntry{Bucket: c.Bucket, Key: c.Key, Digest: r.digest, Incomplete: r.incomplete, Corrupt: r.corrupt, Removing: r.removing}
		if r.corrupt {
			e.Digest = vclock.Digest{}
		}
		out = append(out, e)
	}
	return out, false, nil
}

func (s *memStore) Get(k Key) (Copy, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	part := s.parts[k.Partition]
	c := Copy{Round: part.round}
	if r := part.records[Cursor{k.Bucket, k.Key}]; r != nil {
		c.Incomplete, c.Corrupt = r.incomplete, r.corrupt
		if !r.corrupt {
			c.Object, c.Digest = r.Object, r.digest
		}
	}
	return c, nil
}

func (s *memStore) Merge(ctx context.Context, k Key, o vclock.Object, opt MergeOptions) error {
	if s.commit > 0 {
		if err := sleep(ctx, s.commit); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	part := s.parts[k.Partition]
	switch {
	case s.full != nil:
		return s.full
	case opt.Round < part.round:
		return ErrStaleRound
	}
	s.merges++
	r := part.records[Cursor{k.Bucket, k.Key}]
	next := memRecord{}
	if r != nil {
		next = *r
		if r.corrupt {
			next.corrupt, next.incomplete, next.Record = false, true, vclock.Record{}
		}
	}
	if opt.Heal {
		next.incomplete = false
	}
	next.Record = next.Absorb(o.Clone())
	part.put(k, next)
	return nil
}

// put stores a record and has the sums follow.
func (p *memPart) put(k Key, r memRecord) {
	c := Cursor{k.Bucket, k.Key}
	r.leaf = leafOf(c)
	if old := p.records[c]; old != nil {
		p.sums[r.leaf] = p.sums[r.leaf].minus(old.digest)
	} else {
		p.order = nil
	}
	if r.digest = (vclock.Digest{}); !r.Object.IsZero() {
		r.digest = r.Digest(k.Bucket, k.Key)
	}
	p.sums[r.leaf] = p.sums[r.leaf].plus(r.digest)
	p.records[c] = &r
}

func (p *memPart) drop(c Cursor) {
	if r := p.records[c]; r != nil {
		p.sums[r.leaf] = p.sums[r.leaf].minus(r.digest)
		delete(p.records, c)
		p.order = nil
	}
}

func (s *memStore) Marks(p int) (Mark, uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[p].mark, s.parts[p].since
}

func (s *memStore) Numbered() int { return s.numbered }

func (s *memStore) Round(p int) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts[p].round
}

func (s *memStore) catchUp(_ context.Context, p int, round uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.behind {
		return errors.New("it cannot catch up")
	}
	s.parts[p].round = max(s.parts[p].round, round)
	return nil
}

func (s *memStore) setMark(p int, m Mark) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts[p].mark |= m
	s.parts[p].since++
}

func (s *memStore) ClearMark(_ context.Context, p int, m Mark, since uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.parts[p].since == since {
		s.parts[p].mark &^= m
	}
	return nil
}

func (s *memStore) Recount(_ context.Context, p int) (differences int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	part := s.parts[p]
	part.recounts++
	var sums [Leaves]Sum
	for _, r := range part.records {
		sums[r.leaf] = sums[r.leaf].plus(r.digest)
	}
	for i := range sums {
		if sums[i] != part.sums[i] {
			differences++
		}
	}
	part.sums = sums
	return differences, nil
}

// with lets a test change a partition.
func (s *memStore) with(p int, f func(*memPart)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s.parts[p])
}

// write mints a client's write: over what is here, or blindly.
func (s *memStore) write(k Key, value string, over, deleted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	part := s.parts[k.Partition]
	cur := memRecord{}
	if r := part.records[Cursor{k.Bucket, k.Key}]; r != nil {
		cur = *r
	}
	w := vclock.Write{Value: []byte(value), ContentType: "text/plain", Deleted: deleted}
	if over {
		w.Context = cur.Answer(0, false).Context
	}
	now := time.Now().UnixMilli()
	m, err := vclock.Minter{
		Node: s.id, Incarnation: s.incarnation, Now: now, Stamp: vclock.StampAt(now), Limits: vclock.DefaultLimits(1 << 20),
		Birth: func() vclock.Birth { s.births++; return vclock.Birth{Millis: uint64(now), Rand: s.births} },
	}.Mint(cur.Record, w)
	if err != nil {
		panic(err)
	}
	cur.Record = m.Record
	part.put(k, cur)
}

// contents is everything that a partition holds, in a form that can be compared.
func (s *memStore) contents(p int) map[Cursor]vclock.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[Cursor]vclock.Digest)
	for c, r := range s.parts[p].records {
		out[c] = r.digest
		if r.corrupt || r.incomplete {
			out[c] = vclock.Digest{0xbad & 0xff}
		}
	}
	return out
}
