package paxos

import "bytes"

// State is what an acceptor knows of one instance: a value, changed by nobody. An acceptor that has never been asked
// is State{Epoch: e}.
//
// The methods return the next state and the answer. **The caller makes the next state durable before it sends the
// answer**, and handles the requests of an epoch one at a time. If it cannot store, it sends nothing and goes on
// with the state it had. An acceptor whose disk may have lost a state must not answer at all (DESIGN.md).
type State struct {
	Epoch    uint64 // the epoch that is being decided; its acceptors are the members of the one before
	Promised Ballot // no lower ballot is accepted, and not this one promised again
	Accepted Ballot // at most Promised; zero if nothing was accepted
	Decided  bool   // Value is the epoch's for ever; no ballot matters any more, and both are zero
	Value    []byte // what was accepted or decided
}

// Equal reports whether two states are the same, so that nothing is to be stored.
func (s State) Equal(other State) bool {
	return s.Epoch == other.Epoch && s.Promised == other.Promised && s.Accepted == other.Accepted &&
		s.Decided == other.Decided && bytes.Equal(s.Value, other.Value)
}

// Handle answers any request. An error means that the request is for another epoch, is none that a proposer makes, or
// contradicts what is decided (ErrForked); the state is unchanged then, and no reply is to be sent.
func (s State) Handle(r Request) (State, Reply, error) {
	if err := r.check(); err != nil {
		return s, Reply{}, err
	}
	if r.Epoch != s.Epoch {
		return s, Reply{}, invalid("request: for epoch %d, this is the state of epoch %d", r.Epoch, s.Epoch)
	}
	switch r.Kind {
	case KindPrepare:
		next, reply := s.Prepare(r.Ballot)
		return next, reply, nil
	case KindAccept:
		next, reply := s.Accept(r.Ballot, r.Value)
		return next, reply, nil
	default:
		next, err := s.Decide(r.Value)
		if err != nil {
			return s, Reply{}, err
		}
		return next, next.decided(r.Ballot), nil
	}
}

// Prepare is the first phase. A ballot is promised once: a second proposer that came by the same ballot cannot pass,
// and a doubled request is refused, which costs its proposer at most another round.
func (s State) Prepare(b Ballot) (State, Reply) {
	switch {
	case s.Decided:
		return s, s.decided(b)
	case b.Compare(s.Promised) <= 0:
		return s, s.refused(b)
	}
	reply := Reply{Kind: KindPromise, Epoch: s.Epoch, Ballot: b, Accepted: s.Accepted, Value: s.Value}
	s.Promised = b
	return s, reply
}

// Accept is the second phase. It does not need a promise of this acceptor, only that it promised nothing higher. A
// second value under one ballot is refused.
func (s State) Accept(b Ballot, value []byte) (State, Reply) {
	switch {
	case s.Decided:
		return s, s.decided(b)
	case b.IsZero() || len(value) == 0 || b.Compare(s.Promised) < 0:
		return s, s.refused(b)
	case b == s.Accepted && !bytes.Equal(value, s.Value):
		return s, s.refused(b)
	}
	s.Promised, s.Accepted, s.Value = b, b, value
	return s, Reply{Kind: KindAccepted, Epoch: s.Epoch, Ballot: b}
}

// Decide notes that value is decided, which is known from a proposer, a peer's layout, or an answer. It is a fact and
// no promise: it need not be durable before anything. ErrForked if another value is known to be decided.
func (s State) Decide(value []byte) (State, error) {
	switch {
	case len(value) == 0 || len(value) > MaxValue:
		return s, invalid("decided value of %d bytes, want 1 to %d", len(value), MaxValue)
	case s.Decided && !bytes.Equal(value, s.Value):
		return s, ErrForked
	case s.Decided:
		return s, nil
	}
	return State{Epoch: s.Epoch, Decided: true, Value: value}, nil
}

func (s State) refused(b Ballot) Reply {
	return Reply{Kind: KindRefused, Epoch: s.Epoch, Ballot: b, Promised: s.Promised}
}

func (s State) decided(b Ballot) Reply {
	return Reply{Kind: KindDecided, Epoch: s.Epoch, Ballot: b, Value: s.Value}
}
