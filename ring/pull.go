package ring

import "math/bits"

const scoreBits = 24 // fraction bits of a score

// How far the pull of a zone of several members is brought from its plain weight to what would give it its fair
// share, in thousandths. To do it fully moves slots inside a zone whenever its share changes; not to do it leaves
// too much to the limits if zones are far from equal. The numbers are measured, see DESIGN.md.
const (
	maxCorrection  = 600
	evenEnough     = 40 // unevenness, in thousandths, that is not corrected
	correctionRise = 2  // per unevenness beyond
)

// score turns a logarithm's result into the fixed point of scores.
func score(log int64) int32 { return int32(log >> (logBits - scoreBits)) }

// distance returns log2(-log2(u)) for u = h/2^64: the logarithm of an exponentially distributed distance when h is
// uniform. To subtract log2(w) from it is to divide the distance by w.
func distance(h uint64) int32 {
	e := 64<<logBits - log2(h|1)
	return score(log2(uint64(max(e, 1)))) - logBits<<scoreBits
}

// rate returns log2(-log2(1-part/whole)): how strongly a unit must pull to be among the nearest of that part of
// all partitions. A part of nothing or of everything is brought to where the result is finite.
func rate(part, whole uint64) int32 {
	part = min(max(part, whole>>20), whole-whole>>13)
	e := log2(whole) - log2(whole-part)
	return score(log2(uint64(max(e, 1)))) - logBits<<scoreBits
}

// reach is the inverse of rate: the largest part whose rate is at most r.
func reach(r int32, whole uint64) uint64 {
	lo, hi := uint64(0), whole
	for lo < hi {
		mid := lo + (hi-lo+1)/2
		if rate(mid, whole) <= r {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}

// unit is what competes for a partition once: a zone when there are at least n of them, else a member.
type unit struct {
	weight uint64
	share  uint64
	exact  int32 // pull that gives it its share
}

// pull returns the unit's pull at a level common to all, with a correction in thousandths.
func (u *unit) pull(level int32, correction int64) int32 {
	plain := int64(level) + int64(score(log2(u.weight)))
	return int32((plain*(1000-correction) + int64(u.exact)*correction) / 1000)
}

// pulls returns what to subtract from each member's distances so that, before any limit, it is among the nearest
// of about its fair share of partitions. The weight alone would not do: to draw n of few, unequal members without
// replacement gives the heavy ones less than their part.
func pulls(members []Member, share []uint64, part []int, q int) []int32 {
	full := uint64(q) * slot
	units, total := makeUnits(members, share, part, full)
	correction := correctionOf(units)
	if len(units) == len(members) {
		correction = 1000 // no zone has an inside in which slots could move
	}
	lo, hi := int32(-40)<<scoreBits, int32(10)<<scoreBits
	for lo < hi { // the highest common level at which the units do not reach more than there is
		mid := lo + (hi-lo+1)/2
		sum := uint64(0)
		for i := range units {
			sum += reach(units[i].pull(mid, correction), full)
		}
		if sum <= total {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	out := make([]int32, len(members))
	for i, m := range members {
		u := &units[part[i]]
		out[i] = u.pull(lo, correction) + score(log2(uint64(m.Weight))) - score(log2(u.weight))
	}
	return out
}

// correctionOf returns the correction for units, by their unevenness: the square of the coefficient of variation
// of their weights.
func correctionOf(units []unit) int64 {
	sum, squares := uint64(0), uint64(0)
	for i := range units {
		sum += units[i].weight
		squares += units[i].weight * units[i].weight
	}
	uneven := int64(1000*uint64(len(units))*squares/(sum*sum)) - 1000
	return min(max(0, correctionRise*(uneven-evenEnough)), maxCorrection)
}

func makeUnits(members []Member, share []uint64, part []int, full uint64) (units []unit, total uint64) {
	count := 0
	for _, u := range part {
		count = max(count, u+1)
	}
	units = make([]unit, count)
	for i, u := range part {
		units[u].weight += uint64(members[i].Weight)
		units[u].share += share[i]
		total += share[i]
	}
	for i := range units {
		units[i].exact = rate(units[i].share, full)
	}
	return units, total
}

// lighter reports whether a member with held slots of a share is relatively less loaded than another.
func lighter(heldA int, shareA uint64, heldB int, shareB uint64) bool {
	aHi, aLo := bits.Mul64(uint64(heldA), shareB)
	bHi, bLo := bits.Mul64(uint64(heldB), shareA)
	return aHi < bHi || aHi == bHi && aLo < bLo
}
