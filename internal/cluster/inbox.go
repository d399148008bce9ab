package cluster

import (
	"sync"

	"github.com/dunlindb/dunlin/ring"
)

// inbox hands what memberlist says to the event loop. It never blocks and is bounded: the newest news about a
// node replace older ones, and past maxPeers nodes the rest is dropped (and counted by the caller).
type inbox struct {
	wake chan struct{}

	mu     sync.Mutex
	closed bool
	batch  batch
}

const maxBodies = 64

type batch struct {
	nodes     map[ring.NodeID]nodeEvent
	bodies    map[ring.NodeID]*body
	sightings map[ring.NodeID]sighting
	foreign   map[ring.NodeID]nodeEvent
}

// nodeEvent is a copy of what memberlist said about a node.
type nodeEvent struct {
	alive bool
	meta  meta
	addr  string
}

// sighting is an id seen where it should not be: this node's own (id zero) with an unknown start id, or any at a second address.
type sighting struct {
	id       ring.NodeID
	start    uint64
	addr     string
	held     string
	conflict bool
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1), batch: newBatch()} }

func newBatch() batch {
	return batch{
		nodes: map[ring.NodeID]nodeEvent{}, bodies: map[ring.NodeID]*body{},
		sightings: map[ring.NodeID]sighting{}, foreign: map[ring.NodeID]nodeEvent{},
	}
}

// kick has the event loop look again.
func (in *inbox) kick() { nudge(in.wake) }

// nudge wakes who waits for c, or will.
func nudge(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (in *inbox) add(f func(*batch) bool) bool {
	in.mu.Lock()
	ok := !in.closed && f(&in.batch)
	in.mu.Unlock()
	if ok {
		in.kick()
	}
	return ok
}

func put[K comparable, V any](m map[K]V, k K, v V) bool {
	if _, known := m[k]; !known && len(m) >= maxPeers {
		return false
	}
	m[k] = v
	return true
}

func (in *inbox) node(id ring.NodeID, e nodeEvent) bool {
	return in.add(func(b *batch) bool { return put(b.nodes, id, e) })
}

// body keeps few: each may be large, and a peer sends its own again with every exchange.
func (in *inbox) body(v *body) {
	in.add(func(b *batch) bool { return len(b.bodies) < maxBodies && put(b.bodies, v.ID, v) })
}

func (in *inbox) sighting(s sighting) {
	in.add(func(b *batch) bool { return put(b.sightings, s.id, s) })
}

func (in *inbox) foreign(id ring.NodeID, e nodeEvent) {
	in.add(func(b *batch) bool { return put(b.foreign, id, e) })
}

func (in *inbox) take() batch {
	in.mu.Lock()
	defer in.mu.Unlock()
	b := in.batch
	in.batch = newBatch()
	return b
}

func (in *inbox) close() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.closed = true
}
