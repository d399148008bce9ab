package coordinator

import (
	"context"
	"sync/atomic"

	"github.com/dunlindb/dunlin/ring"
)

// load counts what clients ask of this node: requests that it coordinates, and its part in those of others.
type load struct {
	under atomic.Int64
	begun atomic.Uint64
}

func (l *load) begin() {
	l.under.Add(1)
	l.begun.Add(1)
}

func (l *load) end() { l.under.Add(-1) }

// Load returns how many requests of clients this node has a part in now, and how many it has had, those included. What
// goes on after the client was answered does not count.
func (c *Coordinator) Load() (under int, begun uint64) {
	under = int(c.load.under.Load())
	return under, c.load.begun.Load()
}

// counted is a handler whose requests are part of the load.
func (c *Coordinator) counted(h Handler) Handler {
	return func(ctx context.Context, from ring.NodeID, body []byte) ([]byte, error) {
		c.load.begin()
		defer c.load.end()
		return h(ctx, from, body)
	}
}
