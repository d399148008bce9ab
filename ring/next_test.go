package ring

import (
	"flag"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// Changes are tested with ids that nobody has seen before. A failure names the seed.
var (
	seedFlag  = flag.Uint64("ring.seed", 0, "seed of the tests of changes; 0 draws one")
	roundFlag = flag.Int("ring.rounds", 1, "rounds of the tests of changes, each with a seed of its own")
)

func eachRound(t *testing.T, test func(t *testing.T, rnd *rand.Rand, a *account)) {
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	a := &account{least: 9}
	for round := range uint64(*roundFlag) {
		t.Logf("-ring.seed=%d", seed+round)
		test(t, rand.New(rand.NewPCG(seed+round, 0)), a)
	}
	t.Log(a)
}

// account is what a test of changes has seen, for the tables in DESIGN.md.
type account struct {
	joins, leaves tally
	others        tally
	peak, least   float64 // load over fair share, of shares of 20 slots or more
}

type tally struct {
	count      int
	sum        float64 // of moved over minimum
	worst      float64 // of minimums of 20 slots or more
	worstSlots string
	beyond     float64 // the most slots moved beyond 1.25 times the minimum
}

func (y *tally) add(moved, minimum float64) {
	y.count++
	y.sum += moved / max(minimum, 1)
	if minimum >= 20 && moved/minimum > y.worst {
		y.worst, y.worstSlots = moved/minimum, fmt.Sprintf("%.0f/%.0f", moved, minimum)
	}
	y.beyond = max(y.beyond, moved-1.25*minimum)
}

func (y tally) String() string {
	return fmt.Sprintf("%d, average %.3f, worst %.3f (%s), beyond %.1f", y.count, y.sum/float64(max(1, y.count)), y.worst, y.worstSlots, y.beyond)
}

func (a *account) String() string {
	return fmt.Sprintf("joins %v; leaves %v; others %v; load %.3f to %.3f", a.joins, a.leaves, a.others, a.least, a.peak)
}

// cluster is a layout that changes, with what it is checked against.
type cluster struct {
	layout Layout
	table  [][]NodeID // primaries by partition
	load   map[NodeID]int
	fair   map[NodeID]float64
}

func newCluster(t *testing.T, l Layout) *cluster {
	t.Helper()
	r := mustNew(t, l, l.N)
	c := &cluster{layout: l, load: map[NodeID]int{}, fair: fair(l.Members, l.Partitions, l.N)}
	for p := range l.Partitions {
		c.table = append(c.table, r.Primaries(p))
		for _, id := range r.Primaries(p) {
			c.load[id]++
		}
	}
	return c
}

// next makes a change and checks everything that holds after any.
func (c *cluster) next(t *testing.T, change Change, a *account) (d *cluster, moved, minimum float64) {
	t.Helper()
	l, err := c.layout.Next(change)
	if err != nil {
		t.Fatal(err)
	}
	d = &cluster{layout: l, load: map[NodeID]int{}, fair: fair(l.Members, l.Partitions, l.N)}
	width := l.width()
	for p := range l.Partitions {
		primaries := l.Primaries[p*width : (p+1)*width]
		d.table = append(d.table, primaries)
		for _, id := range primaries {
			d.load[id]++
			if !slices.Contains(c.table[p], id) {
				moved++
			}
		}
	}
	d.checkLoads(t, a)
	d.checkZones(t)
	return d, moved, c.minimum(d)
}

// minimum returns how many slots have to move for fair shares: what those that go held, and what shares grow by, if
// that is more.
func (c *cluster) minimum(d *cluster) float64 {
	grown, held := 0.0, 0.0
	for id, s := range d.fair {
		grown += max(0, s-c.fair[id])
	}
	for id, n := range c.load {
		if _, stays := d.fair[id]; !stays {
			held += float64(n)
		}
	}
	return max(grown, held)
}

func (c *cluster) checkLoads(t *testing.T, a *account) {
	t.Helper()
	for _, m := range c.layout.Members {
		n, s := float64(c.load[m.ID]), c.fair[m.ID]
		if n > max(1.10*s, math.Ceil(s-1e-6))+1e-6 {
			t.Errorf("%s owns %.0f of a fair %.1f, of %d members", m.Name, n, s, len(c.layout.Members))
		}
		if n < 0.7*s-1.5*math.Sqrt(s) { // as of a first layout
			t.Errorf("%s owns only %.0f of a fair %.1f, of %d members", m.Name, n, s, len(c.layout.Members))
		}
		if s >= 20 {
			a.peak, a.least = max(a.peak, n/s), min(a.least, n/s)
		}
	}
}

func (c *cluster) checkZones(t *testing.T) {
	t.Helper()
	zone, count := zones(c.layout.Members)
	of := map[NodeID]int{}
	for i, m := range c.layout.Members {
		of[m.ID] = zone[i]
	}
	want := min(count, c.layout.width())
	for p, primaries := range c.table {
		seen := map[int]bool{}
		for _, id := range primaries {
			seen[of[id]] = true
		}
		if len(seen) != want {
			t.Fatalf("partition %d is in %d zones, want %d", p, len(seen), want)
		}
	}
}

func join(m ...Member) Change   { return Change{Join: m} }
func leave(id ...NodeID) Change { return Change{Leave: id} }
func update(m ...Member) Change { return Change{Update: m} }
func ids(m []Member) (o []NodeID) {
	for _, x := range m {
		o = append(o, x.ID)
	}
	return o
}

// rounding returns what may move beyond a multiple of the minimum since limits are whole slots: up to one of each member
// that held more than its new limit, and all of that if its share is below 10 slots, where the limit is the share
// rounded up; and two more, or six where there are so few partitions that most shares are a few slots.
func (c *cluster) rounding(d *cluster) float64 {
	sum := 2.0
	if d.layout.Partitions < 512 {
		sum = 6
	}
	for id, s := range d.fair {
		excess := max(0, float64(c.load[id])-max(math.Floor(1.10*s), math.Ceil(s-1e-6)))
		if s >= 10 {
			excess = min(excess, 1)
		}
		sum += excess
	}
	return sum
}

// A single join or leave moves at most so many times the least that fair shares force, and a few slots of rounding.
func checkMoved(t *testing.T, what string, moved, minimum, bound, rounding float64) {
	t.Helper()
	if moved > bound*minimum+rounding {
		t.Errorf("%s moved %.0f slots, minimum %.1f", what, moved, minimum)
	}
}

// Clusters of every family grow from 3 to 64 members, one by one, and shrink back.
func TestGrowAndShrink(t *testing.T) {
	for _, f := range some() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			eachRound(t, func(t *testing.T, rnd *rand.Rand, a *account) {
				full := f.layout(64, rnd.Uint64())
				l := full
				l.Members = slices.Clone(full.Members[:3])
				c := newCluster(t, l)
				for _, m := range full.Members[3:] {
					d, moved, minimum := c.next(t, join(m), a)
					a.joins.add(moved, minimum)
					checkMoved(t, fmt.Sprintf("join to %d members", len(d.layout.Members)), moved, minimum, 1.25, 2)
					c = d
				}
				for n := 64; n > 3; n-- {
					gone := c.layout.Members[rnd.IntN(n)]
					d, moved, minimum := c.next(t, leave(gone.ID), a)
					a.leaves.add(moved, minimum)
					checkMoved(t, fmt.Sprintf("leave to %d members", len(d.layout.Members)), moved, minimum, 1.25, 2)
					c = d
				}
			})
		})
	}
}

