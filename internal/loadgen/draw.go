package loadgen

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strconv"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"
)

// keyLength is the length of all keys.
const keyLength = 16

// AppendKey appends the key of index i, of 16 bytes.
func AppendKey(b []byte, i int) []byte {
	digits := strconv.AppendInt(make([]byte, 0, 20), int64(i), 10)
	b = append(b, "key-000000000000"[:keyLength-len(digits)]...)
	return append(b, digits...)
}

// tagLength is how much of a value tells its key and its length.
const tagLength = 12

// tagOf is the start of a value of n bytes of the key of index i.
func tagOf(i, n int) (t [tagLength]byte) {
	binary.LittleEndian.PutUint64(t[:], scatter(uint64(i)))
	binary.LittleEndian.PutUint32(t[8:], uint32(n))
	return t
}

// tag writes to the start of value what belongs to the key of index i.
func tag(value []byte, i int) {
	t := tagOf(i, len(value))
	copy(value, t[:])
}

// tagged tells whether value may be of the key of index i, from a load of any
// size.
func tagged(value []byte, i int) bool {
	t := tagOf(i, len(value))
	n := min(len(value), tagLength)
	return string(value[:n]) == string(t[:n])
}

// scatter spreads neighbours over all numbers.
func scatter(x uint64) uint64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], x)
	return xxhash.Sum64(b[:])
}

// zipf draws ranks 0, 1, ... of which rank r has a share proportional to
// 1/(r+1)^theta, by the method of Gray et al. that YCSB uses: exact for the
// first two ranks, a close approximation for the rest.
type zipf struct {
	n                       int
	zetan, alpha, eta, half float64
}

func newZipf(n int, theta float64) zipf {
	zetan := zeta(n, theta)
	zeta2 := 1 + math.Pow(0.5, theta)
	return zipf{
		n: n, zetan: zetan, alpha: 1 / (1 - theta), half: zeta2,
		eta: (1 - math.Pow(2/float64(n), 1-theta)) / (1 - zeta2/zetan),
	}
}

// zeta is the sum of 1/i^theta for i up to n. Past a million terms the rest is
// its integral, which is as good and does not take seconds.
func zeta(n int, theta float64) float64 {
	const exact = 1_000_000
	sum := 0.0
	for i := 1; i <= min(n, exact); i++ {
		sum += math.Pow(float64(i), -theta)
	}
	if n > exact {
		sum += (math.Pow(float64(n)+0.5, 1-theta) - math.Pow(exact+0.5, 1-theta)) / (1 - theta)
	}
	return sum
}

// rank maps u of [0, 1) to a rank.
func (z zipf) rank(u float64) int {
	switch x := u * z.zetan; {
	case z.n == 1 || x < 1:
		return 0
	case z.n == 2 || x < z.half:
		return 1
	}
	r := int(float64(z.n) * math.Pow(z.eta*u-z.eta+1, z.alpha))
	return min(r, z.n-1)
}

// drawer draws the operations of one connection. The head is common to all.
type drawer struct {
	spec *Spec
	rand *rand.Rand
	zipf zipf
	head *atomic.Int64 // of Latest: how many writes went round the key space
	text []byte        // random bytes, the source of all values
}

// patternLength is how many random bytes there are beyond the largest value.
const patternLength = 4096

func newDrawer(spec *Spec, z zipf, head *atomic.Int64, stream uint64) *drawer {
	d := &drawer{spec: spec, rand: rand.New(rand.NewPCG(spec.Seed, stream)), zipf: z, head: head}
	d.text = make([]byte, spec.ValueSize.Max+patternLength)
	for i := range d.text {
		d.text[i] = byte(d.rand.Uint32())
	}
	return d
}

// next draws an operation into op, whose buffers are used again.
func (d *drawer) next(op *Op) {
	op.Kind = d.spec.Mix.at(d.rand.IntN(d.spec.Mix.total()))
	op.Index = d.index(op.Kind)
	d.fill(op)
}

// fill sets key and value of op by its kind and index.
func (d *drawer) fill(op *Op) {
	op.Key = AppendKey(op.Key[:0], op.Index)
	op.Value = op.Value[:0]
	if op.Kind != Put {
		return
	}
	size := d.spec.ValueSize.Min + d.rand.IntN(d.spec.ValueSize.Max-d.spec.ValueSize.Min+1)
	from := d.rand.IntN(patternLength)
	op.Value = append(op.Value, d.text[from:from+size]...)
	tag(op.Value, op.Index)
}

func (d *drawer) index(kind Kind) int {
	n := d.spec.Keys
	switch d.spec.Dist {
	case Zipfian:
		return int(scatter(uint64(d.zipf.rank(d.rand.Float64()))) % uint64(n))
	case Latest:
		if kind == Put {
			return int((d.head.Add(1) - 1) % int64(n))
		}
		back := int64(1 + d.zipf.rank(d.rand.Float64()))
		return int(((d.head.Load()-back)%int64(n) + int64(n)) % int64(n))
	}
	return d.rand.IntN(n)
}
