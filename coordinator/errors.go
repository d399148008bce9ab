package coordinator

import (
	"errors"
	"fmt"
)

// Outcome says what a failed write may have left behind.
type Outcome string

const (
	// None: certainly nothing was stored by this attempt.
	None Outcome = "none"
	// Indeterminate: some replicas may hold the write, and it may appear later.
	Indeterminate Outcome = "indeterminate"
)

// Kind is why a quorum was not reached.
type Kind uint8

// The kinds of a QuorumError. Their numbers travel between nodes: append only.
const (
	// Unavailable: too few replicas are alive or able.
	Unavailable Kind = iota + 1
	// Timeout: the quorum was not heard within the request's time.
	Timeout
	// Overloaded: too much work is waiting here or there.
	Overloaded
	// Full: too few replicas can store, because disks are full.
	Full
	// NotReady: this node does not know the cluster's layout yet.
	NotReady
	// Cancelled: the client went away.
	Cancelled
)

// QuorumError reports a request that did not reach what it asked for.
type QuorumError struct {
	Kind Kind
	// Parameter is the one that asked for too much: w, dw, pw, r or pr.
	Parameter string
	Required  int
	Acked     int
	N         int
	Replicas  []ReplicaOutcome
	Outcome   Outcome // of a write; "" for reads
	Reason    string
}

// Error tells what was required, what was heard, and why it was not enough.
func (e *QuorumError) Error() string {
	return fmt.Sprintf("%s=%d of N=%d, acked %d: %s", e.Parameter, e.Required, e.N, e.Acked, e.Reason)
}

// ErrCorrupt: the local copy of the key is damaged and cannot take part.
var ErrCorrupt = errors.New("this replica's copy is damaged")
