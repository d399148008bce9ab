package ring

import (
	"math/bits"
	"slices"
)

// Bounds of a member's load, in hundredths of its fair share. Above high it gives slots away (but never for a part of
// a slot: a share rounded up is no excess). Below low it takes some: at once if it joined or changed, else within what
// leveling may move in addition to what a change has to move. Below least it takes some at once, unless the first
// layout left it there.
const (
	highLoad  = loadLimit
	lowLoad   = 95
	evenLoad  = 98
	leastLoad = 80
	leveling  = 20
)

// balance is the state of a layout's assignment while the next one is made from it. Members are numbered in the order
// of their ids. To move a slot is to take a partition from one member and give it to another; what may not be moved
// directly goes through members in between (paths.go).
type balance struct {
	q, n, m, zones int
	zone           []int
	share          []uint64
	low, high      []int    // slots: what a member must have, and the most it may have
	seekers        []bool   // members that are to have their fair share: they joined, or their weight or zone changed
	moved          int      // slots held by a member that did not hold them before
	ids            []NodeID // of members
	near           [][]uint16
	rank           [][]uint16

	picks   [][]uint8  // the members that hold each partition
	owned   [][]uint16 // the partitions that each member holds
	holds   []bool     // [p*m+i]
	home    []bool     // [p*m+i]: held it before the change
	inZone  []uint8    // [p*zones+z]: members of the zone that hold p
	covered []uint8    // zones that hold each partition
}

// Shares are whole numbers of slots more often than chance has it, and come out a little off: nearly a slot is one.
const nearly = slot >> 20

func roundUp(share uint64) int   { return int((share + slot - 1 - nearly) / slot) }
func roundDown(share uint64) int { return int((share + nearly) / slot) }

// assign fills the table of next, whose members are sorted, from what the ring of l assigns.
func (next *Layout) assign(l Layout, e *edit) {
	l.Primaries = l.assigned()
	b := newBalance(next)
	b.bound(l, e)
	b.start(l, e)
	// Where every member that goes has a successor like it, nothing but that moves.
	if e.updates || len(next.Members) != len(l.Members) || slices.Contains(b.seekers, true) {
		due := b.due()
		b.fill()
		b.feed()
		b.shed()
		b.repair()
		b.level(due + due*leveling/100 - b.moved)
	}
	next.Primaries = b.table()
}

// assigned returns the table of a valid layout, or that of a first layout if it carries none.
func (l Layout) assigned() []NodeID {
	if len(l.Primaries) > 0 {
		return l.Primaries
	}
	l.Members = sorted(l.Members)
	return l.firstTable()
}

// evened returns the table of a layout, whose members are sorted, with loads as even as zones allow. What a hash leaves
// uneven would stay so until a change meets a limit, and then has to move more than its own.
func (l Layout) evened() []NodeID {
	b := newBalance(&l)
	for i, share := range b.share {
		b.high[i] = min(b.q, max(roundUp(share), int(share*highLoad/100/slot)))
		b.low[i] = int(share * lowLoad / 100 / slot)
	}
	b.start(l, newEdit(l.Members))
	b.fill()
	b.shed()
	b.level(b.q * b.n)
	b.repair()
	return b.table()
}

func newBalance(next *Layout) *balance {
	m, q, n := len(next.Members), next.Partitions, next.width()
	zone, count := zones(next.Members)
	b := &balance{
		q: q, n: n, m: m, zones: count, zone: zone, share: shares(next.Members, zone, q, n),
		low: make([]int, m), high: make([]int, m), seekers: make([]bool, m), ids: make([]NodeID, m),
		near: make([][]uint16, m), rank: make([][]uint16, m),
		picks: make([][]uint8, q), owned: make([][]uint16, m), holds: make([]bool, q*m), home: make([]bool, q*m),
		inZone: make([]uint8, q*count), covered: make([]uint8, q),
	}
	for i, member := range next.Members {
		b.ids[i] = member.ID
	}
	return b
}

// former is what a member was before the change.
type former struct {
	Member
	load uint64 // in hundredths of its share
}

func formers(l Layout) map[NodeID]former {
	held := make(map[NodeID]uint64, len(l.Members))
	for _, id := range l.Primaries {
		held[id]++
	}
	members := sorted(l.Members)
	zone, _ := zones(members)
	out := make(map[NodeID]former, len(members))
	for i, share := range shares(members, zone, l.Partitions, l.width()) {
		out[members[i].ID] = former{members[i], held[members[i].ID] * slot * 100 / max(share, 1)}
	}
	return out
}

// bound sets the bounds of each member's load, and who seeks its share.
func (b *balance) bound(l Layout, e *edit) {
	before := formers(l)
	for old, heir := range e.successor {
		before[heir] = before[old]
	}
	for i, id := range b.ids {
		up := roundUp(b.share[i])
		b.high[i] = min(b.q, max(up, int(b.share[i]*highLoad/100/slot)))
		old, known := before[id]
		least := min(leastLoad, old.load)
		if member := e.now[id]; !known || member.Weight != old.Weight || member.Zone != old.Zone {
			b.seekers[i], least = true, lowLoad
		}
		if known && e.now[id].Weight < old.Weight {
			b.high[i] = min(b.q, up)
		}
		b.low[i] = int(b.share[i] * least / 100 / slot)
	}
}

