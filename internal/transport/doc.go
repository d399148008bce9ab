// Package transport carries requests and answers between nodes: framed, multiplexed calls over one persistent
// connection per peer and direction. It moves bytes by endpoint name and knows no message: what a body means
// belongs to the package that registered the endpoint. It does not know which nodes exist either: it asks
// Options.Lookup for an address and Options.Verify for a judgement.
//
// A node dials a peer for its own calls and answers on the connections that peers dialled; no connection is
// used for calls in both directions, so there is nothing to break ties about.
//
// A frame is a big-endian length of 4 bytes and a body written with package wire:
//
//	request   [1, id, endpoint, milliseconds left, payload]
//	response  [2, id, code, text, payload]       code 0 is success
//	cancel    [3, id]                            the caller no longer waits
//	ping      [4]
//	pong      [5]
//
// Deadlines travel as the time that is left, since clocks of nodes differ. The handshake (see handshake.go) is
// versioned and, with a secret, proves to both sides that the other one knows it; frames after the handshake
// are neither signed nor encrypted: give a Network that does TLS if the wire is not trusted.
//
// Invariants:
//   - Nothing queues without a bound: calls in flight per peer, handlers at once and the bytes they hold, bytes
//     queued per connection, connections in handshake and connections in all. What is above a bound is refused
//     at once.
//   - A length that a peer claims is compared with a limit before it is believed, and memory grows only as the
//     bytes arrive.
//   - A call ends when its context ends, whatever the peer does; every call has a deadline. CallAsync, which nobody waits
//     for, tells its outcome once; that its time is over it tells up to a second late.
//   - NotSent is never true of a request of which a byte may have reached the connection.
//
// Goroutines: one accepts, one watches all connections (pings, silence, stalled writes); per connection one
// reads and one writes; per dial and per handshake one with a deadline; per request that is served one, unless an Early
// answered it where the connection is read. Close stops all of them and waits for them, for handlers with a bound.
//
// What is told of an outcome by CallAsync, and an Early, runs on the goroutine that reads a connection: a goroutine, a
// context and a timer for each request cost more than the rest of the way.
package transport
