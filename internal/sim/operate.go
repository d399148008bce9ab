package sim

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// changes are all kinds of changes of the members that operators make, in the order in which Draw draws them. Each
// returns when it was asked for, or given up; what has to follow, tend does.
var changes = []fault{
	{"join", func(s *strike) { s.join(1) }},
	{"joins", func(s *strike) { s.join(3) }},
	{"leave", (*strike).leave},
	{"remove", (*strike).remove},
	{"wipe", (*strike).wipe},
	{"update", (*strike).update},
	{"cancel", (*strike).cancel},
	{"rivals", (*strike).rivals},
	{"doom", (*strike).doom},
	{"gap", (*strike).gap},
	{"exile", (*strike).exile},
	{"starve", (*strike).starve},
	{"number", (*strike).number},
	{"massacre", (*strike).massacre},
	{"linger", (*strike).linger},
	{"scant", (*strike).scant},
	{"narrow", (*strike).narrow},
	{"newcomer", (*strike).newcomer},
}

// See firstFaults.
const firstChanges, secondChanges = 7, 11

const (
	// changeLimit is the time from the healing to the end of all changes of the members.
	changeLimit = 10 * time.Minute
	fewest      = 3 // members that operators leave
	askTimeout  = 40 * time.Second
	tendEvery   = 2 * time.Second
)

// change lets operators change the members, if the plan has it, while something happens.
func (w *world) change(meanwhile func()) {
	p := &w.plan
	if !p.changing() {
		meanwhile()
		return
	}
	stop := make(chan struct{})
	var tending, both sync.WaitGroup
	tending.Go(func() { w.tending(stop) })
	both.Go(meanwhile)
	both.Go(func() {
		w.happen(events{changes, p.changes, p.ChangeGap, p.Operators, rand.New(rand.NewPCG(p.Seed, 4)), nil})
	})
	both.Wait()
	close(stop)
	tending.Wait()
}

// allReady waits until every node is ready, and no change of the members is left.
func (w *world) allReady() error {
	if w.plan.changing() {
		return w.finishChanges()
	}
	return w.ready()
}

// join starts up to n new nodes at once, which ask to become members.
func (s *strike) join(n int) {
	var ms []*member
	for _, m := range s.order {
		if len(ms) < n && m.enlist() {
			ms = append(ms, m)
		}
	}
	if len(ms) == 0 {
		return
	}
	s.w.count(s.name, "%v", names(ms))
	for i, m := range ms {
		m.set(func() { m.weight = 1 + int(1.3*s.dice[i]) })
		s.w.breach(m.start(false))
		m.release()
	}
	s.shock(s.someone(ms[0]), ms...)
}

// enlist makes a spare machine one that serves, and claims it.
func (m *member) enlist() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.use != spare || m.busy {
		return false
	}
	m.use, m.busy = serving, true
	return true
}

// hold claims a machine that serves, and reports whether nobody else had it.
func (m *member) hold() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.use != serving || m.busy {
		return false
	}
	m.busy = true
	return true
}

func (m *member) release() { m.set(func() { m.busy = false }) }

// leave has a member hand over what it holds.
func (s *strike) leave() {
	via := s.someone(nil)
	m := s.someone(via)
	if s.coin(0) {
		m = via
	}
	if m == nil || !s.w.maySpare(via, true) {
		return
	}
	s.w.count(s.name, "%s", m.name)
	s.during(func() { s.w.ask(via, s.patience(), "leave/"+m.name) }, m, via)
}

func (s *strike) update() {
	via := s.someone(nil)
	m := s.someone(via)
	if m == nil {
		return
	}
	what := fmt.Sprintf("weight=%d", 1+int(4*s.dice[0]))
	if zones := s.w.plan.Zones; zones > 1 && s.coin(1) {
		what = fmt.Sprintf("zone=z%d", int(s.dice[0]*float64(zones)))
	}
	s.w.count(s.name, "%s %s", m.name, what)
	s.during(func() { s.w.ask(via, s.patience(), "update/"+m.name+"?"+what) }, m, via)
}