// start gives each partition to those of its primaries that stay, or to their successors, as far as zones allow.
func (b *balance) start(l Layout, e *edit) {
	number := make(map[NodeID]int, b.m)
	for i, id := range b.ids {
		number[id] = i
	}
	for old, heir := range e.successor {
		number[old] = number[heir]
	}
	width := l.width()
	size := max(b.n, width)
	room := make([]uint8, b.q*size)
	for p := range b.picks {
		b.picks[p] = room[p*size : p*size : (p+1)*size]
	}
	for at, id := range l.Primaries {
		if i, stays := number[id]; stays {
			b.home[at/width*b.m+i] = true
			b.give(at/width, i)
		}
	}
	for p := range b.q {
		b.respectZones(p)
	}
}

// due returns how many slots have to move at least, about: the holes, or what seekers lack if that is more.
func (b *balance) due() int {
	holes, lack := 0, 0
	for p := range b.q {
		holes += b.holes(p)
	}
	for i, seeks := range b.seekers {
		if seeks {
			lack += max(0, roundDown(b.share[i])-b.load(i))
		}
	}
	return max(holes, lack)
}

func (b *balance) give(p, i int) {
	b.picks[p] = append(b.picks[p], uint8(i))
	b.owned[i] = append(b.owned[i], uint16(p))
	b.holds[p*b.m+i] = true
	if !b.home[p*b.m+i] {
		b.moved++
	}
	z := p*b.zones + b.zone[i]
	if b.inZone[z]++; b.inZone[z] == 1 {
		b.covered[p]++
	}
}

func (b *balance) take(p, i int) {
	at := slices.Index(b.picks[p], uint8(i))
	b.picks[p] = slices.Delete(b.picks[p], at, at+1)
	owned := b.owned[i]
	at = slices.Index(owned, uint16(p))
	owned[at] = owned[len(owned)-1]
	b.owned[i] = owned[:len(owned)-1]
	b.holds[p*b.m+i] = false
	if !b.home[p*b.m+i] {
		b.moved--
	}
	z := p*b.zones + b.zone[i]
	if b.inZone[z]--; b.inZone[z] == 0 {
		b.covered[p]--
	}
}

func (b *balance) move(p, from, to int) {
	b.take(p, from)
	b.give(p, to)
}

func (b *balance) load(i int) int  { return len(b.owned[i]) }
func (b *balance) holes(p int) int { return b.n - len(b.picks[p]) }

// distinct reports whether there are enough zones for each partition to have its members in distinct ones. With fewer,
// each zone has to be in each partition.
func (b *balance) distinct() bool { return b.zones >= b.n }

// missing returns how many zones partition p lacks that it has to have.
func (b *balance) missing(p int) int {
	if b.distinct() {
		return 0
	}
	return b.zones - int(b.covered[p])
}

// respectZones takes partition p from members that it has no place for any more, the most loaded first.
func (b *balance) respectZones(p int) {
	for {
		worst := -1
		for _, pick := range b.picks[p] {
			i := int(pick)
			repeated := b.inZone[p*b.zones+b.zone[i]] > 1
			if repeated && (worst < 0 || lighter(b.load(worst), b.share[worst], b.load(i), b.share[i])) {
				worst = i
			}
		}
		if worst < 0 || !b.distinct() && b.missing(p) <= b.holes(p) {
			return
		}
		b.take(p, worst)
	}
}

const hole = -1

// may reports whether member to may take partition p over from member from, or from nobody (a hole), under the rules
// about zones.
func (b *balance) may(p, from, to int) bool {
	if b.holds[p*b.m+to] {
		return false
	}
	if from != hole && b.zone[from] == b.zone[to] {
		return true
	}
	if b.inZone[p*b.zones+b.zone[to]] == 0 {
		return true
	}
	if b.distinct() {
		return false
	}
	missing, holes := b.missing(p), b.holes(p)
	if from == hole {
		holes--
	} else if b.inZone[p*b.zones+b.zone[from]] == 1 {
		missing++
	}
	return missing <= holes
}

// nearest returns the partitions by their distance from member i, the nearest first.
func (b *balance) nearest(i int) []uint16 {
	if b.near[i] == nil {
		b.near[i] = make([]uint16, b.q)
		b.rank[i] = make([]uint16, b.q)
		width := bits.TrailingZeros64(uint64(b.q))
		for p, u := range tokens(b.ids[i], b.q) {
			// Tokens are evenly spaced, so the top bits are a place among all; the highest is the nearest.
			place := b.q - 1 - int(u>>(64-width))
			b.near[i][place], b.rank[i][p] = uint16(p), uint16(place)
		}
	}
	return b.near[i]
}

