package storage

import (
	"errors"
	"time"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

// Stored is what the node holds of a key.
type Stored struct {
	Record vclock.Record // of Get only; not to be changed
	Digest vclock.Digest // zero when nothing was found
	Found  bool
	// Incomplete: the record replaced a corrupt one and may lack what that held. It must count in no read quorum.
	Incomplete bool
	// Round is the partition's reap round in which the record was read, or an earlier one.
	Round uint64
}

// Get reads a key. A key that was never written is not found and no error. An error that wraps ErrCorrupt means
// that the record is there and cannot be read; the others are ErrKey, ErrRead and ErrClosed.
func (s *Store) Get(k Key) (Stored, error) {
	return s.get(k, true, true)
}

// Peek is Get from the disk, which leaves nothing in memory: for who reads all keys, or looks for damage.
func (s *Store) Peek(k Key) (Stored, error) {
	return s.get(k, true, false)
}

// Digest is Get without the record. It too verifies the whole record.
func (s *Store) Digest(k Key) (Stored, error) {
	return s.get(k, false, false)
}

// Recent is Get without the disk: found only if it is in memory. It does not block.
func (s *Store) Recent(k Key) (st Stored, found bool) {
	if s.groups().checkKey(k) != nil {
		return Stored{}, false
	}
	k = s.at(k)
	if s.drops.has(s.partition(k)) {
		return Stored{}, false
	}
	round := s.rounds.get(k.Partition) // first, as in get
	l, _, found := s.recent.find(k.encode(), true)
	if !found || s.opened() != nil {
		return Stored{}, false
	}
	return Stored{Record: l.record, Digest: l.header.digest, Found: true, Round: round}, true
}

func (s *Store) get(k Key, values, recent bool) (st Stored, err error) {
	if err := s.groups().checkKey(k); err != nil {
		return Stored{}, err
	}
	k = s.at(k)
	if p := s.partition(k); s.drops.has(p) {
		return Stored{}, dropping(p)
	}
	key := k.encode()
	// First: a record that is given out with too low a round is refused and read again, with too high a one it brings
	// back what was removed.
	round := s.rounds.get(k.Partition)
	var moment uint64
	if recent {
		l, when, found := s.recent.get(key, values)
		if found {
			return Stored{Record: l.record, Digest: l.header.digest, Found: true, Round: round}, s.opened()
		}
		moment = when
	}
	err = s.view(func(txn *badger.Txn) error {
		var l loaded
		if values {
			if l, err = s.load(txn, k, key); err == nil && recent && l.cacheable() {
				s.recent.keep(key, l.value, moment)
			}
		} else {
			l, err = s.verify(txn, k, key)
		}
		st = Stored{Record: l.record, Digest: l.header.digest, Found: l.found, Incomplete: l.header.incomplete, Round: round}
		return err
	})
	if err != nil {
		return Stored{}, err
	}
	return st, nil
}

// loaded is a record read from badger.
type loaded struct {
	found  bool
	header header
	record vclock.Record
	chunks *chunkRef // set also when the chunks are corrupt
	value  []byte    // badger's, which the record's values are parts of; nil if it was in memory
}

// load reads and decodes a record.
func (s *Store) load(txn *badger.Txn, k Key, key []byte) (l loaded, err error) {
	defer s.noteCorrupt(k, &err)
	defer s.recoverRead(&err)
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return loaded{}, nil
	}
	if err != nil {
		return loaded{}, readError(err)
	}
	b, err := item.ValueCopy(nil)
	if err != nil {
		return loaded{}, readError(err)
	}
	l.value = b
	encoded, err := l.open(txn, key, b)
	if err != nil {
		return l, err
	}
	object, err := decodeObject(encoded)
	if err != nil {
		return l, err
	}
	l.found = true
	l.record = vclock.Record{Object: object, Own: l.header.own}
	return l, nil
}

// verify reads a record without decoding it.
func (s *Store) verify(txn *badger.Txn, k Key, key []byte) (l loaded, err error) {
	defer s.noteCorrupt(k, &err)
	item, err := txn.Get(key)
	if errors.Is(err, badger.ErrKeyNotFound) {
		return loaded{}, nil
	}
	if err != nil {
		return loaded{}, readError(err)
	}
	err = item.Value(func(b []byte) error {
		_, err := l.open(txn, key, b)
		return err
	})
	if err != nil {
		return l, readError(err)
	}
	l.found = true
	return l, nil
}

// open checks a record and gives the encoded object, put together if it is in pieces.
func (l *loaded) open(txn *badger.Txn, key, b []byte) ([]byte, error) {
	h, payload, err := decodeHeader(key, b)
	if err != nil {
		return nil, err
	}
	l.header = h
	if !h.chunked {
		return payload, nil
	}
	ref, err := decodeChunkRef(payload, h.size)
	if err != nil {
		return nil, err
	}
	l.chunks = &ref
	return ref.read(txn, key, h.size)
}

func (s *Store) noteCorrupt(k Key, err *error) {
	if errors.Is(*err, ErrCorrupt) {
		s.metrics.corrupt.Add(1)
		s.recent.forget(k.encode())
		if last := s.lastCorrupt.Load(); time.Since(s.begin) >= time.Duration(last) &&
			s.lastCorrupt.CompareAndSwap(last, int64(time.Since(s.begin)+time.Second)) { // a damaged key may be a busy one
			s.log.Error("corrupt record", "op", "read", "key", k.Key, "bucket", k.Bucket, "partition", k.Partition, "err", *err)
		}
	}
}
