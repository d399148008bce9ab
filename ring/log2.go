package ring

import "math/bits"

// Scores are fixed-point logarithms, computed with integers only: floating point may be fused or approximated
// differently on another architecture, and two nodes that disagree about one bit disagree about an owner.

const (
	logBits  = 32 // fraction bits of log2's result
	logSteps = 8  // log2 of the number of table steps
)

// logTable holds log2(1 + i/256) as fractions of 2^32.
var logTable = makeLogTable()

func makeLogTable() (t [1<<logSteps + 1]uint64) {
	for i := range t[:1<<logSteps] {
		// Squaring a mantissa in [1,2) doubles its logarithm: each overflow past 2 is one more bit of it.
		m := uint64(1)<<63 | uint64(i)<<(63-logSteps)
		for bit := logBits - 1; bit >= 0; bit-- {
			hi, lo := bits.Mul64(m, m)
			if hi>>63 == 1 {
				t[i] |= 1 << bit
				m = hi
			} else {
				m = hi<<1 | lo>>63
			}
		}
	}
	t[1<<logSteps] = 1 << logBits
	return t
}

// log2 returns the logarithm of x, which must not be 0, with 32 fraction bits. It is exact at the table's steps
// and linear between them, monotone, and off by less than 3e-6.
func log2(x uint64) int64 {
	n := bits.Len64(x) - 1
	m := x << (63 - n) // mantissa with its leading 1 at bit 63
	step := m << 1 >> (64 - logSteps)
	rest := m << (1 + logSteps) >> 32 // position between two steps, 32 bits
	lo, hi := logTable[step], logTable[step+1]
	return int64(n)<<logBits + int64(lo+(hi-lo)*rest>>32)
}
