package ring

import (
	"encoding/binary"
	"math/bits"

	"github.com/cespare/xxhash/v2"
)

// PartitionOf returns the partition, 0..q-1, of a key in a cluster of q partitions: the top log2(q) bits of the
// 64-bit xxhash of the bucket's length (4 bytes, big endian), the bucket and the key. q must be a power of two
// from 1 to MaxPartitions. It allocates nothing. It can never change: where a key is stored depends on it.
func PartitionOf(q int, bucket, key string) int {
	var length [4]byte
	binary.BigEndian.PutUint32(length[:], uint32(len(bucket)))
	var d xxhash.Digest
	d.Reset()
	_, _ = d.Write(length[:])
	_, _ = d.WriteString(bucket)
	_, _ = d.WriteString(key)
	// A shift by 64, for q = 1, gives 0.
	return int(d.Sum64() >> (64 - bits.TrailingZeros64(uint64(q))))
}