// A first layout of any size, which a hash assigned, changes as cheaply.
func TestFirstChange(t *testing.T) {
	for _, f := range some() {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			eachRound(t, func(t *testing.T, rnd *rand.Rand, a *account) {
				for _, m := range sizes {
					with := f.layout(m+1, rnd.Uint64())
					without, who := with, with.Members[rnd.IntN(m+1)]
					without.Members = slices.DeleteFunc(slices.Clone(with.Members), func(x Member) bool { return x == who })
					c := newCluster(t, without)
					d, moved, minimum := c.next(t, join(who), a)
					a.joins.add(moved, minimum)
					checkMoved(t, fmt.Sprintf("join to %d members", len(d.layout.Members)), moved, minimum, 1.25, 2)
					c = newCluster(t, with)
					d, moved, minimum = c.next(t, leave(who.ID), a)
					a.leaves.add(moved, minimum)
					checkMoved(t, fmt.Sprintf("leave to %d members", len(d.layout.Members)), moved, minimum, 1.25, 2)
				}
			})
		})
	}
}

// drawnCluster is a cluster of any shape, and a source of more members like its own.
type drawnCluster struct {
	rnd     *rand.Rand
	weights []int
	zones   int
	made    int
}

func (d *drawnCluster) member() Member {
	d.made++
	m := Member{ID: randomID(d.rnd), Name: fmt.Sprintf("n%d", d.made), Weight: d.weights[d.rnd.IntN(len(d.weights))]}
	if d.zones > 0 {
		m.Zone = d.zone()
	}
	return m
}