// fill gives the partitions that have lost a member to new ones: the member that holds least for its share takes the
// nearest that it may, until none of them is left, or only such as nobody below its limit may take.
func (b *balance) fill() {
	open := 0
	for p := range b.q {
		open += b.holes(p)
	}
	next := make([]int, b.m) // place in each member's list of nearest partitions
	for open > 0 {
		i := b.neediest(func(i int) bool { return next[i] < b.q })
		if i < 0 {
			return
		}
		near := b.nearest(i)
		// What may not be taken now may not later: holes only get fewer.
		for next[i] < b.q && (b.holes(int(near[next[i]])) == 0 || !b.may(int(near[next[i]]), hole, i)) {
			next[i]++
		}
		if next[i] < b.q {
			b.give(int(near[next[i]]), i)
			next[i]++
			open--
		}
	}
}

// neediest returns the member below its limit that holds least for its share, or -1.
func (b *balance) neediest(may func(i int) bool) int {
	best := -1
	for i := range b.m {
		if b.load(i) < b.high[i] && may(i) && (best < 0 || lighter(b.load(i)+1, b.share[i], b.load(best)+1, b.share[best])) {
			best = i
		}
	}
	return best
}

// feed lets seekers take slots up to their fair share.
func (b *balance) feed() {
	for i, seeks := range b.seekers {
		if seeks {
			b.draw(i, roundDown(b.share[i])-b.load(i))
		}
	}
}

// level lets members that hold too little take up to so many slots in all, those that hold least for their share
// first: what a first layout, or changes that zones had limited, left uneven gets even in time.
func (b *balance) level(budget int) {
	tried := make([]bool, b.m)
	for budget > 0 {
		i := b.neediest(func(i int) bool { return !tried[i] })
		if i < 0 {
			return
		}
		tried[i] = true
		if lack := int(b.share[i]*evenLoad/100/slot) - b.load(i); lack > 0 {
			budget -= b.draw(i, min(lack, budget))
		}
	}
}

// draw moves up to so many slots to a member: the nearest of the one that holds most for its share. It returns how
// many it has moved.
func (b *balance) draw(to, lack int) (drawn int) {
	if lack <= 0 {
		return 0
	}
	offers := make([][]uint16, b.m)
	for _, p := range b.nearest(to) {
		for _, from := range b.picks[p] {
			if b.may(int(p), int(from), to) {
				offers[from] = append(offers[from], p)
			}
		}
	}
	for drawn < lack {
		from := b.richest(to, offers)
		if from < 0 {
			break
		}
		p := int(offers[from][0])
		offers[from] = offers[from][1:]
		if b.holds[p*b.m+from] && b.may(p, from, to) {
			b.move(p, from, to)
			drawn++
		}
	}
	return drawn
}

// richest returns the member with offers that holds most for its share, and more than the one they are made to.
func (b *balance) richest(to int, offers [][]uint16) int {
	best := -1
	for i, o := range offers {
		if len(o) > 0 && lighter(b.load(to)+1, b.share[to], b.load(i), b.share[i]) &&
			(best < 0 || lighter(b.load(best), b.share[best], b.load(i), b.share[i])) {
			best = i
		}
	}
	return best
}

// shed takes slots from members above their limits and gives them to those that hold least for their share.
func (b *balance) shed() {
	for from := range b.m {
		arcs := make([][]uint16, b.m)
		known := make([]bool, b.m)
		for b.load(from) > b.high[from] {
			to := b.neediest(func(i int) bool { return i != from && (!known[i] || len(arcs[i]) > 0) })
			if to < 0 {
				break
			}
			if !known[to] {
				arcs[to], known[to] = b.arc(from, to), true
				continue
			}
			p := int(arcs[to][0])
			arcs[to] = arcs[to][1:]
			if b.holds[p*b.m+from] && b.may(p, from, to) {
				b.move(p, from, to)
			}
		}
	}
}

// cost returns by how many more slots have moved once from has handed partition p to another member.
func (b *balance) cost(p uint16, from, to int) int {
	home := b.home[int(p)*b.m:]
	cost := 0
	if !home[from] {
		cost--
	}
	if !home[to] {
		cost++
	}
	return cost
}

// arc returns the partitions that from may hand to another member: first those that have moved already, since to move
// them again costs nothing, and of equals the nearest.
func (b *balance) arc(from, to int) []uint16 {
	b.nearest(to)
	var out []uint16
	for _, p := range b.owned[from] {
		if b.may(int(p), from, to) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(x, y uint16) int {
		if c := b.cost(x, from, to) - b.cost(y, from, to); c != 0 {
			return c
		}
		return int(b.rank[to][x]) - int(b.rank[to][y])
	})
	return out
}

// table lists the members of all partitions in the order of their ids.
func (b *balance) table() []NodeID {
	out := make([]NodeID, 0, b.q*b.n)
	for _, picks := range b.picks {
		slices.Sort(picks)
		for _, i := range picks {
			out = append(out, b.ids[i])
		}
	}
	return out
}
