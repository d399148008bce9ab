package ring

import (
	"encoding/binary"
	"math"
	"math/big"
	"strconv"
	"testing"

	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"
)

// Where a key is stored must never change.
func TestGoldenPartitions(t *testing.T) {
	for _, c := range []struct {
		q           int
		bucket, key string
		want        int
	}{
		{1, "b", "k", 0},
		{1024, "", "", 235},
		{1024, "b", "k", 245},
		{1024, "users", "ada", 389},
		{65536, "users", "ada", 24926},
		{2, "users", "ada", 0},
	} {
		if got := PartitionOf(c.q, c.bucket, c.key); got != c.want {
			t.Errorf("PartitionOf(%d, %q, %q) = %d, want %d", c.q, c.bucket, c.key, got, c.want)
		}
	}
}

func TestPartitionProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		bucket, key := rapid.String().Draw(t, "bucket"), rapid.String().Draw(t, "key")
		width := rapid.IntRange(0, 16).Draw(t, "log2 q")
		p := PartitionOf(1<<width, bucket, key)
		encoded := append(binary.BigEndian.AppendUint32(nil, uint32(len(bucket))), bucket+key...)
		if want := new(big.Int).SetUint64(xxhash.Sum64(encoded)); int(want.Lsh(want, uint(width)).Rsh(want, 64).Int64()) != p {
			t.Fatalf("partition %d of %d is not the top bits of the hash of %x", p, 1<<width, encoded)
		}
		if p < 0 || p >= 1<<width {
			t.Fatalf("partition %d of %d", p, 1<<width)
		}
		// The top bits: a partition of 65536 lies inside the partition of any smaller q.
		if whole := PartitionOf(MaxPartitions, bucket, key); whole>>(16-width) != p {
			t.Fatalf("partition %d of %d, but %d of 65536", p, 1<<width, whole)
		}
	})
}

// The bucket's length is hashed, so moving bytes between bucket and key makes another position.
func TestBucketAndKeyAreSeparate(t *testing.T) {
	if PartitionOf(65536, "ab", "c") == PartitionOf(65536, "a", "bc") {
		t.Error("(ab, c) and (a, bc) are in one of 65536 partitions")
	}
}

func TestKeysSpread(t *testing.T) {
	const q, keys = 64, 64000
	var counts [q]int
	for i := range keys {
		counts[PartitionOf(q, "bucket", "key"+strconv.Itoa(i))]++
	}
	for p, n := range counts {
		if math.Abs(float64(n)-keys/q) > 6*math.Sqrt(keys/q) {
			t.Errorf("partition %d has %d of %d keys", p, n, keys)
		}
	}
}
