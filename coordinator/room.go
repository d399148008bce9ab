package coordinator

import (
	"slices"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// fullPause is how long a replica that had no room is left out of the count before one write tries it again.
const fullPause = time.Second

// fullPeers remembers which replicas lately answered that their disk is full, so that a write which cannot have its
// quorum is refused before it is minted. Else each try would leave a value on the replicas that have room.
type fullPeers struct {
	mu    sync.Mutex
	until map[ring.NodeID]time.Time
}

func (f *fullPeers) note(id ring.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.until == nil {
		f.until = make(map[ring.NodeID]time.Time)
	}
	f.until[id] = time.Now().Add(fullPause)
}

// heard notes that a replica stored a value.
func (f *fullPeers) heard(id ring.NodeID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.until, id)
}

// has reports whether a replica counts as full. Once in a while it does not, so that the caller tries it.
func (f *fullPeers) has(id ring.NodeID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	until, ok := f.until[id]
	if !ok {
		return false
	}
	if now := time.Now(); !now.Before(until) {
		f.until[id] = now.Add(fullPause)
		return false
	}
	return true
}

// none reports whether no replica is full.
func (f *fullPeers) none() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.until) == 0
}

// noteRoom remembers whether a replica had room for a value. A delete is taken longer than values are, and hints have a
// limit of their own: they say nothing.
func (s *putShell) noteRoom(at place, word string) {
	switch {
	case at.target != (ring.NodeID{}):
	case word == wordFull:
		s.c.full.note(at.node)
	case word == "" && !s.req.Write.Deleted:
		s.c.full.heard(at.node)
	}
}

// noRoom reports that too few replicas have room for the write; nil: as far as this node knows, enough have.
// Deletes are taken longer than values, so they are always tried.
func (s *putShell) noRoom() error {
	if s.req.Write.Deleted || s.c.full.none() {
		return nil
	}
	core := putCore{groups: slices.Clone(s.core.groups)}
	full := make(map[ring.NodeID]bool)
	for g := range core.groups {
		core.groups[g].slots = slices.Clone(core.groups[g].slots)
		for _, slot := range core.groups[g].slots {
			id := slot.primary.node
			if _, asked := full[id]; !asked {
				full[id] = id != s.c.deps.Self && s.c.full.has(id)
			}
		}
	}
	for id, is := range full {
		if is {
			core.addFailure(place{node: id}, failure{word: wordFull, detail: "it had no room a moment ago", certain: true})
		}
	}
	if !core.impossible() {
		return nil
	}
	return s.c.putError(s.op.epochs, &core, Full, None, "too few replicas have room on their disks")
}
