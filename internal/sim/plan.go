package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// Plan is every option of a schedule. Draw draws one from a seed.
type Plan struct {
	Seed     uint64
	Nodes    int
	Zones    int
	Parts    int           // partitions
	Length   time.Duration // of the time with faults
	Clients  int
	Keys     int
	Pause    time.Duration // of a client, between two operations
	Once     int           // percent of operations on keys that are written once
	Size     int           // of values
	R, W     int           // of strict requests
	Least    bool          // requests for one replica
	Retries  bool
	LWW      bool
	OS       bool // durability "os": a crash loses what was not synced lately
	Reap     time.Duration
	Weather  weather
	Fsync    time.Duration // most that a commit takes
	Skew     time.Duration // most that a clock is off
	Move     bool          // a node comes back with another address
	Gap      time.Duration // between two faults
	AtOnce   int           // faults
	Faults   []string
	strength map[string]int
	// HintBytes is what the hints for one target may take; 0: more than there will be.
	HintBytes int64
	// Changes are the kinds of changes of the members that operators make; none: the members stay.
	Changes   []string
	changes   map[string]int // how often each, against the others
	Spares    int            // machines that may become members
	ChangeGap time.Duration  // between two changes
	Operators int            // operators, who do not know of each other
	Churn     int            // percent of the keys that are written once, and deleted at once
	Losses    int            // nodes that may be lost with their disks, one less than LeastW
	LeastW    int            // the fewest replicas that any write asks for
	Patience  time.Duration  // of a client with one request
}

// changing reports whether members come and go.
func (p *Plan) changing() bool { return len(p.Changes) > 0 }

// String tells every option.
func (p Plan) String() string {
	w := p.Weather
	text := fmt.Sprintf("seed %d: %d nodes, %d zones, %d partitions, %v of faults (%s; one every %v, at most %d at once), "+
		"%d clients, %d keys, once %d %%, pause %v, values to %d, strict r=%d w=%d, least %v, retries %v, lww %v, os %v, reap after %v, "+
		"hints to %d bytes, delay %v..%v, spikes %.3f, loss %.2f, duplicates %.2f, fsync to %v, skew to %v, addresses change %v, churn %d %%, patience %v",
		p.Seed, p.Nodes, p.Zones, p.Parts, p.Length, strings.Join(p.Faults, " "), p.Gap, p.AtOnce,
		p.Clients, p.Keys, p.Once, p.Pause, p.Size, p.R, p.W, p.Least, p.Retries, p.LWW, p.OS, p.Reap,
		p.HintBytes, w.least, w.most, w.spike, w.loss, w.duplicate, p.Fsync, p.Skew, p.Move, p.Churn, p.Patience)
	if p.changing() {
		text += fmt.Sprintf(", changes of the members (%s; one every %v, by %d at once, %d spare nodes, at most %d lost, w at least %d)",
			strings.Join(p.Changes, " "), p.ChangeGap, p.Operators, p.Spares, p.Losses, p.LeastW)
	}
	return text
}

