package paxos

import (
	"errors"
	"fmt"
)

// Kind says what a request or a reply is.
type Kind uint8

// The requests, and what answers them. Any of them may be answered with [KindDecided].
const (
	KindPrepare  Kind = 1 + iota // promise to ignore lower ballots, and say what was accepted: KindPromise or KindRefused
	KindAccept                   // accept Value: KindAccepted or KindRefused
	KindDecide                   // Value is decided: KindDecided
	KindPromise                  // nothing below Ballot will be accepted; Accepted and Value are what was
	KindAccepted                 // Value was accepted under Ballot
	KindRefused                  // Promised is in the way
	KindDecided                  // Value is decided
)

// String names the kind in lower case.
func (k Kind) String() string {
	names := [...]string{"none", "prepare", "accept", "decide", "promise", "accepted", "refused", "decided"}
	if int(k) < len(names) {
		return names[k]
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// A Request goes from a proposer to every acceptor of the epoch, the same to all.
type Request struct {
	Kind   Kind // KindPrepare, KindAccept or KindDecide
	Epoch  uint64
	Ballot Ballot
	Value  []byte // of KindAccept and KindDecide
}

// A Reply answers a Request. It carries the request's epoch and ballot, so that a late one is known for what it is.
type Reply struct {
	Kind     Kind // KindPromise, KindAccepted, KindRefused or KindDecided
	Epoch    uint64
	Ballot   Ballot // of the request
	Promised Ballot // of KindRefused: what the acceptor holds to
	Accepted Ballot // of KindPromise: under which ballot it accepted Value; zero if it accepted nothing
	Value    []byte // of KindPromise and KindDecided
}

var (
	// ErrInvalid is wrapped by the errors for requests and arguments that no honest caller makes.
	ErrInvalid = errors.New("paxos: invalid")
	// ErrForked says that two values are said to be decided in one epoch. It cannot happen while the rules of
	// DESIGN.md are kept; whoever meets it must stop voting and keep its disk for inspection.
	ErrForked = errors.New("paxos: two values decided in one epoch")
	// ErrExhausted says that no higher ballot is left.
	ErrExhausted = errors.New("paxos: ballot counters exhausted")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w %s", ErrInvalid, fmt.Sprintf(format, args...))
}

func (r Request) check() error {
	withValue := r.Kind == KindAccept || r.Kind == KindDecide
	switch {
	case r.Kind != KindPrepare && !withValue:
		return invalid("request: %v", r.Kind)
	case !r.Ballot.valid():
		return invalid("request: ballot %v", r.Ballot)
	case withValue && (len(r.Value) == 0 || len(r.Value) > MaxValue):
		return invalid("request: value of %d bytes, want 1 to %d", len(r.Value), MaxValue)
	case !withValue && len(r.Value) != 0:
		return invalid("request: %v with a value", r.Kind)
	}
	return nil
}

func (r Reply) check() error {
	withValue := r.Kind == KindDecided || r.Kind == KindPromise && !r.Accepted.IsZero()
	switch {
	case r.Kind < KindPromise || r.Kind > KindDecided:
		return invalid("reply: %v", r.Kind)
	case !r.Ballot.valid():
		return invalid("reply: ballot %v", r.Ballot)
	case r.Kind == KindRefused && !r.Promised.valid(), r.Kind != KindRefused && !r.Promised.IsZero():
		return invalid("reply: %v with promised ballot %v", r.Kind, r.Promised)
	case !r.Accepted.IsZero() && (r.Kind != KindPromise || !r.Accepted.valid() || r.Accepted.Compare(r.Ballot) >= 0):
		return invalid("reply: %v with accepted ballot %v", r.Kind, r.Accepted)
	case withValue && (len(r.Value) == 0 || len(r.Value) > MaxValue):
		return invalid("reply: value of %d bytes, want 1 to %d", len(r.Value), MaxValue)
	case !withValue && len(r.Value) != 0:
		return invalid("reply: %v with a value", r.Kind)
	}
	return nil
}
