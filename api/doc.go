// Package api is Dunlin's HTTP interface: keys and values, batches, bucket properties, the cluster's state, health
// and metrics.
//
// It turns a request into a coordinator request, and the result, or the error, into an answer: it checks every
// parameter before anything is changed, resolves what a request leaves open (request, then bucket, then node), keeps
// the causal contexts that clients carry, and says in every error what is known about the outcome. It must not know
// how a quorum is reached, where anything is stored, or how nodes find each other: those are behind KV, Buckets and
// Cluster.
//
// Invariants: a request that is refused with a 4xx has changed nothing; every answer but those of net/http itself
// (a request line or header that cannot be parsed) is produced here, errors as application/problem+json; what a
// client can make a node hold is bounded by MaxInFlight requests of MaxValue bytes and MaxConns connections.
//
// Goroutines: those of one request, a batch's or a listing's workers, which the handler waits for.
package api