// Draw draws the options of a schedule.
func Draw(seed uint64) Plan {
	r := rand.New(rand.NewPCG(seed, 0))
	chance := func(percent int) bool { return r.IntN(100) < percent }
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(r.Int64N(int64(most-least)+1))
	}
	p := Plan{
		Seed: seed, Nodes: 5, Zones: 1, Parts: 1 << (3 + r.IntN(3)), Length: between(40*time.Second, 3*time.Minute).Round(time.Second),
		Clients: 2 + r.IntN(5), Keys: 2 + r.IntN(12), Pause: between(100*time.Millisecond, time.Second).Round(time.Millisecond), Size: 60,
		R: 2, W: 2, Least: chance(50), Retries: chance(60), LWW: chance(40), OS: chance(8), Move: chance(30),
		Gap: between(time.Second, 15*time.Second).Round(time.Millisecond), AtOnce: 1 + r.IntN(3),
		strength: map[string]int{}, Patience: 2 * time.Second,
	}
	if chance(30) {
		p.Nodes = 3 + r.IntN(4)
	}
	if chance(20) {
		p.Zones = 2 + r.IntN(2)
	}
	if chance(10) {
		p.Size = 20000
	}
	if chance(20) {
		p.R, p.W = 1+2*r.IntN(2), 3
		if p.R == 3 {
			p.W = 1
		}
	}
	if chance(40) {
		p.Reap = between(2*time.Second, 15*time.Second).Round(time.Millisecond)
		p.Retries = p.Retries && chance(30)
	}
	if chance(80) {
		p.Weather.least = time.Duration(r.IntN(2000)) * time.Microsecond
		p.Weather.most = p.Weather.least + time.Duration(r.IntN(20))*time.Millisecond
	}
	if chance(30) {
		p.Weather.spike = float64(1+r.IntN(30)) / 1000
	}
	if chance(40) {
		p.Weather.loss, p.Weather.duplicate = float64(r.IntN(15))/100, float64(r.IntN(20))/100
	}
	if chance(60) {
		p.Fsync = time.Duration(r.IntN(30)) * time.Millisecond
	}
	if chance(50) {
		p.Skew = time.Duration(1<<r.IntN(17)) * time.Millisecond // to 65 s
	}
	for _, f := range faults[:firstFaults] {
		if chance(45) {
			p.Faults = append(p.Faults, f.name)
			p.strength[f.name] = 1 + r.IntN(4)
		}
	}
	if len(p.Faults) == 0 {
		p.Faults, p.strength["crash"] = []string{"crash"}, 1
	}
	slices.Sort(p.Faults)
	if chance(15) {
		p.HintBytes = int64(500 + r.IntN(4000))
	}
	if chance(70) {
		p.Once = 10 + r.IntN(50)
	}
	if chance(35) { // several things at once, all the time
		p.Gap, p.AtOnce = between(300*time.Millisecond, 3*time.Second).Round(time.Millisecond), 3+r.IntN(4)
	}
	if chance(30) {
		p.R, p.W = 3, 1
	}
	if chance(60) {
		p.drawChanges(chance, between, r)
	}
	for _, f := range faults[firstFaults:secondFaults] {
		if chance(35) {
			p.Faults = append(p.Faults, f.name)
			p.strength[f.name] = 1 + r.IntN(4)
		}
	}
	if late := p.strength["late"]+p.strength["stuck"] > 0; chance(60) && late { // what comes late meets what was reaped early
		p.Churn, p.Once, p.Retries = 20+r.IntN(40), max(p.Once, 30), false
		if p.Reap = max(p.Reap/8, 250*time.Millisecond); p.OS {
			p.Reap = 0
		}
	}
	for _, f := range changes[firstChanges:secondChanges] {
		if strength := 1 + r.IntN(3); chance(45) && p.changing() && (f.name == "rivals" || p.Losses > 0) {
			p.Changes = append(p.Changes, f.name)
			p.changes[f.name] = strength
		}
	}
	p.drawRare()
	p.drawAimed()
	p.drawBelated()
	p.drawNewcomer()
	return p
}

// rareStream makes the draws of drawRare. With this number the older of testdata/seeds.txt draw nothing more.
const rareStream = 328

// drawRare draws what two of five schedules have none of: what keeps something under way for long, other numbers of
// replicas, and the loss of a majority.
func (p *Plan) drawRare() {
	r := rand.New(rand.NewPCG(p.Seed, rareStream))
	chance := func(percent int) bool { return r.IntN(100) < percent }
	if chance(40) {
		return
	}
	if p.Losses < 2 && chance(40) {
		p.addFault("stall", 1+r.IntN(4))
		p.Patience = time.Duration(5+r.IntN(15)) * time.Second
		if chance(60) {
			p.R, p.W = 1, 3
		}
	}
	if p.Losses == 0 && chance(30) {
		p.addFault("grow", 1+r.IntN(4))
		p.Least = true
	}
	if !p.changing() {
		return
	}
	if p.Losses < 2 && p.Nodes > 3 && chance(35) {
		p.addChange("starve", 1+r.IntN(3))
		if p.strength["stall"] == 0 {
			p.R, p.W = 2, 2
		}
	}
	if chance(35) {
		p.addChange("number", 1+r.IntN(3))
	}
	if chance(25) {
		p.addChange("massacre", 1+r.IntN(3))
	}
}

