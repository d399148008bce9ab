package storage

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/dgraph-io/badger/v4"
)

// bucketSet is the names of the buckets that hold, or held, records.
type bucketSet struct {
	mu    sync.RWMutex
	names map[string]struct{}
}

var bucketValue = []byte{1}

func bucketKey(name string) []byte { return append([]byte{spaceBucket}, name...) }

func (b *bucketSet) has(name string) bool {
	b.mu.RLock()
	defer b.mu.RUnlock()
	_, ok := b.names[name]
	return ok
}

func (b *bucketSet) add(names []string) {
	if len(names) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, name := range names {
		b.names[name] = struct{}{}
	}
}

// Buckets returns, sorted, the names of the buckets that a record was ever stored in.
func (s *Store) Buckets() []string {
	s.buckets.mu.RLock()
	defer s.buckets.mu.RUnlock()
	return slices.Sorted(maps.Keys(s.buckets.names))
}

func (s *Store) loadBuckets() (err error) {
	defer s.recoverRead(&err)
	s.buckets.names = make(map[string]struct{})
	return s.db.View(func(txn *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.PrefetchValues = false
		opt.Prefix = []byte{spaceBucket}
		it := txn.NewIterator(opt)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			s.buckets.names[string(it.Item().Key()[1:])] = struct{}{}
		}
		return nil
	})
}

// Bounds of PutMeta, in bytes.
const (
	MaxMetaName  = 1024
	MaxMetaValue = 512 << 10
)

const metaMagic = "DLMT"

// Meta is a small value under a name, beside the records.
type Meta struct {
	Name  string
	Value []byte
}

func metaKey(name string) []byte { return append([]byte{spaceMeta}, name...) }

// PutMeta stores a small value, as durable as Options say when it returns nil. Errors as with Mint.
func (s *Store) PutMeta(name string, value []byte) error {
	if name == "" || len(name) > MaxMetaName {
		return fmt.Errorf("%w: meta name of %d bytes, want 1 to %d", ErrKey, len(name), MaxMetaName)
	}
	if len(value) > MaxMetaValue {
		return fmt.Errorf("meta %q: %w: %d bytes, at most %d", name, ErrTooLarge, len(value), MaxMetaValue)
	}
	if err := s.Healthy(); err != nil {
		return err
	}
	if err := s.guard.check(levelNoReplica); err != nil {
		return err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return ErrClosed
	}
	err := s.update(func(txn *badger.Txn) error { return txn.Set(metaKey(name), seal(metaMagic, name, value)) })
	if err != nil {
		return fmt.Errorf("meta %q: %w: %w", name, ErrCommit, err)
	}
	return nil
}

// GetMeta returns what PutMeta last stored under name, and whether there is something.
func (s *Store) GetMeta(name string) (value []byte, found bool, err error) {
	err = s.view(func(txn *badger.Txn) error {
		item, err := txn.Get(metaKey(name))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil
		}
		if err != nil {
			return readError(err)
		}
		m, err := s.openMeta(item)
		value, found = m.Value, err == nil
		return err
	})
	return value, found, err
}

// ListMeta returns, sorted by name, what is stored under names that begin with prefix.
func (s *Store) ListMeta(prefix string) (all []Meta, err error) {
	err = s.view(func(txn *badger.Txn) error {
		opt := badger.DefaultIteratorOptions
		opt.Prefix = metaKey(prefix)
		it := txn.NewIterator(opt)
		defer it.Close()
		for it.Rewind(); it.Valid(); it.Next() {
			m, err := s.openMeta(it.Item())
			if err != nil {
				return err
			}
			all = append(all, m)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (s *Store) openMeta(item *badger.Item) (Meta, error) {
	name := strings.Clone(string(item.Key()[1:]))
	b, err := item.ValueCopy(nil)
	if err != nil {
		return Meta{}, readError(err)
	}
	value, err := unseal(metaMagic, name, b)
	if err != nil {
		s.metrics.corrupt.Add(1)
		return Meta{}, corrupt("meta %q: %v", name, err)
	}
	return Meta{name, value}, nil
}
