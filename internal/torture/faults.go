package torture

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"
)

// faults does to processes and networks what operators, kernels and power supplies do. All is done by one goroutine,
// from a list of what is due when.
type faults struct {
	*run
	events []event
	end    time.Time // zero: no limit
	storm  bool      // nodes are killed as fast as they come back
	err    error     // the machine, not the nodes, fails

	deaths, freezes, nets *rand.Rand // of their own, so that none depends on how the others go
}

type event struct {
	at time.Time
	do func()
}

const (
	startUp   = 250 * time.Millisecond // about as long as a node takes to be ready
	stormLife = 3 * time.Second
	// A node that is to be killed when it is ready may have to wait for others, which are being killed, too.
	readyPatience = 20 * time.Second
)

// pace is how seasons follow each other: storms, in which nodes are killed as fast as they come back, and breezes.
type pace struct {
	storms        int    // percent
	storm, breeze [2]int // length in ms, from and to
	life          int    // of a node in a breeze, in ms, at most
}

// With durability os a node that was killed counts in no quorum until it has compared itself with the others: it needs
// its time, or all that is tested is that nothing works.
var paces = map[string]pace{
	"fsync": {storms: 70, storm: [2]int{3000, 12000}, breeze: [2]int{3000, 12000}, life: 10000},
	"os":    {storms: 40, storm: [2]int{2000, 6000}, breeze: [2]int{20000, 40000}, life: 60000},
}

func newFaults(r *run) *faults {
	source := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(r.opt.Seed, 1<<32+n)) }
	f := &faults{run: r, deaths: source(1), freezes: source(2), nets: source(3)}
	if r.opt.Time > 0 {
		f.end = time.Now().Add(r.opt.Time)
	}
	f.season()
	f.watch()
	f.freeze()
	if r.lab != nil {
		f.in(f.between(f.nets, 500, 2000), f.weather)
	}
	return f
}

// within draws a time.
func within(rnd *rand.Rand, d time.Duration) time.Duration {
	return time.Duration(rnd.Int64N(int64(d)))
}

func (f *faults) between(rnd *rand.Rand, low, high int) time.Duration {
	return time.Duration(low)*time.Millisecond + within(rnd, time.Duration(high-low)*time.Millisecond)
}

// in plans something.
func (f *faults) in(d time.Duration, do func()) {
	f.events = append(f.events, event{time.Now().Add(d), do})
}

// rage does what is planned until the run's limits are reached or ctx ends.
func (f *faults) rage(ctx context.Context) error {
	told := time.Now()
	for f.err == nil && (f.opt.Kills == 0 || f.kills < f.opt.Kills) {
		i := 0
		for j, e := range f.events {
			if e.at.Before(f.events[i].at) {
				i = j
			}
		}
		next := f.events[i]
		if !f.end.IsZero() && next.at.After(f.end) {
			pause(ctx, time.Until(f.end))
			break
		}
		if !pause(ctx, time.Until(next.at)) {
			break
		}
		f.events = slices.Delete(f.events, i, i+1)
		next.do()
		if time.Since(told) > tellPause {
			told = time.Now()
			f.progress()
		}
	}
	return f.err
}

// calm ends all faults, and has every node run.
func (f *faults) calm() error {
	if f.lab != nil {
		f.must(f.lab.Heal())
	}
	for _, m := range f.members {
		if m.stopping {
			if err := m.ended(stopLimit); err != nil {
				f.breach("%v of being told to stop", err)
				f.must(m.end())
			}
			m.down, m.stopping = true, false
		}
		if m.frozen {
			f.must(m.Signal(syscall.SIGCONT))
			m.frozen = false
		}
		if m.down {
			f.start(m)
		}
	}
	f.note("calm")
	return f.err
}

func (f *faults) must(err error) {
	if f.err == nil {
		f.err = err
	}
}

// season changes how often nodes die.
func (f *faults) season() {
	p := paces[f.opt.Durability]
	f.storm = f.deaths.IntN(100) < p.storms
	length := p.breeze
	if f.storm {
		length = p.storm
	}
	for _, m := range f.members {
		if !m.down && !m.stopping {
			f.planDeath(m)
		}
	}
	f.in(f.between(f.deaths, length[0], length[1]), f.season)
}

// watch looks for nodes that have ended by themselves.
func (f *faults) watch() {
	for _, m := range f.members {
		f.alone(m)
	}
	f.in(500*time.Millisecond, f.watch)
}

// alone reports whether a node has ended by itself, which is a breach, and plans its next start.
func (f *faults) alone(m *member) bool {
	if m.down || m.stopping || m.Running() {
		return false
	}
	f.breach("%s ended by itself: %s", m.Name, m.Words())
	f.later(m, false)
	return true
}

