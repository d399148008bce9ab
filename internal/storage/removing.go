package storage

import (
	"cmp"
	"encoding/binary"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"

	"github.com/dunlindb/dunlin/vclock"
)

const (
	removingMagic = "DLRM"
	removingSize  = 8 + 16 // round, digest
)

// removing is a key that this node confirmed when it entered a round: it may be removed until the round's work is
// done. Which it is, the digest says.
type removing struct {
	round  uint64
	digest vclock.Digest
}

// removingTable is the lists of keys under removal in memory, by partition and badger's key of the record.
type removingTable struct {
	count atomic.Int64

	mu    sync.RWMutex
	parts map[int]map[string]removing
}

func (t *removingTable) has(p int, object []byte) bool {
	if t.count.Load() == 0 {
		return false
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, ok := t.parts[p][string(object)]
	return ok
}

func (t *removingTable) get(p int, object []byte) (removing, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	r, ok := t.parts[p][string(object)]
	return r, ok
}

// size is how many keys of a partition are under removal.
func (t *removingTable) size(p int) int {
	if t.count.Load() == 0 {
		return 0
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.parts[p])
}

func (t *removingTable) add(p int, object string, r removing) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.parts[p]
	if of == nil {
		of = make(map[string]removing)
		t.parts[p] = of
	}
	if _, ok := of[object]; !ok {
		t.count.Add(1)
	}
	of[object] = r
}

func (t *removingTable) drop(p int, objects []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	of := t.parts[p]
	for _, object := range objects {
		if _, ok := of[object]; ok {
			t.count.Add(-1)
			delete(of, object)
		}
	}
	if len(of) == 0 {
		delete(t.parts, p)
	}
}

// list returns the keys of a partition, sorted.
func (t *removingTable) list(p int) []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]string, 0, len(t.parts[p]))
	for object := range t.parts[p] {
		out = append(out, object)
	}
	slices.SortFunc(out, cmp.Compare[string])
	return out
}

// removingKey is badger's key of the mark on the record at object.
func removingKey(object []byte) []byte {
	b := slices.Clone(object)
	b[0] = spaceRemoving
	return b
}

func encodeRemoving(key []byte, r removing) []byte {
	data := binary.BigEndian.AppendUint64(make([]byte, 0, removingSize), r.round)
	return seal(removingMagic, string(key), append(data, r.digest[:]...))
}

func decodeRemoving(key, b []byte) (removing, error) {
	data, err := unseal(removingMagic, string(key), b)
	if err != nil {
		return removing{}, corrupt("key under removal: %v", err)
	}
	if len(data) != removingSize {
		return removing{}, corrupt("key under removal of %d bytes", len(data))
	}
	return removing{binary.BigEndian.Uint64(data), vclock.Digest(data[8:])}, nil
}

// loadRemoving reads the lists when the store opens. What cannot be read is left out: the key is then not removed in
// this round, which is always safe.
func (s *Store) loadRemoving() error {
	s.removing.parts = make(map[int]map[string]removing)
	return s.each(spaceRemoving, func(item *badger.Item) error {
		object := item.KeyCopy(nil)
		object[0] = spaceObject
		k, err := decodeKey(object)
		if err != nil {
			s.log.Error("a key under removal cannot be read", "op", "open", "err", err)
			return nil
		}
		return item.Value(func(v []byte) error {
			r, err := decodeRemoving(item.Key(), v)
			if err != nil {
				s.log.Error("a key under removal cannot be read", "op", "open", "partition", k.Partition, "err", err)
				return nil
			}
			s.removing.add(k.Partition, string(object), r)
			return nil
		})
	})
}
