package coordinator

import (
	"context"
	"sync"
	"time"

	"github.com/dunlindb/dunlin/ring"
)

// EndpointPing answers at once, without touching the disk: it tells a slow replica from a dead one.
const EndpointPing = "kv.ping"

const (
	pingTimeout  = 500 * time.Millisecond
	pingPause    = 200 * time.Millisecond
	pingMaxPause = 500 * time.Millisecond // a ping costs little, and each pause may keep requests refused
	slowCall     = 300 * time.Millisecond // after which the peer of a call is asked whether it lives
)

// health knows sooner than gossip which peers do not answer. A peer whose connection cannot be made, or that does not
// answer pings, is suspected until it answers one: requests then stop paying for it. Liveness only: it never changes
// who owns what.
type health struct {
	ping func(ctx context.Context, id ring.NodeID) error
	run  func(func(ctx context.Context)) // on a goroutine that is waited for

	mu       sync.Mutex
	suspects map[ring.NodeID]bool
	checking map[ring.NodeID]bool
	changed  chan struct{} // closed when a peer becomes suspected
}

func newHealth(ping func(context.Context, ring.NodeID) error, run func(func(context.Context))) *health {
	return &health{
		ping: ping, run: run, suspects: make(map[ring.NodeID]bool), checking: make(map[ring.NodeID]bool),
		changed: make(chan struct{}),
	}
}

func (h *health) suspected(id ring.NodeID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.suspects[id]
}

// change returns a channel that is closed when the next peer becomes suspected.
func (h *health) change() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed
}

// heard notes that a peer answered.
func (h *health) heard(id ring.NodeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.suspects, id)
}

// suspect notes that a peer could not be reached, and begins to ask when it can be again.
func (h *health) suspect(id ring.NodeID) {
	h.mu.Lock()
	if !h.suspects[id] {
		h.suspects[id] = true
		close(h.changed)
		h.changed = make(chan struct{})
	}
	begin := !h.checking[id]
	h.checking[id] = true
	h.mu.Unlock()
	if begin {
		h.run(func(ctx context.Context) { h.watch(ctx, id) })
	}
}

// doubt begins to ask whether a peer lives, because a call to it takes long.
func (h *health) doubt(id ring.NodeID) {
	h.mu.Lock()
	begin := !h.checking[id]
	h.checking[id] = true
	h.mu.Unlock()
	if begin {
		h.run(func(ctx context.Context) { h.watch(ctx, id) })
	}
}

// watch pings a peer until it answers.
func (h *health) watch(ctx context.Context, id ring.NodeID) {
	pause := pingPause
	for failures := 0; ctx.Err() == nil; failures++ {
		pctx, cancel := context.WithTimeout(ctx, pingTimeout)
		err := h.ping(pctx, id)
		cancel()
		if err == nil {
			break
		}
		if failures == 1 {
			h.mu.Lock()
			if !h.suspects[id] {
				h.suspects[id] = true
				close(h.changed)
				h.changed = make(chan struct{})
			}
			h.mu.Unlock()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(pause*2, pingMaxPause)
	}
	// In one step: who suspects it in between would rely on this watch.
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.checking, id)
	if ctx.Err() == nil {
		delete(h.suspects, id)
	}
}
