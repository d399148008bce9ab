// Package node is the only place where the concrete types meet: it builds one node from its settings, starts its
// parts in order and stops them in reverse, routes the endpoints between nodes, and serves clients.
//
// Everything that touches the world comes in through Deps, so that a simulator can run whole nodes in memory.
package node
