package ring

import "math/bits"

// slot is one primary slot in the fixed point of shares.
const slot = 1 << 32

// zones numbers the failure domains of members, which are sorted by id: zone[i] is member i's, 0..count-1, in the
// order in which they first appear. When no member names a zone each is a zone of its own; when any does, those
// that name none are together in one, because nothing says that they fail apart.
func zones(members []Member) (zone []int, count int) {
	zone = make([]int, len(members))
	number := map[string]int{}
	for i, m := range members {
		z, ok := number[m.Zone]
		if !ok {
			z = len(number)
			number[m.Zone] = z
		}
		zone[i] = z
	}
	if _, unnamed := number[""]; unnamed && len(number) == 1 {
		for i := range zone {
			zone[i] = i
		}
		return zone, len(zone)
	}
	return zone, len(number)
}

// shares returns each member's fair share of the q*n primary slots, in units of 1/slot: proportional to weight as
// far as the rules allow. A member holds a partition at most once, so its share is at most q. With at least n
// zones a zone holds a partition at most once, so its members share at most q; with fewer, each zone holds each
// partition at least once, so its members share at least q. What a bound cuts off or adds is taken up by the
// others in proportion to weight.
func shares(members []Member, zone []int, q, n int) []uint64 {
	f := fairness{members: members, zone: zone, full: uint64(q) * slot}
	for _, z := range zone {
		f.count = max(f.count, z+1)
	}
	f.distinct = f.count >= n
	total := f.full * uint64(n)
	// The largest share per unit of weight at which the shares do not exceed the total.
	lo, hi := uint64(0), f.full
	for lo < hi {
		mid := lo + (hi-lo+1)/2
		sum := uint64(0)
		for _, s := range f.at(mid) {
			sum += s
		}
		if sum <= total {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return f.at(lo)
}

type fairness struct {
	members  []Member
	zone     []int
	count    int
	full     uint64 // q slots
	distinct bool   // at least n zones
}

// at returns the shares of members for a share per unit of weight.
func (f *fairness) at(unit uint64) []uint64 {
	weight := make([]uint64, f.count)
	taken := make([]uint64, f.count)
	out := make([]uint64, len(f.members))
	for i, m := range f.members {
		weight[f.zone[i]] += uint64(m.Weight)
		out[i] = min(unit*uint64(m.Weight), f.full)
		taken[f.zone[i]] += out[i]
	}
	for i, m := range f.members {
		z := f.zone[i]
		if (f.distinct && taken[z] > f.full) || (!f.distinct && taken[z] < f.full) {
			hi, lo := bits.Mul64(f.full, uint64(m.Weight))
			out[i], _ = bits.Div64(hi, lo, weight[z])
		}
	}
	return out
}
