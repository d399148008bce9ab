package sim

import (
	"fmt"
	"time"
)

// What is here keeps something under way for long, while much else happens: a write, a hint, a copy.

// stall gives machines disks of which some commits take very long, while others go by: who waits for one is still under
// way when the members have changed.
func (s *strike) stall() {
	ms, free := s.claim(1 + int(2*s.dice[0]))
	defer free()
	for i, m := range ms {
		chance, length := 0.05+0.3*s.dice[1+i], time.Duration((3+12*s.dice[3+i])*float64(time.Second))
		s.w.count(s.name, "%s, %.0f %% of commits, %v", m.name, 100*chance, length)
		m.set(func() { m.tail, m.stalls = chance, length })
	}
	s.wait(5, 20*time.Second, time.Minute)
	for _, m := range ms {
		m.set(func() { m.tail = 0 })
	}
}

// grow has hints grow while they are sent. A node is isolated until the others are given up, so that its hints are all that
// there is of what its clients write. Then it delivers them to slow disks and, again and again, hears nothing for a while: it
// takes more writes into the same hints before it is told that what they held is stored.
func (s *strike) grow() {
	m := s.order[0]
	s.w.count(s.name, "%s", m.name)
	heal := s.w.cut(s.around(m, false)...)
	s.wait(0, 20*time.Second, 40*time.Second)
	ms, free := s.claim(len(s.order))
	defer free()
	for _, x := range ms {
		if x != m {
			x.set(func() { x.slow = 4 * time.Second })
		}
	}
	heal()
	_ = s.w.until(40*time.Second, "together again", func() error { return s.w.hears(m) }) // another fault may keep them apart
	var deaf []link
	for _, o := range s.w.members {
		if o != m {
			deaf = append(deaf, link{o.name, m.name})
		}
	}
	for i := range 8 {
		s.wait(i, time.Second, 6*time.Second)
		heal := s.w.cutStreams(deaf...)
		s.wait((i+3)%8, 3*time.Second, 9*time.Second)
		heal()
	}
	for _, x := range ms {
		if x != m {
			x.set(func() { x.slow = s.w.plan.Fsync })
		}
	}
}

// hears says whom a node takes for dead.
func (w *world) hears(m *member) error {
	all, err := w.membersBy(m)
	if err != nil {
		return err
	}
	for _, x := range all {
		if x.State == "member" && !x.Alive {
			return fmt.Errorf("%s takes %s for dead", m.name, x.Name)
		}
	}
	return nil
}

// starve has a member gain partitions while only one of their old owners can be reached, which has missed what was written
// lately: it heard nothing but gossip. From this one alone nobody may be filled.
func (s *strike) starve() {
	in := s.serving()
	if len(in) < 5 {
		return
	}
	deaf, gains, far := in[0], in[1], in[2:4]
	between := func(a *member, bs ...*member) (out []link) {
		for _, b := range bs {
			out = append(out, link{a.name, b.name}, link{b.name, a.name})
		}
		return out
	}
	var rest []*member
	for _, m := range s.w.members {
		if m != deaf && m != gains {
			rest = append(rest, m)
		}
	}
	s.w.count(s.name, "%s hears nothing, then %s gains and reaches neither %v", deaf.name, gains.name, names(far))
	apart, pair := s.w.cutStreams(between(deaf, rest...)...), s.w.cutStreams(between(deaf, gains)...)
	s.wait(1, 8*time.Second, 20*time.Second)
	away := s.w.cutStreams(between(gains, far...)...)
	pair()
	s.w.ask(far[0], 10*time.Second, fmt.Sprintf("update/%s?weight=%d", gains.name, 3+int(3*s.dice[0])))
	s.wait(2, 25*time.Second, 50*time.Second)
	away()
	apart()
}
