package storage

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/cespare/xxhash/v2"
	"github.com/dgraph-io/badger/v4"
)

const (
	chunkSize = 512 << 10
	// chunksPerTxn keeps a transaction of chunks well below badger's limit of 15 % of a memtable.
	chunksPerTxn = 2
	chunkRefSize = 8 + 4 + 8
)

// chunkRef says where the pieces of a large object are. Its generation is random and never used again: pieces are
// written before the record that refers to them, so a crash between leaves pieces that nothing will ever refer to.
type chunkRef struct {
	generation uint64
	count      int
	sum        uint64 // xxhash64 of the whole encoded object
}

func chunkCount(size int) int { return (size + chunkSize - 1) / chunkSize }

func (r chunkRef) encode() []byte {
	b := make([]byte, chunkRefSize)
	binary.BigEndian.PutUint64(b, r.generation)
	binary.BigEndian.PutUint32(b[8:], uint32(r.count))
	binary.BigEndian.PutUint64(b[12:], r.sum)
	return b
}

func decodeChunkRef(b []byte, size int) (chunkRef, error) {
	if len(b) != chunkRefSize {
		return chunkRef{}, corrupt("chunk reference of %d bytes, want %d", len(b), chunkRefSize)
	}
	r := chunkRef{
		generation: binary.BigEndian.Uint64(b),
		count:      int(binary.BigEndian.Uint32(b[8:])),
		sum:        binary.BigEndian.Uint64(b[12:]),
	}
	if r.count != chunkCount(size) {
		return chunkRef{}, corrupt("%d chunks for %d bytes", r.count, size)
	}
	return r, nil
}

// keys returns badger's keys of the pieces.
func (r chunkRef) keys(object []byte) [][]byte {
	keys := make([][]byte, r.count)
	for i := range keys {
		keys[i] = chunkKey(object, r.generation, i)
	}
	return keys
}

// read puts the pieces of an object of size bytes together and verifies them.
func (r chunkRef) read(txn *badger.Txn, object []byte, size int) ([]byte, error) {
	out := make([]byte, 0, size)
	for i, key := range r.keys(object) {
		item, err := txn.Get(key)
		if errors.Is(err, badger.ErrKeyNotFound) {
			return nil, corrupt("chunk %d of %d is missing", i, r.count)
		}
		if err != nil {
			return nil, readError(err)
		}
		err = item.Value(func(v []byte) error {
			if len(v) > size-len(out) {
				return corrupt("chunk %d is too long", i)
			}
			out = append(out, v...)
			return nil
		})
		if err != nil {
			return nil, readError(err)
		}
	}
	if len(out) != size || xxhash.Sum64(out) != r.sum {
		return nil, corrupt("the chunks' checksum does not match")
	}
	return out, nil
}

// writeChunks stores the pieces of an encoded object, in transactions of their own.
func (s *Store) writeChunks(object, encoded []byte) (chunkRef, error) {
	r := chunkRef{generation: s.random(), count: chunkCount(len(encoded)), sum: xxhash.Sum64(encoded)}
	keys := r.keys(object)
	for len(keys) > 0 {
		n, left := min(chunksPerTxn, len(keys)), len(encoded)
		err := s.update(func(txn *badger.Txn) error {
			for _, key := range keys[:n] {
				piece := encoded[:min(chunkSize, len(encoded))]
				encoded = encoded[len(piece):]
				if err := txn.Set(key, piece); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return chunkRef{}, err
		}
		s.guard.wrote(left - len(encoded))
		keys = keys[n:]
	}
	return r, nil
}

// removeChunks deletes pieces that no record refers to any more. What it does not get done, the next start does.
func (s *Store) removeChunks(keys [][]byte) {
	const perTxn = 256
	for len(keys) > 0 {
		n := min(perTxn, len(keys))
		err := s.update(func(txn *badger.Txn) error {
			for _, key := range keys[:n] {
				if err := txn.Delete(key); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			s.log.Warn("superseded chunks stay until the next start", "op", "chunks", "err", err)
			return
		}
		keys = keys[n:]
	}
}

// sweep removes the orphans of records and of hints.
func (s *Store) sweep(txn *badger.Txn) {
	defer txn.Discard()
	s.sweepSpace(txn, spaceChunk)
	s.sweepSpace(txn, spacePiece)
}

// sweepSpace removes the pieces that a crash left behind. txn was begun before the first write of this store: what no
// record of that moment refers to is never referred to again.
func (s *Store) sweepSpace(txn *badger.Txn, space byte) {
	opt := badger.DefaultIteratorOptions
	opt.PrefetchValues = false
	opt.Prefix = []byte{space}
	it := txn.NewIterator(opt)
	defer it.Close()
	var orphans [][]byte
	var last []byte // the generation judged last, with its record's key
	orphaned := false
	removed := 0
	for it.Rewind(); it.Valid() && !s.stopping(); it.Next() {
		key := it.Item().Key()
		if n := len(key) - 4; n > 0 && !bytes.Equal(last, key[:n]) {
			last = append(last[:0], key[:n]...)
			orphaned = isOrphan(txn, key)
		}
		if !orphaned {
			continue
		}
		if orphans = append(orphans, it.Item().KeyCopy(nil)); len(orphans) == 256 {
			s.removeChunks(orphans)
			removed, orphans = removed+len(orphans), nil
		}
	}
	s.removeChunks(orphans)
	if removed += len(orphans); removed > 0 {
		s.log.Info("removed chunks that a crash left behind", "op", "sweep", "chunks", removed)
	}
}

// isOrphan reports whether no record refers to the piece. In doubt it stays.
func isOrphan(txn *badger.Txn, chunk []byte) bool {
	object, generation, ok := splitChunkKey(chunk)
	if !ok {
		return false
	}
	item, err := txn.Get(object)
	if err != nil {
		return errors.Is(err, badger.ErrKeyNotFound)
	}
	orphan := false
	err = item.Value(func(v []byte) error {
		h, payload, err := decodeHeader(object, v)
		if err != nil {
			return err
		}
		if !h.chunked {
			orphan = true
			return nil
		}
		ref, err := decodeChunkRef(payload, h.size)
		orphan = err == nil && ref.generation != generation
		return err
	})
	return err == nil && orphan
}
