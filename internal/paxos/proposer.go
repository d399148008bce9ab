package paxos

import (
	"bytes"
	"slices"
)

// Outcome is where a proposer stands.
type Outcome uint8

const (
	// Pending: more replies are needed. A caller whose patience ends restarts.
	Pending Outcome = iota
	// Send: the next phase has begun; send Request to every acceptor. Reported once.
	Send
	// Refused: a higher ballot keeps this round from a majority. Pause for a random while, Restart, and send. What
	// this round sent may still be decided: nothing is known about it.
	Refused
	// Unreachable: too few acceptors are left that may answer this round. Otherwise like Refused.
	Unreachable
	// Empty, of Learn only: when the first request was sent, nothing had been decided.
	Empty
	// Decided: the epoch has its value, for ever.
	Decided
)

// String names the outcome in lower case.
func (o Outcome) String() string {
	names := [...]string{"pending", "send", "refused", "unreachable", "empty", "decided"}
	if int(o) < len(names) {
		return names[o]
	}
	return "unknown"
}

// Result says where a proposer stands after an answer.
type Result struct {
	Outcome Outcome
	Value   []byte // of Decided
	Mine    bool   // of Decided: Value is, byte for byte, what New was given, whoever brought it through
	Higher  Ballot // of Refused: the highest ballot that was in the way
}

type answer uint8

const (
	silent answer = iota
	gone          // no answer is expected
	no
	yes
)

type phase uint8

const (
	preparing phase = iota
	accepting
	empty
	decided
)

// A Proposer brings a value through one instance, or finds out what was decided. It is one run: after a crash there
// is nothing to restore, a new one with a new run id is started. Not safe for concurrent use.
type Proposer struct {
	epoch     uint64
	run       [16]byte
	acceptors [][16]byte
	quorum    int
	own       []byte // nil: only learns

	counter uint64 // the highest that was met
	phase   phase
	ballot  Ballot
	answers []answer // by acceptor, to the present request
	higher  Ballot   // the highest that refused this round
	best    Ballot   // the highest accepted ballot among this round's promises
	value   []byte   // what goes with best; then what is being accepted; then what is decided
}

// New starts a proposal of value for an epoch; acceptors are the ids of the members of the epoch before. run is 16
// bytes that no proposer, on any node, ever had before: draw them at random. counter is the highest ballot counter
// that the caller has seen in this epoch, 0 if none; a wrong one costs rounds only.
//
// Two proposals with equal bytes are one: who must tell them apart puts something of its own into the value.
func New(epoch uint64, run [16]byte, acceptors [][16]byte, value []byte, counter uint64) (*Proposer, error) {
	if len(value) == 0 || len(value) > MaxValue {
		return nil, invalid("value of %d bytes, want 1 to %d", len(value), MaxValue)
	}
	return start(epoch, run, acceptors, value, counter)
}

// Learn starts a read of an epoch: a proposer without a value of its own. It ends with Empty if a majority has accepted
// nothing, and otherwise finishes what another began, since nobody can tell whether that was decided. It disturbs a
// proposal that is under way as much as another proposal does.
func Learn(epoch uint64, run [16]byte, acceptors [][16]byte, counter uint64) (*Proposer, error) {
	return start(epoch, run, acceptors, nil, counter)
}

func start(epoch uint64, run [16]byte, acceptors [][16]byte, own []byte, counter uint64) (*Proposer, error) {
	if run == [16]byte{} {
		return nil, invalid("proposer: no run id")
	}
	if len(acceptors) == 0 {
		return nil, invalid("proposer: no acceptors")
	}
	sorted := slices.Clone(acceptors)
	slices.SortFunc(sorted, func(a, b [16]byte) int { return bytes.Compare(a[:], b[:]) })
	if len(slices.Compact(sorted)) != len(acceptors) || sorted[0] == [16]byte{} {
		return nil, invalid("proposer: acceptors that are doubled or have no id")
	}
	p := &Proposer{
		epoch: epoch, run: run, acceptors: slices.Clone(acceptors), quorum: len(acceptors)/2 + 1,
		own: own, counter: counter,
	}
	if err := p.Restart(); err != nil {
		return nil, err
	}
	return p, nil
}

