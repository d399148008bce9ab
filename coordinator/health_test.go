package coordinator

import (
	"context"
	"sync"
	"testing"

	"github.com/dunlindb/dunlin/ring"
)

// Whoever is suspected while it is just found to be well is not suspected for ever: nobody would ask it again.
func TestSuspicionBesideAnAnswer(t *testing.T) {
	var watches sync.WaitGroup
	h := newHealth(func(context.Context, ring.NodeID) error { return nil }, func(f func(context.Context)) {
		watches.Go(func() { f(t.Context()) })
	})
	id := ring.NodeID{1}
	for range 2000 {
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() {
				for range 200 {
					h.suspect(id)
				}
			})
		}
		callers.Wait()
		watches.Wait()
		if h.suspected(id) {
			t.Fatal("it answers pings, nobody pings it any more, and it is suspected")
		}
	}
}
