package storage

import (
	"context"
	"errors"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Hint is what is held of a key for a target that could not be reached.
type Hint struct {
	Target ring.NodeID
	Key    Key
	Object vclock.Object // shares memory with nothing
	Digest vclock.Digest // of Object; for DeleteHint
	Round  uint64        // the partition's reap round in which the hint was read, or an earlier one
	// Corrupt: the hint is there and cannot be read. DeleteHint with a zero digest gives it up.
	Corrupt bool
}

// HintCursor is a place among a target's hints; zero: before the first.
type HintCursor struct{ after Key }

// PutHint keeps an object for a target, merged with what is held of the key for it. round is the reap round in which
// the store that it was read from was. Errors are as with Merge, and ErrHintsFull: nothing was stored.
//
// A corrupt hint is replaced; that something for the target was lost is durably marked in the same step.
func (s *Store) PutHint(ctx context.Context, target ring.NodeID, k Key, o vclock.Object, round uint64) (Ack, error) {
	p := s.newMerge(k, o, MergeOptions{Round: round})
	defer s.free(p)
	p.ctx, p.hint, p.target = ctx, true, target
	if err := s.submit(p); err != nil {
		return Ack{}, err
	}
	return p.ack, nil
}

// MintHint is Mint against the hint for a target instead of the record. No actor is ever continued in a hint: once
// it is delivered and deleted, nothing here says up to where the actor counted. Errors are as with Mint, and
// ErrHintsFull: nothing was stored.
func (s *Store) MintHint(
	ctx context.Context, target ring.NodeID, k Key, w vclock.Write, applied func(m vclock.Minted, round uint64),
) (vclock.Minted, Ack, error) {
	o := s.newOp()
	defer s.free(o)
	o.asMint(ctx, k, &w, applied)
	o.hint, o.target = true, target
	if err := s.submit(o); err != nil {
		return vclock.Minted{}, Ack{}, err
	}
	return o.minted, o.ack, nil
}

// DeleteHint deletes a hint if it still has the given digest, and reports whether it did. With a zero digest it
// deletes a corrupt one, and marks its partition as dropped in the same step. Errors are as with Mint.
func (s *Store) DeleteHint(ctx context.Context, target ring.NodeID, k Key, d vclock.Digest) (deleted bool, err error) {
	o := s.newOp()
	defer s.free(o)
	o.ctx, o.k, o.hint, o.target, o.remove, o.digest = ctx, k, true, target, true, d
	o.size, o.level = opOverhead, levelNothing
	if err := s.submit(o); err != nil {
		return false, err
	}
	return o.ack.Changed, nil
}

// HintsOf returns what is held of a key for all targets together, and the reap round in which it was read (or an
// earlier one). Errors: ErrKey, ErrRead, ErrClosed, and ErrCorrupt when one of the hints cannot be read.
func (s *Store) HintsOf(k Key) (o vclock.Object, found bool, round uint64, err error) {
	if err := s.groups().checkKey(k); err != nil {
		return vclock.Object{}, false, 0, err
	}
	k = s.at(k)
	round = s.rounds.get(k.Partition) // first, as in get
	if s.hints.held.Load() == 0 {
		return vclock.Object{}, false, round, nil
	}
	object := k.encode()
	err = s.view(func(txn *badger.Txn) error {
		for _, target := range s.hints.of(k) {
			l, err := s.load(txn, k, hintKey(target, object))
			if err != nil {
				return err
			}
			if l.found {
				o, found = vclock.Merge(o, l.record.Object), true
			}
		}
		return nil
	})
	if err != nil {
		return vclock.Object{}, false, 0, err
	}
	return o, found, round, nil
}

// Hints returns a page of a target's hints, ordered by partition, bucket and key: at most maxItems (0: 1000, at most
// MaxList) and of at most maxBytes (0: 1 MiB), but one in any case. next is where the following page begins, more
// whether there is something. Errors: ErrRead and ErrClosed.
func (s *Store) Hints(target ring.NodeID, after HintCursor, maxItems, maxBytes int) (hints []Hint, next HintCursor, more bool, err error) {
	if maxItems <= 0 {
		maxItems = 1000
	}
	if maxBytes <= 0 {
		maxBytes = 1 << 20
	}
	p := hintPage{s: s, items: min(maxItems, MaxList), bytes: int64(maxBytes), next: after, rounds: make(map[int]uint64)}
	err = s.view(func(txn *badger.Txn) error { return p.read(txn, target) })
	if err != nil {
		return nil, after, false, err
	}
	return p.hints, p.next, p.more, nil
}

// hintPage reads a page of hints.
type hintPage struct {
	s      *Store
	items  int
	bytes  int64
	hints  []Hint
	next   HintCursor
	more   bool
	rounds map[int]uint64
}

func (p *hintPage) read(txn *badger.Txn, target ring.NodeID) error {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = append([]byte{spaceHint}, target[:]...)
	it := txn.NewIterator(opt)
	defer it.Close()
	if p.next == (HintCursor{}) {
		it.Rewind()
	} else {
		it.Seek(append(hintKey(target, p.next.after.encode()), 0))
	}
	for ; it.Valid(); it.Next() {
		key := it.Item().KeyCopy(nil)
		_, k, err := decodeHintKey(key)
		if err != nil {
			continue // said when the store was opened
		}
		if len(p.hints) == p.items || len(p.hints) > 0 && p.bytes <= 0 {
			p.more = true
			return nil
		}
		l, err := p.s.load(txn, k, key)
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return err
		}
		size := hintBytes(key, l.header.size)
		if p.bytes -= size; p.bytes < 0 && len(p.hints) > 0 {
			p.more = true
			return nil
		}
		round, err2 := p.round(txn, k.Partition)
		if err2 != nil {
			return err2
		}
		h := Hint{Target: target, Key: p.s.outside(k), Round: round, Corrupt: err != nil}
		if err == nil {
			h.Object, h.Digest = l.record.Object, l.header.digest
		}
		p.hints = append(p.hints, h)
		p.next = HintCursor{k}
	}
	return nil
}

// round is the one that the snapshot shows, or an earlier one: while a round is being entered, the disk shows it first.
func (p *hintPage) round(txn *badger.Txn, partition int) (uint64, error) {
	if round, ok := p.rounds[partition]; ok {
		return round, nil
	}
	round, err := readRound(txn, partition)
	if err != nil {
		return 0, err
	}
	round = min(round, p.s.rounds.get(partition))
	p.rounds[partition] = round
	return round, nil
}
