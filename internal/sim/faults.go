package sim

import (
	"math/rand/v2"
	"sync"
	"time"
)

// fault is one kind of thing that goes wrong. It strikes, lasts, and has healed when run returns.
type fault struct {
	name string
	run  func(s *strike)
}

// faults are all kinds, in the order in which Draw draws them.
var faults = []fault{
	{"crash", func(s *strike) { s.crash(1) }},
	{"crash2", func(s *strike) { s.crash(2) }},
	{"blackout", func(s *strike) { s.crash(len(s.order)) }},
	{"restart", (*strike).restart},
	{"freeze", (*strike).freeze},
	{"split", (*strike).split},
	{"oneway", (*strike).oneWay},
	{"isolate", (*strike).isolate},
	{"flap", (*strike).flap},
	{"storm", (*strike).storm},
	{"reset", (*strike).reset},
	{"slowdisk", (*strike).slowDisk},
	{"baddisk", (*strike).badDisk},
	{"fulldisk", (*strike).fullDisk},
	{"clock", (*strike).clock},
	{"clientcut", (*strike).clientCut},
	{"handoff", (*strike).handoff},
	{"late", (*strike).late},
	{"stuck", (*strike).stuck},
	{"stall", (*strike).stall},
	{"grow", (*strike).grow},
	{"overtake", (*strike).overtake},
	{"hiccup", (*strike).hiccup},
	{"belated", (*strike).belated},
}

// What is behind firstFaults was added later, and what is behind secondFaults, later still; each is drawn where Draw ended then.
const firstFaults, secondFaults = 17, 19

// strike is one fault at work, with what was drawn for it, so that the draws do not depend on what runs when.
type strike struct {
	w     *world
	name  string
	order []*member // in random order
	dice  []float64
}

// events are what happens to a world at random times.
type events struct {
	of       []fault
	strength map[string]int
	gap      time.Duration // between two
	atOnce   int
	rnd      *rand.Rand
	upon     func(*member) bool // the machines that an event may concern when it begins; nil: all
}

// strike lets faults happen for the plan's time, and returns when all have healed and every node runs.
func (w *world) strike() {
	p := &w.plan
	w.happen(events{faults, p.strength, p.Gap, p.AtOnce, rand.New(rand.NewPCG(p.Seed, 2)), func(m *member) bool { return m.is(serving) }})
	for _, m := range w.members {
		w.breach(m.died())
	}
}

// happen lets events happen for the plan's time, and returns when all are over.
func (w *world) happen(e events) {
	byName := map[string]func(*strike){}
	var names []string
	for _, f := range e.of {
		byName[f.name] = f.run
		for range e.strength[f.name] {
			names = append(names, f.name)
		}
	}
	if len(names) == 0 {
		return
	}
	var running sync.WaitGroup
	slots := make(chan struct{}, e.atOnce)
	end := time.NewTimer(w.plan.Length)
	defer end.Stop()
	for over := false; !over; {
		gap := time.Duration((0.2 + 1.6*e.rnd.Float64()) * float64(e.gap))
		s := &strike{w: w, name: names[e.rnd.IntN(len(names))]}
		for _, i := range e.rnd.Perm(len(w.members)) {
			if m := w.members[i]; e.upon == nil || e.upon(m) {
				s.order = append(s.order, m)
			}
		}
		for range 8 {
			s.dice = append(s.dice, e.rnd.Float64())
		}
		select {
		case slots <- struct{}{}:
			running.Go(func() {
				byName[s.name](s)
				<-slots
			})
		default: // enough is going on
		}
		select {
		case <-time.After(gap):
		case <-end.C:
			over = true
		}
	}
	running.Wait()
}

// wait lets the fault last between two times, as die number i says.
func (s *strike) wait(i int, least, most time.Duration) {
	time.Sleep(least + time.Duration(s.dice[i]*float64(most-least)))
}

