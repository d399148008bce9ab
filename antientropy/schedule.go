package antientropy

import (
	"errors"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

const (
	// lookEvery is how often the scheduler looks what is due and who has come alive.
	lookEvery = time.Second
	// marksEvery is how often marks are looked at.
	marksEvery = 5 * time.Second
	// kickGap is the least time between an exchange and one that a Kick asks for.
	kickGap = time.Second
	// yieldFor: while the peer's own exchange with this node goes on, one of this node's would move the same keys
	// again, so it waits until the peer was silent for this long, but not longer than yieldAtMost.
	yieldFor    = 2 * time.Second
	yieldAtMost = 30 * time.Second
)

// peerState is what the scheduler knows of a peer.
type peerState struct {
	id   ring.NodeID
	busy chan struct{} // held by the exchange that runs

	// guarded by Syncer.mu
	due     time.Time
	heard   time.Time // when the peer last sent a request of an exchange
	running bool      // runs, or waits for its turn
	fills   bool      // this node is to be filled with something from the peer
	later   bool      // the last exchange left partitions that another peer's filled
	kicked  bool      // while running
	alive   bool
	last    *PeerStatus
}

// peer returns the state of a peer, which it makes when it is new.
func (s *Syncer) peer(id ring.NodeID) *peerState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peerLocked(id)
}

func (s *Syncer) peerLocked(id ring.NodeID) *peerState {
	st := s.peers[id]
	if st == nil {
		st = &peerState{id: id, busy: make(chan struct{}, 1), due: time.Now().Add(s.jitter(s.opt.Interval) / 2)}
		s.peers[id] = st
	}
	return st
}

// jitter gives d, a quarter more or less. mu is held.
func (s *Syncer) jitter(d time.Duration) time.Duration {
	return d*3/4 + time.Duration(s.deps.Rand.Int64N(int64(d)/2+1))
}

// Kick asks for an exchange with the peer soon, whenever it is alive: after it came back, or after something that makes
// differences likely. It returns at once, and many kicks make one exchange.
func (s *Syncer) Kick(peer ring.NodeID) {
	if peer == s.deps.Self {
		return
	}
	s.mu.Lock()
	st := s.peerLocked(peer)
	if st.running {
		st.kicked = true
	}
	s.hasten(st, 0)
	s.mu.Unlock()
	s.Look()
}

// Look has the scheduler look at once, such as when the live epochs are others. It returns at once.
func (s *Syncer) Look() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// hasten makes an exchange due after d at the latest. Of two nodes that hear of each other at once, the one with the
// lower id goes first, so that keys do not cross; not so where only one moves them, being filled. mu is held.
func (s *Syncer) hasten(st *peerState, d time.Duration) {
	if !st.fills && s.deps.Self.Compare(st.id) > 0 {
		d += lookEvery
	}
	if at := time.Now().Add(d); at.Before(st.due) {
		st.due = at
	}
}

// heard notes a request of the peer's.
func (s *Syncer) heard(peer ring.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.peerLocked(peer).heard = time.Now()
}

func (s *Syncer) scheduleLoop() {
	var marksDue time.Time
	var known *ring.Epochs
	var peers []ring.NodeID
	for {
		pause := lookEvery
		if e := s.deps.View.Epochs(); e != nil {
			if e != known {
				known, peers = e, s.peersOf(e)
				s.retire(e)
				s.hastenFill(e)
				marksDue = time.Time{}
			}
			if now := time.Now(); !now.Before(marksDue) {
				s.watchMarks(s.ctx, e)
				marksDue = now.Add(marksEvery)
			}
			pause = min(pause, s.schedule(peers))
		}
		timer := time.NewTimer(pause)
		select {
		case <-s.ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		case <-s.wake:
			timer.Stop()
		}
	}
}

// peersOf lists the nodes that share a partition with this one.
func (s *Syncer) peersOf(e *ring.Epochs) (out []ring.NodeID) {
	for _, m := range e.Members() {
		if m.ID != s.deps.Self && !e.Removed(m.ID) && len(s.shared(e, m.ID)) > 0 {
			out = append(out, m.ID)
		}
	}
	return out
}

// retire drops the states of nodes that are no members any more.
func (s *Syncer) retire(e *ring.Epochs) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, st := range s.peers {
		if _, ok := e.Member(id); !ok && !st.running {
			delete(s.peers, id)
		}
	}
}

// schedule begins the exchanges that are due, and returns how long it is until another one is.
func (s *Syncer) schedule(peers []ring.NodeID) (pause time.Duration) {
	pause = lookEvery
	for _, id := range peers {
		alive := s.deps.View.Alive(id)
		s.mu.Lock()
		st := s.peerLocked(id)
		if alive && !st.alive {
			s.hasten(st, 0)
		}
		st.alive = alive
		now := time.Now()
		yields := !st.fills && now.Sub(st.heard) < yieldFor && now.Before(st.due.Add(yieldAtMost))
		begin := alive && !st.running && !now.Before(st.due) && !yields
		if alive && !st.running && now.Before(st.due) {
			pause = min(pause, st.due.Sub(now))
		}
		st.running = st.running || begin
		s.mu.Unlock()
		if begin {
			s.wg.Go(func() { s.runScheduled(st) })
		}
	}
	return pause
}

// runScheduled runs one exchange with all that is shared with a peer.
func (s *Syncer) runScheduled(st *peerState) {
	began := time.Now()
	x, err := s.exchange(s.ctx, st, nil, false)
	if s.ctx.Err() != nil {
		return
	}
	if x == nil {
		x = &exchange{}
	}
	result := resultOf(x, err)
	if err != nil && !errors.Is(err, errTurnOver) {
		s.log.Info("an exchange ended early", "op", "exchange", "peer", st.id, "result", result, "err", err)
	}
	if e := s.deps.View.Epochs(); e != nil && e.Changing() && s.deps.Progress != nil {
		s.deps.Progress()
	}
	defer s.Look()
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	st.last = &PeerStatus{
		Peer: st.id, Result: result, Began: began, Took: now.Sub(began), Moved: x.moved, NotReady: x.notReady,
	}
	if err != nil {
		st.last.Error = err.Error()
	}
	switch {
	case errors.Is(err, errTurnOver):
		st.due = now
	case err == nil && x.later > 0: // another peer fills them just now
		st.due = now.Add(min(fillGap, s.opt.Interval))
	case err != nil:
		st.due = now.Add(s.jitter(min(s.opt.RetryAfter, s.opt.Interval)))
	default:
		st.due = now.Add(s.jitter(s.opt.Interval))
	}
	st.running, st.later = false, err == nil && x.later > 0
	if x.claimed {
		s.hastenLater(st, now)
	}
	if st.kicked {
		st.kicked = false
		s.hasten(st, kickGap)
	}
}

// hastenLater makes the exchanges due that have left partitions to the one that has ended now. mu is held.
func (s *Syncer) hastenLater(ended *peerState, now time.Time) {
	for _, st := range s.peers {
		if st != ended && st.later && !st.running && now.Before(st.due) {
			st.later, st.due = false, now
		}
	}
}
