// Package paxos chooses one value per epoch among acceptors that may crash and a network that may lose, double,
// delay and reorder. It is CASPaxos (Rystsov 2018) used as single-decree Paxos: one instance decides the layout of
// one epoch, its acceptors are the members of the epoch before it, a majority is a quorum, and a decided value never
// changes. DESIGN.md has the protocol, what must be durable when, and the limits.
//
// Everything here is pure: no clock, no network, no disk, no goroutine, no randomness. [State] is an acceptor's side
// of an instance, a value; [Proposer] is the other side, a state machine that is fed with answers. The caller sends,
// stores and waits:
//
//	p, err := paxos.New(epoch, run, members, value, hint) // run: 16 random bytes, never used before
//	for {
//		send p.Request() to every member; for each answer:
//		switch r := p.On(from, reply); r.Outcome {
//		case paxos.Send:      // the second phase: send p.Request() to every member
//		case paxos.Decided:   // r.Value won; send p.Request() to every member, once, so that they know
//		case paxos.Refused, paxos.Unreachable: // pause for a random while, then p.Restart() and send again
//		}
//	}
//
//	next, reply, err := state.Handle(request) // at a member
//	if !next.Equal(state) { store next, fsync } // before the reply leaves
//	state = next
//
// Values that were passed in or out are shared, not copied: nobody changes their bytes.
package paxos