func (s *strike) coin(i int) bool { return s.dice[i] < 0.5 }

// claim picks up to n members that no other fault has to itself, and gives them back with free.
func (s *strike) claim(n int) (out []*member, free func()) {
	for _, m := range s.order {
		m.mu.Lock()
		if !m.busy && m.use == serving && len(out) < n {
			m.busy = true
			out = append(out, m)
		}
		m.mu.Unlock()
	}
	return out, func() {
		for _, m := range out {
			m.mu.Lock()
			m.busy = false
			m.mu.Unlock()
		}
	}
}

func names(ms []*member) (out []string) {
	for _, m := range ms {
		out = append(out, m.name)
	}
	return out
}

// crash cuts the power of machines, or kills their processes, and boots them again.
func (s *strike) crash(n int) {
	ms, free := s.claim(n)
	defer free()
	if len(ms) < n && !(s.w.plan.changing() && len(ms) > n/2) { // others are in the hands of somebody who changes the members
		return
	}
	silent := s.coin(0)
	s.w.count(s.name, "%v, silent %v", names(ms), silent)
	for _, m := range ms {
		s.w.breach(m.died())
		s.w.breach(m.crash(silent))
	}
	s.wait(1, 0, 20*time.Second)
	for i, m := range ms {
		s.w.breach(m.start(s.w.plan.Move && s.coin(2+i%6)))
	}
	s.w.note("%s: %v run again", s.name, names(ms))
}

func (s *strike) restart() {
	ms, free := s.claim(1)
	defer free()
	for _, m := range ms {
		s.w.count(s.name, "%s", m.name)
		s.w.breach(m.stop())
		s.wait(1, 0, 10*time.Second)
		s.w.breach(m.start(s.w.plan.Move && s.coin(2)))
		s.w.note("%s: %s runs again", s.name, m.name)
	}
}

// freeze is a process that was stopped, as far as others can tell: it sends nothing and takes nothing, nor writes.
func (s *strike) freeze() {
	ms, free := s.claim(1)
	defer free()
	for _, m := range ms {
		s.w.count(s.name, "%s", m.name)
		m.set(func() { m.slow = 2 * time.Second })
		heal := s.w.cut(s.around(m, true)...)
		s.wait(1, 100*time.Millisecond, 12*time.Second)
		heal()
		m.set(func() { m.slow = s.w.plan.Fsync })
	}
}

// around lists the directions from and to a member; of clients, too, if wanted.
func (s *strike) around(m *member, clients bool) (out []link) {
	for _, o := range s.w.members {
		if o != m {
			out = append(out, link{m.name, o.name}, link{o.name, m.name})
		}
	}
	for id := 1; clients && id <= s.w.plan.Clients; id++ {
		out = append(out, link{m.name, clientName(id)}, link{clientName(id), m.name})
	}
	return out
}

func (s *strike) split() {
	half := 1 + int(s.dice[0]*float64(len(s.order)-1))
	var ls []link
	for _, a := range s.order[:half] {
		for _, b := range s.order[half:] {
			ls = append(ls, link{a.name, b.name}, link{b.name, a.name})
		}
	}
	s.w.count(s.name, "%v from %v", names(s.order[:half]), names(s.order[half:]))
	heal := s.w.cut(ls...)
	s.wait(1, time.Second, 40*time.Second)
	heal()
	s.w.note("split: healed")
}

func (s *strike) oneWay() {
	var ls []link
	for i, o := range s.order[1:] {
		if i == 0 || s.dice[i%8] < 0.4 {
			ls = append(ls, link{s.order[0].name, o.name})
		}
	}
	if s.coin(7) {
		for i := range ls {
			ls[i].from, ls[i].to = ls[i].to, ls[i].from
		}
	}
	s.w.count(s.name, "%v", ls)
	heal := s.w.cut(ls...)
	s.wait(1, time.Second, 30*time.Second)
	heal()
}

