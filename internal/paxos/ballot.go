package paxos

import (
	"bytes"
	"encoding/hex"
	"fmt"
)

const (
	// MaxValue is the largest value in bytes.
	MaxValue = 4 << 20
	// MaxCounter is the highest counter of a ballot. No honest run comes near it: it keeps one mad number from making
	// the next one overflow.
	MaxCounter = 1 << 56
)

// A Ballot numbers a round. Ballots of different rounds differ: Proposer is drawn anew for every [Proposer], and its
// counter rises with every round. The zero Ballot is none, and lower than all others.
type Ballot struct {
	Counter  uint64   // from 1
	Proposer [16]byte // the run of a proposer, not a node
}

// Compare orders ballots by counter, then by proposer: -1, 0 or +1.
func (b Ballot) Compare(other Ballot) int {
	switch {
	case b.Counter < other.Counter:
		return -1
	case b.Counter > other.Counter:
		return 1
	}
	return bytes.Compare(b.Proposer[:], other.Proposer[:])
}

// IsZero reports whether b is no ballot.
func (b Ballot) IsZero() bool { return b == Ballot{} }

// String returns the counter and the first digits of the run, for logs.
func (b Ballot) String() string {
	return fmt.Sprintf("%d.%s", b.Counter, hex.EncodeToString(b.Proposer[:4]))
}

// valid holds for the ballots that a proposer makes.
func (b Ballot) valid() bool {
	return b.Counter > 0 && b.Counter <= MaxCounter && b.Proposer != [16]byte{}
}
