package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/ring"
)

// The reap round of a slice of the hash space, and so of all partitions of it, is a number that only grows. An object travels with the round in which the store that it
// was read from was; a store in a later round refuses it. So nothing that was read before a round began, and waited
// in a frame or a frozen process since, can bring back what the round removed.

const (
	roundMagic = "DLRD"
	roundSize  = 8
)

// roundTable is the rounds in memory. They are read for every write and every read, and set while no shard is in a
// batch, after the disk has them.
type roundTable struct {
	pages [ring.MaxPartitions / roundPage]atomic.Pointer[[roundPage]atomic.Uint64]
}

const roundPage = 256

func (t *roundTable) get(p int) uint64 {
	if page := t.pages[p/roundPage].Load(); page != nil {
		return page[p%roundPage].Load()
	}
	return 0
}

// set is for one caller at a time.
func (t *roundTable) set(p int, round uint64) {
	page := t.pages[p/roundPage].Load()
	if page == nil {
		page = new([roundPage]atomic.Uint64)
		t.pages[p/roundPage].Store(page)
	}
	page[p%roundPage].Store(round)
}

// Round returns the partition's reap round: 0 until one was entered.
func (s *Store) Round(p int) uint64 {
	if s.groups().check(p) != nil {
		return 0
	}
	return s.rounds.get(s.groups().slice(p))
}

// stale is the error for what was read in an earlier round than the store is in.
func stale(p int, given, own uint64) error {
	return fmt.Errorf("%w: partition %d is in round %d, this is of round %d", ErrStaleRound, p, own, given)
}

// partitionKey is the key of a slice in keyspaces that have one for each, and what its keys begin with in others.
func partitionKey(space byte, slice int) []byte {
	return binary.BigEndian.AppendUint16([]byte{space}, uint16(slice))
}

func encodeRound(key []byte, round uint64) []byte {
	return seal(roundMagic, string(key), binary.BigEndian.AppendUint64(nil, round))
}

func decodeRound(key, b []byte) (p int, round uint64, err error) {
	if len(key) != 3 || key[0] != spaceRound {
		return 0, 0, corrupt("not the key of a reap round")
	}
	data, err := unseal(roundMagic, string(key), b)
	if err != nil {
		return 0, 0, corrupt("reap round: %v", err)
	}
	if len(data) != roundSize {
		return 0, 0, corrupt("reap round of %d bytes", len(data))
	}
	return int(binary.BigEndian.Uint16(key[1:])), binary.BigEndian.Uint64(data), nil
}

// loadRounds reads the rounds when the store opens. One that cannot be read is fatal: in too low a round the store
// would take what was removed.
func (s *Store) loadRounds() error {
	return s.each(spaceRound, func(item *badger.Item) error {
		return item.Value(func(v []byte) error {
			p, round, err := decodeRound(item.Key(), v)
			if err == nil {
				s.rounds.set(p, round)
			}
			return err
		})
	})
}

// readRound reads the round that a snapshot shows.
func readRound(txn *badger.Txn, p int) (round uint64, err error) {
	item, err := txn.Get(partitionKey(spaceRound, p))
	if errors.Is(err, badger.ErrKeyNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, readError(err)
	}
	err = item.Value(func(v []byte) error {
		_, round, err = decodeRound(item.Key(), v)
		return err
	})
	if err != nil {
		return 0, readError(err)
	}
	return round, nil
}

// each calls fn for every key of a keyspace, when the store opens. fn may not keep what the item gives it.
func (s *Store) each(space byte, fn func(*badger.Item) error) (err error) {
	defer s.recoverRead(&err)
	return s.db.View(func(txn *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.PrefetchValues = false
		opt.Prefix = []byte{space}
		it := txn.NewIterator(opt)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			if err := fn(it.Item()); err != nil {
				return err
			}
		}
		return nil
	})
}
