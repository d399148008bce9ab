package sim

import "time"

// doom cuts a member off with one other, whose disk is full, and then loses it: what was written there, and is nowhere
// else, must not have been acknowledged.
func (s *strike) doom() {
	in := s.serving()
	if len(in) < 4 || !s.w.mayLose() {
		return
	}
	s.order = in
	m, with := in[0], in[1]
	var ls []link
	for _, o := range in[2:] {
		ls = append(ls, link{m.name, o.name}, link{o.name, m.name})
	}
	s.w.count(s.name, "%s with %s", m.name, with.name)
	heal := s.w.cut(ls...)
	defer heal()
	with.set(func() { with.free = 1 << 30 })
	defer with.set(func() { with.free = diskFree })
	s.wait(1, 15*time.Second, 45*time.Second)
	s.remove()
}

// remove stops a node for good, with its disk, and has the others go on without it.
func (s *strike) remove() {
	m, id := s.lose()
	if m == nil {
		return
	}
	m.wipe()
	m.set(func() { m.use = lost })
	s.w.count(s.name, "%s", m.name)
	s.wait(1, 0, 40*time.Second)
	s.during(func() {
		for i := 0; i < 6 && s.w.ask(s.someone(m), s.patience(), "remove/"+id) == 0; i++ {
			s.wait(2, time.Second, 10*time.Second)
		}
	}, s.someone(m))
	m.set(func() { m.use, m.busy = spare, false }) // another node may come under its name
}

// wipe takes the disk of a node, which comes back empty under its name.
func (s *strike) wipe() { s.wiped(nil) }

// wiped is wipe, with something that is done when the disk is lost.
func (s *strike) wiped(then func(m *member)) {
	m, id := s.lose()
	if m == nil {
		return
	}
	if then != nil {
		then(m)
	}
	m.wipe()
	m.set(func() { m.waits, m.adopt = true, s.dice[4] < 0.3 && then == nil })
	s.w.count(s.name, "%s, with --replace %v", m.name, m.adopt)
	if then == nil {
		s.wait(1, 0, 20*time.Second)
	}
	s.w.breach(m.start(s.w.plan.Move && s.coin(3)))
	m.release()
	if m.adopt {
		return
	}
	path := "replace/" + m.name
	if s.dice[4] > 0.7 && then == nil {
		path = "remove/" + id
	}
	tries := 6
	if then != nil { // it waits for that
		tries = 30
	}
	s.during(func() {
		for i := 0; i < tries && s.w.ask(s.someone(m), s.patience(), path) == 0 && s.w.readiness(m) != ""; i++ {
			s.wait(2, time.Second, 10*time.Second)
		}
	}, m, s.someone(m))
}

// lose cuts the power of a member whose disk is to be lost, if as many may be. It is claimed then. id is who it was.
func (s *strike) lose() (m *member, id string) {
	if via := s.someone(nil); !s.w.mayLose() || !s.w.maySpare(via, false) {
		return nil, ""
	}
	for _, o := range s.order {
		if o.isWaiting() || !o.hold() {
			continue
		}
		if !s.w.countLoss() {
			o.release()
			return nil, ""
		}
		id = o.id()
		s.w.breach(o.died())
		s.w.breach(o.crash(s.coin(0)))
		s.w.noteLoss(1, nil)
		return o, id
	}
	return nil, ""
}

// gap keeps all that is sent from one member, but for gossip, until another one has lost its disk. A third one, which alone
// holds what was acknowledged meanwhile of what these three own, reaches neither of them then.
func (s *strike) gap() {
	in := s.serving()
	if len(in) < 4 || !s.w.mayLose() {
		return
	}
	s.order = in
	deaf, holder := in[len(in)-1], in[len(in)-2]
	var ls []link
	for _, o := range s.w.members {
		if o != deaf {
			ls = append(ls, link{o.name, deaf.name})
		}
	}
	s.w.count(s.name, "%s hears nothing, then nothing of %s", deaf.name, holder.name)
	heal := s.w.cutStreams(ls...)
	s.wait(2, 10*time.Second, 30*time.Second)
	lost := false
	s.wiped(func(m *member) {
		lost = true
		still := s.w.cutStreams(link{holder.name, deaf.name}, link{holder.name, m.name})
		heal()
		heal = still
	})
	if lost {
		s.wait(3, 30*time.Second, 80*time.Second)
	}
	heal()
}

// exile removes a member that runs, but reaches no other, and then lets it reach them again: nothing that it does may count.
func (s *strike) exile() {
	in := s.serving()
	// With R=1 it answers reads alone, and cannot know.
	if len(in) < 4 || s.w.plan.R == 1 || !s.w.maySpare(in[1], false) || !in[0].hold() {
		return
	}
	m := in[0]
	if !s.w.countLoss() {
		m.release()
		return
	}
	s.w.count(s.name, "%s", m.name)
	id := m.id()
	heal := s.w.cut(s.around(m, false)...)
	s.wait(1, 20*time.Second, 40*time.Second)
	for i := 0; i < 6 && s.w.ask(s.someone(m), s.patience(), "remove/"+id) == 0; i++ {
		s.wait(2, time.Second, 10*time.Second)
	}
	s.wait(3, 0, 20*time.Second)
	heal()
	s.wait(4, 2*time.Second, 20*time.Second)
	s.w.breach(m.crash(s.coin(5)))
	s.w.noteLoss(1, nil)
	m.wipe()
	m.set(func() { m.use, m.busy = spare, false })
}

// mayLose reports whether another node may be lost.
func (w *world) mayLose() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.losses < w.plan.Losses
}

// countLoss is mayLose, for who loses one then.
func (w *world) countLoss() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.losses >= w.plan.Losses {
		return false
	}
	w.losses++
	return true
}