func (s *strike) isolate() {
	s.w.count(s.name, "%s", s.order[0].name)
	heal := s.w.cut(s.around(s.order[0], false)...)
	s.wait(1, time.Second, 40*time.Second)
	heal()
}

// handoff isolates a node until the others are given up, so that what its clients write waits there in hints alone, and
// then makes the delivery hard: the targets' disks are full, or the connection comes and goes.
func (s *strike) handoff() {
	s.w.count(s.name, "%s", s.order[0].name)
	ls := s.around(s.order[0], false)
	heal := s.w.cut(ls...)
	s.wait(0, 20*time.Second, 50*time.Second)
	if s.coin(1) {
		ms, free := s.claim(len(s.order))
		defer free()
		for _, m := range ms {
			if m != s.order[0] {
				m.set(func() { m.free = 1 << 30 })
			}
		}
		heal()
		s.wait(2, 10*time.Second, 25*time.Second)
		for _, m := range ms {
			m.set(func() { m.free = diskFree })
		}
		return
	}
	heal()
	for i := range 8 {
		s.wait(i, 0, 4*time.Second)
		heal := s.w.cut(ls[:1+int(s.dice[i]*float64(len(ls)))%len(ls)]...)
		s.wait((i+3)%8, 0, 2*time.Second)
		heal()
	}
}

// late holds up what one node sends to another, until much has happened.
func (s *strike) late() {
	if len(s.order) < 2 { // of three, a majority was lost
		return
	}
	a, b := s.order[0], s.order[1]
	s.w.count(s.name, "%s to %s", a.name, b.name)
	heal := s.w.cut(link{a.name, b.name})
	if s.dice[0] < 0.7 { // else both give up the connection
		s.wait(1, 3*time.Second, 14*time.Second)
	} else {
		s.wait(1, 20*time.Second, 90*time.Second)
	}
	heal()
}

// stuck lets hints gather for a node that is down, and keeps some of their holders from delivering them when it is back.
func (s *strike) stuck() {
	ms, free := s.claim(1)
	if len(ms) == 0 {
		return
	}
	m := ms[0]
	var ls []link
	for i, o := range s.order {
		if o != m && (len(ls) == 0 || s.dice[i%8] < 0.4) {
			ls = append(ls, link{o.name, m.name})
		}
	}
	s.w.count(s.name, "%s, by %v", m.name, ls)
	s.w.breach(m.died())
	s.w.breach(m.crash(s.coin(2)))
	s.wait(3, 5*time.Second, 25*time.Second)
	heal := s.w.cut(ls...)
	s.w.breach(m.start(s.w.plan.Move && s.coin(4)))
	free()
	s.wait(5, 20*time.Second, 80*time.Second)
	heal()
}

func (s *strike) flap() {
	s.w.count(s.name, "%s", s.order[0].name)
	for i := range 5 {
		heal := s.w.cut(s.around(s.order[0], false)...)
		s.wait(i, 200*time.Millisecond, 3*time.Second)
		heal()
		s.wait(i+1, 200*time.Millisecond, 2*time.Second)
	}
}

func (s *strike) storm() {
	x := weather{
		least: time.Duration(s.dice[0]*50) * time.Millisecond, most: time.Duration(50+s.dice[1]*400) * time.Millisecond,
		spike: s.dice[2] / 5, loss: s.dice[3] / 2, duplicate: s.dice[4] / 2,
	}
	s.w.count(s.name, "%+v", x)
	s.w.setStorm(func(all []weather) []weather { return append(all, x) })
	s.wait(5, 2*time.Second, 25*time.Second)
	s.w.setStorm(func(all []weather) []weather {
		for i, y := range all {
			if y == x {
				return append(all[:i:i], all[i+1:]...)
			}
		}
		return all
	})
}

