package coordinator

import (
	"github.com/dunlindb/dunlin/ring"
	"github.com/dunlindb/dunlin/vclock"
)

// Words for how many replicas a request asks for. They are resolved for each live ring by itself: while members come and
// go, or a bucket's n is changed, a key has different numbers of replicas in them, and what was a quorum, or all, in one
// must be it in the other.
const (
	Quorum = -1 // more than half of them
	All    = -2 // every one
	AsW    = -3 // of DW: as many as W
)

// count is how many of n replicas a number or a word asks for. A number above n is n: a ring has no more to give.
func count(k, n int) int {
	switch k {
	case Quorum:
		return n/2 + 1
	case All:
		return n
	}
	return min(k, n)
}

// PutRequest is a client's write or delete of one key.
type PutRequest struct {
	Bucket, Key string
	Write       vclock.Write
	// HasContext: the client sent a context (Write.Context). A delete without one deletes what a read of R replicas
	// sees.
	HasContext bool

	W  int // acks to wait for, from distinct nodes: 1..N, Quorum or All
	DW int // of those, how many must have fsynced: 0..W, or AsW
	PW int // of those, how many must be primaries: 0..N
	R  int // replicas to read where the write must look first (a delete without context, a client write id): as GetRequest.R
	// Sloppy lets fallbacks stand in for primaries that are down.
	Sloppy bool
	// ReturnBody asks for the values in the result, not only for what a context needs.
	ReturnBody bool
	Trace      *Trace // nil: not recorded
}

// PutResult is a write that W replicas hold.
type PutResult struct {
	// Object is the key as the coordinator holds it after the write. Values are present only with ReturnBody.
	Object vclock.Object
	// Coordinator minted the write.
	Coordinator ring.NodeID
	Acks, N     int
	// Repeated: the same request (by its client write id) had been applied before; nothing was minted.
	Repeated bool
	Replicas []ReplicaOutcome
}

// GetRequest is a client's read of one key.
type GetRequest struct {
	Bucket, Key string
	R           int // replicas to hear from: 1..N, Quorum or All
	PR          int // of those, how many must be primaries: 0..N
	Sloppy      bool
	Trace       *Trace // nil: not recorded
}

// GetResult is the merge of what at least R replicas hold; its Object is zero when the key was never written. The
// caller judges deletion, expiry and the bucket's policy with Object.Answer.
type GetResult struct {
	Object   vclock.Object
	Acks, N  int
	Replicas []ReplicaOutcome
	// Degraded: fewer than R replicas were heard, since the others are down and no fallback holds a hint for the key.
	// What was found is shown; it may be stale. Never with strict quorums, and never to say that there is nothing.
	Degraded bool
	round    uint64 // the earliest reap round in which a part of the object was read
}

// ListRequest asks for keys of a bucket in byte order, over the whole cluster.
type ListRequest struct {
	Bucket, Prefix string
	After          string // only keys after this one; "" from the start
	Limit          int    // at most so many keys
	R              int    // replicas to hear from for each partition: as GetRequest.R
	LastWriteWins  bool   // the bucket's policy, to judge which keys are live
}

// ListPage is a part of a listing.
type ListPage struct {
	Keys []string
	// Next is where the listing goes on (ListRequest.After); "" when it is complete. A page may hold fewer than
	// Limit keys, or none, and yet have a Next.
	Next string
}

// ReplicaOutcome is what one replica did for a request.
type ReplicaOutcome struct {
	Node    ring.NodeID
	Name    string
	Role    string // "primary", or "fallback"
	Outcome string // a word: acked, fsynced, hinted, down, timeout, overloaded, full, corrupt, failed, pending, …
	Detail  string // more, where there is more to say
}