func (s *strike) cancel() {
	if via := s.someone(nil); via != nil {
		s.w.count(s.name, "by %s", via.name)
		s.during(func() {
			back := s.w.base(via)
			if epoch := s.w.ask(via, s.patience(), "cancel"); epoch > 0 && back != nil && s.w.base(via).same(back) {
				s.w.mu.Lock()
				s.w.back[epoch] = back
				s.w.mu.Unlock()
			}
		}, via)
	}
}

// rivals are two operators who ask for different changes. When all may have voted for the first one's, nobody hears any more
// from the node that he asked, which wins without their knowing it; then the power of all that voted is cut, and the second
// one asks.
func (s *strike) rivals() {
	in := s.serving()
	if len(in) < 4 {
		return
	}
	a, b, m := in[0], in[1], in[2]
	s.w.count(s.name, "%s and %s about %s", a.name, b.name, m.name)
	var from []link
	for _, o := range s.w.members {
		if o != a {
			from = append(from, link{a.name, o.name})
		}
	}
	delay := (s.w.plan.Weather.least + s.w.plan.Weather.most) / 2
	for i := range 3 {
		var all sync.WaitGroup
		all.Go(func() { s.w.ask(a, s.patience(), fmt.Sprintf("update/%s?weight=%d", m.name, 2+2*i)) })
		// Two delays to connect, one for the question, two for the promises, one for the votes; the news would take two more.
		s.wait(i, 11*delay/2, 17*delay/2)
		heal := s.w.cut(from...)
		s.wait(i+1, 2*delay, 20*delay)
		for _, x := range in[1:] {
			all.Go(func() { s.quick(x) })
		}
		s.wait(i+2, 4*time.Second, 10*time.Second)
		all.Go(func() { s.w.ask(b, 5*time.Second, fmt.Sprintf("update/%s?weight=%d", m.name, 3+2*i)) })
		s.wait(i+3, 3*time.Second, 10*time.Second)
		heal()
		all.Wait()
	}
}

// quick crashes a machine and boots it at once.
func (s *strike) quick(m *member) {
	if !m.hold() {
		return
	}
	s.w.breach(m.died())
	s.w.breach(m.crash(false))
	s.w.breach(m.start(false))
	m.release()
}

func (m *member) isWaiting() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.waits
}

// serving are the machines that serve now.
func (s *strike) serving() (out []*member) {
	for _, m := range s.order {
		if m.is(serving) && !m.isWaiting() {
			out = append(out, m)
		}
	}
	return out
}

// someone is a machine that serves, and is not the one given.
func (s *strike) someone(but *member) *member {
	for _, m := range s.serving() {
		if m != but {
			return m
		}
	}
	return nil
}

// patience is how long an operator waits for an answer.
func (s *strike) patience() time.Duration {
	return 500*time.Millisecond + time.Duration(s.dice[5]*float64(15*time.Second))
}

// during does something while one of those who have a part in it may crash.
func (s *strike) during(do func(), ms ...*member) {
	var both sync.WaitGroup
	both.Go(do)
	s.shock(ms[int(s.dice[6]*float64(len(ms)))], ms...)
	both.Wait()
}

// shock crashes a machine, and perhaps others, soon, and boots it again.
func (s *strike) shock(first *member, others ...*member) {
	if s.dice[7] > 0.5 {
		return
	}
	s.wait(6, 0, 5*time.Second)
	ms := []*member{first}
	if s.dice[7] < 0.1 {
		ms = append(ms, others...)
	}
	var down []*member
	for _, m := range ms {
		if m != nil && m.hold() {
			down = append(down, m)
			s.w.breach(m.died())
			s.w.breach(m.crash(s.coin(2)))
		}
	}
	if len(down) == 0 {
		return
	}
	s.w.count("shock", "%v", names(down))
	s.wait(3, 0, 8*time.Second)
	for _, m := range down {
		s.w.breach(m.start(s.w.plan.Move && s.coin(4)))
		m.release()
	}
}