func (f *faults) planDeath(m *member) {
	life := f.between(f.deaths, 1000, paces[f.opt.Durability].life)
	if f.storm {
		life = within(f.deaths, startUp)
		if f.deaths.IntN(3) > 0 {
			life = startUp + within(f.deaths, stormLife-startUp)
		}
	}
	m.turn++
	turn := m.turn
	f.in(life, func() {
		if m.turn == turn {
			f.strike(m)
		}
	})
}

// strike ends a node in one way or another.
func (f *faults) strike(m *member) {
	switch x := f.deaths.IntN(100); {
	case x < 5:
		f.count("all killed at once")
		f.kill(f.members...)
	case x < 15:
		f.onceReady(m, m.turn, time.Now().Add(readyPatience))
	case x < 25 && !m.frozen:
		f.restart(m)
	default:
		f.kill(m)
	}
}

// onceReady kills a node when it serves.
func (f *faults) onceReady(m *member, turn int, deadline time.Time) {
	if m.turn != turn || f.alone(m) {
		return
	}
	if (m.frozen || f.ready(context.Background(), m) != nil) && time.Now().Before(deadline) {
		f.in(pollPause, func() { f.onceReady(m, turn, deadline) })
		return
	}
	f.kill(m)
}

// kill kills nodes at one instant.
func (f *faults) kill(members ...*member) {
	var victims []*member
	for _, m := range members {
		if !m.down && !f.alone(m) {
			victims = append(victims, m)
		}
	}
	for _, m := range victims {
		f.must(m.Signal(syscall.SIGKILL))
	}
	for _, m := range victims {
		f.must(m.ended(killLimit))
		f.kills++
		f.count("kill -9")
		if time.Since(m.begun) < startUp {
			f.count("kill -9 of a node that started")
		}
		f.note("kill -9 of %s, which ran for %v", m.Name, time.Since(m.begun).Round(time.Millisecond))
		f.later(m, m.stopping)
	}
}

// later plans the next start of a node that has ended; told as with tell.
func (f *faults) later(m *member, told bool) {
	for _, line := range m.tell(told) {
		f.breach("%s", line)
	}
	m.down, m.stopping, m.frozen = true, false, false
	m.turn++
	if f.err != nil {
		return
	}
	if f.deaths.IntN(100) < 70 {
		f.start(m)
		return
	}
	f.in(within(f.deaths, 3*time.Second), func() { f.start(m) })
}

func (f *faults) start(m *member) {
	if err := m.Start(); err != nil {
		f.must(err)
		return
	}
	m.down, m.begun = false, time.Now()
	f.planDeath(m)
}

// restart tells a node to stop, and starts it again. One that served must end with success.
func (f *faults) restart(m *member) {
	if f.alone(m) {
		return
	}
	served := f.ready(context.Background(), m) == nil
	f.count("clean restart")
	f.note("%s is told to stop (ready: %v)", m.Name, served)
	m.stopping = true
	m.turn++
	f.must(m.Signal(syscall.SIGTERM))
	f.stopped(m, served, m.turn, time.Now().Add(stopLimit))
}

func (f *faults) stopped(m *member, served bool, turn int, deadline time.Time) {
	switch {
	case m.turn != turn: // killed
	case m.Running() && time.Now().After(deadline):
		f.breach("%s did not stop within %v", m.Name, stopLimit)
		f.kill(m)
	case m.Running():
		f.in(pollPause, func() { f.stopped(m, served, turn, deadline) })
	default:
		if served && !m.State().Success() {
			f.breach("%s did not stop cleanly: %s", m.Name, m.Words())
		}
		f.later(m, true)
	}
}

// freeze stops a process for a while, without ending it.
func (f *faults) freeze() {
	m := f.members[f.freezes.IntN(len(f.members))]
	length := f.between(f.freezes, 100, 6000)
	f.in(f.between(f.freezes, 1000, 8000), f.freeze)
	if m.down || m.stopping || m.frozen || !m.Running() {
		return
	}
	f.count("freeze")
	f.note("%s is frozen for %v", m.Name, length.Round(time.Millisecond))
	m.frozen = true
	p := m.Process
	f.must(p.Signal(syscall.SIGSTOP))
	f.in(length, func() {
		f.must(p.Signal(syscall.SIGCONT))
		if m.Process == p {
			m.frozen = false
		}
	})
}

func (f *faults) progress() {
	f.say("%4.0f s: %d operations, %d kills, %d freezes, %d cuts", f.clients.Since().Seconds(), f.operations(), f.kills, f.counts["freeze"], f.cuts())
}

// breach is a promise that was seen to be broken.
func (r *run) breach(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.history.Breach("", text)
	r.note("%s", text)
	r.say("! %s", text)
}