func (s *strike) reset() {
	s.w.count(s.name, "%s", s.order[0].name)
	for i := range 4 {
		for _, o := range s.order[1:] {
			s.w.fabric.reset(s.order[0].name, o.name)
		}
		s.wait(i, 0, 3*time.Second)
	}
}

func (s *strike) slowDisk() {
	ms, free := s.claim(1)
	defer free()
	for _, m := range ms {
		s.w.count(s.name, "%s", m.name)
		m.set(func() { m.slow = time.Duration(100+s.dice[0]*4000) * time.Millisecond })
		s.wait(1, 2*time.Second, 30*time.Second)
		m.set(func() { m.slow = s.w.plan.Fsync })
	}
}

// badDisk lets commits fail. The store then refuses writes until the node is started anew.
func (s *strike) badDisk() {
	ms, free := s.claim(1)
	defer free()
	for _, m := range ms {
		s.w.count(s.name, "%s", m.name)
		m.set(func() { m.broken = 0.1 + 0.9*s.dice[0] })
		s.wait(1, 0, 10*time.Second)
		m.set(func() { m.broken = 0 })
		s.w.breach(m.crash(s.coin(2)))
		s.wait(3, 0, 10*time.Second)
		s.w.breach(m.start(false))
	}
}

// fullDisk leaves too little room for clients, for other replicas, or for anything.
func (s *strike) fullDisk() {
	ms, free := s.claim(1 + int(2*s.dice[0]))
	defer free()
	for i, m := range ms {
		left := uint64([]int{4, 2, 1}[int(3*s.dice[2+i])]) << 30
		s.w.count(s.name, "%s has %d GiB", m.name, left>>30)
		m.set(func() { m.free = left })
	}
	s.wait(1, 2*time.Second, 30*time.Second)
	for _, m := range ms {
		m.set(func() { m.free = diskFree })
	}
}

// clock lets a clock jump. It stays where it is then.
func (s *strike) clock() {
	m := s.order[0]
	jump := time.Duration((2*s.dice[0] - 1) * float64(max(s.w.plan.Skew, time.Second)))
	s.w.count(s.name, "%s by %v", m.name, jump)
	m.set(func() { m.offset += jump })
}

func (s *strike) clientCut() {
	var ls []link
	for id := 1; id <= s.w.plan.Clients; id++ {
		if s.dice[id%8] < 0.5 {
			ls = append(ls, link{s.order[0].name, clientName(id)})
		}
	}
	s.w.count(s.name, "%s", s.order[0].name)
	heal := s.w.cut(ls...)
	s.wait(1, 500*time.Millisecond, 10*time.Second)
	heal()
}

func (m *member) set(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// cut cuts directions until heal is called; what several faults cut is cut until the last has healed.
func (w *world) cut(ls ...link) (heal func()) { return w.cutIn(w.cuts, ls) }

// cutStreams is cut, but gossip passes.
func (w *world) cutStreams(ls ...link) (heal func()) { return w.cutIn(w.streams, ls) }

func (w *world) cutIn(cuts map[link]int, ls []link) (heal func()) {
	change := func(by int) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, l := range ls {
			cuts[l] += by
		}
		now, talks := map[link]bool{}, map[link]bool{}
		for l, n := range w.streams {
			if n > 0 {
				now[l], talks[l] = true, true
			}
		}
		for l, n := range w.cuts {
			if n > 0 {
				now[l] = true
				delete(talks, l)
			}
		}
		w.fabric.setCuts(now, talks)
	}
	change(1)
	return func() { change(-1) }
}

// setStorm makes the weather the worst of all storms.
func (w *world) setStorm(change func([]weather) []weather) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.storms = change(w.storms)
	x := w.plan.Weather
	for _, y := range w.storms {
		x = weather{max(x.least, y.least), max(x.most, y.most), max(x.spike, y.spike), max(x.loss, y.loss), max(x.duplicate, y.duplicate)}
	}
	w.fabric.setWeather(x)
}
