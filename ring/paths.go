package ring

import "slices"

// Where a slot may not go directly from a member that has too many to one that has too few, because of zones, it goes
// by way of others: each member of the path hands one of its partitions to the next. The steps between members are all
// that the rules allow (they are the residual graph of a flow from partitions through zones to members), so that a
// path is found whenever there is a better assignment, and the shortest moves least.

// repair makes an end of what direct moves have left: first holes, then members above their limits, then members
// below what they must have.
func (b *balance) repair() {
	banned := make([]bool, b.m*b.m)
	below := func(i int) bool { return b.load(i) < b.high[i] }
	for p := range b.q {
		for b.holes(p) > 0 {
			b.plug(p, below, banned)
		}
	}
	for i := range b.m {
		for b.load(i) > b.high[i] {
			if !b.augment(b.path([]int{i}, below, b.givesTo, banned), banned) {
				break
			}
		}
	}
	rich := func(i int) bool { return b.load(i) > int(b.share[i]*lowLoad/100/slot) }
	for i := range b.m {
		for b.load(i) < b.low[i] {
			path := b.path([]int{i}, rich, b.takesFrom, banned)
			slices.Reverse(path)
			if !b.augment(path, banned) {
				break
			}
		}
	}
}

// plug fills a hole of partition p: by a member that first hands another partition on if it is at its limit.
func (b *balance) plug(p int, below func(int) bool, banned []bool) {
	var first []int
	for i := range b.m {
		if b.may(p, hole, i) {
			first = append(first, i)
		}
	}
	// Zones leave somebody for every hole: see start.
	slices.SortStableFunc(first, func(x, y int) int {
		switch {
		case lighter(b.load(x), b.share[x], b.load(y), b.share[y]):
			return -1
		case lighter(b.load(y), b.share[y], b.load(x), b.share[x]):
			return 1
		}
		return 0
	})
	path := b.path(first, below, b.givesTo, banned)
	if len(path) == 0 {
		path = first[:1] // over its limit, rather than a partition with too few
	}
	b.give(p, path[0])
	if len(path) > 1 {
		b.step(path)
	}
}

// path returns a cheapest path from one of the sources, the first of equals, to a member that is an end. A step costs
// nothing if it hands on what has moved already, else one slot, so that the members at hand are in a queue with two
// ends.
func (b *balance) path(sources []int, end func(int) bool, expand func(i int, visit func(k, cost int)), banned []bool) []int {
	const unseen, source = -2, -1
	from, done, cheapest := make([]int, b.m), make([]bool, b.m), make([]int, b.m)
	for i := range from {
		from[i], cheapest[i] = unseen, b.m
	}
	now := slices.Clone(sources)
	for _, s := range sources {
		from[s], cheapest[s] = source, 0
	}
	var later []int // one slot dearer
	for len(now)+len(later) > 0 {
		if len(now) == 0 {
			now, later = later, nil
		}
		i := now[0]
		now = now[1:]
		if done[i] {
			continue
		}
		done[i] = true
		if end(i) {
			path := []int{}
			for ; i != source; i = from[i] {
				path = append(path, i)
			}
			slices.Reverse(path)
			return path
		}
		expand(i, func(k, cost int) {
			cost = max(0, cost)
			if done[k] || banned[i*b.m+k] || cheapest[i]+cost >= cheapest[k] {
				return
			}
			from[k], cheapest[k] = i, cheapest[i]+cost
			if cost == 0 {
				now = append(now, k)
			} else {
				later = append(later, k)
			}
		})
	}
	return nil
}

// givesTo visits the members that i may hand a partition to.
func (b *balance) givesTo(i int, visit func(k, cost int)) {
	for k := range b.m {
		if cost, ok := b.cheapest(i, k); ok {
			visit(k, cost)
		}
	}
}

// takesFrom visits the members that may hand a partition to i.
func (b *balance) takesFrom(i int, visit func(k, cost int)) {
	for k := range b.m {
		if cost, ok := b.cheapest(k, i); ok {
			visit(k, cost)
		}
	}
}

// cheapest returns the least cost of a partition that from may hand to another member.
func (b *balance) cheapest(from, to int) (least int, ok bool) {
	for _, p := range b.owned[from] {
		if !b.may(int(p), from, to) {
			continue
		}
		if cost := b.cost(p, from, to); !ok || cost < least {
			least, ok = cost, true
		}
		if least < 0 {
			break
		}
	}
	return least, ok
}

// augment moves one slot along a path of members, and bans a path that turns out to be none: two of its steps were by
// the same partition. It reports whether there was a path.
func (b *balance) augment(path []int, banned []bool) bool {
	if len(path) < 2 {
		return false
	}
	if !b.step(path) {
		for i := 1; i < len(path); i++ {
			banned[path[i-1]*b.m+path[i]] = true
			banned[path[i]*b.m+path[i-1]] = true
		}
	}
	return true
}

// step moves one slot along a path, from its end on, or nothing at all.
func (b *balance) step(path []int) bool {
	var done []int
	for i := len(path) - 1; i > 0; i-- {
		arc := b.arc(path[i-1], path[i])
		if len(arc) == 0 {
			for k, p := range slices.Backward(done) {
				b.move(p, path[len(path)-1-k], path[len(path)-2-k])
			}
			return false
		}
		p := int(arc[0])
		b.move(p, path[i-1], path[i])
		done = append(done, p)
	}
	return true
}