// zone draws low numbers more often, so that zones are uneven.
func (d *drawnCluster) zone() string { return fmt.Sprintf("z%d", d.rnd.IntN(1+d.rnd.IntN(d.zones))) }

func (d *drawnCluster) members(n int) (out []Member) {
	for range n {
		out = append(out, d.member())
	}
	return out
}

func drawCluster(rnd *rand.Rand) (*drawnCluster, Layout) {
	pick := func(of ...int) int { return of[rnd.IntN(len(of))] }
	d := &drawnCluster{rnd: rnd, zones: pick(0, 1, 2, 3, 3, 4, 4, 5, 8)}
	d.weights = [][]int{{1}, {1, 2, 4}, {1, 2, 3, 4, 5, 6, 7, 8}, {10, 30, 70, 100, 1000}}[rnd.IntN(4)]
	l := Layout{
		Epoch: 1, Cluster: "flock", ClusterID: [16]byte{1}, Partitions: pick(16, 128, 512, 1024, 1024, 1024),
		N: pick(1, 2, 3, 3, 3, 3, 4, 5), Members: d.members(1 + rnd.IntN(40)),
	}
	return d, l
}

// change draws a change of a layout, and says what kind it is.
func (d *drawnCluster) change(l Layout) (Change, string) {
	m := slices.Clone(l.Members)
	d.rnd.Shuffle(len(m), func(i, k int) { m[i], m[k] = m[k], m[i] })
	some := 1 + d.rnd.IntN(max(1, len(m)/3))
	switch kind := d.rnd.IntN(10); {
	case kind <= 1 && len(m) < 70:
		return join(d.member()), "join"
	case kind <= 3 && len(m) > 1:
		return leave(m[0].ID), "leave"
	case kind == 4 && len(m) < 50:
		return join(d.members(some)...), "joins"
	case kind == 5 && len(m) > some:
		return leave(ids(m[:some])...), "leaves"
	case kind == 6 && len(m) > some && len(m) < 60:
		return Change{Join: d.members(1 + d.rnd.IntN(3)), Leave: ids(m[:some])}, "joins and leaves"
	case kind == 7 && len(l.Primaries) > 0:
		heir := d.member()
		heir.Zone, heir.Weight = m[0].Zone, m[0].Weight
		return Change{Replace: map[NodeID]Member{m[0].ID: heir}}, "replacement"
	case kind == 8 && d.zones > 0:
		m[0].Zone = d.zone()
		return update(m[0]), "zone"
	}
	m[0].Weight = d.weights[d.rnd.IntN(len(d.weights))]
	return update(m[0]), "weight"
}

// Clusters of all shapes change in all ways, many times over. A zone or weight that changed may leave loads as uneven as
// zones force, so that a later join or leave, which finds members at their limits, moves up to 1.5 times the least.
func TestChanges(t *testing.T) {
	eachRound(t, func(t *testing.T, rnd *rand.Rand, a *account) {
		for range 40 {
			d, l := drawCluster(rnd)
			c, bound := newCluster(t, l), 1.25
			for range 12 {
				change, kind := d.change(c.layout)
				next, moved, minimum := c.next(t, change, a)
				what := fmt.Sprintf("%s in Q=%d N=%d zones=%d to %d members", kind, l.Partitions, l.N, d.zones, len(next.layout.Members))
				switch kind {
				case "join":
					a.joins.add(moved, minimum)
					checkMoved(t, what, moved, minimum, bound, c.rounding(next))
				case "leave":
					a.leaves.add(moved, minimum)
					checkMoved(t, what, moved, minimum, bound, c.rounding(next))
				case "replacement":
					if held := float64(c.load[slices.Collect(maps.Keys(change.Replace))[0]]); moved != held {
						t.Errorf("%s moved %.0f slots, want %.0f", what, moved, held)
					}
				case "zone", "weight":
					bound = 1.5
					fallthrough
				default:
					a.others.add(moved, minimum)
				}
				c = next
			}
		}
	})
}
