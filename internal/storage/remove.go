package storage

import (
	"context"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/internal/wire"
)

// Remove deletes, or prunes if something lives in it for good, each record that is exactly what its statement says,
// durably, and takes all the keys off what is under removal in the round. It returns how many records are gone or
// pruned, of those that had been absent before included; one that differs, is incomplete or cannot be read stays. The round is one that the store has entered, be it an
// earlier one: a later one is ErrNotEntered. Other errors are as with Confirm and PutMeta.
func (s *Store) Remove(ctx context.Context, p int, round uint64, ks []Statement) (removed int, err error) {
	if !s.join() { // for removeChunks
		return 0, ErrClosed
	}
	defer s.wg.Done()
	var r *removal
	stored, err := s.stated(p, ks)
	if err != nil {
		return 0, err
	}
	err = s.finish(ctx, p, round, ks, func(txn *badger.Txn) (*removal, error) {
		r = &removal{s: s, txn: txn}
		for _, st := range stored {
			if err := r.take(st); err != nil {
				return nil, err
			}
		}
		return r, nil
	})
	if err != nil {
		return 0, err
	}
	s.metrics.reaped.Add(float64(len(r.entries) - r.pruned))
	s.metrics.pruned.Add(float64(r.pruned))
	s.removeChunks(r.garbage)
	return r.gone, nil
}

// Unmark takes keys off what is under removal in a round; what another round has under removal stays. Errors are as
// with Remove.
func (s *Store) Unmark(ctx context.Context, p int, round uint64, ks []Statement) error {
	return s.finish(ctx, p, round, ks, func(txn *badger.Txn) (*removal, error) { return &removal{s: s, txn: txn}, nil })
}

// finish takes keys off what is under removal, in one transaction with what remove does, while all shards stand.
func (s *Store) finish(ctx context.Context, p int, round uint64, ks []Statement, remove func(*badger.Txn) (*removal, error)) error {
	ks, err := s.stated(p, ks)
	if err != nil {
		return err
	}
	slice := s.groups().slice(p)
	if err := s.Healthy(); err != nil {
		return err
	}
	if err := s.guard.check(levelNothing); err != nil {
		return err
	}
	err = s.exclusive(ctx, func() error {
		if own := s.rounds.get(slice); round > own {
			return fmt.Errorf("%w: round %d of partition %d, which is in round %d", ErrNotEntered, round, p, own)
		}
		txn := s.transaction(true)
		defer txn.Discard()
		r, err := remove(txn)
		if err != nil {
			return err
		}
		var unmarked []string
		for _, st := range ks {
			object := st.Key.encode()
			if m, ok := s.removing.get(slice, object); !ok || m.round != round {
				continue
			}
			unmarked = append(unmarked, string(object))
			if err := txn.Delete(removingKey(object)); err != nil {
				return fmt.Errorf("%w: %w", ErrTooLarge, err)
			}
		}
		if len(unmarked) == 0 && !r.dirty {
			return nil
		}
		err = s.commit(txn)
		r.settle(err == nil)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrCommit, err)
		}
		s.removing.drop(slice, unmarked)
		return nil
	})
	if err != nil {
		return err
	}
	if err := s.syncDisk(); err != nil {
		return fmt.Errorf("%w: %w", ErrCommit, err)
	}
	return nil
}

// removal is the deletions of one transaction.
type removal struct {
	s       *Store
	txn     *badger.Txn
	entries []*entry // deleted or pruned
	pruned  int
	again   [][]byte // absent, but perhaps not on the disk
	garbage [][]byte
	gone    int
	dirty   bool
}

func (r *removal) take(st Statement) error {
	key := st.Key.encode()
	l, err := r.s.verify(r.txn, st.Key, key)
	switch {
	case errors.Is(err, ErrCorrupt):
		return nil
	case err != nil:
		return err
	case !l.found:
		r.gone++
		if !r.s.shardOf(key).suspect(key) {
			return nil
		}
		r.again = append(r.again, key)
	case l.header.incomplete || l.header.digest != st.Digest:
		return nil
	case l.header.mayPrune():
		return r.prune(st.Key, key)
	case l.header.life == Life{}:
		return nil // nobody states that
	default:
		r.gone++
		r.entries = append(r.entries, &entry{key: key, k: st.Key, was: l.header.tally()})
		if l.chunks != nil {
			r.garbage = append(r.garbage, l.chunks.keys(key)...)
		}
	}
	r.dirty = true
	if err := r.txn.Delete(key); err != nil {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return nil
}

// prune takes births from a record that is as its statement says.
func (r *removal) prune(k Key, key []byte) error {
	l, err := r.s.load(r.txn, k, key)
	if err != nil {
		return nil // it is corrupt, and stays
	}
	next, ok := pruned(l.record)
	if !ok {
		return nil
	}
	e := &entry{key: key, k: k, rec: next, digest: next.Digest(k.Bucket, k.Key), was: l.header.tally()}
	enc := wire.NewEncoder()
	defer enc.Free()
	next.Encode(enc)
	h := newHeader(next, e.digest, false)
	h.size = len(enc.Bytes())
	if err := r.txn.Set(key, h.encode(key, enc.Bytes())); err != nil {
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	r.entries, r.pruned, r.dirty = append(r.entries, e), r.pruned+1, true
	r.gone++
	return nil
}

// settle does for the changes what a shard does for its batch.
func (r *removal) settle(committed bool) {
	var txn *badger.Txn
	if !committed {
		txn = r.s.transaction(false)
		defer txn.Discard()
	}
	for _, e := range r.entries {
		sh := r.s.shardOf(e.key)
		is := e.tally()
		if committed {
			delete(sh.suspects, string(e.key))
		} else {
			is = e.look(r.s, txn)
			sh.suspects[string(e.key)] = struct{}{}
		}
		r.s.forest.update(r.s.partition(e.k), e, is)
		r.s.recent.forget(e.key)
	}
	for _, key := range r.again {
		if committed {
			delete(r.s.shardOf(key).suspects, string(key))
		}
	}
}