// aimedStream makes the draws of drawAimed, with which the older of testdata/seeds.txt draw nothing.
const aimedStream = 1

// drawAimed draws what aims at a single rule (aimed.go), in schedules in which no disk is lost. What changes members does so
// alone, so that a change is not held up by others.
func (p *Plan) drawAimed() {
	r := rand.New(rand.NewPCG(p.Seed, aimedStream))
	chance := func(percent int) bool { return r.IntN(100) < percent }
	if chance(55) || p.Losses > 0 || p.OS {
		return
	}
	if chance(60) {
		p.addFault("overtake", 4+r.IntN(5))
	}
	if chance(60) {
		p.addFault("hiccup", 3+r.IntN(4))
	}
	if p.changing() {
		return
	}
	p.changes, p.Operators = map[string]int{}, 1
	p.ChangeGap = time.Duration(3+r.IntN(10)) * time.Second
	for _, name := range []string{"linger", "scant", "narrow"} {
		if chance(60) {
			p.addChange(name, 1+r.IntN(2))
		}
	}
}

// belatedStream makes the draws of drawBelated; the older of testdata/seeds.txt draw nothing.
const belatedStream = 3

// drawBelated draws what aims at tombstones, which are reaped soon then.
func (p *Plan) drawBelated() {
	r := rand.New(rand.NewPCG(p.Seed, belatedStream))
	if r.IntN(100) >= 15 || p.Losses > 0 || p.OS {
		return
	}
	p.addFault("belated", 4+r.IntN(5))
	p.Reap, p.Retries = 500*time.Millisecond, false // else a key is not reaped for long
}

// newcomerStream makes the draws of drawNewcomer; the older of testdata/seeds.txt draw nothing.
const newcomerStream = 5

// drawNewcomer draws what aims at new members, which come after tombstones were reaped.
func (p *Plan) drawNewcomer() {
	r := rand.New(rand.NewPCG(p.Seed, newcomerStream))
	if r.IntN(100) >= 10 || p.Losses > 0 || p.OS {
		return
	}
	if !p.changing() {
		p.changes, p.Operators = map[string]int{}, 1
		p.ChangeGap = time.Duration(3+r.IntN(10)) * time.Second
	}
	p.Spares = max(p.Spares, 2)
	p.addChange("newcomer", 6)
	p.Gap = max(p.Gap, 20*time.Second)
	p.Reap, p.Retries = 500*time.Millisecond, false // else a key is not reaped for long
	// Where something is reaped again, the new member hears of the round. So most slices of the hash space are left alone.
	p.Parts, p.Once, p.Churn = 64, 0, 0
}

func (p *Plan) addFault(name string, strength int) {
	p.Faults, p.strength[name] = append(p.Faults, name), strength
}

func (p *Plan) addChange(name string, strength int) {
	p.Changes, p.changes[name] = append(p.Changes, name), strength
}

// drawChanges draws how operators change the members.
func (p *Plan) drawChanges(chance func(int) bool, between func(least, most time.Duration) time.Duration, r *rand.Rand) {
	p.changes = map[string]int{}
	for _, f := range changes[:firstChanges] {
		if chance(55) {
			p.Changes = append(p.Changes, f.name)
			p.changes[f.name] = 1 + r.IntN(3)
		}
	}
	if len(p.Changes) == 0 {
		p.Changes, p.changes["join"] = []string{"join"}, 1
	}
	p.Spares, p.Operators = 1+r.IntN(3), 1+r.IntN(3)
	p.ChangeGap = between(time.Second, 30*time.Second).Round(time.Millisecond)
	// Whoever acknowledged with a lost node must be more than one: w=1 promises nothing then.
	if p.changes["remove"]+p.changes["wipe"] == 0 {
		return
	}
	p.Losses, p.LeastW = 1, 2
	if p.W == 1 {
		p.R, p.W = 2, 2
	}
	if chance(25) {
		p.Losses, p.LeastW, p.R, p.W = 2, 3, 1, 3
	}
}
