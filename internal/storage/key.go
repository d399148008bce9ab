package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/dunlindb/dunlin/ring"
)

// Bounds of what is stored under, in bytes. Who talks to clients has tighter ones.
const (
	MaxBucket = 255
	MaxKey    = 4096
)

// Keyspaces of badger.
//
//	o | partition | bucket | 0 | key                       a record
//	c | partition | bucket | 0 | key | generation | index  a piece of a large record
//	b | bucket                                             the bucket holds records
//	m | name                                               PutMeta
//	h | target | partition | bucket | 0 | key              a hint
//	i | target | partition | ... | generation | index      a piece of a large hint
//	g | target | partition                                 hints were dropped
//	k | partition                                          marks of a partition
//	k                                                      all partitions are damaged
//	x | partition | bucket | 0 | key                       the record is under removal
//	r | partition                                          the partition's reap round
//	d | partition                                          the partition is being dropped
//	n                                                      the buckets that have partitions of their own
//	z                                                      nothing: it fills memtables
//
// The partition has two bytes, big endian: a slice of the hash space is one contiguous range, and in it a bucket's keys
// are in byte order. A bucket has no 0 byte, so none is a prefix of another. Where a bucket has partitions of its own, g, k
// and d have two more bytes for them, the place of the bucket from 1 on.
const (
	spaceObject   = 'o'
	spaceChunk    = 'c'
	spaceBucket   = 'b'
	spaceMeta     = 'm'
	spaceHint     = 'h'
	spacePiece    = 'i'
	spaceDropped  = 'g'
	spaceMark     = 'k'
	spaceRemoving = 'x'
	spaceRound    = 'r'
	spaceDropping = 'd'
	spaceGroups   = 'n'
	spaceFiller   = 'z'

	chunkSuffix = 8 + 4 // generation, index
)

// Key names a record. The same bucket and key must always come with the same slice of the hash space: the partition
// modulo Options.Partitions. Which partition of the slice is theirs the store knows itself: see Number.
type Key struct {
	Partition int
	Bucket    string
	Key       string
}

func (g *groups) checkKey(k Key) error {
	if k.Key == "" || len(k.Key) > MaxKey {
		return fmt.Errorf("%w: key of %d bytes, want 1 to %d", ErrKey, len(k.Key), MaxKey)
	}
	return g.checkRange(k.Partition, k.Bucket)
}

func (g *groups) checkRange(partition int, bucket string) error {
	if err := checkBucket(bucket); err != nil {
		return err
	}
	return g.check(partition)
}

func checkBucket(bucket string) error {
	if bucket == "" || len(bucket) > MaxBucket || strings.IndexByte(bucket, 0) >= 0 {
		return fmt.Errorf("%w: bucket %q, want 1 to %d bytes and none 0", ErrKey, bucket, MaxBucket)
	}
	return nil
}

const maxSlice = ring.MaxPartitions - 1

// partitionOf reads the partition that follows the keyspace in a key.
func partitionOf(key []byte) int {
	if len(key) < 3 {
		return 0
	}
	return int(binary.BigEndian.Uint16(key[1:]))
}

func (g *groups) check(p int) error {
	if most := max(ring.MaxPartitions, g.q*(1+len(g.names))) - 1; p < 0 || p > most {
		return fmt.Errorf("%w: partition %d, want 0 to %d", ErrKey, p, most)
	}
	return nil
}

func (k Key) encode() []byte {
	b := appendRange(make([]byte, 0, 4+len(k.Bucket)+len(k.Key)), k.Partition, k.Bucket)
	return append(b, k.Key...)
}

// appendRange appends what all keys of a bucket in a partition begin with.
func appendRange(b []byte, partition int, bucket string) []byte {
	b = append(b, spaceObject)
	b = binary.BigEndian.AppendUint16(b, uint16(partition))
	b = append(b, bucket...)
	return append(b, 0)
}

// decodeKey reads what Key.encode wrote.
func decodeKey(b []byte) (Key, error) {
	if len(b) < 4 || b[0] != spaceObject {
		return Key{}, errors.New("not the key of a record")
	}
	bucket, key, ok := bytes.Cut(b[3:], []byte{0})
	if !ok {
		return Key{}, errors.New("key of a record without a bucket")
	}
	return Key{int(binary.BigEndian.Uint16(b[1:])), string(bucket), string(key)}, nil
}

// chunkKey is the key of piece i of the record or hint at object.
func chunkKey(object []byte, generation uint64, i int) []byte {
	b := make([]byte, 0, len(object)+chunkSuffix)
	b = append(b, object...)
	if b[0] = spaceChunk; object[0] == spaceHint {
		b[0] = spacePiece
	}
	b = binary.BigEndian.AppendUint64(b, generation)
	return binary.BigEndian.AppendUint32(b, uint32(i))
}

// splitChunkKey gives the key of the record or hint that a piece belongs to, and the generation.
func splitChunkKey(b []byte) (object []byte, generation uint64, ok bool) {
	n := len(b) - chunkSuffix
	if n < 4 || b[0] != spaceChunk && b[0] != spacePiece {
		return nil, 0, false
	}
	object = bytes.Clone(b[:n])
	if object[0] = spaceObject; b[0] == spacePiece {
		object[0] = spaceHint
	}
	return object, binary.BigEndian.Uint64(b[n:]), true
}