// Acceptors returns the ids that New was given. The caller does not change them.
func (p *Proposer) Acceptors() [][16]byte { return p.acceptors }

// Counter returns the highest ballot counter that was met.
func (p *Proposer) Counter() uint64 { return p.counter }

// Request returns what every acceptor is to be sent now. Once decided, it tells them so; that may be lost.
func (p *Proposer) Request() Request {
	r := Request{Epoch: p.epoch, Ballot: p.ballot}
	switch p.phase {
	case preparing, empty:
		r.Kind = KindPrepare
	case accepting:
		r.Kind, r.Value = KindAccept, p.value
	case decided:
		r.Kind, r.Value = KindDecide, p.value
	}
	return r
}

// Restart begins another round, with a ballot above all that were met. It may be called at any time: answers to
// earlier rounds are ignored from then on, and a decision stays. ErrExhausted if no ballot is left.
func (p *Proposer) Restart() error {
	if p.phase == decided {
		return nil
	}
	if p.counter >= MaxCounter {
		return ErrExhausted
	}
	p.counter++
	p.ballot = Ballot{Counter: p.counter, Proposer: p.run}
	p.phase, p.best, p.higher, p.value = preparing, Ballot{}, Ballot{}, nil
	p.answers = make([]answer, len(p.acceptors))
	return nil
}

// On takes an acceptor's reply. Replies to earlier rounds or phases, doubled ones, those of strangers and those that
// no acceptor makes change nothing.
func (p *Proposer) On(from [16]byte, r Reply) Result {
	at := slices.Index(p.acceptors, from)
	if at < 0 || r.Epoch != p.epoch || r.check() != nil || p.phase == decided {
		return p.standing()
	}
	switch {
	case r.Kind == KindDecided: // of whatever round: it stays true
		p.phase, p.value = decided, r.Value
	case r.Kind == KindRefused:
		p.counter = max(p.counter, r.Promised.Counter)
		if r.Ballot == p.ballot && p.answers[at] != yes {
			p.answers[at] = no
			if r.Promised.Compare(p.higher) > 0 {
				p.higher = r.Promised
			}
		}
	case r.Ballot != p.ballot || p.answers[at] == yes:
	case r.Kind == KindPromise && p.phase == preparing:
		p.answers[at] = yes
		if r.Accepted.Compare(p.best) > 0 {
			p.best, p.value = r.Accepted, r.Value
		}
		return p.promised()
	case r.Kind == KindAccepted && p.phase == accepting:
		p.answers[at] = yes
		if p.count(yes) >= p.quorum {
			p.phase = decided
		}
	}
	return p.standing()
}

// promised goes to the second phase once a majority has promised.
func (p *Proposer) promised() Result {
	if p.count(yes) < p.quorum {
		return p.standing()
	}
	if p.best.IsZero() {
		if p.own == nil {
			p.phase = empty
			return p.standing()
		}
		p.value = p.own
	}
	p.phase, p.higher = accepting, Ballot{}
	clear(p.answers)
	return Result{Outcome: Send}
}

// Lost says that no answer to request is to be expected from an acceptor: it could not be reached, or not in time. It
// only spares the wait; an answer that comes all the same counts.
func (p *Proposer) Lost(from [16]byte, request Request) Result {
	present := p.Request()
	if at := slices.Index(p.acceptors, from); at >= 0 && request.Ballot == present.Ballot && request.Kind == present.Kind &&
		p.answers[at] == silent {
		p.answers[at] = gone
	}
	return p.standing()
}

func (p *Proposer) standing() Result {
	switch p.phase {
	case decided:
		return Result{Outcome: Decided, Value: p.value, Mine: p.own != nil && bytes.Equal(p.own, p.value)}
	case empty:
		return Result{Outcome: Empty}
	}
	if len(p.acceptors)-p.count(no)-p.count(gone) >= p.quorum {
		return Result{}
	}
	if p.higher.IsZero() {
		return Result{Outcome: Unreachable}
	}
	return Result{Outcome: Refused, Higher: p.higher}
}

func (p *Proposer) count(want answer) int {
	n := 0
	for _, a := range p.answers {
		if a == want {
			n++
		}
	}
	return n
}
